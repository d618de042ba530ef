package jwks_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"introspectd/internal/jwks"
)

// shelf is a Store that outlives the keys of a test.
type shelf struct {
	mu      sync.Mutex
	values  map[string]string
	expires time.Time
	puts    int
	err     error         // of everything
	hold    chan struct{} // when set, Put waits until it is closed
}

func (s *shelf) Get(name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.values[name]; ok && s.err == nil {
		return []byte(v), nil
	}
	return nil, s.err
}

func (s *shelf) Put(name string, value []byte, expires time.Time) error {
	if s.hold != nil {
		<-s.hold
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	if s.err != nil {
		return s.err
	}
	if s.values == nil {
		s.values = map[string]string{}
	}
	s.values[name], s.expires = string(value), expires
	return nil
}

func (s *shelf) saves() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts
}

// record is the one value of the shelf, to look at and to change.
func (s *shelf) record(t *testing.T) map[string]any {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.values) != 1 {
		t.Fatalf("values on the shelf: got %d, want 1", len(s.values))
	}
	var r map[string]any
	for _, v := range s.values {
		if err := json.Unmarshal([]byte(v), &r); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// replace puts value in place of every one there is.
func (s *shelf) replace(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.values {
		s.values[name] = value
	}
}

func (s *shelf) with() func(*jwks.Config, *jwks.Options) {
	return func(_ *jwks.Config, o *jwks.Options) { o.Store = s }
}

// ranOnce runs keys for one fetch from answer, so that they are saved.
func (s *shelf) ranOnce(t *testing.T, answer func(*http.Request) (*http.Response, error), change ...func(*jwks.Config, *jwks.Options)) {
	t.Helper()
	k := fromSource(t, &source{answer: answer}, append(change, s.with())...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	synctest.Wait()
	cancel()
	<-done
}

func TestSavedKeysAreUsableBeforeAnyFetch(t *testing.T) {
	for _, row := range []struct {
		name  string
		state func(*http.Request) (*http.Response, error)
	}{{"refuses", down}, {"hangs", hang}, {"answers 500", reply(500, "")}, {"has no keys", ok(`{"keys":[]}`)}} {
		t.Run("R15 the issuer "+row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s shelf
				s.ranOnce(t, ok(keySet(jwk("k", rsaKey().Public()))))
				at := time.Now()
				time.Sleep(20 * time.Hour)

				away := &source{answer: row.state}
				k := fromSource(t, away, s.with())
				if !k.Ready() || away.fetches() != 0 {
					t.Errorf("after New: got ready %v and %d fetches, want ready and none", k.Ready(), away.fetches())
				}
				wantKey(t, k, "k", "RS256", rsaKey().Public())
				state := k.State()
				if !state.FromState || !state.FetchedAt.Equal(at) || state.AgeSeconds != 72000 || state.URL != jwksURL || state.Source != "jwks_url" {
					t.Errorf("State: got %+v, want keys from the state, read at %s", state, at)
				}
				run(t, k)
				synctest.Wait()
				if away.fetches() != 1 {
					t.Errorf("fetches at the start: got %d, want 1", away.fetches())
				}
				// max_stale counts from the fetch, not from the restart.
				time.Sleep(4*time.Hour - time.Second)
				wantKey(t, k, "k", "RS256", rsaKey().Public())
				time.Sleep(2 * time.Second)
				if _, err := k.Find(t.Context(), "k", "RS256", time.Now(), false); !errors.Is(err, jwks.ErrUnavailable) {
					t.Errorf("INT-19 24 h after the fetch: got %v, want ErrUnavailable", err)
				}
			})
		})
	}
}

func TestFirstFetchTakesOverFromTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shelf
		var log bytes.Buffer
		a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
		s.ranOnce(t, ok(keySet(a), "ETag", `"1"`))
		time.Sleep(time.Hour)

		// Unchanged: asked with the saved ETag, which renews the age.
		var condition string
		k := fromSource(t, &source{answer: func(r *http.Request) (*http.Response, error) {
			condition = r.Header.Get("If-None-Match")
			return reply(http.StatusNotModified, "")(r)
		}}, s.with())
		run(t, k)
		synctest.Wait()
		if state := k.State(); condition != `"1"` || state.FromState || state.AgeSeconds != 0 {
			t.Errorf("after 304: got condition %q and %+v, want the saved one and a new age", condition, state)
		}
		if got := s.record(t)["fetched_at"]; got != time.Now().UTC().Format(time.RFC3339Nano) {
			t.Errorf("saved time after 304: got %v, want now", got)
		}

		// Changed: the new set is all there is, here and after the next restart.
		k = fromSource(t, &source{answer: ok(keySet(b))}, s.with(), func(_ *jwks.Config, o *jwks.Options) {
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
		})
		wantKey(t, k, "a", "RS256", rsaKey().Public())
		run(t, k)
		synctest.Wait()
		for _, keys := range []*jwks.Keys{k, fromSource(t, &source{answer: down}, s.with())} {
			wantKey(t, keys, "a", "RS256", nil)
			wantKey(t, keys, "b", "ES256", p256Key().Public())
		}
		for _, line := range []string{"keys taken from the state", "keys changed"} {
			if strings.Count(log.String(), line) != 1 {
				t.Errorf("log: got %s, want one line %q", log.String(), line)
			}
		}
		if !s.expires.Equal(time.Now().Add(24 * time.Hour).UTC()) {
			t.Errorf("the value's end: got %s, want 24 h from now", s.expires)
		}
	})
}

func TestSavedKeysAreRefused(t *testing.T) {
	good := jwk("k", rsaKey().Public())
	encoded := func(body string) string { return base64.StdEncoding.EncodeToString([]byte(body)) }
	set := func(name string, value any) func(map[string]any) {
		return func(r map[string]any) { r[name] = value }
	}
	later := func(d time.Duration) func(map[string]any) {
		return func(r map[string]any) { r["fetched_at"] = time.Now().Add(d).UTC().Format(time.RFC3339Nano) }
	}
	for _, row := range []struct {
		name   string
		change func(map[string]any)
		why    string // empty: they are taken
	}{
		{"unchanged", func(map[string]any) {}, ""},
		{"another issuer's", set("issuer", "https://idp.example/realms/CORP"), "another issuer"},
		{"from another address", set("from", "https://idp.example/jwks2"), "another address"},
		{"from no address", set("from", ""), "address"},
		{"from plain http", set("from", "http://idp.example/jwks"), "address"},
		{"from a metadata service", set("from", "https://169.254.169.254/jwks"), "address"},
		{"a minute ahead", later(time.Minute), ""},
		{"from the future", later(time.Minute + time.Second), "yet to come"},
		{"as old as may be", later(-24 * time.Hour), ""},
		{"too old", later(-24*time.Hour - time.Second), "max_stale"},
		{"without a time", func(r map[string]any) { delete(r, "fetched_at") }, "max_stale"},
		{"no keys", set("body", encoded(`{"keys":[]}`)), "no usable key"},
		{"a symmetric key", set("body", encoded(`{"keys":[{"kty":"oct","k":"AAAA"}]}`)), "no usable key"},
		{"not a set", set("body", encoded(`<html>`)), "not a JSON object"},
		{"data after the set", set("body", encoded(keySet(good)+"x")), "data after"},
		{"too large a set", set("body", encoded(strings.Repeat(" ", 1<<20)+keySet(good))), "more than"},
		{"no body", func(r map[string]any) { delete(r, "body") }, "not a JSON object"},
		{"a member that we don't know", set("more", 1), "JSON"},
		{"a number as the issuer", set("issuer", 1), "JSON"},
	} {
		t.Run("R15 "+row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s shelf
				var log bytes.Buffer
				s.ranOnce(t, ok(keySet(good)))
				r := s.record(t)
				row.change(r)
				s.replace(string(must(json.Marshal(r))))
				k := fromSource(t, &source{answer: ok(keySet(good))}, s.with(), func(_ *jwks.Config, o *jwks.Options) {
					o.Log = slog.New(slog.NewTextHandler(&log, nil))
				})
				if k.Ready() != (row.why == "") || row.why != "" && !strings.Contains(log.String(), row.why) {
					t.Errorf("after New: got ready %v, log %s, want %q", k.Ready(), log.String(), row.why)
				}
				// Whatever was there, the issuer has the last word.
				if err := k.Refresh(t.Context()); err != nil {
					t.Errorf("Refresh: got %v, want no error", err)
				}
				wantKey(t, k, "k", "RS256", rsaKey().Public())
			})
		})
	}
	t.Run("R15 not JSON", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var s shelf
			s.ranOnce(t, ok(keySet(good)))
			for _, value := range []string{"", "null", "[]", "{}x", "\x00"} {
				s.replace(value)
				if fromSource(t, &source{answer: down}, s.with()).Ready() {
					t.Errorf("%q on the shelf: got ready, want not", value)
				}
			}
		})
	})
}

func TestSavedKeysBelongToTheirConfiguration(t *testing.T) {
	site := newSite(t, (*httptest.Server).StartTLS)
	ca := roots(t, site.Server)
	for _, row := range []struct {
		name   string
		change func(*jwks.Config, *jwks.Options)
		taken  bool
	}{
		{"the same", func(*jwks.Config, *jwks.Options) {}, true},
		{"other times", func(c *jwks.Config, _ *jwks.Options) { c.Refresh = time.Minute }, true},
		{"another name", func(_ *jwks.Config, o *jwks.Options) { o.Name = "renamed" }, true},
		{"another issuer", func(_ *jwks.Config, o *jwks.Options) { o.Issuer += "/" }, false},
		{"another address", func(c *jwks.Config, _ *jwks.Options) { c.JWKSURL += "2" }, false},
		{"discovery", func(c *jwks.Config, _ *jwks.Options) { c.JWKSURL, c.Discover = "", true }, false},
		{"other roots", func(c *jwks.Config, _ *jwks.Options) { c.CA = ca }, false},
		{"less max_stale", func(c *jwks.Config, _ *jwks.Options) { c.MaxStale = 59 * time.Minute }, false},
	} {
		t.Run("R15 "+row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s shelf
				s.ranOnce(t, ok(keySet(jwk("k", rsaKey().Public()))))
				time.Sleep(time.Hour)
				if got := fromSource(t, &source{answer: down}, s.with(), row.change).Ready(); got != row.taken {
					t.Errorf("keys at hand: got %v, want %v", got, row.taken)
				}
			})
		})
	}
	t.Run("R15 http that is no longer allowed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			allow := func(c *jwks.Config, _ *jwks.Options) { c.JWKSURL, c.Discover, c.AllowHTTP = "", true, true }
			var s shelf
			plain := func(r *http.Request) (*http.Response, error) {
				if strings.HasSuffix(r.URL.Path, "/jwks") {
					return ok(keySet(jwk("k", rsaKey().Public())))(r)
				}
				return ok(`{"issuer":"http://idp.example","jwks_uri":"http://idp.example/jwks"}`)(r)
			}
			over := func(_ *jwks.Config, o *jwks.Options) { o.Issuer = "http://idp.example" }
			s.ranOnce(t, plain, allow, over)
			if !fromSource(t, &source{answer: down}, s.with(), allow, over).Ready() {
				t.Fatal("while it is allowed: got no keys, want some")
			}
			// The same record for an https issuer: the address drops to http.
			r := s.record(t)
			var https shelf
			https.ranOnce(t, func(r *http.Request) (*http.Response, error) {
				if strings.HasSuffix(r.URL.Path, "/jwks") {
					return ok(keySet(jwk("k", rsaKey().Public())))(r)
				}
				return ok(`{"issuer":"` + issuer + `","jwks_uri":"https://idp.example/jwks"}`)(r)
			}, allow)
			if !fromSource(t, &source{answer: down}, https.with(), allow).Ready() {
				t.Fatal("over https: got no keys, want some")
			}
			r["issuer"] = issuer
			https.replace(string(must(json.Marshal(r))))
			if fromSource(t, &source{answer: down}, https.with(), allow).Ready() {
				t.Error("an https issuer's keys from http: got them taken, want them refused")
			}
		})
	})
}

func TestSavedAddressServesWhileDiscoveryIsAway(t *testing.T) {
	const metadataPath = "/.well-known/openid-configuration"
	site := newSite(t, (*httptest.Server).StartTLS)
	good := metadata(site.URL, site.URL+"/jwks")
	site.page(metadataPath, good)
	site.page("/jwks", text(keySet(jwk("a", rsaKey().Public()))))
	site.page("/moved", text(keySet(jwk("c", edKey().Public()))))
	var s shelf
	cfg := jwks.Config{Discover: true, CA: roots(t, site.Server)}
	restarted := func() *jwks.Keys {
		return must(jwks.New(cfg, jwks.Options{Name: "corp", Issuer: site.URL, Store: &s}))
	}
	k := restarted()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done

	release := make(chan struct{})
	for _, row := range []struct {
		name string
		page http.HandlerFunc
	}{
		{"answers 500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
		{"hangs", func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}},
	} {
		t.Run("R15 discovery "+row.name, func(t *testing.T) {
			site.page(metadataPath, row.page)
			site.page("/jwks", text(keySet(jwk("a", rsaKey().Public()), jwk("b", p256Key().Public()))))
			k := restarted()
			wantKey(t, k, "a", "RS256", rsaKey().Public())
			if got, want := k.State().URL, site.URL+"/jwks"; got != want {
				t.Errorf("State.URL: got %q, want %q", got, want)
			}
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatalf("Refresh: got %v, want no error", err)
			}
			wantKey(t, k, "b", "ES256", p256Key().Public())
		})
	}
	close(release)
	t.Run("R15 discovery is there: an issuer that moved is followed", func(t *testing.T) {
		site.page(metadataPath, metadata(site.URL, site.URL+"/moved"))
		k := restarted()
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantKey(t, k, "a", "RS256", nil)
		wantKey(t, k, "c", "EdDSA", edKey().Public())
	})
}

// Only an issuer at a private address may name one.
func TestSavedPrivateAddressNeedsItsMark(t *testing.T) {
	site := newSite(t, (*httptest.Server).StartTLS)
	site.page("/.well-known/openid-configuration", metadata(site.URL, site.URL+"/jwks"))
	site.page("/jwks", text(keySet(jwk("k", rsaKey().Public()))))
	var s shelf
	cfg := jwks.Config{Discover: true, CA: roots(t, site.Server)}
	o := jwks.Options{Name: "corp", Issuer: site.URL, Store: &s}
	k := must(jwks.New(cfg, o))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	r := s.record(t)
	if r["inside"] != true || !must(jwks.New(cfg, o)).Ready() {
		t.Fatalf("saved: got %v, want it marked and taken", r["inside"])
	}
	delete(r, "inside")
	s.replace(string(must(json.Marshal(r))))
	if must(jwks.New(cfg, o)).Ready() {
		t.Error("JWT-14 a private address without the mark: got it taken, want it refused")
	}
}

func TestConfirmationsAreSavedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shelf
		a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
		src := &source{answer: ok(keySet(a))}
		k := fromSource(t, src, s.with(), func(c *jwks.Config, _ *jwks.Options) { c.Refresh = 10 * time.Second })
		run(t, k)
		time.Sleep(10*time.Minute + time.Second)
		if got := s.saves(); got < 9 || got > 11 || src.fetches() < 60 {
			t.Errorf("saves in 10 minutes: got %d of %d fetches, want 9 to 11 of at least 60", got, src.fetches())
		}
		src.set(ok(keySet(a, b)))
		before := s.saves()
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := s.saves() - before; got != 1 {
			t.Errorf("saves of a changed set: got %d, want 1 at once", got)
		}
		src.set(down)
		before = s.saves()
		time.Sleep(10 * time.Minute)
		if got := s.saves() - before; got != 0 {
			t.Errorf("saves while the source is away: got %d, want none", got)
		}
	})
}

func TestShortMaxStaleIsSavedMoreOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shelf
		src := &source{answer: ok(keySet(jwk("a", rsaKey().Public())))}
		short := func(c *jwks.Config, _ *jwks.Options) { c.Refresh, c.MaxStale = 5*time.Second, 40*time.Second }
		run(t, fromSource(t, src, s.with(), short))
		time.Sleep(5 * time.Minute)
		if !fromSource(t, &source{answer: down}, s.with(), short).Ready() {
			t.Error("after a restart: got no keys, want those of at most 40 s ago")
		}
	})
}

func TestFailingStoreIsNobodysError(t *testing.T) {
	registry := prometheus.NewRegistry()
	exporter := must(otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo()))
	provider := sdk.NewMeterProvider(sdk.WithReader(exporter))
	defer func() { _ = provider.Shutdown(context.Background()) }()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := shelf{err: errors.New("no space left on device")}
		change := func(_ *jwks.Config, o *jwks.Options) {
			o.Log, o.Meter = slog.New(slog.NewTextHandler(&log, nil)), provider.Meter("test")
		}
		k := fromSource(t, &source{answer: ok(keySet(jwk("k", rsaKey().Public())))}, s.with(), change)
		run(t, k)
		time.Sleep(20 * time.Minute)
		wantKey(t, k, "k", "RS256", rsaKey().Public())
		if state := k.State(); state.LastError != "" || state.FromState {
			t.Errorf("State: got %+v, want no error and keys of the issuer", state)
		}
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		for _, line := range []string{"saved keys can't be read", "keys can't be saved", "keys can be saved again"} {
			if got := strings.Count(log.String(), line); got != 1 {
				t.Errorf("log lines with %q: got %d, want 1, log:\n%s", line, got, log.String())
			}
		}
		fromSource(t, &source{answer: down}, s.with(), change)
		s.replace("x")
		fromSource(t, &source{answer: down}, s.with(), change)
		fromSource(t, &source{answer: down}, func(_ *jwks.Config, o *jwks.Options) { o.Store = &shelf{} }, change)

		got := gathered(t, registry)
		maps.DeleteFunc(got, func(name string, _ float64) bool { return !strings.Contains(name, "jwks_state") })
		for _, name := range []string{"load,result=failed", "load,result=done", "load,result=refused", "load,result=nothing", "save,result=done", "save,result=failed"} {
			if got["introspectd_jwks_state_total{issuer=corp,operation="+name+"}"] == 0 {
				t.Errorf("metric of %s: got none, want some, in %v", name, slices.Sorted(maps.Keys(got)))
			}
		}
	})
}

// A disk that hangs must not keep a changed set from anybody.
func TestHangingStoreHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shelf{hold: make(chan struct{})}
		a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
		src := &source{answer: ok(keySet(a))}
		k := fromSource(t, src, s.with())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			k.Run(ctx)
		}()
		synctest.Wait()
		for _, body := range []string{keySet(a), keySet(b), keySet(a, b)} {
			time.Sleep(2 * time.Minute)
			src.set(ok(body))
			if err := k.Refresh(t.Context()); err != nil {
				t.Errorf("Refresh: got %v, want no error", err)
			}
		}
		wantKey(t, k, "b", "ES256", p256Key().Public())
		cancel()
		close(s.hold)
		<-done
		k = fromSource(t, &source{answer: down}, s.with())
		wantKey(t, k, "a", "RS256", rsaKey().Public())
		wantKey(t, k, "b", "ES256", p256Key().Public())
		if got := s.saves(); got != 2 {
			t.Errorf("saves: got %d, want 2: the one that hung and the latest set", got)
		}
	})
}

func TestKeysFromFilesAreNotSaved(t *testing.T) {
	var s shelf
	path := write(t, "keys.json", keySet(jwk("k", rsaKey().Public())))
	k := must(jwks.New(jwks.Config{Files: []jwks.File{{Path: path}}}, jwks.Options{Name: "corp", Issuer: issuer, Store: &s}))
	run(t, k)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := k.Refresh(t.Context()); err != nil || s.saves() != 0 {
		t.Errorf("after Refresh: got %v and %d saves, want none", err, s.saves())
	}
}
