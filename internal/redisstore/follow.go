package redisstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"introspectd/internal/seal"
)

// Records is a set that only grows, with expiry, and that each replica has in
// its own memory.
type Records interface {
	// Merge takes a record that came from Redis. An error means that another
	// release wrote it, and that it can't be told what it says.
	Merge(name [16]byte, value []byte, expires time.Time) error
	// Deleted says whether a record was taken back by another, which is here and
	// lasts as long: nobody needs the first one any more.
	Deleted(name [16]byte) bool
	// Each yields every live record.
	Each(yield func(name [16]byte, value []byte, expires time.Time) bool)
	// Live is how many there are at now.
	Live(now time.Time) int
	// Held says whether all of them were ever here.
	Held() bool
	// Current says that all which Redis had at t is here.
	Current(t time.Time)
}

// Pace is how Records are kept in step; it may change while they are.
type Pace struct {
	// MaxDelay is how late a record of another replica may be here.
	MaxDelay time.Duration
	// RequireExisting keeps a replica that never held the records from
	// adopting an empty store.
	RequireExisting bool
}

const (
	pageSize     = 500 // messages or members asked for at once
	compareEvery = 2 * time.Second
	wholeEvery   = time.Hour        // also where nothing differs
	wholeAtMost  = time.Second      // between two readings of the set
	wholeShare   = 20               // and as many times as long as one took
	lostShare    = 2                // the same, until what was lost is written back
	quietFor     = 15 * time.Second // until a foreign record is believed to be gone
	// toldAtOnce is how many written-back records the others hear of through
	// the stream; more than that they find by comparing.
	toldAtOnce = 1000
	// longestLimit is for one answer, after some that came too late.
	longestLimit = 5 * time.Second
	// skew is how far a replica's clock may be ahead: until then a record that is
	// over stays in the set. One whose clock has jumped would take out what the
	// others still need, and have to write back.
	skew = time.Hour
)

// follower keeps Records in step with a Feed. It belongs to one goroutine.
//
// A record leaves Records by its own end, never because Redis has lost it: what
// Redis lacks is written back, by its writer at once and by the others a little
// later. Whether the feed lives is shown by one thing alone, that our own
// heartbeat comes back through it: an idle stream, a demoted master and a
// stream that nobody writes to look alike without.
type follower struct {
	*Feed
	records Records
	pace    func() Pace

	begun   bool
	waiting wait                 // for others, before it began
	marked  bool                 // the set was, when it was last looked at
	last    string               // message of the stream up to which all was read
	beats   map[uint64]time.Time // heartbeats that have not come back
	beat    uint64
	beaten  time.Time
	failing bool
	client  redis.UniversalClient // of this round
	limit   time.Duration         // for one answer, in this round

	compared   time.Time
	differed   bool // the last comparison did
	doubt      bool // something may have been missed: read the whole
	read       time.Time
	took       time.Duration
	others     time.Time // when what others wrote is written back, zero: nothing is due
	unfamiliar time.Time // when something foreign was last seen
	warned     time.Time
}

// Run keeps records in step with Redis until ctx ends.
func (f *Feed) Run(ctx context.Context, records Records, pace func() Pace) {
	w := &follower{Feed: f, records: records, pace: pace, beats: map[uint64]time.Time{}, limit: f.store.cfg.Timeout}
	for ctx.Err() == nil {
		err := w.prepare(ctx)
		if err == nil {
			err = w.round(ctx)
		}
		w.conclude(ctx, err)
		timer := time.NewTimer(pace().MaxDelay / 4)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// prepare sets the client of a round. No request waits for it, so what was cut
// short gets twice the time in the next, until the whole was read: else a large
// value under one of our keys, or a slow line, would keep the list away for ever.
func (w *follower) prepare(ctx context.Context) error {
	w.client = w.store.client
	if w.limit == w.store.cfg.Timeout {
		return nil
	}
	node, err := w.node(ctx)
	if err != nil {
		return err
	}
	w.client = node.WithTimeout(w.limit) // on the same connections
	return nil
}

// conclude sets the time of the next round and logs what is news. After an error
// something may have been missed: a new master may lack what the old one had.
func (w *follower) conclude(ctx context.Context, err error) {
	var timed interface{ Timeout() bool }
	if errors.As(err, &timed) && timed.Timeout() {
		w.limit = max(min(2*w.limit, longestLimit), w.store.cfg.Timeout)
	} else if err != nil || !w.doubt { // the client of a cluster learns of a new master itself
		w.limit = w.store.cfg.Timeout
	}
	switch {
	case ctx.Err() != nil, errors.Is(err, errEarly): // nothing is wrong, or not yet
	case err != nil:
		w.doubt = true
		if !w.failing {
			w.store.log.Warn("revocations of other replicas can't be read", "error", err.Error())
		}
		w.failing = true
	case w.failing:
		w.failing = false
		w.store.log.Info("revocations of other replicas are read again")
	}
}

func (w *follower) round(ctx context.Context) error {
	if !w.begun {
		if err := w.begin(ctx); err != nil {
			return err
		}
	}
	if err := w.poll(ctx); err != nil {
		return err
	}
	if w.due() {
		return w.whole(ctx)
	}
	if w.differed || time.Since(w.compared) >= compareEvery {
		return w.compare(ctx)
	}
	return nil
}

// due says whether the whole set has to be read.
func (w *follower) due() bool {
	since, share := time.Since(w.read), time.Duration(wholeShare)
	if !w.marked { // replicas that start wait for the mark, and answer nothing
		share = lostShare
	}
	if since < max(wholeAtMost, share*w.took) {
		return false
	}
	return w.doubt || since >= wholeEvery || w.othersDue() || !w.unfamiliar.IsZero()
}

// othersDue says whether it is time to write back what other replicas wrote.
func (w *follower) othersDue() bool { return !w.others.IsZero() && !time.Now().Before(w.others) }

// poll writes a heartbeat, if one is due, and reads what is new.
func (w *follower) poll(ctx context.Context) error {
	for {
		var beat *redis.StringCmd
		var news *redis.XStreamSliceCmd
		var here *redis.XMessageSliceCmd
		_, err := w.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			if time.Since(w.beaten) >= w.pace().MaxDelay/2 {
				beat = w.heartbeat(ctx, p)
			}
			news = p.XRead(ctx, &redis.XReadArgs{Streams: []string{w.stream, w.last}, Count: pageSize, Block: -1})
			if w.last != "0-0" {
				here = p.XRevRangeN(ctx, w.stream, w.last, w.last, 1)
			}
			return nil
		})
		if beat != nil && beat.Err() == nil && !before(w.last, beat.Val()) {
			// The stream is another one than we have read.
			w.last, w.doubt = "0-0", true
			continue
		}
		read, readErr := news.Result()
		if readErr != nil && !errors.Is(readErr, redis.Nil) {
			return w.heal(ctx, w.stream, readErr)
		}
		if here != nil && len(here.Val()) == 0 {
			// What XREAD shows may have a gap before it: it was trimmed, or flushed.
			w.doubt = true
		}
		if here == nil && len(read) > 0 && len(read[0].Messages) == pageSize {
			// It was read from its beginning, and is so long that this may be gone.
			w.doubt = true
		}
		messages := 0
		for _, s := range read {
			for _, m := range s.Messages {
				w.take(ctx, m)
				w.last = m.ID
				messages++
			}
		}
		if beat != nil && beat.Err() != nil {
			return w.heal(ctx, w.stream, beat.Err())
		}
		if messages < pageSize {
			return nil
		}
		_ = err // that of a command, looked at above
	}
}

// heartbeat adds ours. Its number is sealed: one that is put back later is not
// waited for any more.
func (w *follower) heartbeat(ctx context.Context, p redis.Cmdable) *redis.StringCmd {
	w.beat++
	w.beaten = time.Now()
	w.beats[w.beat] = w.beaten
	for n := range w.beats {
		if n+64 < w.beat {
			delete(w.beats, n)
		}
	}
	plain := binary.BigEndian.AppendUint64([]byte(w.replica), w.beat)
	return p.XAdd(ctx, &redis.XAddArgs{
		Stream: w.stream, MaxLen: streamLength, Approx: true,
		Values: []any{fieldKind, heartbeatKind, fieldFrom, w.replica, fieldBody, w.store.box.Seal(seal.Heartbeat, w.stream, plain)},
	})
}

// alive adds a heartbeat while the set is read or written, which may take longer
// than a replica that waits puts up with silence. Its coming back would prove
// nothing. An error is met by poll again.
func (w *follower) alive(ctx context.Context) {
	if w.begun && time.Since(w.beaten) >= w.pace().MaxDelay/2 {
		_ = w.heartbeat(ctx, w.client).Err()
		delete(w.beats, w.beat)
	}
}

// take looks at one message of the stream.
func (w *follower) take(ctx context.Context, m redis.XMessage) {
	body, _ := m.Values[fieldBody].(string)
	switch kind, _ := m.Values[fieldKind].(string); kind {
	case recordKind:
		if _, _, err := w.merge(ctx, body); err != nil && !foreign(err) {
			w.metrics.add(ctx, "broken", 1)
		}
	case heartbeatKind:
		w.heard(ctx, m.Values[fieldFrom], body)
	case "":
		w.metrics.add(ctx, "broken", 1)
	default:
		w.strange(ctx, "a message of the kind "+strconv.Quote(kind[:min(len(kind), 32)]))
	}
}

// heard looks at a heartbeat. Of another replica's only the seal key counts:
// whoever seals with one that we don't have may revoke with it as well.
func (w *follower) heard(ctx context.Context, from any, body string) {
	if from != w.replica {
		if foreign(w.store.box.Check([]byte(body))) {
			w.strange(ctx, "a heartbeat under a seal key that is not configured here")
		}
		return
	}
	plain, err := w.store.box.Open(seal.Heartbeat, w.stream, []byte(body))
	if err != nil || len(plain) != len(w.replica)+8 || !strings.HasPrefix(string(plain), w.replica) {
		w.metrics.add(ctx, "broken", 1)
		return
	}
	n := binary.BigEndian.Uint64(plain[len(w.replica):])
	at, waited := w.beats[n]
	if !waited {
		return
	}
	for m := range w.beats {
		if m <= n {
			delete(w.beats, m)
		}
	}
	if !w.doubt && !w.differed && w.marked && w.unfamiliar.IsZero() { // without the mark others may hold more
		w.records.Current(at)
	}
}

// merge hands a sealed record to Records.
func (w *follower) merge(ctx context.Context, body string) (name [16]byte, expires time.Time, err error) {
	name, value, expires, err := w.open(body)
	if err == nil && name != mark {
		if unknown := w.records.Merge(name, value, expires); unknown != nil {
			w.strange(ctx, unknown.Error())
		}
		return name, expires, nil
	}
	if foreign(err) {
		w.strange(ctx, err.Error())
	}
	return name, expires, err
}

// strange notes something that only another release, or a replica with other
// seal keys, can have written. Until it is gone the list is not current.
func (w *follower) strange(ctx context.Context, what string) {
	w.unfamiliar = time.Now()
	w.metrics.add(ctx, "foreign", 1)
	if time.Since(w.warned) >= time.Minute {
		w.warned = time.Now()
		w.store.log.Warn("redis has revocations that can't be read here; the list counts as lost", "cause", what)
	}
}

// compare holds the number of records in Redis against ours, and looks for the
// mark. Two comparisons in a row have to differ: something may be on its way.
func (w *follower) compare(ctx context.Context) error {
	now := time.Now()
	live := strconv.FormatInt(now.Unix(), 10)
	var count, marks *redis.IntCmd
	var newest *redis.XMessageSliceCmd
	if _, err := w.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZRemRangeByScore(ctx, w.set, "-inf", "("+strconv.FormatInt(now.Add(-skew).Unix(), 10))
		count = p.ZCount(ctx, w.set, "("+live, "(+inf")
		marks = p.ZCount(ctx, w.set, "+inf", "+inf")
		newest = p.XRevRangeN(ctx, w.stream, "+", "-", 1)
		return nil
	}); err != nil && count.Err() != nil {
		return w.heal(ctx, w.set, count.Err())
	}
	if newest.Err() != nil {
		return w.heal(ctx, w.stream, newest.Err())
	}
	w.compared = now
	if m := newest.Val(); w.last != "0-0" && (len(m) == 0 || before(m[0].ID, w.last)) {
		w.doubt = true // the stream was longer before
	}
	if marks.Val() == 0 {
		w.marked, w.doubt = false, true
	}
	differed := int(count.Val()) != w.records.Live(now)
	w.doubt = w.doubt || differed && w.differed
	w.differed = differed
	return nil
}

// heal removes what stands where stream or set belong and can't be used: a
// value of another type, a stream whose numbers are used up, a reply beyond all
// bounds. The set goes only where its content is held.
func (w *follower) heal(ctx context.Context, key string, err error) error {
	text := err.Error()
	useless := strings.HasPrefix(text, "WRONGTYPE") || errors.Is(err, errReplyTooLarge) ||
		key == w.stream && strings.Contains(text, "exhausted the last possible ID")
	if !useless || key == w.set && !w.records.Held() {
		return err
	}
	w.doubt = true
	w.metrics.add(ctx, "healed", 1)
	w.store.log.Warn("what redis has in place of revocations is of no use and is removed", "key", key, "cause", text)
	if drop := w.client.Del(ctx, key).Err(); drop != nil {
		return fmt.Errorf("removing %s: %w", key, drop)
	}
	return err
}

// before says whether message a comes before b in a stream.
func before(a, b string) bool {
	aTime, aSeq := splitID(a)
	bTime, bSeq := splitID(b)
	return aTime < bTime || aTime == bTime && aSeq < bSeq
}

func splitID(id string) (ms, seq uint64) {
	left, right, _ := strings.Cut(id, "-")
	ms, _ = strconv.ParseUint(left, 10, 64)   // Redis wrote it
	seq, _ = strconv.ParseUint(right, 10, 64) // or left it out
	return ms, seq
}
