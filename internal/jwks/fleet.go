package jwks

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Fleet is what replicas share of an issuer's key sets. All of it is advice:
// it may withhold a set, give an old one once more, grant every claim or none,
// hang or be away; it must not be able to make one up. Its methods may be
// called concurrently and have to return in the end: Run waits for the last.
type Fleet interface {
	Store
	// Claim takes name for a lifetime of at most 60 s. False means that
	// another replica has it.
	Claim(name string, lifetime time.Duration) (bool, error)
	// Release gives back a claim of ours before its time.
	Release(name string)
}

const (
	lookTime  = 500 * time.Millisecond // for one question to the fleet
	lookEvery = time.Second            // between two looks for the same reason
	claimTime = fetchTime + 5*time.Second
	// restockEvery is how long a set that the fleet has lost may be missing
	// there: a replica that starts while its issuer is away needs it.
	restockEvery = 5 * time.Second

	claimFetch = "fetch/" // while one replica asks the issuer for all
	claimKid   = "kid/"   // for a cooldown after an unknown kid caused a fetch
)

var errHangs = errors.New("no answer in time")

// relieved looks into the fleet and tells whether another replica has read the
// source for us, or has the claim to do so. Otherwise it is ours to read: with
// the claim, without one where the fleet can't be asked or the set is overdue.
func (k *Keys) relieved(ctx context.Context, f *flight) bool {
	reached := k.lookAround(ctx, f)
	if !k.due() {
		return true
	}
	if !reached || k.overdue() {
		return false
	}
	granted, err := k.claim(ctx, claimFetch, claimTime)
	if err != nil {
		return false
	}
	f.leaves.claimed = granted
	return !granted
}

// overdue tells whether the set must be renewed whatever the fleet says: whoever
// holds the store can deny claims and withhold sets for ever. A removed key has
// to be gone at 2 x Refresh, and no set may be lost to max_stale meanwhile, so
// it is a little earlier than that. A clock that was set back must not keep the
// set either: both are asked.
func (k *Keys) overdue() bool {
	h := k.held.Load()
	if h == nil || h.unconfirmed {
		return true
	}
	most := min(2*k.cfg.Refresh, k.cfg.MaxStale) - k.cfg.Refresh/10
	return time.Since(h.read) > most || k.now().Sub(h.fetched) > most
}

// maySeekAtSource looks for kid in the fleet and, where it is not there either,
// spends the budget of fetches (JWT-12): ours, and the fleet's while it can be
// asked.
func (k *Keys) maySeekAtSource(ctx context.Context, f *flight, kid, alg string) bool {
	reached := k.lookAround(ctx, f)
	if _, found := k.look(kid, alg, k.now()); found != unknownKid {
		return false
	}
	if k.limiter.Tokens() < 1 {
		return false
	}
	if reached {
		if granted, err := k.claim(ctx, claimKid, cooldown); err == nil && !granted {
			return false
		}
	}
	return k.limiter.Allow()
}

// lookAround takes over what the fleet has if that is newer than what we hold.
// It tells whether the fleet could be asked.
func (k *Keys) lookAround(ctx context.Context, f *flight) (reached bool) {
	body, err := ask(ctx, k.asking, func() ([]byte, error) { return k.fleet.Get(k.saveAs) })
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		k.noteFleet(opLoad, storeFailed, err)
		return false
	case body == nil:
		k.noteFleet(opLoad, storeNothing, nil)
		return true
	}
	before := k.Digest()
	taken, err := k.takeSaved(body, fromFleet)
	switch {
	case err != nil:
		k.noteFleet(opLoad, storeRefused, err)
		return true
	case !taken:
		k.noteFleet(opLoad, storeOlder, nil)
		return true
	}
	k.noteFleet(opLoad, storeDone, nil)
	if h := k.held.Load(); h != nil && h.set.digest != before {
		k.log.Info("keys taken from the fleet", "keys", len(h.set.entries), "skipped", h.set.skipped, "read", h.fetched)
	}
	close(f.news)
	return true
}

// lost says whether the fleet has no set although we hold one that was confirmed.
func (k *Keys) lost() bool {
	if h := k.held.Load(); h == nil || h.unconfirmed {
		return false
	}
	body, err := k.fleet.Get(k.saveAs)
	return err == nil && body == nil
}

// claim asks for a claim to our set.
func (k *Keys) claim(ctx context.Context, what string, lifetime time.Duration) (granted bool, err error) {
	granted, err = ask(ctx, k.asking, func() (bool, error) { return k.fleet.Claim(what+k.saveAs, lifetime) })
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		k.noteFleet(opClaim, storeFailed, err)
	case granted:
		k.noteFleet(opClaim, storeDone, nil)
	default:
		k.noteFleet(opClaim, storeDenied, nil)
	}
	return granted, err
}

// noteFleet counts how an operation went, and logs it when it begins or ceases
// to go wrong.
func (k *Keys) noteFleet(operation, result string, err error) {
	k.meter.shared(operation, result)
	wrong := &k.memory.loadWrong
	if operation == opClaim {
		wrong = &k.memory.claimWrong
	}
	switch {
	case err != nil && !*wrong:
		k.log.Warn("the fleet is of no use for keys", "operation", operation, "result", result, "error", err.Error())
	case err == nil && *wrong:
		k.log.Info("the fleet is of use for keys again", "operation", operation)
	}
	*wrong = err != nil
}

// ask waits for call until lookTime or ctx is over. One that hangs goes on
// alone, and while it does busy is full and nothing more is asked: a fleet
// that hangs costs one wait and one goroutine.
func ask[T any](ctx context.Context, busy chan struct{}, call func() (T, error)) (T, error) {
	type reply struct {
		value T
		err   error
	}
	var none T
	select {
	case busy <- struct{}{}:
	default:
		return none, errHangs
	}
	answered := make(chan reply, 1)
	go func() {
		var r reply
		r.value, r.err = call()
		<-busy
		answered <- r
	}()
	timer := time.NewTimer(lookTime)
	defer timer.Stop()
	select {
	case r := <-answered:
		return r.value, r.err
	case <-timer.C:
		return none, errHangs
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// leavings are what a flight leaves for the fleet: the set that it read from
// the source, and the claim that it had to do so.
type leavings struct {
	read    *saved
	claimed bool
}

// leave hands l to the sharer, with what that has not got to yet.
func (k *Keys) leave(l leavings) {
	if k.fleet == nil || l == (leavings{}) {
		return
	}
	select {
	case earlier := <-k.unshared:
		l.claimed = l.claimed || earlier.claimed
		if l.read == nil {
			l.read = earlier.read
		}
	default:
	}
	k.unshared <- l // one flight at a time fills it: there is room
}

// sharing tells the fleet what flights leave for it until the returned function
// is called, which waits for the last of it; no flight may run then. A fleet
// that hangs holds up this goroutine, and neither fetches nor requests.
func (k *Keys) sharing() (end func()) {
	if k.fleet == nil {
		return func() {}
	}
	var sharer sync.WaitGroup
	sharer.Go(func() {
		failing := false
		restock := time.NewTicker(restockEvery)
		defer restock.Stop()
		for {
			var l leavings
			more := true
			select {
			case l, more = <-k.unshared:
			case <-restock.C:
				if k.lost() {
					l.read = k.lastRead()
				}
			}
			if !more {
				return
			}
			if l.read != nil {
				failing = k.share(*l.read, failing)
			}
			// Not before the set is there: who gets the claim next looks first.
			if l.claimed {
				k.fleet.Release(claimFetch + k.saveAs)
			}
		}
	})
	return func() {
		close(k.unshared)
		sharer.Wait()
		k.asking <- struct{}{} // waits for a call that hangs
	}
}

// share puts r where other replicas find it. It logs when putting begins or
// ceases to fail, and returns whether it failed.
func (k *Keys) share(r saved, failing bool) bool {
	err := k.put(k.fleet, r)
	switch {
	case err != nil && !failing:
		k.log.Warn("keys can't be shared with the fleet", "error", err.Error())
	case err == nil && failing:
		k.log.Info("keys can be shared with the fleet again")
	}
	if err != nil {
		k.meter.shared(opSave, storeFailed)
		return true
	}
	k.meter.shared(opSave, storeDone)
	return false
}
