package redisstore

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// whole reads the set, and writes back what it lacks.
func (w *follower) whole(ctx context.Context) error {
	began := time.Now()
	found, err := w.readSet(ctx)
	if err != nil {
		return w.heal(ctx, w.set, err)
	}
	if !w.marked && !w.records.Held() {
		// It was lost before all of it was here: the mark is others' to put.
		w.begun, w.waiting.moved = false, time.Time{}
		return nil
	}
	if err := w.writeBack(ctx, found); err != nil {
		return err
	}
	w.doubt, w.differed, w.compared, w.took = false, false, time.Now(), time.Since(began)
	if began.Sub(w.unfamiliar) > max(quietFor, 10*w.pace().MaxDelay) {
		w.unfamiliar = time.Time{}
	}
	return nil
}

// readSet merges all members of the set. What is no record of ours is taken out,
// and so is what was deleted; a form under an older key is replaced, and several
// sealed forms of one record are made one.
//
// Others do the same at the same time, with other keys first, so that what was
// read may be gone. Whoever takes out a form of what is to stay therefore puts
// one in at the same step: at any time one is there.
func (w *follower) readSet(ctx context.Context) (map[[16]byte]uint64, error) {
	w.read = time.Now()
	// A scan may pass over what is put there meanwhile, and still come to the mark
	// that was put behind it: only one that was there before says anything.
	marks, err := w.client.ZCount(ctx, w.set, "+inf", "+inf").Result()
	if err != nil {
		return nil, err
	}
	found, twice := map[[16]byte]uint64{}, map[[16]byte][]string{}
	err = w.scan(ctx, func(p redis.Pipeliner, body string, score float64) {
		if math.IsInf(score, 1) && foreign(w.store.box.Check([]byte(body))) {
			return // another fleet's mark
		}
		name, expires, err := w.merge(ctx, body)
		switch {
		case foreign(err):
			return
		case err != nil:
			w.metrics.add(ctx, "broken", 1)
			p.ZRem(ctx, w.set, body)
			return
		case name != mark && w.records.Deleted(name):
			p.ZRem(ctx, w.set, body) // it isn't counted here, so counts would differ until its end
			return
		case score != scoreOf(name, expires): // scores are not sealed
			w.metrics.add(ctx, "broken", 1)
			p.ZAdd(ctx, w.set, redis.Z{Score: scoreOf(name, expires), Member: body})
		}
		if !w.store.box.Newest([]byte(body)) {
			_, value, _, _ := w.open(body)
			next := w.seal(name, value, expires)
			p.ZAdd(ctx, w.set, redis.Z{Score: scoreOf(name, expires), Member: next})
			p.ZRem(ctx, w.set, body)
			body = string(next)
			w.metrics.add(ctx, "resealed", 1)
		}
		form, there := found[name]
		other := fingerprint(body)
		if there && other != form {
			twice[name] = nil
		}
		if !there || other < form {
			found[name] = other
		}
	})
	_, there := found[mark]
	w.marked = there && marks > 0
	if err == nil && len(twice) > 0 {
		err = w.unite(ctx, twice)
	}
	return found, err
}

// unite leaves one form of each of these records, the same at every replica.
func (w *follower) unite(ctx context.Context, forms map[[16]byte][]string) error {
	if err := w.scan(ctx, func(_ redis.Pipeliner, body string, _ float64) {
		name, _, _, err := w.open(body)
		if all, asked := forms[name]; err == nil && asked {
			forms[name] = append(all, body)
		}
	}); err != nil {
		return err
	}
	p := w.client.TxPipeline()
	for name, all := range forms {
		slices.SortFunc(all, func(a, b string) int { return cmp.Compare(fingerprint(a), fingerprint(b)) })
		all = slices.Compact(all) // a scan may show a member twice
		if len(all) < 2 {
			continue // somebody else has done it
		}
		_, _, expires, _ := w.open(all[0])
		p.ZAdd(ctx, w.set, redis.Z{Score: scoreOf(name, expires), Member: all[0]})
		for _, body := range all[1:] {
			p.ZRem(ctx, w.set, body)
		}
		if p.Len() >= pageSize {
			if _, err := p.Exec(ctx); err != nil {
				return err
			}
		}
	}
	if p.Len() == 0 {
		return nil
	}
	_, err := p.Exec(ctx)
	return err
}

// scan calls each for every member of the set; what each adds to p is carried
// out after its page, in one step.
func (w *follower) scan(ctx context.Context, each func(p redis.Pipeliner, body string, score float64)) error {
	cursor := uint64(0)
	for {
		members, next, err := w.client.ZScan(ctx, w.set, cursor, "", pageSize).Result()
		if err != nil {
			return err
		}
		p := w.client.TxPipeline()
		for i := 0; i+1 < len(members); i += 2 {
			score, err := strconv.ParseFloat(members[i+1], 64)
			if err != nil {
				return fmt.Errorf("a score of the set: %w", err)
			}
			each(p, members[i], score)
		}
		if p.Len() > 0 {
			if _, err := p.Exec(ctx); err != nil {
				return err
			}
		}
		w.alive(ctx)
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// writeBack puts what the set lacks into it: what this replica wrote at once,
// the rest a little later, when its own writer is not there to do so, and the
// mark then as well.
func (w *follower) writeBack(ctx context.Context, found map[[16]byte]uint64) error {
	all := w.othersDue()
	missing, left := 0, !all && !w.marked && w.records.Held() // others may have to put more
	p := w.client.Pipeline()
	var failed error
	w.records.Each(func(name [16]byte, value []byte, expires time.Time) bool {
		if _, there := found[name]; there {
			return true
		}
		if !all && !w.wrote(name) {
			left = true
			return true
		}
		missing++
		w.put(ctx, p, name, value, expires, missing <= toldAtOnce)
		if p.Len() >= pageSize {
			_, failed = p.Exec(ctx)
			w.alive(ctx)
		}
		return failed == nil
	})
	if !left && !w.marked {
		p.ZAdd(ctx, w.set, redis.Z{Score: scoreOf(mark, time.Time{}), Member: w.seal(mark, nil, time.Unix(0, 0))})
	}
	if failed == nil && p.Len() > 0 {
		_, failed = p.Exec(ctx)
	}
	w.marked = !left && failed == nil
	switch {
	case !left:
		w.others = time.Time{}
	case w.others.IsZero(): // else it stays: the set is read every other second meanwhile
		w.others = time.Now().Add(time.Second + rand.N(2*time.Second))
	}
	if failed != nil {
		return fmt.Errorf("writing revocations back: %w", failed)
	}
	if missing > 0 {
		w.metrics.add(ctx, "written_back", missing)
		w.store.log.Warn("redis had lost revocations; they are written back", "revocations", missing)
	}
	return nil
}
