package jwks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"introspectd/internal/jwks"
)

// gaps are the times between the fetches of s.
func gaps(s *source) []time.Duration {
	at := s.instants()
	var d []time.Duration
	for i := 1; i < len(at); i++ {
		d = append(d, at[i].Sub(at[i-1]))
	}
	return d
}

func TestScheduleFollowsTheSource(t *testing.T) {
	set := keySet(jwk("k", edKey().Public()))
	for _, row := range []struct {
		name, cacheControl string
		refresh            time.Duration
		least, most        time.Duration
	}{
		{"nothing said", "", 5 * time.Minute, 270 * time.Second, 5 * time.Minute},
		{"max-age between the bounds", "public, max-age=120", 5 * time.Minute, 108 * time.Second, 2 * time.Minute},
		{"max-age below 30 s", "max-age=1", 5 * time.Minute, 30 * time.Second, 30 * time.Second},
		{"max-age above refresh", "max-age=86400", 5 * time.Minute, 270 * time.Second, 5 * time.Minute},
		{"max-age of zero is ignored", "max-age=0", 5 * time.Minute, 270 * time.Second, 5 * time.Minute},
		{"no-cache is ignored", "no-cache, no-store, must-revalidate", 5 * time.Minute, 270 * time.Second, 5 * time.Minute},
		{"nonsense is ignored", "max-age=-5, max-age=x", 5 * time.Minute, 270 * time.Second, 5 * time.Minute},
		{"quoted and in capitals", `Max-Age="60"`, 5 * time.Minute, 54 * time.Second, time.Minute},
		{"refresh below 30 s", "max-age=600", 10 * time.Second, 9 * time.Second, 10 * time.Second},
	} {
		t.Run("R15 "+row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &source{answer: ok(set, "Cache-Control", row.cacheControl)}
				run(t, fromSource(t, s, func(c *jwks.Config, _ *jwks.Options) { c.Refresh = row.refresh }))
				time.Sleep(10*row.most + time.Second)
				if got := s.fetches(); got < 10 {
					t.Errorf("fetches: got %d, want at least 10", got)
				}
				for _, d := range gaps(s) {
					if d < row.least || d > row.most {
						t.Errorf("time between fetches: got %s, want %s to %s", d, row.least, row.most)
					}
				}
			})
		})
	}
}

// A set that Run did not fetch itself may be due before the one that it waits for.
func TestScheduleFollowsWhatOthersFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
		s := &source{answer: ok(keySet(a, b))}
		k := fromSource(t, s)
		run(t, k)
		time.Sleep(time.Minute)
		s.set(ok(keySet(a, b), "Cache-Control", "max-age=30"))
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.set(ok(keySet(b)))
		time.Sleep(31 * time.Second)
		wantKey(t, k, "a", "RS256", nil)
		if got := s.fetches(); got != 3 {
			t.Errorf("fetches: got %d, want 3", got)
		}
	})
}

func TestFailingSourceIsAskedAgainWithin10s(t *testing.T) {
	for _, row := range []struct {
		name   string
		answer func(*http.Request) (*http.Response, error)
	}{
		{"refuses", down},
		{"hangs", hang},
		{"answers 500", reply(500, "")},
	} {
		t.Run("R15 "+row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &source{answer: row.answer}
				k := fromSource(t, s)
				run(t, k)
				time.Sleep(10 * time.Minute)
				for i, d := range gaps(s) {
					if d < time.Second || d > 10*time.Second+time.Millisecond {
						t.Errorf("gap %d: got %s, want 1s to 10s", i, d)
					}
				}
				if got := s.fetches(); got < 60 || got > 130 {
					t.Errorf("fetches in 10 minutes: got %d, want 60 to 130", got)
				}
				s.set(ok(keySet(jwk("k", edKey().Public()))))
				time.Sleep(10*time.Second + time.Millisecond)
				if !k.Ready() {
					t.Error("10 s after the source came back: got not ready, want ready")
				}
			})
		})
	}
}

func TestLastGoodKeysLiveUntilMaxStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := &source{answer: ok(keySet(jwk("k", rsaKey().Public())), "ETag", `"1"`)}
		k := fromSource(t, s, func(c *jwks.Config, o *jwks.Options) {
			c.MaxStale = time.Hour
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
		})
		run(t, k)
		synctest.Wait()
		print := find(t, k, "k", "RS256").Thumbprint

		// Unchanged answers, in both forms, renew the age.
		time.Sleep(40 * time.Minute)
		s.set(reply(http.StatusNotModified, ""))
		time.Sleep(40 * time.Minute)
		wantKey(t, k, "k", "RS256", rsaKey().Public())
		if age := k.State().AgeSeconds; age > 300 {
			t.Errorf("age after 304: got %v s, want at most 300", age)
		}

		s.set(ok(`{"keys":[]}`)) // T9: neither replaces the set nor renews it
		time.Sleep(50 * time.Minute)
		wantKey(t, k, "k", "RS256", rsaKey().Public())
		if !k.Holds(print, "RS256") || !k.Ready() {
			t.Error("after 50 min without keys: got nothing held, want last good keys")
		}
		time.Sleep(11 * time.Minute)
		if _, err := k.Find(t.Context(), "k", "RS256", time.Now(), false); !errors.Is(err, jwks.ErrUnavailable) {
			t.Errorf("INT-19 Find beyond max_stale: got %v, want ErrUnavailable", err)
		}
		if k.Holds(print, "RS256") || k.Ready() || k.Digest() != [32]byte{} || k.State().Usable {
			t.Error("beyond max_stale: got keys still in use, want none")
		}

		s.set(ok(keySet(jwk("k", rsaKey().Public())), "ETag", `"1"`))
		time.Sleep(11 * time.Second)
		synctest.Wait()
		wantKey(t, k, "k", "RS256", rsaKey().Public())
		for _, line := range []string{"keys read", "keys can't be fetched", "keys are too old", "keys can be fetched again"} {
			if got := strings.Count(log.String(), line); got != 1 {
				t.Errorf("log lines with %q: got %d, want 1, log:\n%s", line, got, log.String())
			}
		}
	})
}

func TestRemovedKeyIsGoneAfterRefresh(t *testing.T) {
	t.Run("K15 JWT-15 T9", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
			s := &source{answer: ok(keySet(a, b))}
			k := fromSource(t, s)
			run(t, k)
			synctest.Wait()
			print, digest := find(t, k, "a", "RS256").Thumbprint, k.Digest()
			s.set(ok(keySet(b)))
			time.Sleep(5*time.Minute + time.Second)
			wantKey(t, k, "a", "RS256", nil)
			wantKey(t, k, "b", "ES256", p256Key().Public())
			if k.Holds(print, "RS256") {
				t.Error("Holds: got true for a removed key, want false")
			}
			if k.Digest() == digest {
				t.Error("Digest: got the old one, want another")
			}
		})
	})
}

// TestConditionalRequest: the tag of a set is sent back to where it came from.
func TestConditionalRequest(t *testing.T) {
	t.Run("R15 If-None-Match and 304", func(t *testing.T) {
		var sent []string
		s := &source{}
		s.set(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.Header.Get("If-None-Match"))
			if len(sent) > 1 {
				return reply(http.StatusNotModified, "")(r)
			}
			return ok(keySet(jwk("k", edKey().Public())), "ETag", `"abc"`)(r)
		})
		k := fromSource(t, s)
		for range 2 {
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if want := []string{"", `"abc"`}; !slices.Equal(sent, want) {
			t.Errorf("If-None-Match: got %q, want %q", sent, want)
		}
		wantKey(t, k, "k", "EdDSA", edKey().Public())
	})
	t.Run("R15 304 that nobody asked for", func(t *testing.T) {
		k := fromSource(t, &source{answer: reply(http.StatusNotModified, "")})
		if err := k.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "status 304") || k.Ready() {
			t.Errorf("Refresh: got %v, want an error with status 304", err)
		}
	})
}

// unknownKid is the scene for what unknown kids may cost: a set is at hand and
// the schedule is quiet.
func unknownKid(t *testing.T) (*source, *jwks.Keys) {
	t.Helper()
	s := &source{answer: ok(keySet(jwk("old", rsaKey().Public())))}
	k := fromSource(t, s)
	run(t, k)
	synctest.Wait()
	return s, k
}

func TestUnknownKid(t *testing.T) {
	rotated := keySet(jwk("old", rsaKey().Public()), jwk("new", p256Key().Public()))
	in := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
	}
	in("K9 new key is found by its first token", func(t *testing.T) {
		s, k := unknownKid(t)
		s.set(slowly(500*time.Millisecond, ok(rotated)))
		key, err := k.Find(t.Context(), "new", "ES256", time.Now(), true)
		if key == nil || err != nil {
			t.Errorf("Find: got %v, %v, want the new key", key, err)
		}
		if got := s.fetches(); got != 2 {
			t.Errorf("fetches: got %d, want 2", got)
		}
	})
	in("JWT-20 without leave nothing is fetched", func(t *testing.T) {
		s, k := unknownKid(t)
		s.set(ok(rotated))
		wantKey(t, k, "new", "ES256", nil)
		if got := s.fetches(); got != 1 {
			t.Errorf("fetches: got %d, want 1", got)
		}
	})
	in("JWT-20 without leave a cold Find does not wait", func(t *testing.T) {
		k := fromSource(t, &source{answer: hang})
		run(t, k)
		synctest.Wait()
		at := time.Now()
		_, err := k.Find(t.Context(), "new", "ES256", time.Now(), false)
		if !errors.Is(err, jwks.ErrUnavailable) || time.Since(at) != 0 {
			t.Errorf("Find: got %v after %s, want ErrUnavailable at once", err, time.Since(at))
		}
	})
	in("JWT-12 what is at hand is told without a wait, and only if a wait would tell no more", func(t *testing.T) {
		s, k := unknownKid(t)
		atHand := func(name, kid string, mayFetch, wantKey, wantOK bool) {
			t.Helper()
			at, alg := time.Now(), "ES256"
			if kid == "old" {
				alg = "RS256"
			}
			key, ok := k.AtHand(kid, alg, time.Now(), mayFetch)
			if (key != nil) != wantKey || ok != wantOK || time.Since(at) != 0 {
				t.Errorf("%s: got %v, %t after %v, want found %t, %t, at once", name, key, ok, time.Since(at), wantKey, wantOK)
			}
			if want := mayFetch && wantOK && !wantKey; k.Strange(kid) != want {
				t.Errorf("%s: strange: got %t, want %t", name, !want, want)
			}
		}
		atHand("a known kid", "old", true, true, true)
		atHand("an unknown kid, with a fetch to spend", "new", true, false, false)
		atHand("an unknown kid, without leave to fetch", "new", false, false, true)
		s.set(slowly(500*time.Millisecond, ok(rotated)))
		go func() { _, _ = k.Find(t.Context(), "new", "ES256", time.Now(), true) }()
		time.Sleep(100 * time.Millisecond)
		atHand("an unknown kid, while a fetch is under way", "new", true, false, false)
		time.Sleep(time.Second)
		atHand("the new kid once it is there", "new", true, true, true)
		atHand("another one after the fetch", "random", true, false, true)
		time.Sleep(30 * time.Second)
		atHand("another one when the next fetch may be", "random", true, false, false)
		wantKeyFetching(t, k, "random", "ES256", false)
		atHand("one that a fetch didn't bring", "random", true, false, true)
		if got := s.fetches(); got != 3 {
			t.Errorf("fetches: got %d, want 3, none of them by looking", got)
		}
	})
	in("JWT-12 nothing at hand is no refusal", func(t *testing.T) {
		k := fromSource(t, &source{answer: hang})
		run(t, k)
		synctest.Wait()
		for _, mayFetch := range []bool{true, false} {
			if key, ok := k.AtHand("k", "ES256", time.Now(), mayFetch); key != nil || ok {
				t.Errorf("AtHand without a set, with leave %t: got %v, %t, want it not to be told", mayFetch, key, ok)
			}
		}
		wantKeyless := func(name string, strange bool) {
			if k.Strange("k") != strange {
				t.Errorf("Strange %s: got %t, want %t", name, !strange, strange)
			}
		}
		wantKeyless("without a set, with a fetch to spend", false)
		_, _ = k.Find(t.Context(), "k", "ES256", time.Now(), true)
		wantKeyless("without a set, with none", false)
	})
	in("JWT-12 a flood costs one fetch per cooldown", func(t *testing.T) {
		s, k := unknownKid(t)
		s.set(slowly(100*time.Millisecond, ok(keySet(jwk("old", rsaKey().Public())))))
		var slow atomic.Int32
		var wg sync.WaitGroup
		for i := range 400 {
			wg.Go(func() {
				at := time.Now()
				key, err := k.Find(t.Context(), fmt.Sprint("random", i), "RS256", time.Now(), true)
				if key != nil || err != nil {
					t.Errorf("Find: got %v, %v, want a refusal", key, err)
				}
				if time.Since(at) > 0 {
					slow.Add(1)
				}
			})
		}
		wg.Wait()
		if got := s.fetches(); got != 2 {
			t.Errorf("fetches: got %d, want 2", got)
		}
		if got := slow.Load(); got != 256 {
			t.Errorf("callers that waited: got %d, want 256", got)
		}
		time.Sleep(29 * time.Second)
		wantKeyFetching(t, k, "another", "RS256", false)
		if got := s.fetches(); got != 2 {
			t.Errorf("fetches within the cooldown: got %d, want 2", got)
		}
		time.Sleep(time.Second)
		wantKeyFetching(t, k, "another", "RS256", false)
		if got := s.fetches(); got != 3 {
			t.Errorf("fetches after the cooldown: got %d, want 3", got)
		}
	})
	in("JWT-12 whoever comes as a fetch begins waits for it", func(t *testing.T) {
		s, k := unknownKid(t)
		s.set(slowly(100*time.Millisecond, down))
		for round := range 1000 { // less than max_stale, as the source is away
			time.Sleep(time.Minute)
			kid, begin := fmt.Sprint("random", round), make(chan struct{})
			var waited, early atomic.Int32
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					<-begin
					at := time.Now()
					if _, told := k.AtHand(kid, "RS256", at, true); told || k.Strange(kid) {
						early.Add(1)
					}
					_, _ = k.Find(t.Context(), kid, "RS256", time.Now(), true)
					if time.Since(at) > 0 {
						waited.Add(1)
					}
				})
			}
			synctest.Wait()
			close(begin)
			wg.Wait()
			if got := waited.Load(); got != 8 {
				t.Fatalf("round %d: %d of 8 who asked about one kid at the same time waited, want all", round, got)
			}
			if got := early.Load(); got != 0 {
				t.Fatalf("round %d: %d of 8 were told before the fetch, want none", round, got)
			}
		}
	})
	in("K9 a fetch that began before there was a key tells nothing of it", func(t *testing.T) {
		s, k := unknownKid(t)
		s.set(slowly(500*time.Millisecond, s.answer))
		go func() { _ = k.Refresh(context.Background()) }()
		time.Sleep(100 * time.Millisecond)
		s.set(ok(rotated))
		wantKeyFetching(t, k, "new", "ES256", true)
		wantKeyFetching(t, k, "random", "ES256", false)
		if got := s.fetches(); got != 3 {
			t.Errorf("fetches: got %d, want 3", got)
		}
	})
	in("K9 JWT-12 nor does it without one to spend, and that is not remembered", func(t *testing.T) {
		s, k := unknownKid(t)
		wantKeyFetching(t, k, "random", "ES256", false)
		time.Sleep(29 * time.Second)
		s.set(slowly(900*time.Millisecond, s.answer))
		go func() { _ = k.Refresh(context.Background()) }()
		time.Sleep(100 * time.Millisecond)
		s.set(ok(rotated))
		wantKeyFetching(t, k, "new", "ES256", false)
		time.Sleep(100 * time.Millisecond)
		wantKeyFetching(t, k, "new", "ES256", true)
	})
	in("T8 attempts are counted, not successes", func(t *testing.T) {
		s, k := unknownKid(t)
		s.set(down)
		for i := range 20 {
			wantKeyFetching(t, k, fmt.Sprint(i), "RS256", false)
		}
		if got := s.fetches(); got != 2 {
			t.Errorf("fetches: got %d, want 2", got)
		}
	})
	in("T8 the background does not share the budget", func(t *testing.T) {
		s, k := unknownKid(t)
		wantKeyFetching(t, k, "random", "RS256", false)
		s.set(ok(rotated))
		time.Sleep(5 * time.Minute)
		wantKey(t, k, "new", "ES256", p256Key().Public())
	})
	in("T2 INT-19 a failed fetch is a refusal while a set is at hand", func(t *testing.T) {
		s, k := unknownKid(t)
		s.set(reply(500, ""))
		wantKeyFetching(t, k, "new", "ES256", false)
	})
	in("T2 a kid is not remembered as unknown by a failed fetch", func(t *testing.T) {
		s, k := unknownKid(t)
		s.set(reply(500, ""))
		wantKeyFetching(t, k, "new", "ES256", false)
		s.set(slowly(500*time.Millisecond, ok(rotated)))
		go func() { _ = k.Refresh(context.Background()) }()
		synctest.Wait()
		wantKeyFetching(t, k, "new", "ES256", true)
	})
	in("T3 K17 INT-19 nobody waits longer than a second, and the fetch goes on", func(t *testing.T) {
		s, k := unknownKid(t)
		s.set(slowly(3*time.Second, ok(rotated)))
		at := time.Now()
		wantKeyFetching(t, k, "new", "ES256", false)
		if got := time.Since(at); got != time.Second {
			t.Errorf("wait: got %s, want 1s", got)
		}
		time.Sleep(2100 * time.Millisecond)
		wantKey(t, k, "new", "ES256", p256Key().Public())
	})
	in("T3 nobody waits for a permit", func(t *testing.T) {
		_, k := unknownKid(t)
		wantKeyFetching(t, k, "a", "RS256", false)
		at := time.Now()
		wantKeyFetching(t, k, "b", "RS256", false)
		if got := time.Since(at); got != 0 {
			t.Errorf("wait: got %s, want none", got)
		}
	})
	in("K9 a kid proved unknown neither fetches nor waits", func(t *testing.T) {
		s, k := unknownKid(t)
		wantKeyFetching(t, k, "gone", "RS256", false)
		time.Sleep(time.Second)
		s.set(slowly(800*time.Millisecond, ok(rotated)))
		go func() { _ = k.Refresh(context.Background()) }()
		synctest.Wait()
		at := time.Now()
		wantKeyFetching(t, k, "gone", "RS256", false)
		if got := time.Since(at); got != 0 {
			t.Errorf("wait: got %s, want none", got)
		}
		at = time.Now()
		wantKeyFetching(t, k, "new", "ES256", true) // others join the running fetch
		if got := time.Since(at); got != 800*time.Millisecond {
			t.Errorf("wait: got %s, want 800ms", got)
		}
		// The set changed: what is unknown must be found out anew.
		time.Sleep(30 * time.Second)
		wantKeyFetching(t, k, "gone", "RS256", false)
		if got := s.fetches(); got != 4 {
			t.Errorf("fetches: got %d, want 4", got)
		}
	})
	in("K9 a changed set clears what was unknown", func(t *testing.T) {
		s, k := unknownKid(t)
		wantKeyFetching(t, k, "gone", "RS256", false)
		s.set(ok(rotated))
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.set(slowly(500*time.Millisecond, ok(rotated)))
		go func() { _ = k.Refresh(context.Background()) }()
		synctest.Wait()
		at := time.Now()
		wantKeyFetching(t, k, "gone", "RS256", false)
		if got := time.Since(at); got != 500*time.Millisecond {
			t.Errorf("wait: got %s, want 500ms", got)
		}
	})
	in("K9 no more than 1024 unknown kids are remembered, and those for 30 s", func(t *testing.T) {
		s, k := unknownKid(t)
		s.set(slowly(100*time.Millisecond, ok(keySet(jwk("old", rsaKey().Public())))))
		// wait is how long a Find for kid waits for a fetch that is running.
		wait := func(kids ...string) (longest time.Duration) {
			go func() { _ = k.Refresh(context.Background()) }()
			synctest.Wait()
			at := time.Now()
			var wg sync.WaitGroup
			for _, kid := range kids {
				wg.Go(func() { wantKeyFetching(t, k, kid, "RS256", false) })
			}
			wg.Wait()
			longest = time.Since(at)
			time.Sleep(time.Second)
			return longest
		}
		for round := range 4 {
			kids := make([]string, 256)
			for i := range kids {
				kids[i] = fmt.Sprint(round, "-", i)
			}
			wait(kids...)
		}
		for _, row := range []struct {
			kid  string
			want time.Duration
		}{
			{"0-0", 0},
			{"3-255", 0},
			{"one more", 100 * time.Millisecond},
			{"one more", 100 * time.Millisecond},
		} {
			if got := wait(row.kid); got != row.want {
				t.Errorf("wait of %q: got %s, want %s", row.kid, got, row.want)
			}
		}
		time.Sleep(31 * time.Second)
		for i, want := range []time.Duration{100 * time.Millisecond, 0} {
			if got := wait("one more"); got != want {
				t.Errorf("wait %d with room again: got %s, want %s", i, got, want)
			}
		}
	})
	in("K17 a caller that hangs up does not end the fetch", func(t *testing.T) {
		s, k := unknownKid(t)
		s.set(slowly(500*time.Millisecond, ok(rotated)))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if key, err := k.Find(ctx, "new", "ES256", time.Now(), true); key != nil || err != nil {
			t.Errorf("Find: got %v, %v, want a refusal", key, err)
		}
		time.Sleep(time.Second)
		wantKey(t, k, "new", "ES256", p256Key().Public())
	})
	in("JWT-11 a token without kid never fetches", func(t *testing.T) {
		s, k := unknownKid(t)
		wantKeyFetching(t, k, "", "ES256", false)
		if got := s.fetches(); got != 1 {
			t.Errorf("fetches: got %d, want 1", got)
		}
	})
	in("JWT-17 a known kid with another alg never fetches", func(t *testing.T) {
		s, k := unknownKid(t)
		wantKeyFetching(t, k, "old", "ES256", false)
		if got := s.fetches(); got != 1 {
			t.Errorf("fetches: got %d, want 1", got)
		}
	})
}

// wantKeyFetching asks with leave to fetch.
func wantKeyFetching(t *testing.T, k *jwks.Keys, kid, alg string, want bool) {
	t.Helper()
	key, err := k.Find(t.Context(), kid, alg, time.Now(), true)
	if err != nil || (key != nil) != want {
		t.Errorf("Find(%q, %s): got %v, %v, want found %t", kid, alg, key, err, want)
	}
}

func TestColdStart(t *testing.T) {
	t.Run("K10 INT-19 New and Run of one issuer do not wait for another's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			at := time.Now()
			var hanging []*jwks.Keys
			for range 3 {
				k := fromSource(t, &source{answer: hang})
				run(t, k)
				hanging = append(hanging, k)
			}
			good := fromSource(t, &source{answer: ok(keySet(jwk("k", edKey().Public())))})
			run(t, good)
			synctest.Wait()
			if time.Since(at) != 0 || !good.Ready() {
				t.Errorf("good issuer: got ready %t after %s, want at once", good.Ready(), time.Since(at))
			}
			_, err := hanging[0].Find(t.Context(), "k", "EdDSA", time.Now(), true)
			if !errors.Is(err, jwks.ErrUnavailable) || time.Since(at) != time.Second {
				t.Errorf("hanging issuer: got %v after %s, want ErrUnavailable after 1s", err, time.Since(at))
			}
		})
	})
	t.Run("INT-19 the first tokens wait for the first fetch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: slowly(900*time.Millisecond, ok(keySet(jwk("k", edKey().Public()))))}
			k := fromSource(t, s)
			run(t, k)
			synctest.Wait()
			var served, refused atomic.Int32
			var wg sync.WaitGroup
			for range 300 {
				wg.Go(func() {
					switch key, err := k.Find(t.Context(), "k", "EdDSA", time.Now(), true); {
					case key != nil:
						served.Add(1)
					case errors.Is(err, jwks.ErrUnavailable):
						refused.Add(1)
					}
				})
			}
			wg.Wait()
			if served.Load() != 256 || refused.Load() != 44 {
				t.Errorf("served, refused: got %d, %d, want 256, 44", served.Load(), refused.Load())
			}
			if got := s.fetches(); got != 1 {
				t.Errorf("fetches: got %d, want 1", got)
			}
		})
	})
	t.Run("T2 INT-19 between two attempts nothing waits and nothing is fetched", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: down}
			k := fromSource(t, s)
			run(t, k)
			synctest.Wait()
			at := time.Now()
			_, err := k.Find(t.Context(), "k", "EdDSA", time.Now(), true)
			if !errors.Is(err, jwks.ErrUnavailable) || time.Since(at) != 0 || s.fetches() != 1 {
				t.Errorf("Find: got %v after %s and %d fetches, want ErrUnavailable at once and 1", err, time.Since(at), s.fetches())
			}
		})
	})
}

func TestRunEnds(t *testing.T) {
	t.Run("R15 the running fetch ends with it, and none starts afterwards", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: ok(keySet(jwk("k", edKey().Public())))}
			k := fromSource(t, s)
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.set(hang)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				k.Run(ctx)
			}()
			synctest.Wait()
			at := time.Now()
			cancel()
			<-done
			if time.Since(at) != 0 {
				t.Errorf("Run: ended after %s, want at once", time.Since(at))
			}
			wantKeyFetching(t, k, "unknown", "EdDSA", false)
			wantKey(t, k, "k", "EdDSA", edKey().Public())
			if err := k.Refresh(t.Context()); err == nil || s.fetches() != 2 {
				t.Errorf("Refresh after Run: got %v and %d fetches, want an error and 2", err, s.fetches())
			}
		})
	})
	t.Run("R15 a panic in a fetch is an error of the fetch", func(t *testing.T) {
		s := &source{answer: func(*http.Request) (*http.Response, error) { panic("boom") }}
		k := fromSource(t, s)
		if err := k.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "panic: boom") {
			t.Errorf("Refresh: got %v, want the panic as an error", err)
		}
	})
	t.Run("R15 callers of Refresh share one fetch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: slowly(time.Second, ok(keySet(jwk("k", edKey().Public()))))}
			k := fromSource(t, s)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if err := k.Refresh(t.Context()); err != nil {
						t.Errorf("Refresh: got %v, want no error", err)
					}
				})
			}
			wg.Wait()
			if got := s.fetches(); got != 1 {
				t.Errorf("fetches: got %d, want 1", got)
			}
		})
	})
	t.Run("R15 a fetch that began since they wanted it does", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: slowly(time.Second, ok(keySet(jwk("old", rsaKey().Public()))))}
			k, wanted := fromSource(t, s), time.Now()
			run(t, k)
			time.Sleep(500 * time.Millisecond)
			if err := k.RefreshSince(t.Context(), wanted); err != nil || s.fetches() != 1 {
				t.Errorf("RefreshSince: got %v after %d fetches, want 1", err, s.fetches())
			}
		})
	})
	t.Run("R15 but none that began before they called", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &source{answer: slowly(time.Second, ok(keySet(jwk("old", rsaKey().Public()))))}
			k := fromSource(t, s)
			go func() { _ = k.Refresh(context.Background()) }()
			time.Sleep(500 * time.Millisecond)
			s.set(slowly(time.Second, ok(keySet(jwk("new", edKey().Public())))))
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if err := k.Refresh(t.Context()); err != nil {
						t.Errorf("Refresh: got %v, want no error", err)
					}
					wantKey(t, k, "new", "EdDSA", edKey().Public())
				})
			}
			wg.Wait()
			if got := s.fetches(); got != 2 {
				t.Errorf("fetches: got %d, want 2", got)
			}
		})
	})
}

// pipes is a listener whose connections never leave the process, so that the
// real client and server can be watched on a clock that is not real.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, io.EOF
	}
	return c, nil
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p <- server
	return client, nil
}

func TestFetchTakesAtMost5s(t *testing.T) {
	for _, row := range []struct {
		name  string
		serve http.HandlerFunc
	}{
		{"no answer", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"a body that drips", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(100 * time.Millisecond)
			}
		}},
	} {
		t.Run("JWT-14 R15 "+row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := make(pipes)
				server := &http.Server{Handler: row.serve}
				go func() { _ = server.Serve(p) }()
				defer func() {
					server.Close()
					time.Sleep(time.Second) // let the handler see it
				}()
				k, err := jwks.New(jwks.Config{JWKSURL: "http://localhost/"}, jwks.Options{
					Name: "corp", Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true},
				})
				if err != nil {
					t.Fatal(err)
				}
				at := time.Now()
				if err := k.Refresh(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(at) != 5*time.Second {
					t.Errorf("Refresh: got %v after %s, want a deadline after 5s", err, time.Since(at))
				}
			})
		})
	}
}
