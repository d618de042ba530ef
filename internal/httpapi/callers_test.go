package httpapi_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"introspectd/internal/callers"
)

const (
	basicLine  = `Basic realm="introspectd"`
	bearerLine = `Bearer realm="introspectd"`
)

func TestWhoAsks(t *testing.T) {
	f := newFixture(t)
	good := mint(corp(), nil)
	q := form("token", good)

	t.Run("INT-12 no credentials", func(t *testing.T) {
		for _, headers := range [][]string{nil, {"Authorization", ""}, {"Authorization", "Digest x"}, {"Cookie", "session=x"}, {"X-Introspectd-Caller", basic("orders", secretOf("orders"))}} {
			f.post("/introspect", q, headers...).want(t, http.StatusUnauthorized, `{"error":"invalid_client"}`).
				wantHeader(t, "WWW-Authenticate", basicLine, bearerLine).wantHeader(t, "Cache-Control", "no-store")
		}
		f.post("/introspect", q+"&client_id=orders").wantHeader(t, "WWW-Authenticate", basicLine, bearerLine)
	})
	t.Run("INT-12 ERR-04 only the schemes that are enabled, and always one", func(t *testing.T) {
		only := func(change func(*callers.Config)) *fixture {
			return newFixture(t, func(s *setup) {
				row := caller("one", callers.Introspect)
				change(&row)
				s.callers = []callers.Config{row}
			})
		}
		only(func(*callers.Config) {}).post("/introspect", q).wantHeader(t, "WWW-Authenticate", basicLine)
		only(func(c *callers.Config) { c.Secrets, c.BearerTokens = nil, digestOf(bearerOf("one")) }).post("/introspect", q).wantHeader(t, "WWW-Authenticate", bearerLine)
		only(func(c *callers.Config) { c.Methods = []callers.Method{callers.ClientSecretPost} }).post("/introspect", q).
			wantStatus(t, http.StatusUnauthorized).wantHeader(t, "WWW-Authenticate", bearerLine)
	})
	t.Run("INT-12 a peer that gateways trust is no caller", func(t *testing.T) {
		r := newRequest(http.MethodPost, "/introspect", q, "Content-Type", formType)
		r.RemoteAddr = "@"
		f.through(f.api, r).wantStatus(t, http.StatusUnauthorized)
	})
	t.Run("INT-13 unknown caller and wrong secret are answered alike", func(t *testing.T) {
		unknown := f.post("/introspect", q, "Authorization", basic("nobody", "secret-of-nobody-0123456789"))
		for _, header := range []string{
			basic("orders", "wrong"), basic("orders", ""), basic("", secretOf("orders")), basic("orders", secretOf("any")), basic("posting", secretOf("posting")),
			"Basic", "Basic !", "Basic " + base64.StdEncoding.EncodeToString([]byte("nocolon")),
		} {
			got := f.post("/introspect", q, "Authorization", header)
			got.want(t, http.StatusUnauthorized, `{"error":"invalid_client"}`).wantHeader(t, "WWW-Authenticate", basicLine)
			if got.body != unknown.body || got.status != unknown.status || text(got.header) != text(unknown.header) {
				t.Errorf("got %v, want what an unknown caller gets: %v", got, unknown)
			}
		}
	})
	t.Run("INT-14 a bearer that is nobody's, the token itself included", func(t *testing.T) {
		for _, token := range []string{"nobody", good, "", secretOf("orders")} {
			f.post("/introspect", q, "Authorization", "Bearer "+token).wantError(t, http.StatusUnauthorized, "invalid_token").
				wantHeader(t, "WWW-Authenticate", bearerLine+`, error="invalid_token"`)
		}
	})
	t.Run("INT-15 a bearer that may not introspect", func(t *testing.T) {
		f.post("/introspect", q, "Authorization", "Bearer "+bearerOf("gateway")).want(t, http.StatusUnauthorized, `{"error":"insufficient_scope"}`).
			wantHeader(t, "WWW-Authenticate", bearerLine+`, error="insufficient_scope", scope="introspect"`)
	})
	t.Run("INT-15 a Basic or post caller that may not", func(t *testing.T) {
		f.post("/introspect", q, as("gateway")...).want(t, http.StatusForbidden, `{"error":"access_denied"}`).wantHeader(t, "WWW-Authenticate")
		f.post("/introspect", q+"&"+form("client_id", "gateway", "client_secret", secretOf("gateway"))).want(t, http.StatusForbidden, `{"error":"access_denied"}`)
		f.post("/introspect", "", as("operator")...).wantStatus(t, http.StatusForbidden) // before the token is missed
	})
	t.Run("INT-16 two credentials that disagree", func(t *testing.T) {
		own := as("orders")
		for name, send := range map[string]func() response{
			"another secret":       func() response { return f.post("/introspect", q+"&client_id=orders&client_secret=x", own...) },
			"another secret alone": func() response { return f.post("/introspect", q+"&client_secret=x", own...) },
			"another id":           func() response { return f.post("/introspect", q+"&client_id=any", own...) },
			"an assertion":         func() response { return f.post("/introspect", q+"&client_assertion=x.y.z", own...) },
			"a secret and a bearer": func() response {
				return f.post("/introspect", q+"&client_secret=x", "Authorization", "Bearer "+bearerOf("orders"))
			},
			"an assertion and a bearer": func() response {
				return f.post("/introspect", q+"&client_assertion=x", "Authorization", "Bearer "+bearerOf("orders"))
			},
			"an assertion and a secret": func() response {
				return f.post("/introspect", q+"&client_assertion=x&client_id=orders&client_secret=y")
			},
			"two lines":       func() response { return f.post("/introspect", q, append(as("orders"), as("any")...)...) },
			"two equal lines": func() response { return f.post("/introspect", q, append(own, own...)...) },
			"Basic and Bearer lines": func() response {
				return f.post("/introspect", q, append(own, "Authorization", "Bearer "+bearerOf("orders"))...)
			},
		} {
			t.Run(name, func(t *testing.T) {
				send().want(t, http.StatusBadRequest, `{"error":"invalid_request"}`).wantHeader(t, "WWW-Authenticate")
			})
		}
	})
	t.Run("INT-16 the same id and secret in header and body", func(t *testing.T) {
		f.post("/introspect", q+"&"+form("client_id", "orders", "client_secret", secretOf("orders")), as("orders")...).wantActive(t)
		f.post("/introspect", q+"&client_id=orders", as("orders")...).wantActive(t)
		f.post("/introspect", q+"&client_id=&client_secret=", as("orders")...).wantActive(t)
	})
	t.Run("AUT-01 each method, and none that a caller is not limited to", func(t *testing.T) {
		posted := func(id string) response {
			return f.post("/introspect", q+"&"+form("client_id", id, "client_secret", secretOf(id)))
		}
		posted("orders").wantActive(t)
		f.ask("orders", "/introspect", good).wantActive(t)
		f.post("/introspect", q, "Authorization", "bearer  "+bearerOf("orders")).wantActive(t)
		posted("posting").wantActive(t)
		f.ask("basic-only", "/introspect", good).wantActive(t)
		posted("basic-only").wantError(t, http.StatusUnauthorized, "invalid_client").wantHeader(t, "WWW-Authenticate", basicLine, bearerLine)
		f.ask("posting", "/introspect", good).wantError(t, http.StatusUnauthorized, "invalid_client")
	})
	t.Run("AUT-03 an assertion is refused with a challenge", func(t *testing.T) {
		f.post("/introspect", q+"&client_assertion=x.y.z&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer").
			want(t, http.StatusUnauthorized, `{"error":"invalid_client"}`).wantHeader(t, "WWW-Authenticate", basicLine, bearerLine)
	})
	t.Run("AUT-04 two secrets while one replaces the other", func(t *testing.T) {
		for _, secret := range []string{secretOf("rotating"), "secret-of-tomorrow-0123456789"} {
			f.post("/introspect", q, "Authorization", basic("rotating", secret)).wantActive(t)
			f.post("/introspect", q+"&"+form("client_id", "rotating", "client_secret", secret)).wantActive(t)
		}
		f.post("/introspect", q+"&"+form("client_id", "rotating", "client_secret", secretOf("rotating")), "Authorization", basic("rotating", "secret-of-tomorrow-0123456789")).
			wantError(t, http.StatusBadRequest, "invalid_request")
	})
	t.Run("AUT-04 start-up refuses short secrets and ids that one spelling means", func(t *testing.T) {
		t.Setenv("SHORT", "twenty-one-characters")
		short := caller("a", callers.Introspect)
		short.Secrets = []callers.Secret{{Env: "SHORT"}}
		for name, rows := range map[string][]callers.Config{
			"short secret":     {short},
			"coinciding ids":   {caller("a b", callers.Introspect), caller("a+b", callers.Introspect)},
			"coinciding ids 2": {caller("a-b", callers.Introspect), caller("a%2Db", callers.Introspect)},
		} {
			if _, err := callers.New(rows, callers.NewLimits(time.Now)); err == nil {
				t.Errorf("%s: got no error, want one", name)
			}
		}
	})
	t.Run("AUT-05 a caller without audiences or issuers is told of nothing", func(t *testing.T) {
		f := newFixture(t, func(s *setup) {
			none := caller("none", callers.Introspect)
			none.AnyAudience = callers.AnyAudience{}
			s.callers = append(s.callers, none)
			noIssuer := caller("no-issuer", callers.Introspect)
			noIssuer.AnyIssuer = false
			s.callers = append(s.callers, noIssuer)
		})
		f.ask("none", "/introspect", good).want(t, http.StatusOK, inactive)
		f.ask("no-issuer", "/introspect", good).want(t, http.StatusOK, inactive)
	})
	t.Run("AUT-05 each permission opens its own endpoint alone", func(t *testing.T) {
		f := newFixture(t, func(s *setup) {
			s.callers = []callers.Config{
				caller("introspect", callers.Introspect), caller("transform", callers.Transform), caller("auth", callers.Auth),
				caller("operate", callers.Operate), caller("explain", callers.Explain),
			}
		})
		for _, id := range []string{"introspect", "transform", "auth", "operate", "explain"} {
			for path, needs := range map[string]string{"/introspect": "introspect", "/transform": "transform"} {
				want := http.StatusForbidden
				if id == needs {
					want = http.StatusOK
				}
				f.ask(id, path, good).wantStatus(t, want)
			}
		}
	})
}

func TestBasicSpellings(t *testing.T) {
	const id, secret = "svc:a+b %-1", "secret-of-svc: 100%+x-y~/=&é"
	f := newFixture(t, func(s *setup) {
		row := caller("svc", callers.Introspect)
		row.ID, row.Secrets = id, digestOf(secret)
		s.callers = append(s.callers, row)
	})
	q := form("token", mint(corp(), nil))
	percent := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	dashed := func(s string) string { return strings.ReplaceAll(percent(s), "-", "%2D") }
	plus := func(s string) string { return strings.ReplaceAll(percent(s), "%2B", "+") }
	raw := func(s string) string { return s }
	for name, spell := range map[string]func(string) string{
		"raw": raw, "form-encoded": url.QueryEscape, "percent-encoded": percent, "with - as %2D": dashed, "with a literal +": plus,
		"lower-case hex": func(s string) string {
			return strings.ReplaceAll(strings.ReplaceAll(percent(s), "%2B", "%2b"), "%3A", "%3a")
		},
	} {
		t.Run("INT-17 id and secret "+name, func(t *testing.T) {
			if name == "raw" || name == "with a literal +" {
				// A raw percent sign or plus in an id that has both is spelled otherwise.
				f.post("/introspect", q, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+spell(secret)))).wantActive(t)
			}
			f.post("/introspect", q, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(spell(id)+":"+spell(secret)))).wantActive(t)
		})
	}
	t.Run("INT-17 another secret in any spelling", func(t *testing.T) {
		for _, wrong := range []string{secret + "x", percent(percent(secret)), strings.ToUpper(secret), secret[1:]} {
			f.post("/introspect", q, "Authorization", basic(id, wrong)).wantError(t, http.StatusUnauthorized, "invalid_client")
		}
	})
	t.Run("INT-17 in the form there is one spelling", func(t *testing.T) {
		f.post("/introspect", q+"&"+form("client_id", id, "client_secret", secret)).wantActive(t)
		f.post("/introspect", q+"&"+form("client_id", percent(id), "client_secret", percent(secret))).wantError(t, http.StatusUnauthorized, "invalid_client")
	})
}

func TestGuessing(t *testing.T) {
	q := "token=x"
	from := func(f *fixture, peer, id, secret string) response {
		r := newRequest(http.MethodPost, "/introspect", q, "Content-Type", formType, "Authorization", basic(id, secret))
		r.RemoteAddr = peer
		return f.through(f.api, r)
	}
	t.Run("INT-18 twenty failures, then one a second", func(t *testing.T) {
		for _, id := range []string{"orders", "nobody"} {
			f := newFixture(t)
			var statuses []int
			for range 22 {
				statuses = append(statuses, from(f, "192.0.2.1:1", id, "wrong").status)
			}
			want := append(slices.Repeat([]int{401}, 20), 429, 429)
			if !slices.Equal(statuses, want) {
				t.Errorf("%s: got %v, want %v", id, statuses, want)
			}
			got := from(f, "192.0.2.1:2", id, "wrong").want(t, http.StatusTooManyRequests, `{"error":"invalid_client"}`)
			got.wantHeader(t, "Retry-After", "1").wantHeader(t, "Cache-Control", "no-store").wantHeader(t, "Content-Type", "application/json")
			f.clock.advance(time.Second)
			from(f, "192.0.2.1:3", id, "wrong").wantStatus(t, http.StatusUnauthorized)
			from(f, "192.0.2.1:3", id, "wrong").wantStatus(t, http.StatusTooManyRequests)
		}
	})
	t.Run("INT-18 the bucket decides before the secret, but for a peer that was let in", func(t *testing.T) {
		f := newFixture(t)
		from(f, "192.0.2.9:1", "orders", secretOf("orders")).wantStatus(t, http.StatusOK)
		for _, peer := range []string{"192.0.2.1:1", "192.0.2.9:1"} {
			for range 21 {
				from(f, peer, "orders", "wrong")
			}
		}
		from(f, "192.0.2.1:1", "orders", secretOf("orders")).wantStatus(t, http.StatusTooManyRequests)
		from(f, "192.0.2.9:2", "orders", secretOf("orders")).wantStatus(t, http.StatusOK)
		from(f, "192.0.2.2:1", "orders", secretOf("orders")).wantStatus(t, http.StatusOK)
	})
	t.Run("INT-18 X-Forwarded-For names nobody", func(t *testing.T) {
		f := newFixture(t)
		last := 0
		for n := range 22 {
			last = f.post("/introspect", q, "Authorization", basic("orders", "wrong"), "X-Forwarded-For", "10.0.0."+string(rune('0'+n%10)), "X-Real-Ip", "10.1.1.1").status
		}
		if last != http.StatusTooManyRequests {
			t.Errorf("got %d, want 429", last)
		}
	})
	t.Run("INT-18 successes never count", func(t *testing.T) {
		f := newFixture(t)
		for range 300 {
			if got := from(f, "192.0.2.1:1", "orders", secretOf("orders")); got.status != http.StatusOK {
				t.Fatalf("got %d, want 200", got.status)
			}
		}
	})
}
