package redisstore

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"introspectd/internal/seal"
)

var (
	errEmpty   = errors.New("redis has no list, and revocation.require_existing forbids to begin one")
	errLost    = errors.New("redis has lost its list, and other replicas are about to write it back")
	errEarly   = errors.New("redis has no list, and it is too early to tell whether other replicas have one")
	errForeign = errors.New("redis has no whole list, and revocations that can't be read here")
)

const (
	// silentFor is how long no heartbeat comes until the other replicas are
	// believed to be gone.
	silentFor = 5 * time.Second
	// waitFor is the most that they are waited for while heartbeats come. To read
	// millions of records and put them back takes minutes; a fleet that has not
	// done so by then can't, and without a bound whoever repeats its heartbeats
	// would keep every new replica from beginning.
	waitFor = 10 * time.Minute
)

// begin reads the stream's end, then the set: what is appended in between is
// read again by poll.
func (w *follower) begin(ctx context.Context) error {
	tail, err := w.client.XRevRangeN(ctx, w.stream, "+", "-", 16).Result()
	if err != nil {
		w.waiting.moved = time.Time{} // while redis is away nobody can show that they live
		return w.heal(ctx, w.stream, err)
	}
	w.last = "0-0"
	if len(tail) > 0 {
		w.last = tail[0].ID
	}
	w.unfamiliar = time.Time{} // of an earlier try
	found, err := w.readSet(ctx)
	if err != nil {
		w.waiting.moved = time.Time{}
		return w.heal(ctx, w.set, err)
	}
	if !w.marked {
		if !w.unfamiliar.IsZero() && !w.records.Held() {
			// To adopt it would call whole what nobody here can read, and mark it so.
			return errForeign
		}
		newest := w.newest(tail)
		if w.waiting.others(newest, w.pace().MaxDelay) {
			if newest == "" {
				return errEarly
			}
			return errLost
		}
		if err := w.adopt(ctx, len(found)); err != nil {
			return err
		}
	}
	w.begun = true
	if err := w.writeBack(ctx, found); err != nil {
		return err
	}
	// A scan may pass over what was put anew meanwhile, by whoever seals with
	// another key, or on a node that took over: the number of records tells.
	return w.compare(ctx)
}

// newest is the id of the last message that a fleet with our seal keys wrote,
// empty for none.
func (w *follower) newest(tail []redis.XMessage) string {
	for _, m := range tail {
		if w.familiar(m) {
			return m.ID
		}
	}
	return ""
}

// wait is how long others have been waited for.
type wait struct {
	newest string
	since  time.Time
	moved  time.Time // zero: silence counts from the next look
}

// others says whether another replica lives that may hold what the set has
// lost: messages come, or it is too early to tell. Meanwhile the list here is
// not complete, and revocation.on_outage decides; what would be adopted instead
// may lack what others hold.
func (w *wait) others(newest string, maxDelay time.Duration) bool {
	now := time.Now()
	if w.since.IsZero() {
		w.since = now
	}
	if newest != w.newest || w.moved.IsZero() {
		w.newest, w.moved = newest, now
	}
	silence := max(silentFor, 2*maxDelay)
	if newest == "" {
		// Redis has just come back empty, to others as well. They write a heartbeat
		// every half of max_delay.
		silence = maxDelay
	}
	return now.Sub(w.moved) < silence && now.Sub(w.since) < waitFor
}

// adopt takes a set that is not known to be whole for the list, where nobody is
// left who could complete it.
func (w *follower) adopt(ctx context.Context, found int) error {
	if w.records.Held() {
		return nil // ours will be written
	}
	if w.pace().RequireExisting {
		w.metrics.add(ctx, "empty_refused", 1)
		return errEmpty
	}
	w.metrics.add(ctx, "empty_adopted", 1)
	w.store.log.Warn("redis has no whole list of revocations, and this replica held none before: it begins with what is there", "revocations", found)
	return nil
}

// familiar says whether a message was written by a fleet with our seal keys.
func (w *follower) familiar(m redis.XMessage) bool {
	body, _ := m.Values[fieldBody].(string)
	var err error
	switch kind, _ := m.Values[fieldKind].(string); kind {
	case heartbeatKind:
		_, err = w.store.box.Open(seal.Heartbeat, w.stream, []byte(body))
	case recordKind:
		_, _, _, err = w.open(body)
	default:
		return false
	}
	return err == nil
}
