package redisstore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"introspectd/internal/redisstore"
	"introspectd/internal/redistest"
	"introspectd/internal/revoke"
	"introspectd/internal/seal"
)

const (
	feedStream = "introspectd:{revocations}:stream"
	feedSet    = "introspectd:{revocations}:set"
)

// replica is one process's list with the feed that keeps it in step.
type replica struct {
	*revoke.List
	t    *testing.T
	log  *logBuffer
	stop func()
}

// logBuffer is a log for two goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type joining struct {
	cfg             redisstore.Config
	keys            [][]byte
	requireExisting bool
	grace           time.Duration
	file            revoke.Store
	hook            redis.Hook
}

func sealKey(fill byte) []byte { return slices.Repeat([]byte{fill}, seal.KeySize) }

// join starts a replica; it ends with the test or by stop.
func join(t *testing.T, j joining) *replica {
	t.Helper()
	if j.keys == nil {
		j.keys = [][]byte{sealKey(1)}
	}
	if j.grace == 0 {
		j.grace = time.Minute
	}
	box, err := seal.New(j.cfg.Prefix, j.keys...)
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{t: t, log: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	store, err := redisstore.Open(j.cfg, box, redisstore.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if j.hook != nil {
		store.Hook(j.hook)
	}
	feed, err := store.Feed()
	if err != nil {
		t.Fatal(err)
	}
	r.List, err = revoke.New(revoke.Options{
		Config: revoke.Config{MaxDelay: 200 * time.Millisecond, MaxEntries: 1 << 20, Grace: j.grace, OnOutage: revoke.Deny},
		Shared: feed, File: j.file, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { store.Run(ctx) })
	run.Go(func() {
		feed.Run(ctx, r.List, func() redisstore.Pace {
			return redisstore.Pace{MaxDelay: 200 * time.Millisecond, RequireExisting: j.requireExisting}
		})
	})
	r.stop = sync.OnceFunc(func() {
		cancel()
		run.Wait()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// between lets a test act between two things that a replica asks of redis. The
// commands of a pipeline come together; MULTI and EXEC are among them.
type between struct {
	before, after func(commands []redis.Cmder) // nil: nothing
}

func (b between) DialHook(next redis.DialHook) redis.DialHook { return next }

func (b between) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, c redis.Cmder) error {
		return b.process([]redis.Cmder{c}, func() error { return next(ctx, c) })
	}
}

func (b between) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, all []redis.Cmder) error {
		return b.process(all, func() error { return next(ctx, all) })
	}
}

func (b between) process(all []redis.Cmder, next func() error) error {
	if b.before != nil {
		b.before(all)
	}
	err := next()
	if b.after != nil {
		b.after(all)
	}
	return err
}

// halt is a place where a replica stands still until the test has acted.
type halt struct{ reached, resume chan struct{} }

func newHalt() halt { return halt{make(chan struct{}), make(chan struct{})} }

func (h halt) stand() {
	close(h.reached)
	<-h.resume
}

// once stands still before the first of those commands that comes when armed is
// closed.
func (h halt) once(armed <-chan struct{}, those func([]redis.Cmder) bool) between {
	var first sync.Once
	return between{before: func(all []redis.Cmder) {
		select {
		case <-armed:
			if those(all) {
				first.Do(h.stand)
			}
		default:
		}
	}}
}

// meanwhile does something while the replica stands there.
func (h halt) meanwhile(t *testing.T, do func()) {
	t.Helper()
	defer close(h.resume)
	select {
	case <-h.reached:
		do()
	case <-time.After(30 * time.Second):
		t.Fatal("the replica does not come to where it is to stand still")
	}
}

// secondScan stands still before the set is gone through a second time, or
// after, when nothing came of it yet.
func (h halt) secondScan(after bool) between {
	scans := 0
	stand := func(isAfter bool) func([]redis.Cmder) {
		return func(all []redis.Cmder) {
			if len(all) != 1 || all[0].Name() != "zscan" {
				return
			}
			if !isAfter {
				scans++
			}
			if scans == 2 && isAfter == after {
				h.stand()
			}
		}
	}
	return between{before: stand(false), after: stand(true)}
}

func eventually(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// current waits for longer than a replica that starts waits for others.
func (r *replica) current() {
	r.t.Helper()
	eventually(r.t, 45*time.Second, "the list is current\n"+r.log.String(), func() bool { return r.State().Current })
}

func subject(sub string) revoke.Revocation {
	return revoke.Revocation{
		Kind: revoke.Subject, IDs: []revoke.ID{revoke.Of(revoke.Subject, "https://idp.example", sub)},
		Issuer: "https://idp.example", Value: sub, Expires: time.Now().Add(time.Hour), By: "ops",
	}
}

func (r *replica) revoke(sub string) revoke.Revocation {
	r.t.Helper()
	out, err := r.Add(r.t.Context(), subject(sub))
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *replica) knows(sub string) bool {
	id := revoke.Of(revoke.Subject, "https://idp.example", sub)
	is, _ := r.Revoked(time.Now(), 0, nil, id[:])
	return is
}

// standalone is a redis of the test's own, and how it is reached.
func standalone(t *testing.T, args ...string) (*redistest.Server, redisstore.Config, *redis.Client) {
	t.Helper()
	needRedis(t)
	server, err := redistest.Start(t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, DisableIdentity: true, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	return server, configFor(server.Addr), client
}

func configFor(addresses ...string) redisstore.Config {
	return redisstore.Config{
		Set: true, Mode: redisstore.Standalone, Addresses: addresses, Prefix: "introspectd:", WaitReplicas: 1, Timeout: 200 * time.Millisecond,
	}
}

func members(t *testing.T, client redis.UniversalClient) []string {
	t.Helper()
	all, err := client.ZRangeByScore(t.Context(), feedSet, &redis.ZRangeBy{Min: "-inf", Max: "(+inf"}).Result() // not the mark
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFeed(t *testing.T) {
	t.Run("REV-01 a revocation is at every replica within a second", func(t *testing.T) {
		_, cfg, _ := standalone(t)
		a, b := join(t, joining{cfg: cfg}), join(t, joining{cfg: cfg})
		a.current()
		b.current()
		for n := range 5 {
			sub := fmt.Sprint("alice", n)
			from, to := a, b
			if n%2 == 1 {
				from, to = b, a
			}
			from.revoke(sub)
			if !from.knows(sub) {
				t.Error("it does not hold at once where it was made")
			}
			eventually(t, time.Second, sub+" is revoked at the other", func() bool { return to.knows(sub) })
		}
		if s := b.State(); s.Lag > 400*time.Millisecond {
			t.Errorf("lag %s with max_delay 200ms", s.Lag)
		}
	})

	t.Run("REV-07 a deletion is at every replica, and of a list read later", func(t *testing.T) {
		_, cfg, _ := standalone(t)
		a, b := join(t, joining{cfg: cfg}), join(t, joining{cfg: cfg})
		a.current()
		b.current()
		kept, gone := a.revoke("kept"), a.revoke("gone")
		eventually(t, time.Second, "both are at the other", func() bool { return b.knows("kept") && b.knows("gone") })
		if err := b.Delete(t.Context(), gone.Name, "ops"); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "the deletion is at the first", func() bool { return !a.knows("gone") })
		c := join(t, joining{cfg: cfg})
		c.current()
		if _, there := c.Find(kept.Name); !there || c.knows("gone") {
			t.Error("a replica that came later has another list")
		}
	})

	t.Run("a replica that comes later reads the whole list", func(t *testing.T) {
		_, cfg, _ := standalone(t)
		a := join(t, joining{cfg: cfg})
		a.current()
		for n := range 1500 { // several pages
			a.revoke(fmt.Sprint("s", n))
		}
		b := join(t, joining{cfg: cfg})
		b.current()
		for n := range 1500 {
			if !b.knows(fmt.Sprint("s", n)) {
				t.Fatalf("s%d is missing", n)
			}
		}
	})
}

// The record stays in redis otherwise, and its deletion beside it: more than is
// counted here, for as long as both last.
func TestFeedTakesADeletedRecordOut(t *testing.T) {
	t.Parallel()
	_, cfg, client := standalone(t)
	var readings atomic.Int64
	a := join(t, joining{cfg: cfg, hook: between{before: func(all []redis.Cmder) {
		if all[0].Name() == "zscan" {
			readings.Add(1)
		}
	}}})
	a.current()
	a.revoke("kept")
	gone := a.revoke("gone")
	if err := a.Delete(t.Context(), gone.Name, "ops"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "what was kept and the deletion are left", func() bool { return len(members(t, client)) == 2 })
	before := readings.Load()
	time.Sleep(5 * time.Second)
	if n := readings.Load() - before; n > 0 {
		t.Errorf("the whole set was read %d times in 5 s although nothing differs", n)
	}
	b := join(t, joining{cfg: cfg})
	b.current()
	if !b.knows("kept") || b.knows("gone") {
		t.Errorf("a replica that comes later knows what was kept: %v, what was deleted: %v", b.knows("kept"), b.knows("gone"))
	}
}

// A replica whose clock has jumped ahead must not take out what the others need.
func TestFeedKeepsWhatHasBeenOverForLessThanAnHour(t *testing.T) {
	_, cfg, _ := standalone(t)
	var before atomic.Int64 // the end of what is taken out, in seconds since 1970
	a := join(t, joining{cfg: cfg, hook: between{before: func(all []redis.Cmder) {
		for _, c := range all {
			if c.Name() == "zremrangebyscore" {
				end, err := strconv.ParseInt(strings.TrimPrefix(fmt.Sprint(c.Args()[3]), "("), 10, 64)
				if err != nil {
					t.Error(err)
				}
				before.Store(end)
			}
		}
	}}})
	a.current()
	eventually(t, 10*time.Second, "what is over is taken out", func() bool { return before.Load() > 0 })
	if over := time.Since(time.Unix(before.Load(), 0)); over < time.Hour {
		t.Errorf("REV-06 what has been over for %s is taken out, want an hour at least", over)
	}
}

func TestFeedWritesBackWhatRedisLost(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, c *redis.Client){
		"FLUSHALL": func(t *testing.T, c *redis.Client) {
			if err := c.FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		},
		"a member": func(t *testing.T, c *redis.Client) {
			if err := c.ZRem(t.Context(), feedSet, members(t, c)[0]).Err(); err != nil {
				t.Fatal(err)
			}
		},
		"the stream": func(t *testing.T, c *redis.Client) {
			if err := c.Del(t.Context(), feedStream).Err(); err != nil {
				t.Fatal(err)
			}
		},
		"the set": func(t *testing.T, c *redis.Client) {
			if err := c.Del(t.Context(), feedSet).Err(); err != nil {
				t.Fatal(err)
			}
		},
		"the ends": func(t *testing.T, c *redis.Client) { // scores are not sealed
			for _, m := range members(t, c) {
				if err := c.ZAdd(t.Context(), feedSet, redis.Z{Score: 1, Member: m}).Err(); err != nil {
					t.Fatal(err)
				}
			}
		},
		"messages by XDEL": func(t *testing.T, c *redis.Client) {
			all, err := c.XRange(t.Context(), feedStream, "-", "+").Result()
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range all {
				if err := c.XDel(t.Context(), feedStream, m.ID).Err(); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, cfg, client := standalone(t)
			a, b := join(t, joining{cfg: cfg}), join(t, joining{cfg: cfg})
			a.current()
			b.current()
			a.revoke("alice")
			b.revoke("bob")
			eventually(t, time.Second, "both are everywhere", func() bool { return a.knows("bob") && b.knows("alice") })
			lose(t, client)
			for range 20 {
				if !a.knows("bob") || !b.knows("alice") {
					t.Fatal("a replica lost what it held")
				}
			}
			eventually(t, 15*time.Second, "redis has both again", func() bool { return len(members(t, client)) == 2 })
			a.stop()
			b.stop()
			c := join(t, joining{cfg: cfg})
			c.current()
			if !c.knows("alice") || !c.knows("bob") {
				t.Error("a new replica does not know them")
			}
		})
	}
}

// The writer is gone: the others write back what it had appended.
func TestFeedIsWrittenBackWithoutItsWriter(t *testing.T) {
	_, cfg, client := standalone(t)
	a, b := join(t, joining{cfg: cfg}), join(t, joining{cfg: cfg})
	c := join(t, joining{cfg: cfg})
	for _, r := range []*replica{a, b, c} {
		r.current()
	}
	a.revoke("alice")
	eventually(t, time.Second, "it is everywhere", func() bool { return b.knows("alice") && c.knows("alice") })
	a.stop()
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "redis has it again, once", func() bool { return len(members(t, client)) == 1 })
}

// appendAgain puts another sealed form of each record there, as a writer does
// that had no answer.
func (r *replica) appendAgain(cfg redisstore.Config, key []byte) {
	r.t.Helper()
	box, err := seal.New(cfg.Prefix, key)
	if err != nil {
		r.t.Fatal(err)
	}
	store, err := redisstore.Open(cfg, box, redisstore.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	defer store.Close()
	feed, err := store.Feed()
	if err != nil {
		r.t.Fatal(err)
	}
	r.Each(func(name [16]byte, value []byte, expires time.Time) bool {
		if err := feed.Append(r.t.Context(), name, value, expires); err != nil {
			r.t.Error(err)
		}
		return true
	})
}

// What Append has put there twice is read twice, and one of both forms taken out.
func TestFeedKeepsWhatIsAppendedWhileTheSetIsRead(t *testing.T) {
	_, cfg, client := standalone(t)
	a := join(t, joining{cfg: cfg})
	a.current()
	a.revoke("alice")
	a.appendAgain(cfg, sealKey(1))
	h := newHalt()
	b := join(t, joining{cfg: cfg, hook: h.secondScan(false)})
	h.meanwhile(t, func() {
		a.revoke("bob")
		a.stop() // nobody is left who would put it back
	})
	b.current()
	if n := len(members(t, client)); n != 2 {
		t.Errorf("REV-06: %d members, want one of each of two revocations that were answered", n)
	}
	b.stop()
	c := join(t, joining{cfg: cfg})
	c.current()
	if !c.knows("alice") || !c.knows("bob") {
		t.Errorf("REV-06: a replica that comes later knows alice: %v, bob: %v", c.knows("alice"), c.knows("bob"))
	}
}

// Of a record under both seal keys, a replica of the first rollout takes one
// form out, and one of the second replaces the other at the same time.
func TestFeedKeepsARecordThatIsSealedAnewWhileTheSetIsRead(t *testing.T) {
	older, newer := sealKey(1), sealKey(2)
	const records = 40 // which form stays is a matter of chance
	for _, after := range []bool{false, true} {
		t.Run(map[bool]string{false: "before the second scan", true: "after it"}[after], func(t *testing.T) {
			_, cfg, client := standalone(t)
			a := join(t, joining{cfg: cfg, keys: [][]byte{older, newer}})
			a.current()
			for n := range records {
				a.revoke(fmt.Sprint("s", n))
			}
			a.appendAgain(cfg, newer)
			a.revoke("once")
			a.stop()

			h := newHalt()
			b := join(t, joining{cfg: cfg, keys: [][]byte{older, newer}, hook: h.secondScan(after)})
			h.meanwhile(t, func() {
				c := join(t, joining{cfg: cfg, keys: [][]byte{newer, older}})
				c.current()
				c.stop()
			})
			b.current()
			b.stop() // before it could write anything back
			if n := len(members(t, client)); n < records+1 {
				t.Errorf("REV-06: %d members, want at least one form of each of %d records", n, records+1)
			}
			d := join(t, joining{cfg: cfg, keys: [][]byte{newer, older}})
			d.current()
			for n := range records {
				if !d.knows(fmt.Sprint("s", n)) {
					t.Errorf("s%d is lost", n)
				}
			}
			if !d.knows("once") {
				t.Error("what had one form is lost")
			}
			if n := len(members(t, client)); n != records+1 {
				t.Errorf("%d members when all is read, want %d", n, records+1)
			}
		})
	}
}

// Between two readings of the stream something came, and then all was lost: our
// own heartbeat, which comes back through what is new, shows nothing of that.
func TestFeedThatLostWhatWasNotYetReadIsNotCurrent(t *testing.T) {
	_, cfg, client := standalone(t)
	a := join(t, joining{cfg: cfg})
	a.current()
	h, began, compared, stood := newHalt(), make(chan struct{}), false, false
	b := join(t, joining{cfg: cfg, hook: between{before: func(all []redis.Cmder) {
		select {
		case <-began:
		default:
			return
		}
		switch last := all[len(all)-1].Name(); {
		case slices.ContainsFunc(all, func(c redis.Cmder) bool { return c.Name() == "zcount" }):
			compared = true // the next comparison, which finds out as well, is 2 s away
		case compared && !stood && strings.HasPrefix(last, "x"):
			stood = true
			h.stand()
		}
	}}})
	b.current()
	close(began)
	var at time.Time
	h.meanwhile(t, func() {
		a.revoke("alice")
		at = time.Now()
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, 15*time.Second, "it is written back, and known", func() bool {
		since, lag, knows := time.Since(at), b.State().Lag, b.knows("alice")
		if !knows && lag < since {
			t.Fatalf("REV-01: a list that lacks a revocation of %s ago is said to be as of %s ago", since, lag)
		}
		return knows
	})
	b.current()
}

// What was lost is written back by its writer, which may take a while: until then
// the set lacks the mark, and says nothing of what is here.
func TestFeedThatIsNotWrittenBackIsNotCurrent(t *testing.T) {
	for name, held := range map[string]int{"where it has others' to write back": 1, "where it has none": 0} {
		t.Run(name, func(t *testing.T) {
			_, cfg, client := standalone(t)
			// before has a replica stand still before it looks at the stream once more, with
			// a heartbeat of its own.
			before := func(h halt, armed chan struct{}) between {
				return h.once(armed, func(all []redis.Cmder) bool { return len(all) == 3 && all[0].Name() == "xadd" })
			}
			ofA, ofB, armA, armB := newHalt(), newHalt(), make(chan struct{}), make(chan struct{})
			a := join(t, joining{cfg: cfg, hook: before(ofA, armA)})
			a.current()
			b := join(t, joining{cfg: cfg, hook: before(ofB, armB)})
			b.current()
			for n := range held {
				bob := fmt.Sprint("bob", n)
				a.revoke(bob)
				eventually(t, 5*time.Second, "it is at the other", func() bool { return b.knows(bob) })
			}
			time.Sleep(time.Second) // so much later the set is read at once
			close(armA)
			ofA.meanwhile(t, func() {
				close(armB)
				var at time.Time
				ofB.meanwhile(t, func() {
					a.revoke("alice")
					at = time.Now()
					if err := client.FlushAll(t.Context()).Err(); err != nil {
						t.Fatal(err)
					}
				})
				for {
					since, lag := time.Since(at), b.State().Lag
					if time.Since(at) > 900*time.Millisecond {
						break // others wait a second for the writer
					}
					if lag < since {
						t.Fatalf("REV-01: a list that lacks a revocation of %s ago is said to be as of %s ago", since, lag)
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
			eventually(t, 5*time.Second, "it is written back, and known", func() bool { return b.knows("alice") })
			a.current()
			b.current()
		})
	}
}

// The stream was empty when the list was begun, and by the first look at it more
// had come than it keeps.
func TestFeedThatWasTrimmedBeforeItsFirstReadingIsNotCurrent(t *testing.T) {
	_, cfg, client := standalone(t)
	a := join(t, joining{cfg: cfg})
	a.current()
	a.stop()
	client.Del(t.Context(), feedStream)
	box, err := seal.New(cfg.Prefix, sealKey(1))
	if err != nil {
		t.Fatal(err)
	}
	h, stood := newHalt(), false
	b := join(t, joining{cfg: cfg, hook: between{before: func(all []redis.Cmder) {
		if slices.ContainsFunc(all, func(c redis.Cmder) bool { return c.Name() == "xread" }) && !stood {
			stood = true
			h.stand()
		}
	}}})
	h.meanwhile(t, func() {
		if _, err := a.List.Add(t.Context(), subject("alice")); err == nil {
			t.Error("it was appended by a replica that has ended")
		}
		a.appendAgain(cfg, sealKey(1))
		beat := string(box.Seal(seal.Heartbeat, feedStream, make([]byte, 34)))
		for range 26 {
			if _, err := client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
				for range 1000 {
					p.XAdd(t.Context(), &redis.XAddArgs{
						Stream: feedStream, MaxLen: 20_000, Approx: true, Values: []any{"kind", "heartbeat", "from", "another", "body", beat},
					})
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	})
	eventually(t, 30*time.Second, "the list is complete", func() bool { return b.State().Complete })
	if !b.knows("alice") {
		t.Error("REV-01: a list that lacks a revocation counts as complete")
	}
}

// A list that takes long to read is written back without delay all the same.
func TestFeedIsJoinedOnlyWhenAllIsWrittenBack(t *testing.T) {
	t.Parallel()
	_, cfg, client := standalone(t)
	a := join(t, joining{cfg: cfg})
	a.current()
	slow := between{after: func(all []redis.Cmder) {
		if all[0].Name() == "zscan" {
			time.Sleep(time.Second) // so much longer it is not read anew, where nothing is lost
		}
	}}
	b := join(t, joining{cfg: cfg, hook: slow})
	b.current()
	a.revoke("alice")
	eventually(t, 5*time.Second, "it is at the other", func() bool { return b.knows("alice") })
	a.stop() // its writer
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "a heartbeat", func() bool { return client.XLen(t.Context(), feedStream).Val() > 0 })
	c := join(t, joining{cfg: cfg})
	eventually(t, 30*time.Second, "the list is complete", func() bool { return c.State().Complete })
	if !c.knows("alice") {
		t.Errorf("REV-01: a replica took what was left for the whole:\n%s", c.log.String())
	}
}

// A scan shows what is put there meanwhile, or doesn't: the mark alone, say.
func TestFeedIsNotJoinedOnAMarkThatCameWhileTheSetWasRead(t *testing.T) {
	_, cfg, client := standalone(t)
	a := join(t, joining{cfg: cfg})
	a.current()
	const records = 3000
	for n := range records {
		a.revoke(fmt.Sprint("s", n))
	}
	a.stop()
	// As it is while it is written back: a half is there, and no mark yet.
	client.ZRemRangeByScore(t.Context(), feedSet, "+inf", "+inf")
	all := members(t, client)
	h := newHalt()
	var back []redis.Z
	for _, m := range all[:records/2] {
		back = append(back, redis.Z{Score: client.ZScore(t.Context(), feedSet, m).Val(), Member: m})
	}
	client.ZRem(t.Context(), feedSet, anys(all[:records/2])...)
	// One mark is seen by half of all scans, so many by each.
	box, err := seal.New(cfg.Prefix, sealKey(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		mark := box.Seal(seal.Revocation, feedSet, make([]byte, 16+8))
		back = append(back, redis.Z{Score: math.Inf(1), Member: string(mark)})
	}
	scans := 0
	b := join(t, joining{cfg: cfg, hook: between{after: func(all []redis.Cmder) {
		if all[0].Name() != "zscan" {
			return
		}
		if scans++; scans == 2 {
			h.stand()
		}
	}}})
	h.meanwhile(t, func() {
		if err := client.ZAdd(t.Context(), feedSet, back...).Err(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, 30*time.Second, "the list is complete\n"+b.log.String(), func() bool { return b.State().Complete })
	missing := 0
	for n := range records {
		if !b.knows(fmt.Sprint("s", n)) {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("REV-01: a list that lacks %d revocations counts as complete", missing)
	}
}

// While a replica that starts reads the set, another one seals it anew: a scan
// passes over a record whose new form is put where it was before.
func TestFeedIsNotCompleteWhereAnotherSealedItAnewWhileItWasRead(t *testing.T) {
	_, cfg, _ := standalone(t)
	a := join(t, joining{cfg: cfg})
	a.current()
	const records = 3000
	for n := range records {
		a.revoke(fmt.Sprint("s", n))
	}
	a.stop()
	keys := [][]byte{sealKey(2), sealKey(1)}
	h, scans := newHalt(), 0
	b := join(t, joining{cfg: cfg, keys: keys, hook: between{after: func(all []redis.Cmder) {
		if all[0].Name() != "zscan" {
			return
		}
		if scans++; scans == 2 {
			h.stand()
		}
	}}})
	h.meanwhile(t, func() { join(t, joining{cfg: cfg, keys: keys}).current() })
	eventually(t, 30*time.Second, "the list is complete\n"+b.log.String(), func() bool { return b.State().Complete })
	missing := 0
	for n := range records {
		if !b.knows(fmt.Sprint("s", n)) {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("REV-01: a list that lacks %d revocations counts as complete", missing)
	}
	b.current()
}

// A replica that has not read all leaves the mark to those that hold the list, also
// where redis lost it while it was read.
func TestFeedThatIsLostWhileItIsReadIsNotCalledWhole(t *testing.T) {
	_, cfg, client := standalone(t)
	stands, armed := newHalt(), make(chan struct{})
	a := join(t, joining{cfg: cfg, hook: stands.once(armed, func(all []redis.Cmder) bool { return all[0].Name() == "xadd" })})
	a.current()
	const records = 3000
	for n := range records {
		a.revoke(fmt.Sprint("s", n))
	}
	box, err := seal.New(cfg.Prefix, sealKey(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 40 { // one of them is seen early
		mark := box.Seal(seal.Revocation, feedSet, make([]byte, 16+8))
		if err := client.ZAdd(t.Context(), feedSet, redis.Z{Score: math.Inf(1), Member: string(mark)}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	close(armed)
	h, scans := newHalt(), 0
	var b *replica
	stands.meanwhile(t, func() {
		b = join(t, joining{cfg: cfg, hook: between{after: func(all []redis.Cmder) {
			if all[0].Name() != "zscan" {
				return
			}
			if scans++; scans == 2 {
				h.stand()
			}
		}}})
		h.meanwhile(t, func() { client.FlushAll(t.Context()) })
		for began := time.Now(); time.Since(began) < 4500*time.Millisecond && !b.State().Complete; {
			time.Sleep(10 * time.Millisecond) // others write back within 4 s, silence lasts 5
		}
		if b.State().Complete {
			for n := range records {
				if !b.knows(fmt.Sprint("s", n)) {
					t.Errorf("REV-01: a list that lacks s%d counts as complete", n)
					break
				}
			}
		}
	})
	eventually(t, 30*time.Second, "the list is complete\n"+b.log.String(), func() bool { return b.State().Complete })
	for n := range records {
		if !b.knows(fmt.Sprint("s", n)) {
			t.Fatalf("s%d is missing", n)
		}
	}
}

// What a replica wrote that is gone is written back by the others a little later,
// however often they look at the set meanwhile.
func TestFeedIsWrittenBackByOthersInTime(t *testing.T) {
	_, cfg, client := standalone(t)
	const fleets = 12
	all, sets := make([]*replica, fleets), make([]string, fleets)
	for n := range fleets {
		cfg.Prefix = fmt.Sprintf("fleet%d:", n)
		sets[n] = cfg.Prefix + "{revocations}:set"
		a := join(t, joining{cfg: cfg})
		all[n] = join(t, joining{cfg: cfg})
		a.current()
		all[n].current()
		a.revoke("alice")
		eventually(t, 5*time.Second, "it is at the other", func() bool { return all[n].knows("alice") })
		a.stop()
	}
	time.Sleep(time.Second) // so much later the set is read at once
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for n, set := range sets {
		eventually(t, 30*time.Second, "it is written back", func() bool {
			return client.ZCount(t.Context(), set, "-inf", "(+inf").Val() == 1
		})
		if took := time.Since(began); took > 6*time.Second { // and twice as long where each reading puts it off
			t.Fatalf("it is written back after %s, want 1 to 3 s\n%s", took, all[n].log.String())
		}
	}
}

func anys(texts []string) (all []any) {
	for _, text := range texts {
		all = append(all, text)
	}
	return all
}

// Others may take long to put back a large list, and live as long as they say so.
func TestFeedWaitsForOthersWhileTheyLive(t *testing.T) {
	for name, c := range map[string]struct {
		newest   string
		silence  time.Duration // after so long no heartbeat came
		want     time.Duration // what is waited in all, by steps of a second
		maxDelay time.Duration
	}{
		"they fall silent": {"1-0", time.Minute, time.Minute + 5*time.Second, time.Second},
		"rare heartbeats":  {"1-0", time.Minute, time.Minute + 2*time.Minute, time.Minute},
		"they never write": {"1-0", time.Hour, 10 * time.Minute, time.Second},
		"nobody is there":  {"", 0, time.Second, time.Second},
		"and rarely spoke": {"", 0, time.Minute, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var w redisstore.Wait
				start, newest := time.Now(), c.newest
				for w.Others(newest, c.maxDelay) {
					time.Sleep(time.Second)
					if since := time.Since(start); since <= c.silence {
						newest = since.String()
					}
				}
				if got := time.Since(start); got != c.want {
					t.Errorf("waited for %s, want %s", got, c.want)
				}
			})
		})
	}
}

// A replica that reads a large list is not taken for dead by those that wait.
func TestFeedShowsThatItLivesWhileTheSetIsRead(t *testing.T) {
	t.Parallel()
	_, cfg, client := standalone(t)
	a := join(t, joining{cfg: cfg})
	a.current()
	for n := range 1600 { // four pages
		a.revoke(fmt.Sprint("s", n))
	}
	var pages atomic.Int64
	b := join(t, joining{cfg: cfg, hook: between{after: func(all []redis.Cmder) {
		if all[0].Name() == "zscan" && pages.Add(1) > 4 {
			time.Sleep(700 * time.Millisecond)
		}
	}}})
	b.current()
	a.stop()
	eventually(t, 10*time.Second, "the first reading is over", func() bool { return pages.Load() >= 4 })
	client.ZRemRangeByScore(t.Context(), feedSet, "+inf", "+inf") // the mark: all is read again
	eventually(t, 15*time.Second, "the mark is back", func() bool { return client.ZCount(t.Context(), feedSet, "+inf", "+inf").Val() > 0 })
	before := client.XLen(t.Context(), feedStream).Val()
	eventually(t, 5*time.Second, "a heartbeat after it", func() bool { return client.XLen(t.Context(), feedStream).Val() > before })
	all, err := client.XRevRange(t.Context(), feedStream, "+", "-").Result()
	if err != nil {
		t.Fatal(err)
	}
	ms := func(m redis.XMessage) int64 {
		text, _, _ := strings.Cut(m.ID, "-")
		n, _ := strconv.ParseInt(text, 10, 64)
		return n
	}
	for n, m := range all[1:min(len(all), 30)] {
		if gap := ms(all[n]) - ms(m); gap > 1500 {
			t.Errorf("no heartbeat for %d ms", gap)
		}
	}
}

func TestFeedStandsWhatIsPlanted(t *testing.T) {
	big := strings.Repeat("x", 8<<20)
	for name, plant := range map[string]func(ctx context.Context, c *redis.Client) error{
		"garbage in the stream": func(ctx context.Context, c *redis.Client) error {
			for _, values := range [][]any{
				{"kind", "record", "body", "garbage"},
				{"kind", "record", "body", strings.Repeat("\x01", 100)},
				{"kind", "heartbeat", "body", "garbage"},
				{"other", "fields"},
			} {
				if err := c.XAdd(ctx, &redis.XAddArgs{Stream: feedStream, Values: values}).Err(); err != nil {
					return err
				}
			}
			return nil
		},
		"garbage in the set": func(ctx context.Context, c *redis.Client) error {
			return c.ZAdd(ctx, feedSet, redis.Z{Score: 4e9, Member: "garbage"}, redis.Z{Score: 4e9, Member: ""}).Err()
		},
		"8 MB in the stream": func(ctx context.Context, c *redis.Client) error {
			return c.XAdd(ctx, &redis.XAddArgs{Stream: feedStream, Values: []any{"kind", "record", "body", big}}).Err()
		},
		"8 MB in the set": func(ctx context.Context, c *redis.Client) error {
			return c.ZAdd(ctx, feedSet, redis.Z{Score: 4e9, Member: big}).Err()
		},
		"another type for the stream": func(ctx context.Context, c *redis.Client) error {
			if err := c.Del(ctx, feedStream).Err(); err != nil {
				return err
			}
			return c.Set(ctx, feedStream, "text", 0).Err()
		},
		"another type for the set": func(ctx context.Context, c *redis.Client) error {
			if err := c.Del(ctx, feedSet).Err(); err != nil {
				return err
			}
			return c.RPush(ctx, feedSet, "text").Err()
		},
		"a stream whose numbers are used up": func(ctx context.Context, c *redis.Client) error {
			return c.XAdd(ctx, &redis.XAddArgs{Stream: feedStream, ID: "18446744073709551615-18446744073709551615", Values: []any{"kind", "x"}}).Err()
		},
		"a copy of a record": func(ctx context.Context, c *redis.Client) error {
			all, err := c.ZRange(ctx, feedSet, 0, -1).Result()
			if err != nil {
				return err
			}
			if err := c.ZAdd(ctx, feedSet, redis.Z{Score: 4e9, Member: all[0] + "x"}).Err(); err != nil {
				return err
			}
			return c.XAdd(ctx, &redis.XAddArgs{Stream: feedStream, Values: []any{"kind", "heartbeat", "body", all[0]}}).Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, cfg, client := standalone(t)
			if strings.HasPrefix(name, "8 MB") {
				cfg.Timeout = 10 * time.Millisecond // in which nobody reads them
			}
			client.Options().ReadTimeout = time.Minute
			a := join(t, joining{cfg: cfg})
			a.current()
			eventually(t, 45*time.Second, "a revocation is durable", func() bool {
				_, err := a.Add(t.Context(), subject("alice"))
				return err == nil
			})
			if err := plant(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			if name == "8 MB in the set" {
				eventually(t, 45*time.Second, "it is gone", func() bool { return client.ZCount(t.Context(), feedSet, "4e9", "4e9").Val() == 0 })
			}
			// It is put up with, and the feed goes on.
			eventually(t, 45*time.Second, "a revocation is durable again", func() bool {
				_, err := a.Add(t.Context(), subject("bob"))
				return err == nil
			})
			b := join(t, joining{cfg: cfg})
			eventually(t, 45*time.Second, "a new replica has the list\n"+b.log.String(), func() bool {
				return b.State().Current && b.knows("alice") && b.knows("bob")
			})
			a.current()
			if !a.knows("alice") || a.knows("mallory") {
				t.Error("the list is another")
			}
		})
	}
}

// A replica that seals with another key may revoke with it: what it says can't
// be told here.
func TestFeedOfAnUnknownSealKeyIsNotCurrent(t *testing.T) {
	t.Parallel()
	_, cfg, _ := standalone(t)
	a := join(t, joining{cfg: cfg, grace: 2 * time.Second})
	a.current()
	other := join(t, joining{cfg: cfg, keys: [][]byte{sealKey(2)}})
	eventually(t, 10*time.Second, "the list is no longer relied on", func() bool { return a.State().Denies })
	if _, err := a.Revoked(time.Now(), 0, nil, nil); err == nil {
		t.Error("a token is called not revoked")
	}
	other.stop()
	eventually(t, 45*time.Second, "the list is current once it is gone", func() bool { return a.State().Current && !a.State().Denies })
}

func TestFeedOfALaterReleaseIsNotCurrent(t *testing.T) {
	t.Parallel()
	_, cfg, client := standalone(t)
	a := join(t, joining{cfg: cfg, grace: time.Second})
	a.current()
	if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: feedStream, Values: []any{"kind", "decree", "body", "x"}}).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the list is no longer relied on", func() bool { return a.State().Denies })
	eventually(t, 45*time.Second, "and is again when nothing more comes", func() bool { return a.State().Current })
}

func TestFeedOfAnEmptyStore(t *testing.T) {
	t.Run("is adopted with a warning", func(t *testing.T) {
		_, cfg, _ := standalone(t)
		a := join(t, joining{cfg: cfg})
		a.current()
		if !strings.Contains(a.log.String(), "begins with what is there") {
			t.Errorf("no warning:\n%s", a.log.String())
		}
		b := join(t, joining{cfg: cfg, requireExisting: true})
		b.current() // a replica lives there
	})
	t.Run("is waited for while another replica lives", func(t *testing.T) {
		_, cfg, client := standalone(t)
		a, b := join(t, joining{cfg: cfg}), join(t, joining{cfg: cfg})
		a.current()
		b.current()
		a.revoke("alice")
		eventually(t, time.Second, "it is at the other", func() bool { return b.knows("alice") })
		a.stop() // the writer; the other waits a little before it writes back
		for range 3 {
			if err := client.FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, "a heartbeat", func() bool { return client.XLen(t.Context(), feedStream).Val() > 0 })
			c := join(t, joining{cfg: cfg})
			c.current()
			if !c.knows("alice") {
				t.Errorf("a replica took what was left for the whole:\n%s", c.log.String())
			}
			c.stop()
		}
	})
	t.Run("is adopted where nobody lives any more", func(t *testing.T) {
		_, cfg, client := standalone(t)
		a := join(t, joining{cfg: cfg})
		a.current()
		a.stop()
		if err := client.Del(t.Context(), feedSet).Err(); err != nil {
			t.Fatal(err)
		}
		join(t, joining{cfg: cfg}).current()
	})
	t.Run("is refused under require_existing with something foreign in it", func(t *testing.T) {
		_, cfg, client := standalone(t)
		plant := foreignRecord(t, cfg, client)
		a := join(t, joining{cfg: cfg, requireExisting: true})
		eventually(t, 10*time.Second, "it says so", func() bool { return strings.Contains(a.log.String(), "can't be read here") })
		begun := func() bool {
			return client.ZCount(t.Context(), feedSet, "+inf", "+inf").Val() > 0 || client.XLen(t.Context(), feedStream).Val() > 0
		}
		for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if begun() {
				t.Fatal("a list that nobody has called whole was begun")
			}
		}
		client.ZRem(t.Context(), feedSet, plant)
		time.Sleep(500 * time.Millisecond)
		if s := a.State(); begun() || s.Complete {
			t.Errorf("the foreign entry is gone: %+v", s)
		}
		b := join(t, joining{cfg: cfg}) // an operator's word
		b.current()
		a.current()
	})
	t.Run("is refused under require_existing", func(t *testing.T) {
		_, cfg, _ := standalone(t)
		a := join(t, joining{cfg: cfg, requireExisting: true})
		eventually(t, 10*time.Second, "it says so", func() bool { return strings.Contains(a.log.String(), "require_existing") })
		if s := a.State(); s.Complete || !s.Denies {
			t.Errorf("%+v", s)
		}
		b := join(t, joining{cfg: cfg}) // an operator's word
		b.current()
		a.current()
	})
}

// Another replica lives, but nothing says so yet: redis has just come back, and
// is empty.
func TestFeedOfAnEmptyStoreIsNotAdoptedBeforeOthersCanShowThatTheyLive(t *testing.T) {
	_, cfg, client := standalone(t)
	h, armed := newHalt(), make(chan struct{})
	a := join(t, joining{cfg: cfg, hook: h.once(armed, func(all []redis.Cmder) bool { return strings.HasPrefix(all[len(all)-1].Name(), "x") })})
	a.current()
	a.revoke("alice")
	close(armed)
	var b *replica
	h.meanwhile(t, func() {
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		read, first := make(chan struct{}), true
		b = join(t, joining{cfg: cfg, hook: between{after: func(all []redis.Cmder) {
			if all[0].Name() == "zscan" && first {
				first = false
				close(read)
			}
		}}})
		<-read
	})
	eventually(t, 30*time.Second, "the list is complete", func() bool { return b.State().Complete })
	if !b.knows("alice") {
		t.Errorf("REV-01: a replica took an empty set for the whole:\n%s", b.log.String())
	}
}

// While redis is away nobody can show that they live: their silence counts from
// when it is back.
func TestFeedOfAStoreThatComesBackEmptyIsNotAdoptedAtOnce(t *testing.T) {
	server, cfg, client := standalone(t)
	stands, armed := newHalt(), make(chan struct{})
	a := join(t, joining{cfg: cfg, hook: stands.once(armed, func(all []redis.Cmder) bool { return all[0].Name() == "xadd" })})
	a.current()
	a.revoke("alice")
	close(armed)
	var b *replica
	var back, read atomic.Bool
	var tries atomic.Int64
	away, second := newHalt(), newHalt()
	stands.meanwhile(t, func() {
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		b = join(t, joining{cfg: cfg, hook: between{
			before: func(all []redis.Cmder) {
				if len(all) != 1 || all[0].Name() != "xrevrange" { // a try begins
					return
				}
				switch n := tries.Add(1); {
				case n == 2:
					away.stand()
				case read.Swap(false):
					second.stand()
				}
			},
			after: func(all []redis.Cmder) {
				if all[0].Name() == "zscan" && all[0].Err() == nil && back.Swap(false) {
					read.Store(true)
				}
			},
		}})
		away.meanwhile(t, func() {
			server.Kill()
			time.Sleep(300 * time.Millisecond) // longer than max_delay
		})
		eventually(t, 10*time.Second, "redis is away", func() bool { return tries.Load() > 2 })
		back.Store(true)
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "the set was read", func() bool {
			select {
			case <-second.reached:
				return true
			default:
				return b.State().Complete
			}
		})
	})
	if b.State().Complete {
		t.Fatalf("REV-01: a replica took an empty set for the whole as soon as it was there:\n%s", b.log.String())
	}
	a.current()
	close(second.resume)
	b.current()
	if !b.knows("alice") {
		t.Error("alice is missing")
	}
}

// foreignRecord puts a record under an unknown seal key into the set.
func foreignRecord(t *testing.T, cfg redisstore.Config, client *redis.Client) string {
	t.Helper()
	box, err := seal.New(cfg.Prefix, sealKey(9))
	if err != nil {
		t.Fatal(err)
	}
	body := string(box.Seal(seal.Revocation, feedSet, make([]byte, 40)))
	end := time.Now().Add(time.Hour).Unix()
	if err := client.ZAdd(t.Context(), feedSet, redis.Z{Score: float64(end), Member: body}).Err(); err != nil {
		t.Fatal(err)
	}
	return body
}

func TestFeedSealKeysAreRotated(t *testing.T) {
	_, cfg, client := standalone(t)
	older, newer := sealKey(1), sealKey(2)
	before := join(t, joining{cfg: cfg, keys: [][]byte{older}})
	before.current()
	before.revoke("alice")
	first := join(t, joining{cfg: cfg, keys: [][]byte{older, newer}})
	first.current()
	before.stop()
	second := join(t, joining{cfg: cfg, keys: [][]byte{newer, older}})
	second.current()
	second.revoke("bob")
	eventually(t, time.Second, "a replica of the first rollout has what one of the second revoked", func() bool { return first.knows("bob") })
	first.revoke("carol")
	eventually(t, time.Second, "and the other way round", func() bool { return second.knows("carol") })
	first.stop()
	second.stop()
	third := join(t, joining{cfg: cfg, keys: [][]byte{newer, older}})
	third.current()
	for _, sub := range []string{"alice", "bob", "carol"} {
		if !third.knows(sub) {
			t.Errorf("%s is not revoked", sub)
		}
	}
	box, err := seal.New(cfg.Prefix, newer)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members(t, client) {
		if err := box.Check([]byte(m)); err != nil {
			t.Errorf("a record is still sealed with the old key: %v", err)
		}
	}
}

func TestFeedOutlivesRedis(t *testing.T) {
	server, cfg, client := standalone(t)
	a, b := join(t, joining{cfg: cfg, grace: 2 * time.Second}), join(t, joining{cfg: cfg, grace: 2 * time.Second})
	a.current()
	b.current()
	a.revoke("alice")
	eventually(t, time.Second, "it is at the other", func() bool { return b.knows("alice") })
	server.Kill()
	if _, err := a.Add(t.Context(), subject("bob")); err == nil {
		t.Error("REV-05: a revocation is called durable while redis is gone")
	}
	eventually(t, 10*time.Second, "the list is no longer relied on after grace", func() bool { return b.State().Denies })
	if !b.knows("alice") {
		t.Error("what is revoked is no longer known to be")
	}
	if err := server.Restart(); err != nil { // it comes back empty
		t.Fatal(err)
	}
	a.current()
	b.current()
	eventually(t, 20*time.Second, "redis has both again", func() bool { return len(members(t, client)) == 2 })
	eventually(t, 5*time.Second, "what was not durable is now everywhere", func() bool { return b.knows("bob") })
}

func TestFeedInACluster(t *testing.T) {
	t.Parallel()
	needRedis(t)
	c, err := redistest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	cfg := configFor(c.Addresses()...)
	cfg.Mode, cfg.WaitReplicas = redisstore.Cluster, 0 // three masters, no replica
	a, b := join(t, joining{cfg: cfg}), join(t, joining{cfg: cfg})
	a.current()
	b.current()
	a.revoke("alice")
	eventually(t, time.Second, "it is at the other replica", func() bool { return b.knows("alice") })

	cfg.WaitReplicas = 1
	strict := join(t, joining{cfg: cfg})
	strict.current()
	if _, err := strict.Add(t.Context(), subject("bob")); !errors.Is(err, revoke.ErrNotDurable) {
		t.Errorf("REV-05 with no replica of redis to wait for: got %v, want %v", err, revoke.ErrNotDurable)
	}
}

// Writes that only the lost master had are written back to the new one.
func TestFeedOutlivesAFailover(t *testing.T) {
	t.Parallel()
	needRedis(t)
	w, err := redistest.StartSentinels(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	cfg := configFor(w.Addresses()...)
	cfg.Mode, cfg.Master = redisstore.Sentinel, redistest.MasterName
	a, b := join(t, joining{cfg: cfg}), join(t, joining{cfg: cfg})
	a.current()
	b.current()
	a.revoke("alice") // its replicas have it
	// What follows reaches the master alone.
	for _, s := range w.Servers[1:] {
		s.Pause()
	}
	if _, err := a.Add(t.Context(), subject("bob")); !errors.Is(err, revoke.ErrNotDurable) {
		t.Errorf("REV-05 while no replica of redis has it: got %v, want %v", err, revoke.ErrNotDurable)
	}
	eventually(t, 5*time.Second, "the other replica has it all the same", func() bool { return b.knows("bob") })
	w.Servers[0].Kill()
	for _, s := range w.Servers[1:] {
		s.Resume()
	}
	if err := w.Failover(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*replica{a, b} {
		eventually(t, 30*time.Second, "the list is current at the new master\n"+r.log.String(), func() bool { return r.State().Current })
		if !r.knows("alice") || !r.knows("bob") {
			t.Error("a replica lost what it held")
		}
	}
	eventually(t, 30*time.Second, "a new replica knows both", func() bool {
		c := join(t, joining{cfg: cfg})
		defer c.stop()
		c.current()
		return c.knows("alice") && c.knows("bob")
	})
	eventually(t, 10*time.Second, "a revocation is durable again", func() bool {
		_, err := a.Add(t.Context(), subject("carol"))
		return err == nil
	})
	eventually(t, time.Second, "and at the other replica", func() bool { return b.knows("carol") })
}

func TestFeedShowsNothingOfWhatItKeeps(t *testing.T) {
	_, cfg, client := standalone(t)
	a := join(t, joining{cfg: cfg})
	a.current()
	secret := rand.Text()
	a.revoke(secret)
	dump := strings.Join(members(t, client), "")
	all, err := client.XRange(t.Context(), feedStream, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	dump += fmt.Sprint(all)
	if strings.Contains(dump, secret) || strings.Contains(dump, "idp.example") {
		t.Error("redis shows what was revoked")
	}
	id := revoke.Of(revoke.Subject, "https://idp.example", secret)
	if strings.Contains(dump, string(id[:])) {
		t.Error("redis shows a digest that guesses can be held against")
	}
}
