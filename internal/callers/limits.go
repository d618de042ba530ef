package callers

import (
	"crypto/sha256"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

// The limits of failed authentication, and the memory they may take.
const (
	burstPerID     = 20
	ratePerID      = 1 // per second
	burstPerOrigin = 200
	ratePerOrigin  = 200 // per second
	trustFor       = time.Hour
	mostBuckets    = 65_536
	mostSuccesses  = 16_384
	// retryAfter is how long the slower bucket takes to hold one again.
	retryAfter = time.Second
)

// Limits remembers who failed and who succeeded. It outlives the Callers that
// use it, so that a reload gives nobody fresh tries. Safe for concurrent use.
type Limits struct {
	now       func() time.Time
	start     time.Time
	origins   *otter.Cache[origin, *rate.Limiter]
	guesses   *otter.Cache[guess, *rate.Limiter]
	successes *otter.Cache[guess, *success]
}

// success is when an id last succeeded from somewhere.
type success struct {
	from origin
	at   atomic.Int64 // ns since Limits.start
}

// latest is the last success of one id, wherever it was: most ask from one place
// alone, and then nobody has to look for it among all others.
type latest = atomic.Pointer[success]

// origin is where a request comes from: an IPv4 address, the /64 of an IPv6
// address (one subscriber has a whole one), or unix.
type origin [16]byte

// claim is the digest of a claimed id. The zero claim is that of every bearer
// token, which claims no id.
type claim [sha256.Size]byte

type guess struct {
	from origin
	who  claim
}

// NewLimits returns empty limits that count time by now, which must be safe
// for concurrent use.
func NewLimits(now func() time.Time) *Limits {
	clock := otterClock{now: now, start: now()}
	// A bucket left alone for this long is full again, as a new one is.
	refilled := (burstPerID/ratePerID + 1) * time.Second
	// The caches tidy up on the goroutine that writes to them, so that none
	// outlives its request.
	atOnce := func(tidy func()) { tidy() }
	return &Limits{
		now:   now,
		start: clock.start,
		origins: otter.Must(&otter.Options[origin, *rate.Limiter]{
			MaximumSize:      mostBuckets,
			ExpiryCalculator: otter.ExpiryAccessing[origin, *rate.Limiter](refilled),
			Executor:         atOnce,
			Clock:            clock,
		}),
		guesses: otter.Must(&otter.Options[guess, *rate.Limiter]{
			MaximumSize:      mostBuckets,
			ExpiryCalculator: otter.ExpiryAccessing[guess, *rate.Limiter](refilled),
			Executor:         atOnce,
			Clock:            clock,
		}),
		// A success says itself when it was, so the cache needs no clock for it.
		successes: otter.Must(&otter.Options[guess, *success]{
			MaximumSize: mostSuccesses,
			Executor:    atOnce,
		}),
	}
}

// admits says whether a secret may be looked at: always from where the id
// succeeded within the hour, elsewhere while both buckets hold one. It takes
// nothing from them. latest is that of who. last is the memory of the success,
// nil without one.
func (l *Limits) admits(latest *latest, from origin, who claim, now time.Time) (last *success, admitted bool) {
	if last = latest.Load(); last == nil || last.from != from {
		last, _ = l.successes.GetIfPresent(guess{from, who})
	}
	if last != nil && now.Sub(l.start)-time.Duration(last.at.Load()) <= trustFor {
		return last, true
	}
	return last, l.left(from, now) && holds(l.guesses, guess{from, who}, now)
}

// succeeded remembers a success; last is what admits returned.
func (l *Limits) succeeded(latest *latest, from origin, who claim, now time.Time, last *success) {
	if last == nil {
		last, _ = l.successes.SetIfAbsent(guess{from, who}, &success{from: from})
	}
	last.at.Store(int64(now.Sub(l.start)))
	if latest.Load() != last {
		latest.Store(last)
	}
}

// failed counts one failure against everything it may have claimed, and once
// against where it came from. It returns false where a bucket was empty: such
// a request guessed nothing, and so takes nothing from the others who come
// from there.
func (l *Limits) failed(from origin, who []claim, now time.Time) bool {
	if !l.left(from, now) {
		return false
	}
	within, counted := true, false
	for _, w := range who {
		if take(l.guesses, guess{from, w}, now, ratePerID, burstPerID) {
			counted = true
		} else {
			within = false
		}
	}
	if counted && !take(l.origins, from, now, ratePerOrigin, burstPerOrigin) {
		return false
	}
	return within
}

// left says whether the bucket of an origin holds one.
func (l *Limits) left(from origin, now time.Time) bool { return holds(l.origins, from, now) }

// holds says whether a bucket holds one; a bucket that isn't there is full.
func holds[K comparable](buckets *otter.Cache[K, *rate.Limiter], key K, now time.Time) bool {
	b, ok := buckets.GetIfPresent(key)
	return !ok || b.TokensAt(now) >= 1
}

// take takes one from a bucket; false means that it was empty.
func take[K comparable](buckets *otter.Cache[K, *rate.Limiter], key K, now time.Time, perSecond rate.Limit, burst int) bool {
	b, ok := buckets.GetIfPresent(key)
	if !ok {
		b, _ = buckets.SetIfAbsent(key, rate.NewLimiter(perSecond, burst))
	}
	return b.AllowN(now, 1)
}

// originOf reads a TCP peer's address with or without a port; everything else
// counts as a unix socket.
func originOf(remote string) origin {
	var a netip.Addr
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		a = ap.Addr()
	} else if a, err = netip.ParseAddr(remote); err != nil {
		return origin{15: 1} // a masked address ends in zeroes, a mapped one starts otherwise
	}
	b := origin(a.As16())
	if !a.Unmap().Is4() {
		clear(b[8:])
	}
	return b
}

// otterClock counts from start, so by monotonic time, and never ticks: an idle
// cache may keep what has expired, which its bound covers.
type otterClock struct {
	now   func() time.Time
	start time.Time
}

func (c otterClock) NowNano() int64 { return int64(c.now().Sub(c.start)) }

func (otterClock) Tick(time.Duration) <-chan time.Time { return nil }
