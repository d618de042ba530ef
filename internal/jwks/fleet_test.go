package jwks_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"introspectd/internal/jwks"
)

// fleet is a Fleet that can be told to work against its replicas.
type fleet struct {
	mu     sync.Mutex
	values map[string]string
	claims map[string]time.Time // name to its end
	err    error                // of everything
	hold   chan struct{}        // while set, nothing is answered until it is closed
	deny   bool                 // no claim is granted
	frozen bool                 // what is put is lost
	slow   time.Duration        // what every answer takes

	gets, puts int
	asked      []string // names of claims that were asked for
	longest    time.Duration
}

func (f *fleet) Get(name string) ([]byte, error) {
	f.wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gets++
	if v, ok := f.values[name]; ok && f.err == nil {
		return []byte(v), nil
	}
	return nil, f.err
}

func (f *fleet) Put(name string, value []byte, expires time.Time) error {
	f.wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.puts++
	if f.err != nil || f.frozen {
		return f.err
	}
	if f.values == nil {
		f.values = map[string]string{}
	}
	f.values[name] = string(value)
	return nil
}

func (f *fleet) Claim(name string, lifetime time.Duration) (bool, error) {
	f.wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.longest = append(f.asked, name), max(f.longest, lifetime)
	if f.err != nil || f.deny || time.Now().Before(f.claims[name]) {
		return false, f.err
	}
	if f.claims == nil {
		f.claims = map[string]time.Time{}
	}
	f.claims[name] = time.Now().Add(lifetime)
	return true, nil
}

func (f *fleet) Release(name string) {
	f.wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.claims, name)
}

func (f *fleet) wait() {
	f.mu.Lock()
	hold, slow := f.hold, f.slow
	f.mu.Unlock()
	time.Sleep(slow)
	if hold != nil {
		<-hold
	}
}

// change does something to the fleet between its operations.
func (f *fleet) change(do func(*fleet)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do(f)
}

// takenFleet is one in which another replica always has the claim to renew the
// set, which takes a moment to tell; left is sent to as it is asked for.
type takenFleet struct {
	*fleet
	left chan struct{}
}

func (f takenFleet) Claim(name string, lifetime time.Duration) (bool, error) {
	if !strings.HasPrefix(name, "fetch/") {
		return f.fleet.Claim(name, lifetime)
	}
	select {
	case f.left <- struct{}{}:
	default:
	}
	time.Sleep(100 * time.Millisecond)
	return false, nil
}

func failing(f *fleet) { f.err = errors.New("connection refused") }

// hanging makes f hang for longer than a test looks.
func hanging(f *fleet) {
	f.hold = make(chan struct{})
	time.AfterFunc(24*time.Hour, func() { close(f.hold) })
}

func (f *fleet) count(of func(*fleet) int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return of(f)
}

func looks(f *fleet) int { return f.gets }

// claimed is how often a claim with this prefix was asked for.
func (f *fleet) claimed(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range f.asked {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}

// record is the one set that is shared.
func (f *fleet) record(t *testing.T) map[string]any {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	return (&shelf{values: f.values}).record(t)
}

// replay makes f answer with this value from now on, whatever is put.
func (f *fleet) replay(value string) {
	f.change(func(f *fleet) {
		f.frozen = true
		for name := range f.values {
			f.values[name] = value
		}
	})
}

// value is the one that is shared, as it is.
func (f *fleet) value(t *testing.T) string {
	t.Helper()
	f.record(t)
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.values))[0]
}

func (f *fleet) with() func(*jwks.Config, *jwks.Options) {
	return func(_ *jwks.Config, o *jwks.Options) { o.Fleet = f }
}

// replica makes keys whose network is s and which share f.
func (f *fleet) replica(t testing.TB, s *source, change ...func(*jwks.Config, *jwks.Options)) *jwks.Keys {
	t.Helper()
	return fromSource(t, s, append(change, f.with())...)
}

// filled is a fleet with the set that a replica, gone since, read now.
func filled(t *testing.T, answer func(*http.Request) (*http.Response, error), change ...func(*jwks.Config, *jwks.Options)) *fleet {
	t.Helper()
	f := &fleet{}
	k := f.replica(t, &source{answer: answer}, change...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	synctest.Wait()
	cancel()
	<-done
	return f
}

func logTo(b *bytes.Buffer) func(*jwks.Config, *jwks.Options) {
	return func(_ *jwks.Config, o *jwks.Options) { o.Log = slog.New(slog.NewTextHandler(b, nil)) }
}

// in runs f on a clock of its own.
func in(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestOneReplicaFetchesForAll(t *testing.T) {
	a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
	for _, row := range []struct {
		name        string
		headers     []string
		delay       time.Duration
		least, most int
		age         float64
	}{
		{"at Refresh", nil, 0, 12, 15, 302},
		{"at max-age", []string{"Cache-Control", "max-age=60"}, 0, 60, 70, 62},
		{"from an issuer that takes 3 s", nil, 3 * time.Second, 12, 15, 305},
	} {
		in(t, "JWT-15 "+row.name, func(t *testing.T) {
			s := &source{answer: slowly(row.delay, ok(keySet(a, b), row.headers...))}
			f := &fleet{}
			var replicas []*jwks.Keys
			for range 5 {
				k := f.replica(t, s)
				run(t, k)
				replicas = append(replicas, k)
			}
			time.Sleep(10 * time.Second)
			if got := s.fetches(); got != 5 {
				t.Errorf("fetches at the start: got %d, want one by each", got)
			}
			time.Sleep(time.Hour)
			if got := s.fetches() - 5; got < row.least || got > row.most {
				t.Errorf("fetches in an hour: got %d, want %d to %d", got, row.least, row.most)
			}
			s.set(slowly(row.delay, ok(keySet(b), row.headers...)))
			time.Sleep(5*time.Minute + 10*time.Second)
			for i, k := range replicas {
				wantKey(t, k, "a", "RS256", nil)
				wantKey(t, k, "b", "ES256", p256Key().Public())
				if state := k.State(); state.AgeSeconds > row.age || state.LastError != "" {
					t.Errorf("replica %d: got %+v, want a set of at most %v s and no error", i, state, row.age)
				}
			}
			if n := f.count(func(f *fleet) int { return len(f.claims) }); n != 0 {
				t.Errorf("claims that are left: got %d, want none", n)
			}
			if f.longest > time.Minute {
				t.Errorf("longest claim: got %s, want at most 60s", f.longest)
			}
		})
	}
}

func TestWhoIsDeniedTheClaimTakesWhatTheOtherBrings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		headers := []string{"Cache-Control", "max-age=30"} // due at that very second
		s := &source{answer: ok(keySet(jwk("a", rsaKey().Public())), headers...)}
		f := &fleet{}
		replicas := []*jwks.Keys{f.replica(t, s), f.replica(t, s), f.replica(t, s)}
		for _, k := range replicas {
			run(t, k)
		}
		synctest.Wait()
		s.set(slowly(4*time.Second, ok(keySet(jwk("b", p256Key().Public())), headers...)))
		time.Sleep(35500 * time.Millisecond)
		for _, k := range replicas {
			wantKey(t, k, "b", "ES256", p256Key().Public())
		}
		if got := s.fetches(); got != 4 {
			t.Errorf("fetches: got %d, want one by each at the start and one for all", got)
		}
	})
}

func TestClaimsDieWithTheirFetch(t *testing.T) {
	in(t, "R15 the issuer is away", func(t *testing.T) {
		s := &source{answer: ok(keySet(jwk("a", rsaKey().Public())))}
		f := &fleet{}
		one, two := f.replica(t, s), f.replica(t, s)
		run(t, one)
		run(t, two)
		synctest.Wait()
		s.set(down)
		time.Sleep(10 * time.Minute)
		s.set(ok(keySet(jwk("b", p256Key().Public()))))
		time.Sleep(11 * time.Second)
		for _, k := range []*jwks.Keys{one, two} {
			wantKey(t, k, "b", "ES256", p256Key().Public())
		}
	})
	in(t, "R15 Run ends", func(t *testing.T) {
		s := &source{answer: ok(keySet(jwk("a", rsaKey().Public())))}
		f := &fleet{}
		k := f.replica(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			k.Run(ctx)
		}()
		synctest.Wait()
		s.set(hang)
		claims := func(f *fleet) int { return len(f.claims) }
		for end := time.Now().Add(5 * time.Minute); f.count(claims) == 0; time.Sleep(time.Second) {
			if time.Now().After(end) {
				t.Fatal("claims in 5 minutes: got none, want one for the fetch that is due")
			}
		}
		cancel()
		<-done
		if n := f.count(claims); n != 0 {
			t.Errorf("claims after Run: got %d, want none", n)
		}
	})
}

func TestSetIsAsOldAsTheRequestForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := time.Now()
		f := &fleet{}
		s := &source{answer: slowly(3*time.Second, ok(keySet(jwk("a", rsaKey().Public())), "ETag", `"1"`))}
		k := f.replica(t, s)
		run(t, k)
		time.Sleep(4 * time.Second)
		if state := k.State(); !state.FetchedAt.Equal(at) || state.AgeSeconds != 4 || state.FromFleet {
			t.Errorf("State: got %+v, want the issuer's keys as of %s", state, at)
		}
		want := map[string]any{
			"issuer": issuer, "from": jwksURL, "etag": `"1"`, "fetched_at": at.UTC().Format(time.RFC3339Nano),
			"body": base64.StdEncoding.EncodeToString([]byte(keySet(jwk("a", rsaKey().Public())))),
		}
		if got := f.record(t); !maps.Equal(got, want) {
			t.Errorf("shared: got %v, want %v", got, want)
		}
	})
}

func TestNewReplicaServesFromTheFleet(t *testing.T) {
	for _, row := range []struct {
		name  string
		state func(*http.Request) (*http.Response, error)
	}{{"refuses", down}, {"hangs", hang}, {"answers 500", reply(500, "")}, {"has no keys", ok(`{"keys":[]}`)}} {
		in(t, "R15 the issuer "+row.name, func(t *testing.T) {
			at := time.Now()
			f := filled(t, ok(keySet(jwk("k", rsaKey().Public()))))
			time.Sleep(20 * time.Hour)
			f.change(func(f *fleet) { f.deny, f.slow = true, 100*time.Millisecond })
			away := &source{answer: row.state}
			k := f.replica(t, away)
			if k.Ready() || f.count(looks) != 1 {
				t.Error("New: got the fleet asked, want it left to Run")
			}
			run(t, k)
			synctest.Wait()
			started := time.Now()
			if key, err := k.Find(t.Context(), "k", "RS256", time.Now(), true); key == nil || err != nil || time.Since(started) != 100*time.Millisecond {
				t.Errorf("Find: got %v, %v after %s, want the key as soon as the fleet answered", key, err, time.Since(started))
			}
			if state := k.State(); !state.FromFleet || state.FromState || !state.FetchedAt.Equal(at) || state.AgeSeconds != 72000.1 || state.URL != jwksURL {
				t.Errorf("State: got %+v, want keys from the fleet, read at %s", state, at)
			}
			synctest.Wait()
			if away.fetches() != 1 || f.claimed("fetch/") != 0 {
				t.Errorf("at the start: got %d fetches and %d claims, want 1 without a claim", away.fetches(), f.claimed("fetch/"))
			}
			// max_stale counts from the fetch of the other replica.
			time.Sleep(4*time.Hour - time.Second)
			wantKey(t, k, "k", "RS256", rsaKey().Public())
			time.Sleep(1500 * time.Millisecond)
			if _, err := k.Find(t.Context(), "k", "RS256", time.Now(), false); !errors.Is(err, jwks.ErrUnavailable) {
				t.Errorf("INT-19 24 h after the fetch: got %v, want ErrUnavailable", err)
			}
		})
	}
	in(t, "INT-19 what the fleet lacks is waited for", func(t *testing.T) {
		f := filled(t, ok(keySet(jwk("a", rsaKey().Public()))))
		k := f.replica(t, &source{answer: slowly(900*time.Millisecond, ok(keySet(jwk("b", p256Key().Public()))))})
		run(t, k)
		synctest.Wait()
		at := time.Now()
		wantKeyFetching(t, k, "b", "ES256", true)
		if got := time.Since(at); got != 900*time.Millisecond {
			t.Errorf("wait: got %s, want 900ms", got)
		}
	})
}

func TestFleetSetIsJudgedLikeASavedOne(t *testing.T) {
	good := jwk("k", rsaKey().Public())
	set := func(name string, value any) func(map[string]any) {
		return func(r map[string]any) { r[name] = value }
	}
	later := func(d time.Duration) func(map[string]any) {
		return func(r map[string]any) { r["fetched_at"] = time.Now().Add(d).UTC().Format(time.RFC3339Nano) }
	}
	body := func(b string) func(map[string]any) {
		return set("body", base64.StdEncoding.EncodeToString([]byte(b)))
	}
	for _, row := range []struct {
		name   string
		change func(map[string]any)
		why    string // empty: it is taken
	}{
		{"unchanged", func(map[string]any) {}, ""},
		{"another issuer's", set("issuer", "https://idp.example/realms/CORP"), "another issuer"},
		{"from another address", set("from", "https://idp.example/jwks2"), "another address"},
		{"a minute ahead", later(time.Minute), ""},
		{"from the future", later(time.Minute + time.Second), "yet to come"},
		{"too old", later(-24*time.Hour - time.Second), "max_stale"},
		{"no keys", body(`{"keys":[]}`), "no usable key"},
		{"a symmetric key", body(`{"keys":[{"kty":"oct","k":"AAAA"}]}`), "no usable key"},
		{"too large a set", body(strings.Repeat(" ", 1<<20) + keySet(good)), "more than"},
		{"8 MB", body(strings.Repeat(" ", 6<<20) + keySet(good)), "more than 2097152"},
		{"a member that we don't know", set("more", 1), "JSON"},
	} {
		in(t, "R16 "+row.name, func(t *testing.T) {
			f := filled(t, ok(keySet(good)))
			r := f.record(t)
			row.change(r)
			f.replay(string(must(json.Marshal(r))))
			var log bytes.Buffer
			k := f.replica(t, &source{answer: down}, logTo(&log))
			run(t, k)
			time.Sleep(900 * time.Millisecond)
			synctest.Wait()
			if k.Ready() != (row.why == "") || row.why != "" && !strings.Contains(log.String(), row.why) {
				t.Errorf("got ready %v, log %s, want %q", k.Ready(), log.String(), row.why)
			}
			if got := strings.Count(log.String(), "the fleet"); got != 1 {
				t.Errorf("log lines of the fleet: got %d, want one:\n%s", got, log.String())
			}
		})
	}
	in(t, "R16 not JSON", func(t *testing.T) {
		f := filled(t, ok(keySet(good)))
		for _, value := range []string{"", "null", "[]", "{}x", "\x00"} {
			f.replay(value)
			k := f.replica(t, &source{answer: down})
			run(t, k)
			synctest.Wait()
			if k.Ready() {
				t.Errorf("%q in the fleet: got ready, want not", value)
			}
		}
	})
}

// The store may answer with what was there once, sealed and genuine.
func TestYesterdaysSetRevivesNothing(t *testing.T) {
	a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
	in(t, "R8 a newer set is not given up for it", func(t *testing.T) {
		f := filled(t, ok(keySet(a)))
		f.replay(f.value(t))
		time.Sleep(20 * time.Hour)
		s := &source{answer: ok(keySet(b))}
		k := f.replica(t, s)
		run(t, k)
		synctest.Wait()
		for range 60 {
			wantKey(t, k, "a", "RS256", nil)
			wantKey(t, k, "b", "ES256", p256Key().Public())
			wantKeyFetching(t, k, "a", "ES256", false)
			time.Sleep(time.Minute)
		}
	})
	in(t, "R8 who took it drops it with its first fetch", func(t *testing.T) {
		f := filled(t, ok(keySet(a)))
		f.change(func(f *fleet) { f.frozen, f.deny = true, true })
		time.Sleep(20 * time.Hour)
		s := &source{answer: down}
		k := f.replica(t, s)
		run(t, k)
		time.Sleep(10 * time.Minute)
		wantKey(t, k, "a", "RS256", rsaKey().Public())
		if got := s.fetches(); got < 60 {
			t.Errorf("fetches in 10 minutes: got %d, want the issuer asked all the time", got)
		}
		s.set(ok(keySet(b)))
		time.Sleep(11 * time.Second)
		wantKey(t, k, "a", "RS256", nil)
		if k.State().FromFleet {
			t.Error("State: got keys from the fleet, want the issuer's")
		}
	})
	in(t, "R8 one that is not so old makes no difference to that", func(t *testing.T) {
		f := filled(t, ok(keySet(a)))
		time.Sleep(20 * time.Hour)
		s := &source{answer: down}
		k := f.replica(t, s)
		run(t, k)
		synctest.Wait()
		newer := filled(t, ok(keySet(a))).values
		f.change(func(f *fleet) { f.values, f.frozen, f.deny = newer, true, true })
		time.Sleep(time.Minute)
		s.set(ok(keySet(b)))
		time.Sleep(11 * time.Second)
		wantKey(t, k, "a", "RS256", nil)
	})
	in(t, "R8 nor does it after a restart with a newer one in the file", func(t *testing.T) {
		f := filled(t, ok(keySet(a)))
		f.change(func(f *fleet) { f.frozen = true })
		time.Sleep(time.Hour)
		var file shelf
		file.ranOnce(t, ok(keySet(b)))
		k := f.replica(t, &source{answer: down}, file.with())
		run(t, k)
		time.Sleep(time.Hour)
		wantKey(t, k, "a", "RS256", nil)
		wantKey(t, k, "b", "ES256", p256Key().Public())
	})
}

func TestFileIsAskedBeforeTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
		var file shelf
		file.ranOnce(t, ok(keySet(a)))
		time.Sleep(time.Hour)
		f := filled(t, ok(keySet(b)))
		time.Sleep(time.Hour)
		k := f.replica(t, &source{answer: down}, file.with())
		wantKey(t, k, "a", "RS256", rsaKey().Public())
		run(t, k)
		synctest.Wait()
		wantKey(t, k, "a", "RS256", nil)
		wantKey(t, k, "b", "ES256", p256Key().Public())
		if state := k.State(); state.FromState || !state.FromFleet {
			t.Errorf("State: got %+v, want keys from the fleet", state)
		}
		// What came from the fleet is kept for a restart without one.
		k = fromSource(t, &source{answer: down}, file.with())
		wantKey(t, k, "b", "ES256", p256Key().Public())
		if got := k.State().AgeSeconds; got != 3600 {
			t.Errorf("age after a restart: got %v s, want that of the fetch, 3600", got)
		}
	})
}

// Whoever holds the store can't keep a removed key alive for longer.
func TestRemovedKeyDiesWhateverTheFleetSays(t *testing.T) {
	a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
	for _, row := range []struct {
		name  string
		lie   func(f *fleet)
		bound time.Duration
	}{
		{"it denies every claim and forgets every set", func(f *fleet) { f.deny, f.frozen = true, true }, 10 * time.Minute},
		{"it grants every claim and forgets every set", func(f *fleet) { f.frozen = true }, 5 * time.Minute},
		{"it fails", failing, 5 * time.Minute},
		{"it hangs", hanging, 5*time.Minute + time.Second},
	} {
		in(t, "JWT-15 "+row.name, func(t *testing.T) {
			f := &fleet{}
			s := &source{answer: ok(keySet(a, b))}
			k := f.replica(t, s)
			run(t, k)
			synctest.Wait()
			print := find(t, k, "a", "RS256").Thumbprint
			f.change(row.lie)
			s.set(ok(keySet(b)))
			time.Sleep(row.bound)
			synctest.Wait()
			wantKey(t, k, "a", "RS256", nil)
			wantKey(t, k, "b", "ES256", p256Key().Public())
			if k.Holds(print, "RS256") {
				t.Errorf("Holds after %s: got true for a removed key, want false", row.bound)
			}
		})
	}
	in(t, "INT-19 nor does a short max_stale end before it is renewed", func(t *testing.T) {
		f := &fleet{deny: true, frozen: true}
		k := f.replica(t, &source{answer: ok(keySet(a, b))}, func(c *jwks.Config, _ *jwks.Options) { c.MaxStale = c.Refresh })
		run(t, k)
		synctest.Wait()
		for range 3600 {
			if time.Sleep(time.Second); !k.Ready() {
				t.Fatalf("after %v s: got not ready, want the set renewed", k.State().AgeSeconds)
			}
		}
	})
	// Each set is genuine and newer than the one before, and none is new.
	in(t, "JWT-15 it is late with every set", func(t *testing.T) {
		f, late := &fleet{}, &fleet{deny: true, frozen: true}
		s := &source{answer: ok(keySet(a, b))}
		honest, k := f.replica(t, s), late.replica(t, s)
		run(t, honest)
		run(t, k)
		synctest.Wait()
		values := []string{f.value(t)}
		var theirs map[string]string
		f.change(func(f *fleet) { theirs = maps.Clone(f.values) })
		late.change(func(late *fleet) { late.values = theirs })
		for minute := range 60 {
			if minute == 20 {
				s.set(ok(keySet(b)))
			}
			if minute >= 30 {
				wantKey(t, k, "a", "RS256", nil)
			}
			time.Sleep(time.Minute)
			values = append(values, f.value(t))
			late.replay(values[max(0, minute-8)])
		}
	})
	in(t, "JWT-15 and our clock was set back", func(t *testing.T) {
		var back atomic.Int64
		f := &fleet{}
		s := &source{answer: ok(keySet(a, b))}
		k := f.replica(t, s, func(_ *jwks.Config, o *jwks.Options) {
			o.Now = func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
		})
		run(t, k)
		synctest.Wait()
		back.Store(int64(time.Hour))
		f.change(func(f *fleet) { f.deny, f.frozen = true, true })
		s.set(ok(keySet(b)))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		wantKey(t, k, "a", "RS256", nil)
	})
	in(t, "JWT-15 and our clock stood still", func(t *testing.T) {
		// A machine that was suspended: the wall clock tells what the
		// monotonic one missed.
		var missed atomic.Int64
		f := &fleet{}
		s := &source{answer: ok(keySet(a, b))}
		k := f.replica(t, s, func(_ *jwks.Config, o *jwks.Options) {
			o.Now = func() time.Time { return time.Now().Add(time.Duration(missed.Load())) }
		})
		run(t, k)
		synctest.Wait()
		f.change(func(f *fleet) { f.deny, f.frozen = true, true })
		s.set(ok(keySet(b)))
		missed.Store(int64(time.Hour))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		wantKey(t, k, "a", "RS256", nil)
	})
}

func TestFleetThatIsAwayHoldsUpNothing(t *testing.T) {
	a := jwk("a", rsaKey().Public())
	for _, row := range []struct {
		name string
		away func(*fleet)
		late time.Duration
	}{
		{"fails", failing, 0},
		{"hangs", hanging, 500 * time.Millisecond},
	} {
		in(t, "R16 it "+row.name+" at the start", func(t *testing.T) {
			f := &fleet{}
			f.change(row.away)
			s := &source{answer: ok(keySet(a))}
			at := time.Now()
			k := f.replica(t, s)
			if time.Since(at) != 0 {
				t.Errorf("New: took %s, want no time", time.Since(at))
			}
			run(t, k)
			time.Sleep(row.late)
			synctest.Wait()
			wantKey(t, k, "a", "RS256", rsaKey().Public())
			time.Sleep(time.Hour)
			if got := s.fetches(); got < 12 || got > 15 {
				t.Errorf("fetches in an hour: got %d, want 12 to 15 as without a fleet", got)
			}
		})
		in(t, "R16 it "+row.name+" later", func(t *testing.T) {
			f := &fleet{}
			s := &source{answer: ok(keySet(a))}
			replicas := []*jwks.Keys{f.replica(t, s), f.replica(t, s)}
			for _, k := range replicas {
				run(t, k)
			}
			synctest.Wait()
			f.change(row.away)
			before := s.fetches()
			for range 60 {
				for _, k := range replicas {
					wantKey(t, k, "a", "RS256", rsaKey().Public())
					if got := k.State().AgeSeconds; got > 301 {
						t.Errorf("age: got %v s, want at most Refresh", got)
					}
				}
				time.Sleep(time.Minute)
			}
			if got := s.fetches() - before; got < 23 || got > 30 {
				t.Errorf("fetches in an hour: got %d, want those of two replicas", got)
			}
		})
		in(t, "INT-19 it "+row.name+" and a kid is unknown", func(t *testing.T) {
			f := &fleet{}
			s := &source{answer: ok(keySet(a))}
			k := f.replica(t, s)
			run(t, k)
			synctest.Wait()
			f.change(row.away)
			s.set(slowly(400*time.Millisecond, ok(keySet(a, jwk("b", p256Key().Public())))))
			at := time.Now()
			wantKeyFetching(t, k, "b", "ES256", true)
			if got := time.Since(at); got != row.late+400*time.Millisecond {
				t.Errorf("wait: got %s, want that for the fleet, %s, and the issuer's 400ms", got, row.late)
			}
			// Once it is known to hang nobody waits for it again.
			time.Sleep(time.Minute)
			at = time.Now()
			wantKeyFetching(t, k, "c", "ES256", false)
			if got := time.Since(at); got != 400*time.Millisecond {
				t.Errorf("second wait: got %s, want 400ms", got)
			}
		})
	}
}

// A fleet that has lost a set gets it back before it is due again: a replica that
// starts while its issuer is away needs it.
func TestASetThatTheFleetLostIsPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := &source{answer: ok(keySet(jwk("k", p256Key().Public())))}, &fleet{}
		run(t, f.replica(t, s, func(c *jwks.Config, _ *jwks.Options) { c.Refresh = time.Hour }))
		time.Sleep(time.Minute)
		f.change(func(f *fleet) { clear(f.values) })
		s.set(down)
		time.Sleep(3 * time.Minute)
		k := f.replica(t, s)
		run(t, k)
		synctest.Wait()
		wantKey(t, k, "k", "ES256", p256Key().Public())
	})
}

func TestUnknownKidInAFleet(t *testing.T) {
	old := jwk("old", rsaKey().Public())
	rotated := keySet(old, jwk("new", p256Key().Public()))
	// scene has n replicas with a source each, all at rest.
	scene := func(t *testing.T, n int) (*fleet, []*source, []*jwks.Keys) {
		f := &fleet{}
		sources, replicas := make([]*source, n), make([]*jwks.Keys, n)
		for i := range n {
			sources[i] = &source{answer: ok(keySet(old))}
			replicas[i] = f.replica(t, sources[i])
			run(t, replicas[i])
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		return f, sources, replicas
	}
	total := func(sources []*source) (n int) {
		for _, s := range sources {
			n += s.fetches() - 1
		}
		return n
	}
	flood := func(t *testing.T, round int, replicas []*jwks.Keys) {
		var wg sync.WaitGroup
		for i, k := range replicas {
			for j := range 400 {
				wg.Go(func() { wantKeyFetching(t, k, fmt.Sprint(round, "-", i, "-", j), "RS256", false) })
			}
		}
		wg.Wait()
	}
	in(t, "JWT-12 a flood costs one fetch per cooldown of all replicas", func(t *testing.T) {
		f, sources, replicas := scene(t, 5)
		before := f.count(looks)
		for second := range 30 {
			flood(t, second, replicas)
			if got := total(sources); got > 1 {
				t.Fatalf("fetches of all replicas within %d s: got %d, want 1", second, got)
			}
			time.Sleep(time.Second - time.Since(time.Now().Truncate(time.Second)))
		}
		if got := f.count(looks) - before; got > 5*(31+7) { // and one in 5 s to see that the fleet has the set
			t.Errorf("looks in 30 s: got %d, want at most one per second and replica", got)
		}
		if got := total(sources); got != 1 {
			t.Errorf("fetches: got %d, want 1", got)
		}
		time.Sleep(time.Second)
		flood(t, 31, replicas)
		if got := total(sources); got != 2 {
			t.Errorf("fetches after the cooldown: got %d, want 2", got)
		}
	})
	in(t, "JWT-12 while the fleet is away, one per replica", func(t *testing.T) {
		f, sources, replicas := scene(t, 5)
		f.change(failing)
		for second := range 29 {
			flood(t, second, replicas)
			time.Sleep(time.Second)
		}
		if got := total(sources); got != 5 {
			t.Errorf("fetches: got %d, want 5", got)
		}
	})
	in(t, "JWT-12 a fleet that grants every claim opens no flood", func(t *testing.T) {
		f, sources, replicas := scene(t, 1)
		for second := range 29 {
			flood(t, second, replicas)
			time.Sleep(time.Second)
			f.change(func(f *fleet) { f.claims = nil })
		}
		if got := total(sources); got != 1 {
			t.Errorf("fetches: got %d, want 1", got)
		}
		// Who may not fetch must not spend what others could.
		if got := f.claimed("kid/"); got != 1 {
			t.Errorf("claims: got %d, want 1", got)
		}
	})
	in(t, "K9 JWT-12 what one replica fetched the others find without network", func(t *testing.T) {
		_, sources, replicas := scene(t, 5)
		sources[0].set(ok(rotated))
		for _, s := range sources[1:] {
			s.set(down)
		}
		if err := replicas[0].Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		at := time.Now()
		for _, k := range replicas[1:] {
			wantKeyFetching(t, k, "new", "ES256", true)
		}
		if got := total(sources); got != 1 || time.Since(at) != 0 {
			t.Errorf("got %d fetches, %s, want 1 and no wait", got, time.Since(at))
		}
	})
	in(t, "K9 JWT-12 also in a flood, within 2 s", func(t *testing.T) {
		_, sources, replicas := scene(t, 2)
		flood(t, 0, replicas) // spends the fetch of all replicas
		time.Sleep(time.Second)
		sources[0].set(ok(rotated))
		sources[1].set(down)
		if err := replicas[0].Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			time.Sleep(time.Second)
			flood(t, 1, replicas[1:])
		}
		wantKeyFetching(t, replicas[1], "new", "ES256", true)
	})
	in(t, "JWT-12 who is denied the claim can have it as soon as it is over", func(t *testing.T) {
		_, sources, replicas := scene(t, 2)
		wantKeyFetching(t, replicas[0], "random", "ES256", false)
		time.Sleep(29 * time.Second)
		sources[1].set(ok(rotated))
		wantKeyFetching(t, replicas[1], "new", "ES256", false)
		time.Sleep(time.Second)
		wantKeyFetching(t, replicas[1], "new", "ES256", true)
	})
	in(t, "K9 a kid proved unknown is not looked for", func(t *testing.T) {
		f, _, replicas := scene(t, 1)
		wantKeyFetching(t, replicas[0], "gone", "ES256", false)
		before := f.count(looks)
		for range 20 {
			time.Sleep(time.Second)
			wantKeyFetching(t, replicas[0], "gone", "ES256", false)
		}
		if got := f.count(looks) - before; got > 5 { // only to see that the fleet has the set
			t.Errorf("looks: got %d, want none for the kid", got)
		}
	})
	in(t, "K9 a flight that leaves the fetch to another replica tells nothing of a kid", func(t *testing.T) {
		left := make(chan struct{})
		s := &source{answer: ok(keySet(old))}
		k := fromSource(t, s, func(_ *jwks.Config, o *jwks.Options) { o.Fleet = takenFleet{&fleet{}, left} })
		run(t, k)
		synctest.Wait()
		s.set(ok(rotated))
		<-left
		wantKeyFetching(t, k, "new", "ES256", true)
		if got := s.fetches(); got != 2 {
			t.Errorf("fetches: got %d, want 2", got)
		}
	})
	in(t, "JWT-20 without leave nothing is looked for", func(t *testing.T) {
		f, _, replicas := scene(t, 1)
		before := f.count(looks)
		wantKey(t, replicas[0], "new", "ES256", nil)
		if got := f.count(looks) - before; got > 5 { // only to see that the fleet has the set
			t.Errorf("looks: got %d, want none for the kid", got)
		}
	})
}

// A look at the fleet is no fetch: who asked for one must get it.
func TestRefreshAsksTheSourceWhateverTheFleetHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{}
		s := &source{answer: ok(keySet(jwk("a", rsaKey().Public())))}
		k := f.replica(t, s)
		run(t, k)
		synctest.Wait()
		time.Sleep(time.Minute)
		hold := make(chan struct{})
		f.change(func(f *fleet) { f.deny, f.hold = true, hold })
		go wantKeyFetching(t, k, "new", "ES256", false)
		synctest.Wait() // it looks
		refreshed := make(chan error)
		go func() { refreshed <- k.Refresh(t.Context()) }()
		synctest.Wait()
		f.change(func(f *fleet) { f.hold = nil })
		close(hold)
		if err := <-refreshed; err != nil || s.fetches() != 2 {
			t.Errorf("Refresh: got %v and %d fetches, want none and 2", err, s.fetches())
		}
	})
}

func TestDiscoveredKeysAreShared(t *testing.T) {
	const metadataURL = issuer + "/.well-known/openid-configuration"
	byDiscovery := func(c *jwks.Config, _ *jwks.Options) { c.JWKSURL, c.Discover = "", true }
	site := func(address, set string) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			switch r.URL.String() {
			case metadataURL:
				return ok(`{"issuer":"` + issuer + `","jwks_uri":"` + address + `"}`)(r)
			case address:
				return ok(set)(r)
			}
			return reply(http.StatusNotFound, "")(r)
		}
	}
	a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
	in(t, "R15 the address serves while discovery is away", func(t *testing.T) {
		f := filled(t, site(jwksURL, keySet(a)), byDiscovery)
		s := &source{answer: func(r *http.Request) (*http.Response, error) {
			if r.URL.String() == jwksURL {
				return ok(keySet(a, b))(r)
			}
			return down(r)
		}}
		k := f.replica(t, s, byDiscovery)
		run(t, k)
		synctest.Wait()
		wantKey(t, k, "b", "ES256", p256Key().Public())
	})
	in(t, "R15 an issuer that moved is followed", func(t *testing.T) {
		f := &fleet{}
		s := &source{answer: site(jwksURL, keySet(a))}
		one, two := f.replica(t, s, byDiscovery), f.replica(t, s, byDiscovery)
		run(t, one)
		run(t, two)
		synctest.Wait()
		s.set(site("https://idp.example/moved", keySet(b)))
		time.Sleep(5*time.Minute + 11*time.Second)
		for _, k := range []*jwks.Keys{one, two} {
			wantKey(t, k, "a", "RS256", nil)
			wantKey(t, k, "b", "ES256", p256Key().Public())
			if got := k.State().URL; got != "https://idp.example/moved" {
				t.Errorf("State.URL: got %q, want the new one", got)
			}
		}
	})
}

// The old address may go on serving what it served.
func TestAddressThatAnotherReplicaFoundIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const moved = "https://idp.example/moved"
		byDiscovery := func(c *jwks.Config, _ *jwks.Options) { c.JWKSURL, c.Discover = "", true }
		a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
		var address atomic.Value
		address.Store(jwksURL)
		s := &source{answer: func(r *http.Request) (*http.Response, error) {
			switch r.URL.String() {
			case jwksURL:
				return ok(keySet(a))(r)
			case moved:
				return ok(keySet(b))(r)
			}
			return ok(`{"issuer":"` + issuer + `","jwks_uri":"` + address.Load().(string) + `"}`)(r)
		}}
		f := &fleet{}
		k := f.replica(t, s, byDiscovery)
		run(t, k)
		synctest.Wait()
		address.Store(moved)
		time.Sleep(time.Minute)
		newer := filled(t, s.answer, byDiscovery).values
		f.change(func(f *fleet) { f.values = newer })
		wantKeyFetching(t, k, "b", "ES256", true)
		for range 60 {
			time.Sleep(time.Minute)
			wantKey(t, k, "a", "RS256", nil)
			wantKey(t, k, "b", "ES256", p256Key().Public())
		}
	})
}

// A reload takes over what is held; what it took from the fleet stays that.
func TestFleetSetIsTakenOverByAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := filled(t, ok(keySet(jwk("a", rsaKey().Public()))))
		before := f.replica(t, &source{answer: down})
		run(t, before)
		synctest.Wait()
		s := &source{answer: ok(keySet(jwk("b", p256Key().Public())))}
		k := f.replica(t, s, func(_ *jwks.Config, o *jwks.Options) { o.Before = before })
		wantKey(t, k, "a", "RS256", rsaKey().Public())
		if !k.State().FromFleet {
			t.Error("State: got nothing of the fleet, want it told")
		}
		run(t, k)
		synctest.Wait()
		wantKey(t, k, "b", "ES256", p256Key().Public())
		if s.fetches() != 1 {
			t.Errorf("fetches after the reload: got %d, want 1", s.fetches())
		}
	})
}

func TestFleetIsMeasuredAndLoggedOnce(t *testing.T) {
	registry := prometheus.NewRegistry()
	exporter := must(otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo()))
	provider := sdk.NewMeterProvider(sdk.WithReader(exporter))
	defer func() { _ = provider.Shutdown(context.Background()) }()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := &fleet{}
		s := &source{answer: ok(keySet(jwk("k", rsaKey().Public())))}
		k := f.replica(t, s, logTo(&log), func(_ *jwks.Config, o *jwks.Options) { o.Meter = provider.Meter("test") })
		run(t, k)
		synctest.Wait()
		run(t, f.replica(t, s))
		time.Sleep(time.Hour)
		f.change(func(f *fleet) { f.deny = true })
		time.Sleep(time.Hour)
		f.change(func(f *fleet) { f.deny, f.err = false, errors.New("connection refused") })
		time.Sleep(time.Hour)
		f.change(func(f *fleet) { f.err = nil })
		time.Sleep(time.Hour)
		f.replay("x")
		time.Sleep(time.Hour)
		synctest.Wait()
		for line, want := range map[string]int{
			"the fleet is of no use": 2, "the fleet is of use": 1,
			"can't be shared": 1, "can be shared": 1, "keys read": 1, "\n": 6,
		} {
			if got := strings.Count(log.String(), line); got != want {
				t.Errorf("log lines with %q: got %d, want %d, log:\n%s", line, got, want, log.String())
			}
		}
		got := gathered(t, registry)
		for _, name := range []string{
			"load,result=done", "load,result=nothing", "load,result=not_newer", "load,result=refused", "load,result=failed",
			"save,result=done", "save,result=failed", "claim,result=done", "claim,result=denied",
		} {
			if got["introspectd_jwks_fleet_total{issuer=corp,operation="+name+"}"] == 0 {
				t.Errorf("metric of %s: got none, want some, in %v", name, slices.Sorted(maps.Keys(got)))
			}
		}
	})
}
