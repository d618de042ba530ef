package revoke_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"introspectd/internal/revoke"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const iss = "https://idp.example"

// shelf is a store in memory that can be made to fail.
type shelf struct {
	mu      sync.Mutex
	records map[revoke.Name]record
	err     error
}

type record struct {
	value   []byte
	expires time.Time
}

func (s *shelf) Append(_ context.Context, name revoke.Name, value []byte, expires time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if s.records == nil {
		s.records = map[revoke.Name]record{}
	}
	s.records[name] = record{slices.Clone(value), expires}
	return nil
}

func (s *shelf) each(call func(revoke.Name, []byte, time.Time)) error {
	s.mu.Lock()
	records := maps.Clone(s.records)
	s.mu.Unlock()
	for name, r := range records {
		call(name, r.value, r.expires)
	}
	return nil
}

func (s *shelf) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func config() revoke.Config {
	return revoke.Config{MaxDelay: time.Second, MaxEntries: 100, Grace: 5 * time.Minute, OnOutage: revoke.Deny}
}

func newList(t testing.TB, o revoke.Options) *revoke.List {
	t.Helper()
	if o.Config == (revoke.Config{}) {
		o.Config = config()
	}
	l, err := revoke.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// token is what a test's token is known by.
type token struct {
	text, jti, sub, sid, client, kid string
	key                              [32]byte
	iat                              int64
}

func (k token) id() revoke.ID { return revoke.OfToken(sha256.Sum256([]byte(k.text))) }

// ids are the identities that a token has alone, and those that it shares.
func (k token) ids() (own, shared []byte) {
	id := func(kind revoke.Kind, value string) []byte {
		if value == "" {
			return make([]byte, len(revoke.ID{}))
		}
		id := revoke.Of(kind, iss, value)
		return id[:]
	}
	itself, key, issuer := k.id(), revoke.OfKey(iss, k.key), revoke.Of(revoke.Issuer, iss, "")
	return slices.Concat(itself[:], id(revoke.JTI, k.jti)),
		slices.Concat(id(revoke.Subject, k.sub), id(revoke.Session, k.sid), id(revoke.Client, k.client), id(revoke.KeyID, k.kid), key[:], issuer[:])
}

// ask is Revoked for a token.
func ask(l *revoke.List, k token) (bool, error) {
	own, shared := k.ids()
	return l.Revoked(time.Now(), k.iat, own, shared)
}

func revoked(t testing.TB, l *revoke.List, k token) bool {
	t.Helper()
	is, err := ask(l, k)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

func by(kind revoke.Kind, value string, notBefore time.Time) revoke.Revocation {
	return revoke.Revocation{
		Kind: kind, IDs: []revoke.ID{revoke.Of(kind, iss, value)}, Issuer: iss, Value: value,
		NotBefore: notBefore, Expires: time.Now().Add(time.Hour), By: "ops",
	}
}

func add(t testing.TB, l *revoke.List, r revoke.Revocation) revoke.Revocation {
	t.Helper()
	r, err := l.Add(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestREV07RevocationsByEveryIdentity(t *testing.T) {
	alice := token{text: "h.p", jti: "j", sub: "alice", sid: "s", client: "app", kid: "k1", key: [32]byte{1}, iat: 1000}
	bob := token{text: "h.q", jti: "i", sub: "bob", sid: "r", client: "web", kid: "k2", key: [32]byte{2}, iat: 1000}
	at := time.Unix(2000, 0)
	for name, r := range map[string]revoke.Revocation{
		"token":  {Kind: revoke.Token, IDs: []revoke.ID{alice.id(), revoke.Of(revoke.JTI, iss, "j")}, Expires: time.Now().Add(time.Hour)},
		"jti":    by(revoke.JTI, "j", time.Time{}),
		"sub":    by(revoke.Subject, "alice", at),
		"sid":    by(revoke.Session, "s", at),
		"client": by(revoke.Client, "app", at),
		"kid":    by(revoke.KeyID, "k1", time.Time{}),
		"key":    {Kind: revoke.KeyID, IDs: []revoke.ID{revoke.Of(revoke.KeyID, iss, "other name"), revoke.OfKey(iss, alice.key)}, Expires: time.Now().Add(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			l := newList(t, revoke.Options{File: &shelf{}})
			if revoked(t, l, alice) {
				t.Fatal("revoked before")
			}
			add(t, l, r)
			if !revoked(t, l, alice) || revoked(t, l, bob) {
				t.Errorf("alice's token revoked: %v, bob's: %v", revoked(t, l, alice), revoked(t, l, bob))
			}
		})
	}
	t.Run("issuer", func(t *testing.T) {
		l := newList(t, revoke.Options{File: &shelf{}})
		add(t, l, by(revoke.Issuer, "", at))
		if !revoked(t, l, alice) || !revoked(t, l, bob) {
			t.Error("a token of the issuer is not revoked")
		}
	})
}

// iat has whole seconds: a token of the second in which the instant lies may
// have been issued before it.
func TestREV07NotBeforeSparesWhatCameAfter(t *testing.T) {
	instant := time.Unix(1000, 500_000_000)
	for iat, want := range map[int64]bool{0: true, 999: true, 1000: true, 1001: false, 5000: false} {
		l := newList(t, revoke.Options{File: &shelf{}})
		add(t, l, by(revoke.Subject, "alice", instant))
		if got := revoked(t, l, token{text: "h.p", sub: "alice", iat: iat}); got != want {
			t.Errorf("iat %d (0 is none), not before 1000.5: revoked %v, want %v", iat, got, want)
		}
	}
}

func TestARevocationEndsAndIsSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.MaxEntries = 1
		l := newList(t, revoke.Options{File: &shelf{}, Config: c})
		alice := token{text: "h.p", sub: "alice"}
		r := by(revoke.Subject, "alice", time.Time{})
		r.Expires = time.Now().Add(10 * time.Second)
		r = add(t, l, r)
		ctx, stop := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { l.Run(ctx) })
		time.Sleep(9 * time.Second)
		if !revoked(t, l, alice) {
			t.Error("it ended early")
		}
		time.Sleep(time.Second)
		if revoked(t, l, alice) {
			t.Error("it did not end")
		}
		time.Sleep(3 * time.Second)
		if n := l.State().Entries; n != 0 {
			t.Errorf("%d records are left", n)
		}
		if err := l.Delete(ctx, r.Name, "ops"); !errors.Is(err, revoke.ErrNotFound) {
			t.Errorf("deleting what is over: got %v, want %v", err, revoke.ErrNotFound)
		}
		bob := by(revoke.Subject, "bob", time.Time{})
		if _, err := l.Add(ctx, bob); !errors.Is(err, revoke.ErrFull) {
			t.Errorf("within the hour: got %v, want %v", err, revoke.ErrFull)
		}
		time.Sleep(time.Hour)
		bob.Expires = time.Now().Add(time.Hour)
		add(t, l, bob)
		stop()
		run.Wait()
	})
}

// A clock that is an hour ahead, at the start of a machine say, and put right
// afterwards.
func TestREV06AClockThatWasAheadLosesNoRevocation(t *testing.T) {
	alice := token{text: "h.p", sub: "alice"}
	r := func() revoke.Revocation {
		r := by(revoke.Subject, "alice", time.Time{})
		r.Expires = time.Now().Add(30 * time.Minute)
		return r
	}
	t.Run("while it runs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var ahead atomic.Int64
			l := newList(t, revoke.Options{File: &shelf{}, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
			add(t, l, r())
			ctx, stop := context.WithCancel(t.Context())
			var run sync.WaitGroup
			run.Go(func() { l.Run(ctx) })
			for _, want := range []int{0, 1} {
				ahead.Store(int64(time.Hour) - ahead.Load())
				if want == 1 && !revoked(t, l, alice) {
					t.Error("a revoked token is good at once")
				}
				time.Sleep(3 * time.Second)
				if n := l.State().Entries; n != want {
					t.Errorf("clock ahead by %s: %d live, want %d", time.Duration(ahead.Load()), n, want)
				}
			}
			if !revoked(t, l, alice) {
				t.Error("a revoked token is good again")
			}
			stop()
			run.Wait()
		})
	})
	t.Run("at its start", func(t *testing.T) {
		file := &shelf{}
		add(t, newList(t, revoke.Options{File: file}), r())
		after := newList(t, revoke.Options{File: file, Now: func() time.Time { return time.Now().Add(time.Hour) }})
		if err := after.Load(file.each, false); err != nil || !revoked(t, after, alice) {
			t.Errorf("when the clock is right: revoked %v, %v", revoked(t, after, alice), err)
		}
	})
}

func TestREV05NothingIsAnsweredThatIsNotDurable(t *testing.T) {
	alice := token{text: "h.p", sub: "alice"}
	t.Run("no store", func(t *testing.T) {
		l := newList(t, revoke.Options{})
		if _, err := l.Add(t.Context(), by(revoke.Subject, "alice", time.Time{})); !errors.Is(err, revoke.ErrNoStore) {
			t.Errorf("got %v, want %v", err, revoke.ErrNoStore)
		}
		if revoked(t, l, alice) || l.Live(time.Now()) != 0 {
			t.Error("something happened")
		}
	})
	t.Run("a store that fails", func(t *testing.T) {
		s := &shelf{}
		s.fail(errors.New("full"))
		l := newList(t, revoke.Options{File: s})
		r, err := l.Add(t.Context(), by(revoke.Subject, "alice", time.Time{}))
		if !errors.Is(err, revoke.ErrNotDurable) {
			t.Errorf("got %v, want %v", err, revoke.ErrNotDurable)
		}
		if !revoked(t, l, alice) {
			t.Error("it does not hold here")
		}
		s.fail(nil)
		again, err := l.Add(t.Context(), by(revoke.Subject, "alice", time.Time{}))
		if err != nil || again.Name != r.Name || l.Live(time.Now()) != 1 {
			t.Errorf("the second try: %v, %d records", err, l.Live(time.Now()))
		}
		s.fail(errors.New("full"))
		if err := l.Delete(t.Context(), r.Name, "ops"); !errors.Is(err, revoke.ErrNotDurable) || !revoked(t, l, alice) {
			t.Errorf("a deletion that is not durable took effect: %v", err)
		}
	})
}

func TestBeyondMaxEntriesNothingIsEvicted(t *testing.T) {
	l := newList(t, revoke.Options{File: &shelf{}})
	for n := range 100 {
		add(t, l, by(revoke.JTI, fmt.Sprint(n), time.Time{}))
	}
	if _, err := l.Add(t.Context(), by(revoke.JTI, "one more", time.Time{})); !errors.Is(err, revoke.ErrFull) {
		t.Errorf("got %v, want %v", err, revoke.ErrFull)
	}
	add(t, l, by(revoke.JTI, "7", time.Time{})) // what is there already is no more
	for n := range 100 {
		if !revoked(t, l, token{text: "x", jti: fmt.Sprint(n)}) {
			t.Errorf("%d was evicted", n)
		}
	}
}

func TestADeletionTakesBackOneRevocation(t *testing.T) {
	s := &shelf{}
	l := newList(t, revoke.Options{File: s})
	alice := token{text: "h.p", sub: "alice", jti: "j"}
	r := add(t, l, by(revoke.Subject, "alice", time.Time{}))
	kept := add(t, l, by(revoke.JTI, "j", time.Time{}))
	if err := l.Delete(t.Context(), r.Name, "ops"); err != nil {
		t.Fatal(err)
	}
	if !revoked(t, l, alice) {
		t.Error("the other revocation went too")
	}
	if err := l.Delete(t.Context(), kept.Name, "ops"); err != nil {
		t.Fatal(err)
	}
	if revoked(t, l, alice) {
		t.Error("it still holds")
	}
	if err := l.Delete(t.Context(), r.Name, "ops"); !errors.Is(err, revoke.ErrNotFound) {
		t.Errorf("twice: got %v, want %v", err, revoke.ErrNotFound)
	}
	// A store that still has the deleted record brings nothing back.
	other := newList(t, revoke.Options{File: &shelf{}})
	for range 2 {
		if err := s.each(func(name revoke.Name, value []byte, expires time.Time) {
			for _, into := range []*revoke.List{l, other} {
				if err := into.Merge(name, value, expires); err != nil {
					t.Error(err)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if revoked(t, l, alice) || revoked(t, other, alice) {
		t.Error("a deleted revocation came back")
	}
	if r2 := add(t, l, by(revoke.Subject, "alice", time.Time{})); r2.Name == r.Name || !revoked(t, l, alice) {
		t.Error("what was deleted can't be revoked anew")
	}
}

// watched is a store that calls after once a record is in it, and gives back
// what that says.
type watched struct {
	shelf
	after func() error
}

func (w *watched) Append(ctx context.Context, name revoke.Name, value []byte, expires time.Time) error {
	if err := w.shelf.Append(ctx, name, value, expires); err != nil || w.after == nil {
		return err
	}
	after := w.after
	w.after = nil
	return after()
}

// merge gives each of the lists all that a store has.
func merge(t testing.TB, s *shelf, into ...*revoke.List) {
	t.Helper()
	for _, l := range into {
		if err := s.each(func(name revoke.Name, value []byte, expires time.Time) {
			if err := l.Merge(name, value, expires); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// A deletion that is on its way is about what was revoked before, wherever it
// was made.
func TestREV05WhatIsRevokedAnewOutlivesADeletion(t *testing.T) {
	alice, again := token{text: "h.p", sub: "alice"}, by(revoke.Subject, "alice", time.Time{})
	t.Run("at another replica", func(t *testing.T) {
		redis := &shelf{}
		a, b := newList(t, revoke.Options{Shared: redis}), newList(t, revoke.Options{Shared: redis})
		a.Current(time.Now())
		b.Current(time.Now())
		r := add(t, a, again)
		merge(t, redis, b)
		if err := b.Delete(t.Context(), r.Name, "ops"); err != nil {
			t.Fatal(err)
		}
		add(t, a, again)
		merge(t, redis, a, b)
		if !revoked(t, a, alice) || !revoked(t, b, alice) {
			t.Errorf("revoked at its replica %v, at the other %v", revoked(t, a, alice), revoked(t, b, alice))
		}
	})
	t.Run("that was said to have failed", func(t *testing.T) {
		file := &watched{}
		l := newList(t, revoke.Options{File: file})
		r := add(t, l, again)
		file.after = func() error { return errors.New("the disk hung") }
		if err := l.Delete(t.Context(), r.Name, "ops"); !errors.Is(err, revoke.ErrNotDurable) {
			t.Fatalf("got %v, want %v", err, revoke.ErrNotDurable)
		}
		add(t, l, again)
		after := newList(t, revoke.Options{File: file})
		if err := after.Load(file.each, false); err != nil || !revoked(t, after, alice) {
			t.Errorf("after a restart: revoked %v, %v", revoked(t, after, alice), err)
		}
	})
	t.Run("that came in between", func(t *testing.T) {
		file := &watched{}
		l := newList(t, revoke.Options{File: file})
		r := add(t, l, again)
		file.after = func() error { return l.Delete(t.Context(), r.Name, "ops") }
		add(t, l, again)
		after := newList(t, revoke.Options{File: file})
		if err := after.Load(file.each, false); err != nil || !revoked(t, l, alice) || !revoked(t, after, alice) {
			t.Errorf("revoked %v, after a restart %v, %v", revoked(t, l, alice), revoked(t, after, alice), err)
		}
	})
}

// Who revokes one token without end fills neither the list nor the way of those
// who look it up.
func TestRepeatingARevocationAddsFewRecords(t *testing.T) {
	for name, row := range map[string]struct {
		o    revoke.Options
		most int
	}{
		"a file alone": {revoke.Options{File: &shelf{}}, 1},
		"shared":       {revoke.Options{Shared: &shelf{}}, 4},
	} {
		l := newList(t, row.o)
		for range 200 {
			add(t, l, by(revoke.Subject, "alice", time.Time{}))
		}
		if n := l.Live(time.Now()); n != row.most {
			t.Errorf("%s: %d records, want %d", name, n, row.most)
		}
	}
}

// Replicas that merge the same records, in any order and any number of times,
// come to the same list.
func TestMergingIsTheSameInAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := &shelf{}
		origin := newList(t, revoke.Options{File: s})
		var names []revoke.Name
		for range rapid.IntRange(1, 20).Draw(rt, "acts") {
			if len(names) > 0 && rapid.Bool().Draw(rt, "delete") {
				err := origin.Delete(t.Context(), names[rapid.IntRange(0, len(names)-1).Draw(rt, "which")], "ops")
				if err != nil && !errors.Is(err, revoke.ErrNotFound) {
					rt.Fatal(err)
				}
				continue
			}
			at := time.Unix(int64(rapid.IntRange(0, 5).Draw(rt, "not before")), 0)
			r, err := origin.Add(t.Context(), by(revoke.Subject, fmt.Sprint(rapid.IntRange(0, 4).Draw(rt, "sub")), at))
			if err != nil {
				rt.Fatal(err)
			}
			names = append(names, r.Name)
		}
		stored := slices.Collect(maps.Keys(s.records))
		slices.SortFunc(stored, func(a, b revoke.Name) int { return slices.Compare(a[:], b[:]) })
		for range 3 {
			replica := newList(t, revoke.Options{File: &shelf{}})
			order := slices.Concat(rapid.Permutation(stored).Draw(rt, "order"), rapid.Permutation(stored).Draw(rt, "again"))
			for _, name := range order {
				if err := replica.Merge(name, s.records[name].value, s.records[name].expires); err != nil {
					rt.Fatal(err)
				}
			}
			for sub := range 5 {
				for iat := range int64(6) {
					k := token{text: "x", sub: fmt.Sprint(sub), iat: iat + 1}
					if got, want := revoked(t, replica, k), revoked(t, origin, k); got != want {
						rt.Fatalf("sub %d, iat %d: revoked %v, want %v as at the origin", sub, iat, got, want)
					}
				}
			}
		}
	})
}

func TestAListThatIsNotCurrentIsReliedOnForGraceAlone(t *testing.T) {
	alice, bob := token{text: "h.p", sub: "alice"}, token{text: "h.q", sub: "bob"}
	said := func(l *revoke.List, k token) string {
		is, err := ask(l, k)
		return strings.TrimSpace(fmt.Sprintf("%v %v", is, errors.Is(err, revoke.ErrUnavailable)))
	}
	for _, outage := range []revoke.OnOutage{revoke.Deny, revoke.Allow} {
		t.Run(string(outage), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := config()
				c.OnOutage = outage
				deny := outage == revoke.Deny
				l := newList(t, revoke.Options{Config: c, Shared: &shelf{}})
				add(t, l, by(revoke.Subject, "alice", time.Time{}))
				check := func(when string, want bool) {
					t.Helper()
					if got := said(l, bob); got != fmt.Sprintf("false %v", want) {
						t.Errorf("%s: got (revoked, unavailable) %s, want unavailable %v", when, got, want)
					}
					if got := said(l, alice); got != "true false" {
						t.Errorf("%s: what is known to be revoked: got %s", when, got)
					}
					if got := l.State().Denies; got != want {
						t.Errorf("%s: denies %v, want %v", when, got, want)
					}
				}
				check("before a complete list was read", deny)
				l.Current(time.Now())
				check("complete", false)
				if s := l.State(); !s.Current || s.Problem() != "" {
					t.Errorf("complete: %+v", s)
				}
				time.Sleep(5 * time.Minute)
				check("within grace", false)
				if s := l.State(); s.Current || s.Lag != 5*time.Minute || s.Problem() == "" {
					t.Errorf("within grace: %+v", s)
				}
				time.Sleep(time.Second)
				check("after grace", deny)
				l.Current(time.Now())
				check("when the feed is back", false)
			})
		})
	}
}

func TestAListFromAFileIsAsOldAsItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &shelf{}
		before := newList(t, revoke.Options{Shared: &shelf{}, File: file})
		add(t, before, by(revoke.Subject, "alice", time.Time{}))
		before.Current(time.Now())
		ctx, stop := context.WithCancel(t.Context())
		stop()
		before.Run(ctx) // writes what is left, and how old the list is

		time.Sleep(3 * time.Minute)
		after := newList(t, revoke.Options{Shared: &shelf{}, File: file})
		if err := after.Load(file.each, false); err != nil {
			t.Fatal(err)
		}
		if s := after.State(); !s.Complete || s.Current || s.Denies || s.Lag.Round(time.Second) != 3*time.Minute || s.Entries != 1 {
			t.Errorf("three minutes later: %+v", s)
		}
		if !revoked(t, after, token{text: "h.p", sub: "alice"}) {
			t.Error("the revocation is lost")
		}
		time.Sleep(2*time.Minute + time.Second)
		if s := after.State(); !s.Denies {
			t.Errorf("after grace: %+v", s)
		}
	})
}

// The clock was set back since: how old the list is can't be told.
func TestAListFromTheFutureIsNotReliedOn(t *testing.T) {
	for ahead, want := range map[time.Duration]bool{30 * time.Second: true, 2 * time.Minute: false} {
		file := &shelf{}
		before := newList(t, revoke.Options{Shared: &shelf{}, File: file, Now: func() time.Time { return time.Now().Add(ahead) }})
		add(t, before, by(revoke.Subject, "alice", time.Time{}))
		before.Current(time.Now())
		ctx, stop := context.WithCancel(t.Context())
		stop()
		before.Run(ctx)

		after := newList(t, revoke.Options{Shared: &shelf{}, File: file})
		if err := after.Load(file.each, false); err != nil {
			t.Fatal(err)
		}
		if s := after.State(); after.Held() != want || s.Denies == want {
			t.Errorf("by a clock that was ahead by %s: held %v, %+v, want held %v", ahead, after.Held(), s, want)
		}
		if !revoked(t, after, token{text: "h.p", sub: "alice"}) {
			t.Error("what is known to be revoked is good")
		}
	}
}

// reopened is a file that was lost and could not be replaced, until whoever writes
// next finds that it can: what that writes is the first in an empty one.
type reopened struct {
	shelf
	lost     atomic.Bool
	replaced atomic.Int64
}

func (f *reopened) Append(ctx context.Context, name revoke.Name, value []byte, expires time.Time) error {
	if f.lost.Swap(false) {
		f.mu.Lock()
		clear(f.records)
		f.mu.Unlock()
		f.replaced.Add(1)
	}
	return f.shelf.Append(ctx, name, value, expires)
}

func TestNoAgeIsToldOfAFileThatTookThePlaceOfAnotherJustThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &reopened{}
		l := newList(t, revoke.Options{Shared: &shelf{}, File: file, Replaced: func() int { return int(file.replaced.Load()) }})
		ctx, stop := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { l.Run(ctx) })
		l.Current(time.Now())
		alice := token{text: "h.p", sub: "alice", iat: 1000}
		add(t, l, by(revoke.Subject, "alice", time.Time{}))
		time.Sleep(3500 * time.Millisecond) // its age was told as well
		l.Current(time.Now())
		file.lost.Store(true)
		for file.lost.Load() {
			time.Sleep(100 * time.Millisecond)
		}
		// Now the process is killed, and redis is away when it starts again.
		after := newList(t, revoke.Options{Shared: &shelf{}, File: file})
		if err := after.Load(file.each, false); err != nil {
			t.Fatal(err)
		}
		if is, err := ask(after, alice); !is && err == nil {
			t.Errorf("REV-06 after a restart: a revoked token is said to be none, by a list of %s ago", after.State().Lag)
		}
		time.Sleep(20 * time.Second)
		after = newList(t, revoke.Options{Shared: &shelf{}, File: file})
		if err := after.Load(file.each, false); err != nil || !after.Held() || after.State().Entries != 1 {
			t.Errorf("when all is written again: %+v, %v", after.State(), err)
		}
		stop()
		run.Wait()
	})
}

// full is a disk with no room for records, though for what is there already.
type full struct{ shelf }

func (f *full) Append(ctx context.Context, name revoke.Name, value []byte, expires time.Time) error {
	if name != (revoke.Name{}) { // the age of the list
		return errors.New("no space left on device")
	}
	return f.shelf.Append(ctx, name, value, expires)
}

func TestAFileThatLacksRecordsIsNotSaidToBeComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &full{}
		l := newList(t, revoke.Options{Shared: &shelf{}, File: file})
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan struct{})
		go func() { l.Run(ctx); close(ran) }()
		l.Current(time.Now())
		alice := token{text: "h.p", sub: "alice", iat: 1000}
		add(t, l, by(revoke.Subject, "alice", time.Time{}))
		for range 30 {
			time.Sleep(time.Second)
			l.Current(time.Now())
		}
		stop()
		<-ran
		after := newList(t, revoke.Options{Shared: &shelf{}, File: file}) // redis is away
		if err := after.Load(file.each, false); err != nil {
			t.Fatal(err)
		}
		if is, err := ask(after, alice); !is && err == nil {
			t.Errorf("REV-06 after a restart: a revoked token is said to be none, by a list of %s ago", after.State().Lag)
		}
	})
}

// The file is set aside just when a record has been written to it.
func TestWhatWasWrittenToAFileThatIsSetAsideIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &watched{}
		l := newList(t, revoke.Options{Shared: &shelf{}, File: file})
		file.after = func() error {
			file.mu.Lock()
			clear(file.records)
			file.mu.Unlock()
			l.Resave()
			return nil
		}
		add(t, l, by(revoke.Subject, "alice", time.Time{}))
		ctx, stop := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { l.Run(ctx) })
		time.Sleep(3 * time.Second)
		stop()
		run.Wait()
		after := newList(t, revoke.Options{Shared: &shelf{}, File: file})
		if err := after.Load(file.each, false); err != nil || after.State().Entries != 1 {
			t.Errorf("after a restart: %+v, %v, want one", after.State(), err)
		}
	})
}

func TestADamagedFileMakesAnIncompleteList(t *testing.T) {
	l := newList(t, revoke.Options{File: &shelf{}})
	if l.State().Denies {
		t.Error("an embedded list is complete")
	}
	if err := l.Load((&shelf{}).each, true); err != nil {
		t.Fatal(err)
	}
	if s := l.State(); !s.Denies || s.Complete {
		t.Errorf("after damage: %+v", s)
	}
	l.Complete() // an operator looked at it
	if s := l.State(); s.Denies || !s.Current {
		t.Errorf("after the operator's word: %+v", s)
	}
	if err := l.Load(func(func(revoke.Name, []byte, time.Time)) error { return errors.New("unreadable") }, false); err == nil || !l.State().Denies {
		t.Errorf("records that can't be read: %v, %+v", err, l.State())
	}
}

func TestRecordsOfALaterReleaseAreForeign(t *testing.T) {
	s := &shelf{}
	l := newList(t, revoke.Options{File: s})
	r := add(t, l, by(revoke.Subject, "alice", time.Now()))
	value := s.records[r.Name].value
	other := newList(t, revoke.Options{File: &shelf{}})
	for name, c := range map[string]struct {
		change  func([]byte) []byte
		foreign bool
	}{
		"another version": {func(b []byte) []byte { b[0]++; return b }, true},
		"another kind":    {func(b []byte) []byte { b[1] = 200; return b }, true},
		"no kind":         {func(b []byte) []byte { b[1] = 0; return b }, true},
		"cut":             {func(b []byte) []byte { return b[:len(b)-1] }, false},
		"longer":          {func(b []byte) []byte { return append(b, 0) }, false},
		"empty":           {func([]byte) []byte { return nil }, false},
		"no identity":     {func(b []byte) []byte { b[2] = 0; return b }, false},
	} {
		err := other.Merge(r.Name, c.change(slices.Clone(value)), r.Expires)
		if err == nil || errors.Is(err, revoke.ErrForeign) != c.foreign {
			t.Errorf("%s: got %v, want foreign %v", name, err, c.foreign)
		}
	}
	if other.Live(time.Now()) != 0 {
		t.Error("something was taken")
	}
}

func TestEachReturnsWhatMergeTakes(t *testing.T) {
	l := newList(t, revoke.Options{File: &shelf{}})
	add(t, l, by(revoke.Subject, "alice", time.UnixMilli(1_700_000_000_123)))
	gone := add(t, l, by(revoke.JTI, "j", time.Time{}))
	add(t, l, revoke.Revocation{
		Kind: revoke.Token, IDs: []revoke.ID{{1}, {2}}, Issuer: iss, Expires: time.Now().Add(time.Hour), By: "app",
	})
	if err := l.Delete(t.Context(), gone.Name, "ops"); err != nil {
		t.Fatal(err)
	}
	other := newList(t, revoke.Options{File: &shelf{}})
	l.Each(func(name revoke.Name, value []byte, expires time.Time) bool {
		if err := other.Merge(name, value, expires); err != nil {
			t.Error(err)
		}
		return true
	})
	all := func(revoke.Revocation) bool { return true }
	got, want := other.Page(revoke.Name{}, 100, all), l.Page(revoke.Name{}, 100, all)
	if len(want) != 2 || fmt.Sprint(got) != fmt.Sprint(want) || other.Live(time.Now()) != 3 {
		t.Errorf("got %v\nwant %v", got, want)
	}
	var paged []revoke.Revocation
	for after := (revoke.Name{}); ; {
		page := l.Page(after, 1, all)
		if len(page) == 0 {
			break
		}
		paged, after = append(paged, page...), page[0].Name
	}
	if fmt.Sprint(paged) != fmt.Sprint(want) {
		t.Errorf("page by page: got %v\nwant %v", paged, want)
	}
}

func TestADroppedKeyIsTold(t *testing.T) {
	told := 0
	l := newList(t, revoke.Options{Dropped: func() { told++ }}) // also where nothing is durable
	thumbprint := [32]byte{7}
	at := time.Now().UTC().Truncate(time.Millisecond)
	add(t, l, revoke.Revocation{
		Kind: revoke.DroppedKey, IDs: []revoke.ID{revoke.OfDroppedKey(iss, thumbprint)}, Issuer: iss, NotBefore: at, Expires: at.Add(time.Hour),
	})
	if got := l.DroppedKey(iss, thumbprint); !got.Equal(at) || told != 1 {
		t.Errorf("got %s, told %d times, want %s", got, told, at)
	}
	if got := l.DroppedKey("https://other.example", thumbprint); !got.IsZero() {
		t.Errorf("another issuer's: %s", got)
	}
	if revoked(t, l, token{text: "h.p", key: thumbprint}) {
		t.Error("a dropped key withdraws tokens by itself")
	}
}

func TestReadersAndWritersMeet(t *testing.T) {
	l := newList(t, revoke.Options{File: &shelf{}, Config: revoke.Config{MaxDelay: time.Second, MaxEntries: 1 << 20, Grace: time.Minute, OnOutage: revoke.Deny}})
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for n := range 300 {
				r, err := l.Add(t.Context(), by(revoke.JTI, fmt.Sprint(worker, n), time.Time{}))
				if err != nil {
					t.Error(err)
					return
				}
				if n%3 == 0 {
					if err := l.Delete(t.Context(), r.Name, "ops"); err != nil {
						t.Error(err)
					}
				}
				if is, err := ask(l, token{text: "x", jti: fmt.Sprint(worker, n)}); err != nil || is != (n%3 != 0) {
					t.Errorf("%d: revoked %v, %v", n, is, err)
				}
			}
		})
		all.Go(func() {
			for range 20 {
				l.Page(revoke.Name{}, 10, func(revoke.Revocation) bool { return true })
			}
		})
	}
	all.Wait()
}

// BenchmarkRevoked asks about one token again and again, and about many in turn,
// for which memory has to be waited for.
func BenchmarkRevoked(b *testing.B) {
	const tokens = 1 << 14
	var own, shared [tokens][]byte
	for n := range tokens {
		own[n], shared[n] = token{text: fmt.Sprint("h.", n), jti: fmt.Sprint(n), sub: fmt.Sprint(n % 1000), sid: fmt.Sprint(n), client: "app", kid: "k"}.ids()
	}
	now := time.Now()
	for _, entries := range []int{0, 1, 1_000_000} {
		l := newList(b, revoke.Options{File: &shelf{}, Config: revoke.Config{MaxEntries: 1 << 30, OnOutage: revoke.Deny}})
		fill(b, l, entries)
		for name, many := range map[string]int{"one token": 1, "many tokens": tokens} {
			b.Run(fmt.Sprintf("%d entries, %s", entries, name), func(b *testing.B) {
				b.ReportAllocs()
				for n := 0; b.Loop(); n++ {
					if is, err := l.Revoked(now, 0, own[n%many], shared[n%many]); is || err != nil {
						b.Fatal(is, err)
					}
				}
			})
		}
	}
}

// BenchmarkMillion tells the memory of a revoked token.
func BenchmarkMillion(b *testing.B) {
	for b.Loop() {
		l := newList(b, revoke.Options{Config: revoke.Config{MaxEntries: 1 << 30, OnOutage: revoke.Deny}, Shared: &shelf{}})
		before := heap()
		fill(b, l, 1_000_000)
		b.ReportMetric(float64(heap()-before)/1e6, "B/revocation")
		start := time.Now()
		runtime.GC()
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms/GC")
		runtime.KeepAlive(l)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// fill merges so many revoked tokens, each by two identities.
func fill(tb testing.TB, l *revoke.List, entries int) {
	s := &shelf{}
	one := newList(tb, revoke.Options{File: s})
	r, err := one.Add(context.Background(), revoke.Revocation{
		Kind: revoke.Token, IDs: []revoke.ID{{1}, {2}}, Issuer: iss, Expires: time.Now().Add(time.Hour), By: "app",
	})
	if err != nil {
		tb.Fatal(err)
	}
	value := s.records[r.Name].value
	for n := range entries {
		sum := sha256.Sum256(fmt.Append(nil, n))
		copy(value[19:], sum[:])
		if err := l.Merge(revoke.Name(sum[:]), value, r.Expires); err != nil {
			tb.Fatal(err)
		}
	}
}
