package jwks_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"introspectd/internal/jwks"
)

// drops are the keys that operators withdrew, and when.
type drops struct {
	mu sync.Mutex
	at map[jwks.Thumbprint]time.Time
}

func (d *drops) drop(t jwks.Thumbprint) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at == nil {
		d.at = map[jwks.Thumbprint]time.Time{}
	}
	d.at[t] = time.Now()
}

func (d *drops) with() func(*jwks.Config, *jwks.Options) {
	return func(_ *jwks.Config, o *jwks.Options) {
		o.Dropped = func(t jwks.Thumbprint) time.Time {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.at[t]
		}
	}
}

// withdrawalScene holds the keys a and b of s for a minute; the issuer then no
// longer lists a.
func withdrawalScene(t *testing.T, change ...func(*jwks.Config, *jwks.Options)) (*source, *drops, *jwks.Keys, jwks.Thumbprint) {
	t.Helper()
	var d drops
	s := &source{answer: ok(keySet(jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())), "ETag", `"ab"`)}
	k := fromSource(t, s, append(change, d.with())...)
	run(t, k)
	synctest.Wait()
	time.Sleep(time.Minute)
	return s, &d, k, find(t, k, "a", "RS256").Thumbprint
}

func TestWithdrawnKeyIsGoneAtOnce(t *testing.T) {
	a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
	in(t, "REV-07 Prune takes it out and asks the issuer", func(t *testing.T) {
		var log bytes.Buffer
		s, d, k, print := withdrawalScene(t, logTo(&log))
		digest := k.Digest()
		s.set(hang)
		d.drop(print)
		if !k.Holds(print, "RS256") {
			t.Error("before Prune: got nothing held, want the key")
		}
		k.Prune()
		wantKey(t, k, "a", "RS256", nil)
		wantKey(t, k, "b", "ES256", p256Key().Public())
		if k.Holds(print, "RS256") || k.Digest() == digest || !k.Ready() {
			t.Error("after Prune: got the key held, the old digest or no set, want the others alone")
		}
		if got := k.State().Skipped["withdrawn"]; got != 1 {
			t.Errorf("skipped as withdrawn: got %d, want 1", got)
		}
		if got := k.Thumbprints(); !slices.Equal(got, []jwks.Thumbprint{find(t, k, "b", "ES256").Thumbprint}) {
			t.Errorf("Thumbprints: got %v, want b's", got)
		}
		synctest.Wait()
		if s.fetches() != 2 {
			t.Errorf("fetches: got %d, want one more at once", s.fetches())
		}
		k.Prune() // nothing is left to take out
		synctest.Wait()
		if got := strings.Count(log.String(), "keys withdrawn"); got != 1 || s.fetches() != 2 {
			t.Errorf("Prune again: got %d log lines and %d fetches, want 1 and 2", got, s.fetches())
		}
	})
	in(t, "REV-07 the last key", func(t *testing.T) {
		s, d, k, print := withdrawalScene(t)
		s.set(down)
		for _, p := range k.Thumbprints() {
			d.drop(p)
		}
		k.Prune()
		if _, err := k.Find(t.Context(), "a", "RS256", time.Now(), false); !errors.Is(err, jwks.ErrUnavailable) || k.Ready() {
			t.Errorf("Find: got %v, ready %v, want ErrUnavailable", err, k.Ready())
		}
		if k.Digest() != [32]byte{} || k.Holds(print, "RS256") || k.Thumbprints() != nil {
			t.Error("after Prune: got keys, want none")
		}
		// It is asked until it answers, and not only when the set was due.
		time.Sleep(30 * time.Second)
		c := jwk("c", edKey().Public())
		s.set(ok(keySet(c)))
		time.Sleep(11 * time.Second)
		wantKey(t, k, "c", "EdDSA", edKey().Public())
	})
	in(t, "REV-07 the first token after Prune waits for the issuer", func(t *testing.T) {
		s, d, k, _ := withdrawalScene(t)
		for _, p := range k.Thumbprints() {
			d.drop(p)
		}
		time.Sleep(time.Second)
		s.set(slowly(300*time.Millisecond, ok(keySet(b))))
		k.Prune()
		at := time.Now()
		wantKeyFetching(t, k, "b", "ES256", true)
		if got := time.Since(at); got != 300*time.Millisecond {
			t.Errorf("wait: got %s, want 300ms", got)
		}
	})
	in(t, "REV-07 what was unknown is to be found out anew", func(t *testing.T) {
		s, d, k, print := withdrawalScene(t)
		wantKeyFetching(t, k, "new", "EdDSA", false)
		time.Sleep(time.Second)
		s.set(slowly(300*time.Millisecond, ok(keySet(b, jwk("new", edKey().Public())))))
		d.drop(print)
		k.Prune()
		wantKeyFetching(t, k, "new", "EdDSA", true)
	})
	in(t, "REV-07 a key that nobody has changes nothing", func(t *testing.T) {
		s, d, k, _ := withdrawalScene(t)
		h := k.Digest()
		d.drop(jwks.Thumbprint{1})
		k.Prune()
		synctest.Wait()
		if k.Digest() != h || s.fetches() != 1 {
			t.Errorf("after Prune: got another digest or %d fetches, want neither", s.fetches())
		}
	})
	in(t, "R15 an issuer that is away is asked again until it answers", func(t *testing.T) {
		s, d, k, print := withdrawalScene(t)
		s.set(down)
		d.drop(print)
		k.Prune()
		time.Sleep(2 * time.Minute)
		if got := s.fetches(); got < 12 {
			t.Errorf("fetches in 2 minutes: got %d, want at least 12", got)
		}
		s.set(ok(keySet(a, b)))
		time.Sleep(11 * time.Second)
		wantKey(t, k, "a", "RS256", rsaKey().Public())
	})
	t.Run("REV-07 without a set and without Dropped", func(t *testing.T) {
		k := fromSource(t, &source{answer: down})
		k.Prune()
		if k.Thumbprints() != nil {
			t.Error("Thumbprints: got some, want none")
		}
	})
}

// Who asks as the last key goes away is told of the key, or that there is none at
// hand, and never that the issuer has no such key.
func TestWithdrawnKeyIsNotUnknownMeanwhile(t *testing.T) {
	var d drops
	k := fromSource(t, &source{answer: ok(keySet(jwk("k", p256Key().Public())))}, d.with())
	defer stopped(t, k)
	var asked sync.WaitGroup
	var over atomic.Bool
	var unknown atomic.Int32
	asked.Go(func() {
		for !over.Load() {
			if key, err := k.Find(t.Context(), "k", "ES256", time.Now(), false); key == nil && err == nil {
				unknown.Add(1)
			}
		}
	})
	for range 10000 {
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, p := range k.Thumbprints() {
			d.drop(p)
		}
		k.Prune()
	}
	over.Store(true)
	asked.Wait()
	if got := unknown.Load(); got != 0 {
		t.Errorf("told %d times that there is no such key, want never", got)
	}
}

// The first token after Prune waits for the issuer, however soon it comes.
func TestWithdrawnKeysAreWaitedForAtOnce(t *testing.T) {
	var d drops
	k := fromSource(t, &source{answer: ok(keySet(jwk("k", p256Key().Public())))}, d.with())
	defer stopped(t, k)
	var keyless atomic.Int32
	for range 20000 {
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		var asked sync.WaitGroup
		var over atomic.Bool
		begun := make(chan struct{})
		asked.Go(func() {
			close(begun)
			for !over.Load() {
				if key, err := k.Find(t.Context(), "k", "ES256", time.Now(), true); key == nil || err != nil {
					keyless.Add(1)
				}
				runtime.Gosched() // there may be one processor
			}
		})
		<-begun
		for _, p := range k.Thumbprints() {
			d.drop(p)
		}
		k.Prune()
		over.Store(true)
		asked.Wait()
	}
	if got := keyless.Load(); got != 0 {
		t.Errorf("told %d times that there is no key, want never", got)
	}
}

// stopped ends what k does in the background.
func stopped(t *testing.T, k *jwks.Keys) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	k.Run(ctx)
}

// The issuer is the authority: what it answers after the withdrawal holds.
func TestIssuerMayBringAWithdrawnKeyBack(t *testing.T) {
	a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
	in(t, "R15 it is not asked whether its set is unchanged", func(t *testing.T) {
		s, d, k, print := withdrawalScene(t)
		var sent []string
		s.set(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.Header.Get("If-None-Match"))
			if sent[len(sent)-1] == `"ab"` {
				return reply(http.StatusNotModified, "")(r)
			}
			return ok(keySet(a, b), "ETag", `"ab"`)(r)
		})
		d.drop(print)
		time.Sleep(time.Second)
		k.Prune()
		synctest.Wait()
		if !slices.Equal(sent, []string{""}) {
			t.Errorf("If-None-Match: got %q, want none", sent)
		}
		wantKey(t, k, "a", "RS256", rsaKey().Public())
		k.Prune() // the key was confirmed since it was withdrawn
		wantKey(t, k, "a", "RS256", rsaKey().Public())
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := sent[len(sent)-1]; got != `"ab"` {
			t.Errorf("If-None-Match later: got %q, want the tag again", got)
		}
		wantKey(t, k, "a", "RS256", rsaKey().Public())
	})
	in(t, "R15 the same body counts as news", func(t *testing.T) {
		_, d, k, print := withdrawalScene(t)
		d.drop(print)
		time.Sleep(time.Second)
		k.Prune()
		synctest.Wait()
		wantKey(t, k, "a", "RS256", rsaKey().Public())
	})
	in(t, "R15 an answer that was on its way does not", func(t *testing.T) {
		s, d, k, print := withdrawalScene(t)
		s.set(slowly(2*time.Second, ok(keySet(a, b, jwk("c", edKey().Public())))))
		go func() { _ = k.Refresh(context.Background()) }()
		synctest.Wait()
		time.Sleep(time.Second)
		d.drop(print)
		k.Prune()
		s.set(slowly(2*time.Second, ok(keySet(b))))
		time.Sleep(1500 * time.Millisecond)
		wantKey(t, k, "a", "RS256", nil)
		wantKey(t, k, "c", "EdDSA", edKey().Public())
		// It is asked once more, at once, as that answer proved nothing.
		time.Sleep(2 * time.Second)
		wantKey(t, k, "c", "EdDSA", nil)
		if got := s.fetches(); got != 3 {
			t.Errorf("fetches: got %d, want 3", got)
		}
	})
	in(t, "REV-07 nor does it tell an operator how the fetch after it went", func(t *testing.T) {
		s, d, k, _ := withdrawalScene(t)
		s.set(slowly(time.Second, ok(keySet(a, b))))
		go func() { _ = k.Refresh(context.Background()) }()
		time.Sleep(500 * time.Millisecond)
		for _, p := range k.Thumbprints() {
			d.drop(p)
		}
		k.Prune()
		if err := k.Refresh(t.Context()); err != nil {
			t.Errorf("Refresh: got %v, want no error", err)
		}
		wantKey(t, k, "a", "RS256", rsaKey().Public())
	})
	in(t, "R15 nor does one that came between the withdrawal and Prune", func(t *testing.T) {
		s, d, k, print := withdrawalScene(t)
		s.set(slowly(2*time.Second, ok(keySet(a, b))))
		go func() { _ = k.Refresh(context.Background()) }()
		synctest.Wait()
		time.Sleep(time.Second)
		d.drop(print)
		time.Sleep(1500 * time.Millisecond)
		wantKey(t, k, "a", "RS256", nil)
		s.set(ok(keySet(a, b)))
		k.Prune() // the issuer is asked at once, as if the answer had come before
		synctest.Wait()
		wantKey(t, k, "a", "RS256", rsaKey().Public())
		k.Prune() // but not again
		synctest.Wait()
		if got := s.fetches(); got != 3 {
			t.Errorf("fetches: got %d, want 3", got)
		}
	})
	in(t, "R15 nor does a 304 that was", func(t *testing.T) {
		for _, all := range []bool{false, true} {
			var log bytes.Buffer
			s, d, k, print := withdrawalScene(t, logTo(&log))
			s.set(slowly(2*time.Second, reply(http.StatusNotModified, "")))
			go func() { _ = k.Refresh(context.Background()) }()
			synctest.Wait()
			time.Sleep(time.Second)
			d.drop(print)
			if all {
				for _, p := range k.Thumbprints() {
					d.drop(p)
				}
			}
			k.Prune()
			s.set(down)
			time.Sleep(1500 * time.Millisecond)
			if k.Holds(print, "RS256") || k.Ready() == all {
				t.Errorf("after the 304: got the key held or ready %v, want neither", k.Ready())
			}
			synctest.Wait()
			if all && !strings.Contains(log.String(), "no longer held") {
				t.Errorf("log: got %s, want the 304 refused", log.String())
			}
			// It does not keep the key away for ever either.
			s.set(func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("If-None-Match") != "" {
					return reply(http.StatusNotModified, "")(r)
				}
				return ok(keySet(a, b), "ETag", `"ab"`)(r)
			})
			time.Sleep(11 * time.Second)
			wantKey(t, k, "a", "RS256", rsaKey().Public())
		}
	})
}

// The store can't bring a key back that was withdrawn since.
func TestWithdrawnKeyDoesNotComeBackFromAStore(t *testing.T) {
	a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
	print := holding(t, keySet(a)).Thumbprints()[0]
	in(t, "REV-07 from the fleet", func(t *testing.T) {
		var d drops
		f := filled(t, ok(keySet(a, b)))
		time.Sleep(time.Minute)
		d.drop(print)
		s := &source{answer: down}
		k := f.replica(t, s, d.with())
		run(t, k)
		synctest.Wait()
		wantKey(t, k, "a", "RS256", nil)
		wantKey(t, k, "b", "ES256", p256Key().Public())
		if got := k.State().Skipped; !maps.Equal(got, map[string]int{"withdrawn": 1}) {
			t.Errorf("skipped: got %v, want one as withdrawn", got)
		}
	})
	in(t, "R15 nor does the fleet's tag keep it away for ever", func(t *testing.T) {
		var d drops
		f := filled(t, ok(keySet(a, b), "ETag", `"ab"`))
		time.Sleep(time.Minute)
		d.drop(print)
		time.Sleep(time.Second)
		k := f.replica(t, &source{answer: func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("If-None-Match") == `"ab"` {
				return reply(http.StatusNotModified, "")(r)
			}
			return ok(keySet(a, b), "ETag", `"ab"`)(r)
		}}, d.with())
		run(t, k)
		synctest.Wait()
		wantKey(t, k, "a", "RS256", rsaKey().Public())
	})
	in(t, "REV-07 from the fleet, at the very time of its fetch", func(t *testing.T) {
		var d drops
		f := filled(t, ok(keySet(a, b)))
		d.drop(print)
		k := f.replica(t, &source{answer: down}, d.with())
		run(t, k)
		synctest.Wait()
		wantKey(t, k, "a", "RS256", nil)
	})
	in(t, "REV-07 from the fleet, as its only key", func(t *testing.T) {
		var d drops
		f := filled(t, ok(keySet(a)))
		time.Sleep(time.Minute)
		d.drop(print)
		k := f.replica(t, &source{answer: down}, d.with())
		run(t, k)
		synctest.Wait()
		if k.Ready() {
			t.Error("got ready, want nothing taken")
		}
	})
	in(t, "REV-07 a replica that fetched since is believed", func(t *testing.T) {
		var d drops
		time.Sleep(time.Minute)
		d.drop(print)
		time.Sleep(time.Second)
		f := filled(t, ok(keySet(a, b)))
		k := f.replica(t, &source{answer: down}, d.with())
		run(t, k)
		synctest.Wait()
		wantKey(t, k, "a", "RS256", rsaKey().Public())
	})
	in(t, "REV-07 a fetch that another replica began before is not", func(t *testing.T) {
		var d drops
		f := &fleet{}
		run(t, f.replica(t, &source{answer: slowly(3*time.Second, ok(keySet(a, b)))}))
		time.Sleep(time.Second)
		d.drop(print)
		time.Sleep(3 * time.Second)
		k := f.replica(t, &source{answer: down}, d.with())
		run(t, k)
		synctest.Wait()
		wantKey(t, k, "a", "RS256", nil)
		wantKey(t, k, "b", "ES256", p256Key().Public())
	})
	in(t, "REV-07 from the file", func(t *testing.T) {
		var d drops
		var file shelf
		file.ranOnce(t, ok(keySet(a, b)))
		time.Sleep(time.Minute)
		d.drop(print)
		k := fromSource(t, &source{answer: down}, file.with(), d.with())
		wantKey(t, k, "a", "RS256", nil)
		wantKey(t, k, "b", "ES256", p256Key().Public())
	})
	in(t, "REV-07 from the file, when that is known only later", func(t *testing.T) {
		var d drops
		var file shelf
		file.ranOnce(t, ok(keySet(a, b)))
		time.Sleep(time.Minute)
		k := fromSource(t, &source{answer: down}, file.with(), d.with())
		d.drop(print)
		k.Prune()
		wantKey(t, k, "a", "RS256", nil)
		wantKey(t, k, "b", "ES256", p256Key().Public())
		time.Sleep(time.Minute)
	})
	in(t, "REV-07 by a reload", func(t *testing.T) {
		var d drops
		before := holding(t, keySet(a, b))
		time.Sleep(time.Minute)
		d.drop(print)
		k := fromSource(t, &source{answer: down}, d.with(), func(_ *jwks.Config, o *jwks.Options) { o.Before = before })
		wantKey(t, k, "a", "RS256", nil)
		wantKey(t, k, "b", "ES256", p256Key().Public())
	})
	// A set that was pruned to nothing must not make room for one of yesterday.
	in(t, "R8 nor does a key that its issuer removed before", func(t *testing.T) {
		var d drops
		f := filled(t, ok(keySet(b)))
		yesterday := f.value(t)
		time.Sleep(20 * time.Hour)
		s := &source{answer: ok(keySet(a))}
		k := f.replica(t, s, d.with())
		run(t, k)
		synctest.Wait()
		f.replay(yesterday)
		time.Sleep(time.Second)
		s.set(down)
		d.drop(print)
		k.Prune()
		time.Sleep(time.Hour)
		if k.Ready() {
			t.Errorf("got %+v, want no keys until the issuer is back", k.State().Keys)
		}
		reloaded := f.replica(t, s, d.with(), func(_ *jwks.Config, o *jwks.Options) { o.Before = k })
		run(t, reloaded)
		time.Sleep(time.Minute)
		if reloaded.Ready() {
			t.Errorf("after a reload: got %+v, want no keys until the issuer is back", reloaded.State().Keys)
		}
	})
}

// What a clock once said is no proof that a set is from after the withdrawal.
func TestWithdrawnKeyIsGoneWhateverTheClocksSay(t *testing.T) {
	a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
	in(t, "REV-07 the set was read by a replica whose clock is ahead", func(t *testing.T) {
		var d drops
		f := filled(t, ok(keySet(a, b)), func(_ *jwks.Config, o *jwks.Options) {
			o.Now = func() time.Time { return time.Now().Add(50 * time.Second) }
		})
		k := f.replica(t, &source{answer: down}, d.with())
		run(t, k)
		synctest.Wait()
		print := find(t, k, "a", "RS256").Thumbprint
		time.Sleep(10 * time.Second)
		d.drop(print)
		k.Prune()
		wantKey(t, k, "a", "RS256", nil)
		wantKey(t, k, "b", "ES256", p256Key().Public())
	})
	in(t, "REV-07 our clock was set back", func(t *testing.T) {
		var back time.Duration
		var withdrawn time.Time
		now := func() time.Time { return time.Now().Add(-back) }
		k := holding(t, keySet(a, b), func(_ *jwks.Config, o *jwks.Options) {
			o.Now, o.Dropped = now, func(jwks.Thumbprint) time.Time { return withdrawn }
		})
		time.Sleep(10 * time.Second)
		back = time.Hour
		withdrawn = now()
		k.Prune()
		if k.Ready() {
			t.Error("got keys, want none: all were withdrawn after they were read")
		}
		synctest.Wait()
	})
}

// Prune meets a fetch, a look at the fleet and a request at any point of theirs.
func TestWithdrawnKeyStaysAwayWhileKeysAreRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
		for round := range 50 {
			var d drops
			f := &fleet{slow: time.Duration(round%5) * time.Millisecond}
			s := &source{answer: slowly(time.Duration(round%7)*time.Millisecond, ok(keySet(a, b), "ETag", `"ab"`))}
			k, other := f.replica(t, s, d.with()), f.replica(t, s)
			run(t, k)
			run(t, other)
			time.Sleep(time.Second)
			print := find(t, k, "a", "RS256").Thumbprint
			var wg sync.WaitGroup
			wg.Go(func() { _ = k.Refresh(t.Context()) })
			wg.Go(func() { _ = other.Refresh(t.Context()) })
			wg.Go(func() { _, _ = k.Find(t.Context(), "new", "ES256", time.Now(), true) })
			time.Sleep(time.Duration(round) * time.Millisecond / 4)
			s.set(slowly(time.Millisecond, ok(keySet(b))))
			d.drop(print)
			k.Prune()
			for range 20 {
				if k.Holds(print, "RS256") {
					t.Errorf("round %d: got the key held after Prune, want it gone", round)
				}
				time.Sleep(time.Millisecond)
			}
			wg.Wait()
		}
	})
}

func TestKeysFromFilesAreNotWithdrawn(t *testing.T) {
	var d drops
	path := write(t, "keys.json", keySet(jwk("k", rsaKey().Public())))
	o := jwks.Options{Name: "corp", Issuer: issuer}
	d.with()(nil, &o)
	k := must(jwks.New(jwks.Config{Files: []jwks.File{{Path: path}}}, o))
	for _, p := range k.Thumbprints() {
		d.drop(p)
	}
	k.Prune()
	wantKey(t, k, "k", "RS256", rsaKey().Public())
}
