package introspect

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"introspectd/internal/verify"
)

// flights has those who ask about one token at the same time share one
// judgement. The zero value has none under way; it is safe for concurrent use.
type flights struct {
	mu       sync.Mutex
	underWay map[Key]*flight
	many     atomic.Int64  // how many are
	ended    atomic.Uint64 // how many have: changed before one is no longer under way
}

// flight is one judgement under way. What came of it is read once done is closed.
type flight struct {
	done   chan struct{}
	landed landed
	err    error
	made   bool // false where who made it left, or panicked
}

// landed is what came of a flight, and on which path.
type landed struct {
	answer Answer
	path   path
}

// do returns what judge finds out about the token that is called key, for
// whoever came first. Where that one leaves before there is a judgement, the next
// one makes it: the work that others share doesn't end with its first asker. The
// error is that of judge, or verify.ErrOverloaded for who leaves.
func (f *flights) do(ctx context.Context, key Key, judge func() (landed, error)) (landed, error) {
	for {
		one, first := f.join(key)
		if first {
			return f.make(ctx, key, one, judge)
		}
		select {
		case <-one.done:
			if one.made {
				return one.landed, one.err
			}
		case <-ctx.Done():
			return landed{path: pathVerified}, fmt.Errorf("%w (left)", verify.ErrOverloaded)
		}
	}
}

// has says whether a judgement of key is under way.
func (f *flights) has(key Key) bool {
	if f.many.Load() == 0 { // mostly, and a lock is dear where nobody else is
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.underWay[key] != nil
}

// join returns the flight of key, and whether it is the caller's to make.
func (f *flights) join(key Key) (one *flight, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.underWay[key]; one != nil {
		return one, false
	}
	one = &flight{done: make(chan struct{})}
	if f.underWay == nil {
		f.underWay = map[Key]*flight{}
	}
	f.underWay[key] = one
	f.many.Add(1)
	return one, true
}

func (f *flights) make(ctx context.Context, key Key, one *flight, judge func() (landed, error)) (landed, error) {
	defer func() { // also of a panic
		f.mu.Lock()
		f.ended.Add(1)
		delete(f.underWay, key)
		f.many.Add(-1)
		f.mu.Unlock()
		close(one.done)
	}()
	one.landed, one.err = judge()
	one.made = one.err == nil || ctx.Err() == nil
	return one.landed, one.err
}
