package jwks_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"introspectd/internal/jwks"
)

func discovering(t *testing.T, s *site, issuer string, change ...func(*jwks.Config)) *jwks.Keys {
	t.Helper()
	cfg := jwks.Config{Discover: true}
	if s.TLS != nil {
		cfg.CA = roots(t, s.Server)
	}
	for _, c := range change {
		c(&cfg)
	}
	k, err := jwks.New(cfg, jwks.Options{Name: "corp", Issuer: issuer})
	if err != nil {
		t.Fatalf("New: got %v, want no error", err)
	}
	return k
}

func TestDiscoveryTriesTheFormsInOrder(t *testing.T) {
	const (
		oidc     = "/realms/corp/.well-known/openid-configuration"
		inserted = "/.well-known/oauth-authorization-server/realms/corp"
		third    = "/.well-known/openid-configuration/realms/corp"
	)
	for _, row := range []struct {
		name, path string
		issuer     string // after the host
		asked      []string
	}{
		{"OpenID Connect", oidc, "/realms/corp", []string{oidc, "/jwks"}},
		{"RFC 8414", inserted, "/realms/corp", []string{oidc, inserted, "/jwks"}},
		{"OpenID Connect, inserted", third, "/realms/corp", []string{oidc, inserted, third, "/jwks"}},
		{"a slash at the end", oidc, "/realms/corp/", []string{oidc, "/jwks"}},
		{"no path", "/.well-known/oauth-authorization-server", "", []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/jwks"}},
	} {
		t.Run("MET-03 "+row.name, func(t *testing.T) {
			s := newSite(t, (*httptest.Server).Start)
			s.page(row.path, metadata(s.URL+row.issuer, s.URL+"/jwks"))
			s.page("/jwks", text(keySet(jwk("k", edKey().Public()))))
			k := discovering(t, s, s.URL+row.issuer)
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatalf("Refresh: got %v, want no error", err)
			}
			wantKey(t, k, "k", "EdDSA", edKey().Public())
			if !slices.Equal(s.asked, row.asked) {
				t.Errorf("asked: got %q, want %q", s.asked, row.asked)
			}
			if got, want := k.State().URL, s.URL+"/jwks"; got != want {
				t.Errorf("State.URL: got %q, want %q", got, want)
			}
		})
	}
}

func TestDiscoveryRefusesADocumentNotInOrder(t *testing.T) {
	s := newSite(t, (*httptest.Server).Start)
	s.page("/jwks", text(keySet(jwk("k", edKey().Public()))))
	good := `{"issuer":"` + s.URL + `","jwks_uri":"` + s.URL + `/jwks"}`
	for _, row := range []struct{ name, body, why string }{
		{"another issuer", strings.Replace(good, s.URL, "https://evil.example", 1), "issuer"},
		{"a slash more", strings.Replace(good, s.URL, s.URL+"/", 1), "issuer"},
		{"issuer in another case", strings.Replace(good, "http", "HTTP", 1), "issuer"},
		{"issuer twice", `{"issuer":"x",` + good[1:], "JSON"},
		{"issuer missing", `{"jwks_uri":"` + s.URL + `/jwks"}`, "issuer"},
		{"issuer a number", strings.Replace(good, `"`+s.URL+`"`, "1", 1), "issuer"},
		{"ISSUER", strings.Replace(good, "issuer", "ISSUER", 1), "issuer"},
		{"jwks_uri missing", `{"issuer":"` + s.URL + `"}`, "jwks_uri"},
		{"jwks_uri null", `{"issuer":"` + s.URL + `","jwks_uri":null}`, "jwks_uri"},
		{"jwks_uri not absolute", `{"issuer":"` + s.URL + `","jwks_uri":"/jwks"}`, "jwks_uri"},
		{"jwks_uri a file", `{"issuer":"` + s.URL + `","jwks_uri":"file:///etc/passwd"}`, "jwks_uri"},
		{"jwks_uri plain http beyond loopback", `{"issuer":"` + s.URL + `","jwks_uri":"http://idp.example/jwks"}`, "jwks_uri"},
		{"data after it", good + "x", "JSON"},
		{"an array", `[` + good + `]`, "JSON"},
		{"HTML", `<html>`, "JSON"},
	} {
		t.Run("MET-03 "+row.name, func(t *testing.T) {
			s.page("/.well-known/openid-configuration", text(row.body))
			wantFailure(t, discovering(t, s, s.URL), row.why)
		})
	}
	t.Run("MET-03 a redirect", func(t *testing.T) {
		s.page("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		})
		s.page("/elsewhere", text(good))
		wantFailure(t, discovering(t, s, s.URL), "status 302")
	})
	if got := s.visits("/jwks"); got != 0 {
		t.Errorf("visits to jwks_uri: got %d, want 0", got)
	}
}

func TestDiscoveryNeverDropsToHTTP(t *testing.T) {
	plain := newSite(t, (*httptest.Server).Start)
	plain.page("/jwks", text(keySet(jwk("k", edKey().Public()))))
	for _, allow := range []bool{false, true} {
		t.Run("MET-03 JWT-14 https issuer, http jwks_uri", func(t *testing.T) {
			s := newSite(t, (*httptest.Server).StartTLS)
			s.page("/.well-known/openid-configuration", metadata(s.URL, plain.URL+"/jwks"))
			k := discovering(t, s, s.URL, func(c *jwks.Config) { c.AllowHTTP = allow })
			wantFailure(t, k, "expected https")
		})
	}
	if got := plain.visits("/jwks"); got != 0 {
		t.Errorf("visits to the plain address: got %d, want 0", got)
	}
}

// TestRefreshAsksDiscovery follows one issuer through a move.
func TestRefreshAsksDiscovery(t *testing.T) {
	t.Run("MET-03", func(t *testing.T) {
		const path = "/.well-known/openid-configuration"
		s := newSite(t, (*httptest.Server).Start)
		set := keySet(jwk("k", edKey().Public()))
		s.page(path, metadata(s.URL, s.URL+"/a"))
		s.page("/a", text(set))
		k := discovering(t, s, s.URL)
		refresh := func(want bool) {
			t.Helper()
			if err := k.Refresh(t.Context()); (err == nil) != want {
				t.Fatalf("Refresh: got %v, want success %t", err, want)
			}
		}
		wantVisits := func(page string, want int) {
			t.Helper()
			if got := s.visits(page); got != want {
				t.Errorf("visits to %s: got %d, want %d", page, got, want)
			}
		}
		refresh(true)
		refresh(true)
		wantVisits(path, 2)
		wantVisits("/a", 2)

		s.page(path, metadata(s.URL, s.URL+"/b")) // it moves, and leaves the old keys there
		s.page("/b", text(keySet(jwk("new", p256Key().Public()))))
		refresh(true)
		wantVisits("/a", 2)
		wantVisits("/b", 1)
		wantKey(t, k, "k", "EdDSA", nil)

		s.page("/b", http.NotFound) // both go away, the keys come back first
		s.page(path, http.NotFound)
		refresh(false)
		s.page("/b", text(set))
		refresh(true)
		wantVisits("/b", 3)
		wantKey(t, k, "k", "EdDSA", edKey().Public())
	})
}

// moving is a source that discovery leads to: at /a with the key old, and, once
// it has moved, at /b with the key new, while /a answers as before.
func moving(s *source) (move func(), visits func(path string) int) {
	document := func(path string) string {
		return `{"issuer":"` + issuer + `","jwks_uri":"https://idp.example` + path + `"}`
	}
	var moved atomic.Bool
	s.set(func(r *http.Request) (*http.Response, error) {
		switch r.URL.Path {
		case "/a":
			return ok(keySet(jwk("old", edKey().Public())))(r)
		case "/b":
			return ok(keySet(jwk("new", p256Key().Public())))(r)
		}
		if moved.Load() {
			return ok(document("/b"))(r)
		}
		return ok(document("/a"))(r)
	})
	visits = func(path string) (n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, asked := range s.asked {
			if strings.HasSuffix(asked, path) {
				n++
			}
		}
		return n
	}
	return func() { moved.Store(true) }, visits
}

func byDiscovery(c *jwks.Config, _ *jwks.Options) { c.JWKSURL, c.Discover = "", true }

func TestDiscoveryIsReliedOnForAnHour(t *testing.T) {
	const path = "/.well-known/openid-configuration"
	in(t, "MET-03 while the address answers", func(t *testing.T) {
		s := &source{}
		move, visits := moving(s)
		k := fromSource(t, s, byDiscovery)
		run(t, k)
		synctest.Wait()
		move()
		time.Sleep(59 * time.Minute)
		wantKey(t, k, "old", "EdDSA", edKey().Public())
		if got := visits(path); got != 1 {
			t.Errorf("visits to the metadata within an hour: got %d, want 1", got)
		}
		time.Sleep(7 * time.Minute)
		wantKey(t, k, "new", "ES256", p256Key().Public())
		wantKey(t, k, "old", "EdDSA", nil)
		if got := visits(path); got != 2 {
			t.Errorf("visits to the metadata after it: got %d, want 2", got)
		}
	})
	in(t, "MET-03 a fetch that goes wrong asks at once", func(t *testing.T) {
		s := &source{}
		move, visits := moving(s)
		answer := s.answer
		k := fromSource(t, s, byDiscovery)
		run(t, k)
		synctest.Wait()
		move()
		s.set(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/a" {
				return reply(http.StatusNotFound, "")(r)
			}
			return answer(r)
		})
		time.Sleep(6 * time.Minute)
		wantKey(t, k, "new", "ES256", p256Key().Public())
		if got := visits(path); got != 2 {
			t.Errorf("visits to the metadata: got %d, want 2", got)
		}
	})
	in(t, "MET-03 JWT-12 a kid that the address does not bring asks at once, once per 30 s", func(t *testing.T) {
		s := &source{}
		move, visits := moving(s)
		k := fromSource(t, s, byDiscovery)
		run(t, k)
		synctest.Wait()
		time.Sleep(time.Minute)
		for _, kid := range []string{"x", "y", "z"} {
			wantKeyFetching(t, k, kid, "ES256", false)
		}
		if metadata, keys := visits(path), visits("/a"); metadata != 2 || keys != 2 {
			t.Errorf("visits to metadata and keys: got %d and %d, want one more of each", metadata, keys)
		}
		move()
		time.Sleep(time.Minute)
		wantKeyFetching(t, k, "new", "ES256", true)
		wantKey(t, k, "old", "EdDSA", nil)
	})
	in(t, "MET-03 so does one that waited for a fetch which did not ask", func(t *testing.T) {
		s := &source{}
		move, _ := moving(s)
		answer := s.answer
		s.set(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/a" {
				time.Sleep(100 * time.Millisecond)
			}
			return answer(r)
		})
		k := fromSource(t, s, byDiscovery, func(c *jwks.Config, _ *jwks.Options) { c.Refresh = 10 * time.Second })
		run(t, k)
		synctest.Wait()
		move()
		for before := s.fetches(); s.fetches() < before+1; { // until the next one begins
			time.Sleep(time.Millisecond)
		}
		wantKeyFetching(t, k, "new", "ES256", true)
	})
	in(t, "MET-03 a kid that the address brings does not", func(t *testing.T) {
		s := &source{}
		_, visits := moving(s)
		answer := s.answer
		k := fromSource(t, s, byDiscovery)
		run(t, k)
		synctest.Wait()
		s.set(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/a" {
				return ok(keySet(jwk("rotated", p256Key().Public())))(r)
			}
			return answer(r)
		})
		wantKeyFetching(t, k, "rotated", "ES256", true)
		if got := visits(path); got != 1 {
			t.Errorf("visits to the metadata: got %d, want 1", got)
		}
	})
}
