package jwks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	cooldown   = 30 * time.Second // between two fetches that unknown kids cause
	maxWaiting = 256              // callers that wait for a running fetch
	maxWait    = time.Second      // and for how long
	maxUnknown = 1024             // kids remembered as unknown, for one cooldown

	minRefresh = 30 * time.Second // no max-age makes us ask more often
	maxBackoff = 10 * time.Second
)

var errStopped = errors.New("the keys are no longer refreshed")

// flight is one look for newer keys, at the source or in the fleet. What is
// below done may be read once it is closed.
type flight struct {
	started time.Time
	cancel  context.CancelFunc
	news    chan struct{} // closed when a set came from the fleet and more is to be done
	done    chan struct{}
	fetched bool      // the source was asked; if without err, what it did not bring is unknown to it
	asked   time.Time // and when, the last time
	located bool      // so was discovery
	leaves  leavings
	err     error
}

// job is what a flight does.
type job func(context.Context, *flight) error

// launch returns the running flight, or a new one that does the job. It is
// nobody's request: a caller that hangs up must not take it from the others,
// so it has its own time limits and ends with Run at the latest.
func (k *Keys) launch(do job) *flight {
	return k.launchIf(func() bool { return true }, do)
}

// launchIf is launch, and nil where none is running and may says no. What may
// spends is spent for a flight that nobody can miss: they see both or neither.
func (k *Keys) launchIf(may func() bool, do job) *flight {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.running != nil {
		return k.running
	}
	if !may() {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &flight{started: time.Now(), cancel: cancel, news: make(chan struct{}), done: make(chan struct{})}
	if k.stopped {
		cancel()
		f.err = errStopped
		close(f.done)
		return f
	}
	k.running = f
	go func() {
		defer cancel()
		f.err = do(ctx, f)
		k.leave(f.leaves)
		k.mu.Lock()
		k.running = nil
		k.mu.Unlock()
		close(f.done)
	}()
	return f
}

// inFlight is the running flight, or nil.
func (k *Keys) inFlight() *flight {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.running
}

// stop ends the running flight and waits for it; none starts afterwards.
func (k *Keys) stop() {
	k.mu.Lock()
	k.stopped = true
	f := k.running
	k.mu.Unlock()
	if f != nil {
		f.cancel()
		<-f.done
	}
}

// Run keeps the keys fresh until ctx is done: it fetches at once, then when
// the source's max-age or Refresh says so, and after a failure within 10 s.
// With a Fleet it looks there first, half a second at most, and once the
// source has answered it takes what another replica fetched instead.
// A trust store is read again at each Refresh. After Run nothing is fetched or
// read any more; what was held can still be asked for.
func (k *Keys) Run(ctx context.Context) {
	defer k.observe()()
	if k.cfg.local() {
		k.watch(ctx)
		return
	}
	defer k.saving()()
	defer k.sharing()()
	defer k.stop()
	k.doubt()
	failures, expired := 0, false
	for {
		f := k.launch(k.renew)
		select {
		case <-f.done:
		case <-ctx.Done():
			return
		}
		wait := k.untilDue()
		switch {
		case f.err != nil:
			// Counted from the start of the attempt, so that a source that
			// hangs is not asked later than one that refuses.
			wait = max(time.Second, backoff(failures)-time.Since(f.started))
			failures++
		case !k.due():
			failures = 0
		}
		if h := k.held.Load(); h != nil && k.usable() == nil {
			if !expired {
				k.log.ErrorContext(ctx, "keys are too old to be used", "read", h.fetched, "max_stale", k.cfg.MaxStale)
			}
			expired = true
		} else {
			expired = false
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-k.woken:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// watch looks at keys from files once per Refresh until ctx is done: a trust
// store may be another, and certificates come to their end.
func (k *Keys) watch(ctx context.Context) {
	tick := time.NewTicker(k.cfg.Refresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_ = k.Reread() // it says itself what went wrong
		k.warn(k.held.Load().set)
	}
}

// renew fetches when the set is due, unless another replica did or is about to.
func (k *Keys) renew(ctx context.Context, f *flight) error {
	if !k.due() {
		return nil
	}
	if k.fleet != nil && k.relieved(ctx, f) {
		return nil
	}
	return k.fetch(ctx, f)
}

// due tells whether the set is to be renewed.
func (k *Keys) due() bool {
	h := k.held.Load()
	return h == nil || h.unconfirmed || !time.Now().Before(h.due)
}

// untilDue is how long Run may wait after a flight that went well. A set that
// is still due was left to another replica, or the flight was not about it.
func (k *Keys) untilDue() time.Duration {
	h := k.held.Load()
	if h == nil || h.unconfirmed {
		return 0
	}
	if d := time.Until(h.due); d > 0 {
		return d
	}
	again := min(lookEvery, k.cfg.Refresh/20)
	return again*3/4 + rand.N(again/2)
}

// wake has Run look again at when the set is due.
func (k *Keys) wake() {
	select {
	case k.woken <- struct{}{}:
	default:
	}
}

// doubt makes the present set due at once.
func (k *Keys) doubt() {
	k.changing.Lock()
	defer k.changing.Unlock()
	if h := k.held.Load(); h != nil {
		doubted := *h
		doubted.unconfirmed = true
		k.held.Store(&doubted)
	}
}

// backoff is a time from 1 s to 10 s that doubles with the failures so far.
func backoff(failures int) time.Duration {
	ceiling := min(maxBackoff, 2*time.Second<<min(failures, 3))
	return ceiling/2 + rand.N(ceiling/2)
}

// untilNext is how long a set that was just read is left alone: max-age, if
// the source gave one, between 30 s and Refresh, and a little less than that,
// so that replicas which started together drift apart.
func (k *Keys) untilNext(maxAge time.Duration) time.Duration {
	d := k.cfg.Refresh
	if maxAge > 0 {
		d = min(d, max(maxAge, minRefresh))
	}
	return max(min(d, minRefresh), d-rand.N(d/10+1))
}

// Refresh fetches once, whatever the Fleet has and from where discovery says
// now, or joins a fetch that began since it was called, and returns nil when the
// set was read or is unchanged. When ctx ends first the fetch goes on. A trust
// store is read again; with keys from other files it does nothing.
func (k *Keys) Refresh(ctx context.Context) error { return k.RefreshSince(ctx, time.Now()) }

// RefreshSince is Refresh for who wanted it at that time: a fetch that began since
// is joined.
func (k *Keys) RefreshSince(ctx context.Context, wanted time.Time) error {
	if k.cfg.local() {
		return k.Reread()
	}
	for {
		f := k.launch(k.relocate)
		select {
		case <-f.done:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the keys of issuer %s: %w", k.name, ctx.Err())
		}
		// It may have joined a flight that asked nobody but the fleet, or the
		// address of before, or what was true before somebody wanted it anew.
		if f.err != nil && !f.started.Before(wanted) || k.askedSince(f, wanted) {
			return f.err
		}
	}
}

// askedSince says whether f, which is over, asked the source since then and went
// well, at the address that discovery told with it.
func (k *Keys) askedSince(f *flight, then time.Time) bool {
	return f.err == nil && f.fetched && !f.asked.Before(then) && (f.located || k.source != sourceDiscover)
}

// await waits for a flight that may change what is known of kid, and starts
// one when none is running, a set is there to be refreshed and seeking is
// allowed. Attempts are counted, not successes: whoever sends random kids can
// spend the budget, which is why Run does not share it. It reports whether a
// fetch that began since ended well and so proved what it did not bring to be
// unknown.
func (k *Keys) await(ctx context.Context, kid, alg string, found lookup) bool {
	if found == unknownKid && k.unknown.has(kid, time.Now()) {
		return false
	}
	select {
	case k.places <- struct{}{}:
		defer func() { <-k.places }()
	default:
		return false
	}
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	for came, ours := time.Now(), false; !ours; {
		f := k.launchIf(func() bool { ours = found != noSet && k.maySeek(); return ours }, k.seek(kid, alg))
		if f == nil || !k.landed(ctx, f, timer.C, kid, alg) || f.err != nil {
			return false
		}
		if k.askedSince(f, came) {
			return true
		}
		// It was under way when we came, for another reason: the source may have
		// been asked before there was such a key, elsewhere, or not at all.
		if _, found = k.look(kid, alg, k.now()); found != unknownKid {
			return false
		}
	}
	return false
}

// landed waits for the end of f until limit or ctx is over, or the fleet brought
// what settles kid, and tells whether it has come.
func (k *Keys) landed(ctx context.Context, f *flight, limit <-chan time.Time, kid, alg string) bool {
	for news := f.news; ; news = nil {
		select {
		case <-f.done:
			return true
		case <-news:
			if _, found := k.look(kid, alg, k.now()); found == settled {
				return false
			}
		case <-limit:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// seekable says whether await would wait for anything.
func (k *Keys) seekable(kid string) bool {
	// In this order: what was spent is spent for a flight that runs, or is over.
	return (k.seeks().Tokens() >= 1 || k.inFlight() != nil) && !k.unknown.has(kid, time.Now())
}

// maySeek spends the budget of flights that unknown kids cause.
func (k *Keys) maySeek() bool { return k.seeks().Allow() }

// seeks is that budget.
func (k *Keys) seeks() *rate.Limiter {
	if k.fleet != nil {
		return k.looks // what it may fetch is decided in flight
	}
	return k.limiter
}

// seek is the job for an unknown kid.
func (k *Keys) seek(kid, alg string) job {
	return func(ctx context.Context, f *flight) error {
		if k.fleet != nil && !k.maySeekAtSource(ctx, f, kid, alg) {
			return nil
		}
		if err := k.fetch(ctx, f); err != nil || f.located || k.source != sourceDiscover {
			return err
		}
		if _, found := k.look(kid, alg, k.now()); found != unknownKid || !k.moved(ctx, f) {
			return nil
		}
		return k.fetch(ctx, f)
	}
}

// unknownKids are those that a finished fetch did not bring. They neither
// cause a fetch nor wait for one until the set changes or a cooldown passed.
// The zero value is empty.
type unknownKids struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (u *unknownKids) has(kid string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(u.until[kid])
}

// remember drops kid when there is no room: forgetting costs a wait, nothing
// else.
func (u *unknownKids) remember(kid string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until == nil {
		u.until = map[string]time.Time{}
	}
	if len(u.until) >= maxUnknown {
		maps.DeleteFunc(u.until, func(_ string, until time.Time) bool { return !now.Before(until) })
	}
	if len(u.until) < maxUnknown {
		u.until[kid] = now.Add(cooldown)
	}
}

func (u *unknownKids) clear() {
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.until)
}
