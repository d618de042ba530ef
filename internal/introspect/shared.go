package introspect

import (
	"context"
	"crypto/sha256"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"introspectd/internal/verify"
)

// shared is where replicas find each other's verdicts, with what was measured
// of both ways to one: asking there, and verifying. A nil one asks nobody.
type shared struct {
	cache   Cache
	sharing Sharing
	seed    maphash.Seed
	trips   mean
	checks  checks
	told    atomic.Bool // trips was told something since Run looked
	turn    atomic.Uint32
}

func newShared(c Cache, s Sharing) *shared {
	if c == nil || s == Never {
		return nil
	}
	return &shared{cache: c, sharing: s, seed: maphash.MakeSeed(), checks: checks{byHeader: map[uint64]*mean{}}}
}

// asking says whether to ask the others for a verdict.
type asking uint8

const (
	no asking = iota
	yes
	// unlessRefused is for headers that no genuine token has had yet: garbage is
	// turned away here.
	unlessRefused
)

// verifyEvery is which of the tokens that could be asked for is verified all
// the same: a measurement of a bad moment must not last.
const verifyEvery = 32

// way is how to find out about a token.
type way struct {
	// head stands for the token's header as it is spelled, which says by which
	// algorithm and key it is verified.
	head uint64
	asks asking
}

// way is the better one for token. A nil s has all verified here.
func (s *shared) way(token string) way {
	if s == nil {
		return way{}
	}
	text, _, _ := strings.Cut(token, ".")
	head := maphash.String(s.seed, text)
	return way{head, s.asks(head)}
}

func (s *shared) asks(head uint64) asking {
	check := s.checks.time(head)
	switch {
	case s.sharing == Always && check == 0:
		return unlessRefused
	case s.sharing == Always:
		return yes
	}
	trip := s.trips.time()
	if trip == 0 || trip >= check || s.turn.Add(1)%verifyEvery == 0 {
		return no
	}
	return yes
}

// clock is when something begins that is to be measured, if anything is.
func (s *shared) clock() (now time.Time) {
	if s != nil {
		now = time.Now()
	}
	return now
}

// verified notes how long a good token that went this way has taken since began.
func (s *shared) verified(w way, began time.Time) {
	if s != nil {
		s.checks.add(w.head, time.Since(began))
	}
}

// get asks, and measures.
func (s *shared) get(ctx context.Context, key Key) []byte {
	start := time.Now()
	entry := s.cache.Get(ctx, key, nil)
	s.trips.add(time.Since(start))
	s.told.Store(true)
	return entry
}

func (s *shared) put(ctx context.Context, key Key, entry []byte, lifetime time.Duration) {
	if s != nil {
		s.cache.Put(ctx, key, entry, lifetime, false)
	}
}

// ask returns what another replica found out about token, if this one would
// have found the same, and remembers it for what is left of its time.
func (in *Introspector) ask(ctx context.Context, token string, key Key) (Answer, bool) {
	entry := in.shared.get(ctx, key)
	now := in.now()
	a, ok := in.believe(entry, now)
	// Only active verdicts are shared, and each under its own token's key: the
	// store vouches for that, and we look.
	ok = ok && a.Active() && [sha256.Size]byte(a.entry.input()) == verify.SigningInput(token)
	in.metrics.asked(ok)
	if !ok {
		return Answer{}, false
	}
	in.remember(ctx, key, entry, min(time.Unix(a.entry.until(), 0).Sub(now), in.limits.TTL), false)
	return a, true
}

// probeEvery is how old the measurement of a trip may become.
const probeEvery = time.Second

// Run measures how far Shared is while no request asks it, until ctx ends: with
// Auto, nobody would ask without that. It may be called once.
func (in *Introspector) Run(ctx context.Context) {
	if in.shared == nil || in.shared.sharing == Always {
		return
	}
	nothing := Key(NewDigestKey()) // no token has it
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if !in.shared.told.Swap(false) {
			in.shared.get(ctx, nothing)
			in.shared.told.Store(false)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// mean is a running mean of times, 0 while there is none. It is safe for
// concurrent use; of samples that meet, one may be lost.
type mean struct{ ns, samples atomic.Int64 }

// settling is how many samples it takes to tell what is usual: the first of
// them opened a connection, or waited for keys.
const settling = 4

func (m *mean) add(d time.Duration) {
	sample, now := max(1, int64(d)), m.ns.Load()
	switch n := m.samples.Add(1); {
	case now == 0:
		now = sample
	case n <= settling:
		now = min(now, sample)
	default:
		now += (sample - now) / 8
	}
	m.ns.Store(now)
}

func (m *mean) time() time.Duration { return time.Duration(m.ns.Load()) }

// checks is how long good tokens took to verify, by their headers.
type checks struct {
	mu       sync.RWMutex
	byHeader map[uint64]*mean
}

// mostHeaders bounds checks. An issuer that gives each token a header of its
// own has us begin anew, again and again, and then nothing is asked for.
const mostHeaders = 256

func (c *checks) add(head uint64, d time.Duration) {
	m := c.of(head)
	if m == nil {
		m = &mean{}
		c.mu.Lock()
		if len(c.byHeader) >= mostHeaders {
			clear(c.byHeader)
		}
		c.byHeader[head] = m
		c.mu.Unlock()
	}
	if usual := m.time(); usual > 0 {
		d = min(d, 2*usual) // the rest of it is a wait for a processor or for keys
	}
	m.add(d)
}

func (c *checks) time(head uint64) time.Duration {
	if m := c.of(head); m != nil {
		return m.time()
	}
	return 0
}

func (c *checks) of(head uint64) *mean {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byHeader[head]
}
