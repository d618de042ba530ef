package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

const (
	plainChallenge   = `Bearer realm="introspectd"`
	requestChallenge = plainChallenge + `, error="invalid_request"`
	expiredChallenge = plainChallenge + `, error="invalid_token", error_description="The access token expired"`
	invalidChallenge = plainChallenge + `, error="invalid_token", error_description="The access token is invalid"`
)

// bothGateways runs a test on both routes; malformed is the status of an
// Authorization that isn't well-formed.
func bothGateways(t *testing.T, name string, test func(t *testing.T, prefix string, malformed int)) {
	t.Run(name, func(t *testing.T) {
		t.Run("auth", func(t *testing.T) { test(t, "/auth", http.StatusUnauthorized) })
		t.Run("ext-authz", func(t *testing.T) { test(t, "/ext-authz", http.StatusBadRequest) })
	})
}

func TestGatewayAnswers(t *testing.T) {
	f := newFixture(t)
	good := mint(corp(), members{"scope": "read write", "client_id": "app", "preferred_username": "raw-claim-al"})

	bothGateways(t, "ATH-01 exactly 200, empty, with every header", func(t *testing.T, prefix string, _ int) {
		for _, policy := range []string{"lenient", "strict", "default"} {
			for range 2 {
				f.get(prefix+"/"+policy, good).want(t, http.StatusOK, "").
					wantHeader(t, "X-Auth-Subject", "raw-claim-alice").wantHeader(t, "X-Auth-Issuer", corpIss).wantHeader(t, "X-Auth-Client-Id", "app").
					wantHeader(t, "X-Auth-Username", "raw-claim-al").wantHeader(t, "X-Auth-Scope", "read write").
					wantHeader(t, "Cache-Control", "no-store").wantHeader(t, "Vary").wantHeader(t, "Content-Type").wantHeader(t, "WWW-Authenticate")
			}
		}
	})
	t.Run("ATH-01 /auth alone is the policy named default", func(t *testing.T) {
		f.get("/auth", good).want(t, http.StatusOK, "")
		f.get("/auth?scope=read", good).want(t, http.StatusOK, "")
	})
	bothGateways(t, "ATH-02 no Authorization", func(t *testing.T, prefix string, _ int) {
		for range 2 {
			f.send("GET", prefix+"/lenient", "").wantStatus(t, http.StatusUnauthorized).wantHeader(t, "WWW-Authenticate", plainChallenge)
		}
		f.send("GET", prefix+"/strict", "").wantStatus(t, http.StatusUnauthorized).wantHeader(t, "WWW-Authenticate", `Bearer realm="strict zone"`)
	})
	bothGateways(t, "ATH-03 another scheme", func(t *testing.T, prefix string, _ int) {
		for _, line := range []string{basic("orders", secretOf("orders")), "Basic", "Digest x", "DPoP " + good, "Bearerx " + good, "Bearer\t" + good, good} {
			f.send("GET", prefix+"/lenient", "", "Authorization", line).wantStatus(t, http.StatusUnauthorized).wantHeader(t, "WWW-Authenticate", plainChallenge)
		}
	})
	bothGateways(t, "ATH-04 malformed", func(t *testing.T, prefix string, malformed int) {
		for _, lines := range [][]string{
			{"Bearer"},
			{"Bearer "},
			{"bearer a b"},
			{"Bearer " + good + " x"},
			{"Bearer \"" + good + "\""},
			{"Bearer " + good + ","},
			{"Bearer ="},
			{"Bearer a=b"},
			{"Bearer " + good, "Bearer " + good},
			{"Bearer " + good, "DPoP " + good},
			{"", "Bearer " + good},
			{"Bearer " + good + ", DPoP " + good},
			{"Bearer té"},
			{"Bearer " + good + "\t"},
		} {
			var headers []string
			for _, line := range lines {
				headers = append(headers, "Authorization", line)
			}
			f.send("GET", prefix+"/lenient", "", headers...).wantError(t, malformed, "invalid_request").wantHeader(t, "WWW-Authenticate", requestChallenge)
		}
	})
	bothGateways(t, "ATH-04 the scheme in any case, and spaces before the token", func(t *testing.T, prefix string, _ int) {
		for _, scheme := range []string{"bearer ", "BEARER ", "BeArEr   "} {
			f.send("GET", prefix+"/lenient", "", "Authorization", scheme+good).wantStatus(t, http.StatusOK)
		}
	})
	bothGateways(t, "ATH-05 expired", func(t *testing.T, prefix string, _ int) {
		token := mint(corp(), members{"exp": time.Now().Unix() - 100})
		for range 2 {
			f.get(prefix+"/lenient", token).want(t, http.StatusUnauthorized, `{"error":"invalid_token"}`).wantHeader(t, "WWW-Authenticate", expiredChallenge)
		}
	})
	bothGateways(t, "ATH-05 every other reason is one text", func(t *testing.T, prefix string, _ int) {
		for _, token := range []string{
			"garbage", "a.b.c", altered(good), mint(corp(), members{"nbf": time.Now().Unix() + 3000}), mint(corp(), members{"sub": 7}),
			sign(`{"alg":"none"}`, `{"iss":"x"}`), strings.Repeat("A", 60<<10), good + "=", good + "~",
			altered(mint(corp(), members{"exp": time.Now().Unix() - 100})),
		} {
			for range 2 {
				f.get(prefix+"/lenient", token).want(t, http.StatusUnauthorized, `{"error":"invalid_token"}`).wantHeader(t, "WWW-Authenticate", invalidChallenge)
			}
		}
		for _, token := range []string{
			mint(corp(), members{"aud": "https://api.example/others", "scope": "read write"}), mint(corp(), members{"aud": nil, "scope": "read write"}),
			mint(partner(), members{"scope": "read write"}),
		} {
			f.get(prefix+"/lenient", token).wantStatus(t, http.StatusOK)
			f.get(prefix+"/strict", token).wantError(t, http.StatusUnauthorized, "invalid_token").
				wantHeader(t, "WWW-Authenticate", strings.Replace(invalidChallenge, "introspectd", "strict zone", 1))
		}
	})
	bothGateways(t, "ATH-06 a scope is missing", func(t *testing.T, prefix string, _ int) {
		for _, scope := range []any{"read", "writer reads", "READ WRITE", nil, []string{}, []string{"read write"}} {
			token := mint(corp(), members{"scope": scope})
			for range 2 {
				f.get(prefix+"/strict", token).want(t, http.StatusForbidden, `{"error":"insufficient_scope"}`).
					wantHeader(t, "WWW-Authenticate", `Bearer realm="strict zone", error="insufficient_scope", scope="read write"`)
			}
		}
	})
	t.Run("ATH-09 GW-01 scopes are separated by spaces alone", func(t *testing.T) {
		f := newFixture(t)
		for _, query := range []string{"scope=read%0Dwrite", "scope=read%0Awrite", "scope=read%09write", "scope=read%C2%A0write", "scope=+", "scope=%20"} {
			f.get("/auth/lenient?"+query, mint(corp(), members{"scope": "read write"})).wantStatus(t, http.StatusServiceUnavailable)
		}
		f.get("/auth/lenient?scope=read++write", mint(corp(), members{"scope": "read write"})).wantStatus(t, http.StatusOK)
	})
	t.Run("ATH-06 the challenge names each needed scope once", func(t *testing.T) {
		f.get("/auth/strict?scope=write+admin&scope=admin", good).wantError(t, http.StatusForbidden, "insufficient_scope").
			wantHeader(t, "WWW-Authenticate", `Bearer realm="strict zone", error="insufficient_scope", scope="read write admin"`)
	})
	bothGateways(t, "ATH-08 keys can't be had", func(t *testing.T, prefix string, _ int) {
		f.get(prefix+"/lenient", mint(dark(), nil)).want(t, http.StatusServiceUnavailable, `{"error":"temporarily_unavailable"}`).
			wantHeader(t, "Retry-After", "5").wantHeader(t, "X-Auth-Subject")
	})
	bothGateways(t, "ATH-09 no such policy", func(t *testing.T, prefix string, _ int) {
		for _, path := range []string{"/nothing", "/", "/Lenient", "/lenient%20", "/len%69ent", "/lenient;x", "/%2e%2e/lenient", "//lenient", "/lenient\\", "/.", "/..", "/lenient,strict"} {
			f.get(prefix+path, good).want(t, http.StatusServiceUnavailable, `{"error":"temporarily_unavailable"}`)
			if note, _ := f.last()["note"].(string); note == "" {
				t.Errorf("%s: got no note in the log, want one", path)
			}
		}
	})
	t.Run("ATH-09 /auth without a policy named default", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.policies = s.policies[1:] })
		f.get("/auth", good).wantStatus(t, http.StatusServiceUnavailable)
		f.get("/ext-authz", good).wantStatus(t, http.StatusServiceUnavailable)
		f.get("/auth/lenient/x", good).wantStatus(t, http.StatusServiceUnavailable)
	})
	t.Run("ATH-09 an unknown or empty name in the query of /auth", func(t *testing.T) {
		for _, query := range []string{
			"x=y", "=x", "scopes=read", "Scope=read", "scope=", "scope", "audience=", "scope=read&x", "scope=read;y", "scope=%zz", "scope=%22", "scope=a%5Cb", "scope=%ff", "scope=%0d%0a", "token=" + good,
			"audience=https://elsewhere.example", "scope=read&audience=" + ordersAud + "x",
		} {
			f.get("/auth/strict?"+query, good).want(t, http.StatusServiceUnavailable, `{"error":"temporarily_unavailable"}`)
			if note, _ := f.last()["note"].(string); note == "" {
				t.Errorf("%s: got no note in the log, want one", query)
			}
		}
	})
	bothGateways(t, "ATH-10 ATH-11 any method, enforced like any other", func(t *testing.T, prefix string, _ int) {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "REPORT", "QUERY", "MKCOL", "x"} {
			f.send(method, prefix+"/lenient", "", "Authorization", "Bearer "+good).wantStatus(t, http.StatusOK).wantHeader(t, "X-Auth-Subject", "raw-claim-alice")
			f.send(method, prefix+"/lenient", "").wantStatus(t, http.StatusUnauthorized)
		}
	})
	bothGateways(t, "ATH-10 the body is never read", func(t *testing.T, prefix string, _ int) {
		for _, length := range []int64{1, 1 << 40, -1} {
			r := newRequest("POST", prefix+"/lenient", "", "Authorization", "Bearer "+good)
			r.Body, r.ContentLength = unreadable{t}, length
			f.through(f.api, r).wantStatus(t, http.StatusOK).wantHeader(t, "Connection", "close")
		}
		f.get(prefix+"/lenient", good).wantHeader(t, "Connection")
	})
	bothGateways(t, "ATH-12 a bound token without proof of possession", func(t *testing.T, prefix string, _ int) {
		for _, cnf := range []members{{"jkt": "k"}, {"x5t#S256": "t"}, {"something": "else"}} {
			token := mint(corp(), members{"cnf": cnf, "scope": "read write"})
			for range 2 {
				f.get(prefix+"/lenient", token).wantError(t, http.StatusUnauthorized, "invalid_token").wantHeader(t, "WWW-Authenticate", invalidChallenge)
				f.wantReason(t, "proof_failed", "corp")
				f.ask("orders", "/introspect", token).wantActive(t)
				f.send("GET", prefix+"/lenient", "", "Authorization", "DPoP "+token).wantStatus(t, http.StatusUnauthorized)
			}
		}
	})
	bothGateways(t, "R12 the token comes from Authorization alone", func(t *testing.T, prefix string, _ int) {
		r := newRequest("POST", prefix+"/lenient", form("access_token", good), "Content-Type", formType, "Cookie", "access_token="+good, "X-Access-Token", good, "X-Forwarded-Access-Token", good,
			"Proxy-Authorization", "Bearer "+good, "X-Original-URI", "/?access_token="+good, "User-Agent", "kube-probe", "X-Forwarded-Uri", "/livez", "X-HTTP-Method-Override", "OPTIONS")
		f.through(f.api, r).wantStatus(t, http.StatusUnauthorized)
		f.get("/ext-authz/lenient/x?access_token="+good, "garbage").wantStatus(t, http.StatusUnauthorized)
	})
	bothGateways(t, "R12 a client's own identity headers are not answered", func(t *testing.T, prefix string, _ int) {
		f.get(prefix+"/lenient", mint(corp(), members{"client_id": nil}), "X-Auth-Username", "admin", "X-Auth-Client-Id", "admin", "Connection", "X-Auth-Subject").
			wantHeader(t, "X-Auth-Username", "").wantHeader(t, "X-Auth-Client-Id", "").wantHeader(t, "X-Auth-Subject", "raw-claim-alice")
	})
}

// unreadable is a body that must not be read.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, http.ErrBodyReadAfterClose
}

func (unreadable) Close() error { return nil }

func TestGatewayPolicies(t *testing.T) {
	f := newFixture(t)
	good := mint(corp(), members{"scope": "read write admin", "aud": []string{ordersAud, partnerAud}})
	poor := mint(corp(), members{"scope": "read"})

	t.Run("GW-01 the policy is the first raw segment", func(t *testing.T) {
		for _, path := range []string{"/strict", "/strict/", "/strict/../lenient/x", "/strict/%2e%2e/lenient", "/strict//lenient", "/strict/lenient", "/strict?/../../lenient", "/strict/;/../../lenient"} {
			f.get("/ext-authz"+path, poor).wantStatus(t, http.StatusForbidden)
			f.get("/ext-authz"+path, good).wantStatus(t, http.StatusOK)
			if got := f.last()["policy"]; got != "strict" {
				t.Errorf("%s: got policy %v, want strict", path, got)
			}
		}
		for _, path := range []string{"/strict%2flenient", "/strict%2f..%2flenient", "/.%2e/lenient", "/../ext-authz/lenient", "//lenient", "/;/lenient"} {
			f.get("/ext-authz"+path, good).wantStatus(t, http.StatusServiceUnavailable)
		}
		for _, path := range []string{"/x/../ext-authz/lenient", "//ext-authz/lenient", "/ext-authz%2flenient", "/%65xt-authz/lenient", "/AUTH/lenient", "/authx", "/ext-authzx/lenient"} {
			f.get(path, good).wantStatus(t, http.StatusNotFound)
		}
	})
	t.Run("GW-01 the absolute form", func(t *testing.T) {
		absolute := func(target, token string) response {
			r := newRequest("GET", "/", "", "Authorization", "Bearer "+token)
			r.RequestURI = target
			return f.through(f.api, r)
		}
		absolute("http://gw.example/ext-authz/strict/../lenient", poor).wantStatus(t, http.StatusForbidden)
		absolute("http://gw.example/auth/strict?scope=read", good).wantStatus(t, http.StatusOK)
		absolute("http://gw.example/auth/lenient", poor).wantStatus(t, http.StatusOK)
		// What stands in a query or an authority is no path.
		absolute("http://gw.example?/auth/lenient", poor).wantStatus(t, http.StatusNotFound)
		absolute("http://gw.example", poor).wantStatus(t, http.StatusNotFound)
		absolute("a:b?x://gw.example/auth/lenient", poor).wantStatus(t, http.StatusNotFound)
		absolute("a:b/c://gw.example/auth/lenient", poor).wantStatus(t, http.StatusNotFound)
		absolute("*", poor).wantStatus(t, http.StatusNotFound)
	})
	t.Run("GW-01 X-Introspectd-Policy must be the segment", func(t *testing.T) {
		for _, path := range []string{"/auth/lenient", "/ext-authz/lenient/x"} {
			f.get(path, good, "X-Introspectd-Policy", "lenient").wantStatus(t, http.StatusOK)
			for _, lines := range [][]string{{"strict"}, {""}, {"Lenient"}, {"lenient", "lenient"}, {"lenient", "strict"}, {"lenient,strict"}} {
				var headers []string
				for _, line := range lines {
					headers = append(headers, "X-Introspectd-Policy", line)
				}
				f.get(path, good, headers...).wantStatus(t, http.StatusServiceUnavailable)
			}
		}
		f.get("/auth", good, "X-Introspectd-Policy", "default").wantStatus(t, http.StatusOK)
		f.get("/auth", good, "X-Introspectd-Policy", "lenient").wantStatus(t, http.StatusServiceUnavailable)
	})
	t.Run("GW-01 the query of /auth adds demands, all of which must hold", func(t *testing.T) {
		for query, status := range map[string]int{
			"":                        200,
			"?":                       200,
			"?scope=admin":            200,
			"?scope=admin&scope=read": 200,
			"?scope=admin+read":       200,
			"?scope=admin%20read":     200,
			"?scope=root":             403,
			"?scope=admin&scope=root": 403,
			"?scope=admin+root":       403,
			"?audience=" + ordersAud:  200,
			"?audience=" + partnerAud: 200,
			"?audience=" + ordersAud + "&audience=" + partnerAud:  200,
			"?audience=https://elsewhere.example":                 503,
			"?audience=" + ordersAud + "&scope=root":              403,
			"?audience=" + ordersAud + "&audience=https://x.test": 503,
		} {
			if got := f.get("/auth/strict"+query, good); got.status != status {
				t.Errorf("%s: got %d, want %d", query, got.status, status)
			}
		}
		one := mint(corp(), members{"scope": "read write"})
		f.get("/auth/strict?audience="+partnerAud, one).wantError(t, http.StatusUnauthorized, "invalid_token")
		f.wantReason(t, "wrong_audience", "corp")
		f.get("/auth/lenient?audience=https://x.test", one).wantStatus(t, http.StatusUnauthorized)
		f.get("/auth/lenient?audience="+ordersAud, one).wantStatus(t, http.StatusOK)
	})
	t.Run("GW-01 the query of /ext-authz is the client's", func(t *testing.T) {
		for _, query := range []string{"?scope=root", "?audience=x", "?x=y;z", "?%zz", "?=", "?scope="} {
			f.get("/ext-authz/strict"+query, good).wantStatus(t, http.StatusOK)
			f.get("/ext-authz/strict/a/b"+query, good).wantStatus(t, http.StatusOK)
			f.get("/ext-authz/strict/a"+query, poor).wantStatus(t, http.StatusForbidden)
		}
	})
	t.Run("GW-02 forwarded headers say nothing", func(t *testing.T) {
		forged := []string{
			"X-Forwarded-For", "127.0.0.1", "X-Real-Ip", "127.0.0.1", "Forwarded", "for=127.0.0.1", "X-Original-Method", "OPTIONS", "X-Forwarded-Uri", "/auth/lenient",
			"X-Original-URI", "/public", "X-Client-Cert", "x", "Client-Cert", ":AA==:", "X-Forwarded-Client-Cert", "Hash=aa",
		}
		f.get("/auth/strict", poor, forged...).wantStatus(t, http.StatusForbidden)
		f.get("/auth/lenient", mint(corp(), members{"cnf": members{"x5t#S256": "x"}}), forged...).wantStatus(t, http.StatusUnauthorized)
		r := newRequest("GET", "/auth/lenient", "", append(forged, "Authorization", "Bearer "+good)...)
		r.RemoteAddr = "192.0.2.7:4000"
		f.through(f.api, r).wantStatus(t, http.StatusForbidden)
	})
}

func TestIdentityHeaders(t *testing.T) {
	f := newFixture(t, func(s *setup) {
		wide := anyPolicy("wide")
		wide.RemoveHeaders = []string{"Authorization", "DPoP"}
		wide.Headers = map[string]string{
			"x-auth-subject": "sub", "X-Auth-Issuer": "iss", "X-Groups": "groups", "X-Level": "level", "X-Flag": "flag", "X-Object": "object",
			"X-Colon": "cognito:groups", "X-Text": "text", "X-Aud": "aud", "X-Active": "active", "X-More": "more",
		}
		s.policies = append(s.policies, wide)
	})
	t.Run("GW-03 every configured header, empty where the claim is absent", func(t *testing.T) {
		got := f.get("/auth/lenient", mint(corp(), members{"client_id": nil, "jti": nil}))
		for name := range identityHeaders {
			if lines := got.header.Values(name); len(lines) != 1 {
				t.Errorf("%s: got %q, want one line", name, lines)
			}
		}
		got.wantHeader(t, "X-Auth-Username", "").wantHeader(t, "X-Auth-Scope", "").wantHeader(t, "X-Auth-Client-Id", "")
		f.get("/auth/wide", mint(corp(), nil)).wantHeader(t, "X-Groups", "").wantHeader(t, "X-Text", "").wantHeader(t, "X-Colon", "")
	})
	t.Run("GW-03 none of them on a refusal", func(t *testing.T) {
		for _, got := range []response{f.get("/auth/lenient", "x"), f.get("/auth/strict", mint(corp(), nil)), f.send("GET", "/auth/lenient", "")} {
			for name := range got.header {
				if strings.HasPrefix(name, "X-") {
					t.Errorf("%d: got %s, want no such header", got.status, name)
				}
			}
		}
	})
	for _, row := range []struct {
		name   string
		claims members
		want   map[string]string
	}{
		{"GW-04 a list of texts", members{"groups": []string{"a", "b"}}, map[string]string{"X-Groups": "a b"}},
		{"GW-04 a list with a space in a text", members{"groups": []string{"a b", "c"}}, map[string]string{"X-Groups": ""}},
		{"GW-04 a list with an empty text", members{"groups": []string{"a", ""}}, map[string]string{"X-Groups": ""}},
		{"GW-04 a list with a number", members{"groups": []any{"a", 7}}, map[string]string{"X-Groups": ""}},
		{"GW-04 an empty list, null", members{"groups": []string{}, "text": nil}, map[string]string{"X-Groups": "", "X-Text": ""}},
		{"GW-04 an object", members{"object": members{"a": "b"}}, map[string]string{"X-Object": ""}},
		{"GW-04 numbers and truth values", members{"level": 7, "flag": false}, map[string]string{"X-Level": "7", "X-Flag": "false", "X-Active": "true"}},
		{"GW-04 a name with a colon", members{"cognito:groups": []string{"g"}}, map[string]string{"X-Colon": "g"}},
		{"GW-04 aud in both shapes", members{"aud": []string{"a", "b"}}, map[string]string{"X-Aud": "a b"}},
		{"GW-05 control characters", members{"text": "a\r\nX-Admin: 1"}, map[string]string{"X-Text": "", "X-Admin": absent}},
		{"GW-05 NUL", members{"text": "a\x00b"}, map[string]string{"X-Text": ""}},
		{"GW-05 DEL and tab", members{"text": "a\x7fb", "more": "a\tb"}, map[string]string{"X-Text": "", "X-More": ""}},
		{"GW-05 control characters in a list", members{"groups": []string{"a", "b\n"}}, map[string]string{"X-Groups": ""}},
		{"GW-05 beyond ASCII", members{"text": "Zoë ☃", "groups": []string{"ü"}}, map[string]string{"X-Text": "Zo%C3%AB %E2%98%83", "X-Groups": "%C3%BC"}},
		{"GW-05 a percent sign can't be mistaken", members{"text": "Zo%C3%AB"}, map[string]string{"X-Text": "Zo%25C3%25AB"}},
		{"GW-05 C1 controls are beyond ASCII", members{"text": "a\u0085b"}, map[string]string{"X-Text": "a%C2%85b"}},
		{"GW-05 spaces at either end", members{"text": " a b "}, map[string]string{"X-Text": "%20a b%20"}},
		{"GW-05 a sub that is not ASCII", members{"sub": "raw-claim-ü"}, map[string]string{"X-Auth-Subject": "raw-claim-%C3%BC"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := f.get("/auth/wide", mint(corp(), row.claims)).want(t, http.StatusOK, "")
			for name, value := range row.want {
				if value == absent {
					got.wantHeader(t, name)
				} else {
					got.wantHeader(t, name, value)
				}
			}
		})
	}
	t.Run("GW-05 a sub that can't be rendered is no identity", func(t *testing.T) {
		for _, sub := range []string{"a\r\nX-Admin: 1", "a\x00b", "\x7f", strings.Repeat("x", 1025), strings.Repeat("é", 400)} {
			got := f.get("/auth/wide", mint(corp(), members{"sub": sub})).wantError(t, http.StatusUnauthorized, "invalid_token")
			got.wantHeader(t, "X-Admin").wantHeader(t, "X-Auth-Subject").wantHeader(t, "WWW-Authenticate", invalidChallenge)
			f.wantReason(t, "bad_claims", "corp")
		}
		f.get("/auth/wide", mint(corp(), members{"sub": strings.Repeat("x", 1024)})).wantStatus(t, http.StatusOK)
	})
	t.Run("GW-05 at most 3,500 bytes, the longest left empty first", func(t *testing.T) {
		got := f.get("/auth/wide", mint(corp(), members{"text": strings.Repeat("t", 2000), "more": strings.Repeat("m", 1900), "groups": []string{"kept"}})).wantStatus(t, http.StatusOK)
		got.wantHeader(t, "X-Text", "").wantHeader(t, "X-More", strings.Repeat("m", 1900)).wantHeader(t, "X-Groups", "kept").wantHeader(t, "X-Auth-Subject", "raw-claim-alice")
	})
	t.Run("GW-06 what Envoy removes", func(t *testing.T) {
		f.get("/ext-authz/wide/x", mint(corp(), nil)).wantHeader(t, "X-Envoy-Auth-Headers-To-Remove", "authorization,dpop")
		f.get("/ext-authz/wide/x", "x").wantHeader(t, "X-Envoy-Auth-Headers-To-Remove")
		f.get("/ext-authz/lenient/x", mint(corp(), nil)).wantHeader(t, "X-Envoy-Auth-Headers-To-Remove")
	})
}

func TestWhoMayUseAuth(t *testing.T) {
	good := mint(corp(), nil)
	f := newFixture(t, func(s *setup) { s.allow = []string{"10.1.0.0/16", "::1/128"} })
	from := func(f *fixture, peer string, headers ...string) response {
		r := newRequest("GET", "/auth/lenient", "", append([]string{"Authorization", "Bearer " + good}, headers...)...)
		r.RemoteAddr = peer
		return f.through(f.api, r)
	}
	t.Run("AUT-06 the TCP peer decides", func(t *testing.T) {
		for peer, status := range map[string]int{
			"10.1.2.3:5": 200, "[::1]:5": 200, "[::ffff:10.1.2.3]:5": 200,
			"10.2.0.1:5": 403, "127.0.0.1:5": 403, "[::2]:5": 403, "@": 403, "": 403, "/run/gw.sock": 403,
		} {
			if got := from(f, peer); got.status != status {
				t.Errorf("%q: got %d, want %d", peer, got.status, status)
			}
		}
		from(f, "10.2.0.1:5").want(t, http.StatusForbidden, `{"error":"access_denied"}`)
		from(newFixture(t, func(s *setup) { s.allow = []string{"unix"} }), "@").wantStatus(t, http.StatusOK)
		from(newFixture(t, func(s *setup) { s.allow = nil }), "127.0.0.1:5").wantStatus(t, http.StatusForbidden)
	})
	t.Run("AUT-06 a caller that may auth, by a header of its own", func(t *testing.T) {
		from(f, "192.0.2.1:5", "X-Introspectd-Caller", basic("gateway", secretOf("gateway"))).want(t, http.StatusOK, "")
		if got := f.last()["caller"]; got != "gateway" {
			t.Errorf("logged caller: got %v, want gateway", got)
		}
		for name, lines := range map[string][]string{
			"no auth permission": {basic("orders", secretOf("orders"))},
			"wrong secret":       {basic("gateway", "wrong")},
			"unknown":            {basic("nobody", "wrong")},
			"empty":              {""},
			"the client's token": {"Bearer " + good},
			"two lines":          {basic("gateway", secretOf("gateway")), basic("gateway", secretOf("gateway"))},
		} {
			var headers []string
			for _, line := range lines {
				headers = append(headers, "X-Introspectd-Caller", line)
			}
			if got := from(f, "192.0.2.1:5", headers...); got.status != 403 || got.body != `{"error":"access_denied"}` {
				t.Errorf("%s: got %d %s, want 403 access_denied", name, got.status, got.body)
			}
		}
	})
	t.Run("AUT-06 never by the Authorization that is the client's", func(t *testing.T) {
		r := newRequest("GET", "/auth/lenient", "", "Authorization", basic("gateway", secretOf("gateway")))
		r.RemoteAddr = "192.0.2.1:5"
		f.through(f.api, r).wantStatus(t, http.StatusForbidden)
	})
	t.Run("AUT-06 guessing is never answered 429 to a gateway", func(t *testing.T) {
		for range 30 {
			from(f, "192.0.2.8:5", "X-Introspectd-Caller", basic("gateway", "wrong")).wantStatus(t, http.StatusForbidden)
		}
	})
	t.Run("AUT-06 a stranger learns nothing of policies or tokens", func(t *testing.T) {
		for _, path := range []string{"/auth/nothing", "/auth/strict", "/auth/strict?x=y", "/ext-authz/lenient"} {
			r := newRequest("GET", path, "", "Authorization", "Bearer "+good)
			r.RemoteAddr = "192.0.2.1:5"
			f.through(f.api, r).want(t, http.StatusForbidden, `{"error":"access_denied"}`)
		}
	})
	t.Run("AUT-06 the log tells the line that would let a gateway in", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.allow = nil })
		for range 3 {
			from(f, "10.9.9.9:5")
		}
		warned := f.lines("a gateway was refused for its address; auth.allow_from can let it in")
		if len(warned) != 1 || warned[0]["line"] != `auth: {allow_from: ["10.9.9.9"]}` {
			t.Errorf("got %v, want the one line with 10.9.9.9", warned)
		}
	})
}

func TestGatewaysMayKeepAnswers(t *testing.T) {
	const kept = "Authorization, X-Introspectd-Caller, X-Introspectd-Policy"
	keeping := func(s *setup) { s.keep, s.list.Config.MaxDelay = true, 10*time.Second }
	lasting := func(seconds int) string { return fmt.Sprint("private, max-age=", seconds) }

	bothGateways(t, "ATH-01 a yes, for what the token has left and no longer than a revocation may be late", func(t *testing.T, prefix string, _ int) {
		f := newFixture(t, keeping)
		now := f.clock.stop()
		for left, want := range map[int64]string{3600: lasting(10), 11: lasting(10), 10: lasting(10), 9: lasting(9), 1: lasting(1)} {
			token := mint(corp(), members{"iat": now, "exp": now + left})
			for range 2 { // fresh and remembered
				f.get(prefix+"/lenient", token).want(t, http.StatusOK, "").wantHeader(t, "Cache-Control", want).wantHeader(t, "Vary", kept)
			}
		}
		for _, left := range []int64{0, -1, -29} { // leeway lets them pass
			token := mint(corp(), members{"iat": now - 60, "exp": now + left})
			f.get(prefix+"/lenient", token).want(t, http.StatusOK, "").wantHeader(t, "Cache-Control", "no-store").wantHeader(t, "Vary")
		}
		aging := mint(corp(), members{"iat": now, "exp": now + 12})
		f.get(prefix+"/lenient", aging).wantHeader(t, "Cache-Control", lasting(10))
		f.clock.advance(6500 * time.Millisecond)
		f.get(prefix+"/lenient", aging).wantHeader(t, "Cache-Control", lasting(5))
		f.clock.advance(5 * time.Second)
		f.get(prefix+"/lenient", aging).wantStatus(t, http.StatusOK).wantHeader(t, "Cache-Control", "no-store").wantHeader(t, "Vary")
	})
	bothGateways(t, "ERR-03 never a refusal", func(t *testing.T, prefix string, malformed int) {
		f := newFixture(t, keeping)
		revoked := mint(corp(), members{"jti": "one"})
		f.get(prefix+"/lenient", revoked).wantStatus(t, http.StatusOK)
		f.post("/revoke", form("token", revoked), as("revoke-any")...).wantStatus(t, http.StatusOK)
		for _, row := range []struct {
			path, token string
			status      int
		}{
			{"/lenient", revoked, http.StatusUnauthorized},
			{"/lenient", mint(corp(), members{"exp": time.Now().Add(-time.Hour).Unix()}), http.StatusUnauthorized},
			{"/lenient", "a b", malformed},
			{"/strict", mint(corp(), nil), http.StatusForbidden},
			{"/lenient", mint(dark(), nil), http.StatusServiceUnavailable},
			{"/nosuch", mint(corp(), nil), http.StatusServiceUnavailable},
		} {
			f.get(prefix+row.path, row.token).wantStatus(t, row.status).wantHeader(t, "Cache-Control", "no-store").wantHeader(t, "Vary")
		}
		f.send("GET", prefix+"/lenient", "").wantStatus(t, http.StatusUnauthorized).wantHeader(t, "Cache-Control", "no-store")
	})
	bothGateways(t, "ERR-03 a bound of less than a second keeps nothing", func(t *testing.T, prefix string, _ int) {
		f := newFixture(t, func(s *setup) { s.keep, s.list.Config.MaxDelay = true, 999*time.Millisecond })
		f.get(prefix+"/lenient", mint(corp(), nil)).wantStatus(t, http.StatusOK).wantHeader(t, "Cache-Control", "no-store")
	})
	bothGateways(t, "GW-04 an assertion is not kept beyond its own end", func(t *testing.T, prefix string, _ int) {
		f := newFixture(t, signing, keeping, func(s *setup) {
			for n := range s.profiles {
				s.profiles[n].Assertion.Lifetime = 4 * time.Second
			}
		})
		now := f.clock.stop()
		f.get(prefix+"/with-plain", mint(corp(), members{"iat": now, "exp": now + 3600})).wantStatus(t, http.StatusOK).wantHeader(t, "Cache-Control", lasting(4))
	})
	t.Run("ERR-03 what callers are told stays no-store", func(t *testing.T) {
		f, token := newFixture(t, keeping), mint(corp(), nil)
		f.ask("any", "/introspect", token).wantActive(t).wantHeader(t, "Cache-Control", "no-store")
		f.ask("any", "/transform", token).wantActive(t).wantHeader(t, "Cache-Control", "no-store")
	})
}
