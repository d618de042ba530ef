package jwks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"
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

// flight is one fetch. next and err may be read once done is closed.
type flight struct {
	started time.Time
	cancel  context.CancelFunc
	done    chan struct{}
	next    time.Duration // until the source wants to be asked again
	err     error
}

// launch returns the running fetch, or a new one. The fetch is nobody's
// request: a caller that hangs up must not take it from the others, so it has
// its own time limit and ends with Run at the latest.
func (k *Keys) launch() *flight {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.running != nil {
		return k.running
	}
	ctx, cancel := context.WithTimeout(context.Background(), fetchTime)
	f := &flight{started: time.Now(), cancel: cancel, done: make(chan struct{})}
	if k.stopped {
		cancel()
		f.err = errStopped
		close(f.done)
		return f
	}
	k.running = f
	go func() {
		defer cancel()
		f.next, f.err = k.fetch(ctx)
		k.mu.Lock()
		k.running = nil
		k.mu.Unlock()
		close(f.done)
	}()
	return f
}

// inFlight is the running fetch, or nil.
func (k *Keys) inFlight() *flight {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.running
}

// stop ends the running fetch and waits for it; none starts afterwards.
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
// With keys from files it only waits. After Run nothing is fetched any more;
// what was held can still be asked for.
func (k *Keys) Run(ctx context.Context) {
	defer k.observe()()
	if k.source == sourceFiles {
		<-ctx.Done()
		return
	}
	defer k.saving()()
	defer k.stop()
	failures, expired := 0, false
	for {
		f := k.launch()
		select {
		case <-f.done:
		case <-ctx.Done():
			return
		}
		wait := f.next
		if f.err == nil {
			failures, expired = 0, false
		} else {
			// Counted from the start of the attempt, so that a source that
			// hangs is not asked later than one that refuses.
			wait = max(time.Second, backoff(failures)-time.Since(f.started))
			failures++
		}
		if h := k.held.Load(); h != nil && !expired && k.usable() == nil {
			expired = true
			k.log.ErrorContext(ctx, "keys are too old to be used", "read", h.read, "max_stale", k.cfg.MaxStale)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
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

// Refresh fetches once, or joins the running fetch, and returns nil when the
// set was read or is unchanged. When ctx ends first the fetch goes on. With
// keys from files it does nothing.
func (k *Keys) Refresh(ctx context.Context) error {
	if k.source == sourceFiles {
		return nil
	}
	f := k.launch()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the keys of issuer %s: %w", k.name, ctx.Err())
	}
}

// await waits for a fetch that may change what is known of kid, and starts one
// when none is running, a set is there to be refreshed and the cooldown is
// over. Attempts are counted, not successes: whoever sends random kids can
// spend the budget, which is why Run does not share it. It reports whether a
// fetch ended well and so proved what it did not bring to be unknown.
func (k *Keys) await(ctx context.Context, kid string, found lookup) bool {
	if found == unknownKid && k.unknown.has(kid, time.Now()) {
		return false
	}
	select {
	case k.places <- struct{}{}:
		defer func() { <-k.places }()
	default:
		return false
	}
	f := k.inFlight()
	if f == nil {
		if found == noSet || !k.limiter.Allow() {
			return false
		}
		f = k.launch()
	}
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.err == nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
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
