package httpapi_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"introspectd/internal/callers"
	"introspectd/internal/httpapi"
	"introspectd/internal/introspect"
)

// listening serves h on loopback as `serve` does, and returns its address.
func listening(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.MaxHeaderBytes = 64 << 10
	server.Config.ReadTimeout = 20 * time.Second
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// raw sends bytes and reads the one answer, which must come within two
// seconds; whole is everything up to its body.
func raw(t *testing.T, address, request string) (got *http.Response, whole string) {
	t.Helper()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(connection, request); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	got, err = http.ReadResponse(bufio.NewReader(io.TeeReader(connection, &seen)), nil)
	if err != nil {
		t.Fatalf("got %q, want an answer at once: %v", seen.String(), err)
	}
	body, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatalf("got %q, want the whole answer: %v", seen.String(), err)
	}
	got.Body = io.NopCloser(strings.NewReader(string(body)))
	head, _, _ := strings.Cut(seen.String(), "\r\n\r\n")
	return got, head + "\r\n\r\n" + string(body)
}

// lines joins a request's lines.
func lines(all ...string) string { return strings.Join(all, "\r\n") }

func TestOnTheWire(t *testing.T) {
	f := newFixture(t)
	address := listening(t, f.api)
	good := mint(corp(), members{"scope": "read"})
	bearer := "Authorization: Bearer " + good
	q := form("token", good)

	t.Run("INT-02 the exact bytes", func(t *testing.T) {
		_, whole := raw(t, address, lines("POST /introspect HTTP/1.1", "Host: x", "Authorization: "+basic("orders", secretOf("orders")), "Content-Type: "+formType, "Content-Length: 7", "", "token=x"))
		whole = regexp.MustCompile(`Date: [^\r]*\r\n`).ReplaceAllString(whole, "")
		want := lines("HTTP/1.1 200 OK", "Cache-Control: no-store", "Content-Type: application/json", "Vary: Accept", "Content-Length: 16", "", inactive)
		if whole != want {
			t.Errorf("got %q, want %q", whole, want)
		}
	})
	t.Run("9b every answer says its length", func(t *testing.T) {
		ask := func(head string, more ...string) {
			t.Helper()
			got, whole := raw(t, address, lines(append([]string{head, "Host: x"}, more...)...))
			body, _ := io.ReadAll(got.Body)
			if got.ContentLength != int64(len(body)) || len(got.TransferEncoding) > 0 || strings.Count(whole, "\r\nContent-Length: ") != 1 {
				t.Errorf("%s: got length %d and %q for %d bytes", head, got.ContentLength, got.TransferEncoding, len(body))
			}
		}
		post := func(path, caller, q string) {
			t.Helper()
			ask("POST "+path+" HTTP/1.1", "Authorization: "+basic(caller, secretOf(caller)), "Content-Type: "+formType, "Content-Length: "+fmt.Sprint(len(q)), "", q)
		}
		ask("GET /auth/lenient HTTP/1.1", bearer, "", "")
		ask("GET /auth/lenient HTTP/1.0", bearer, "", "")
		ask("GET /auth/lenient HTTP/1.1", "", "")
		ask("POST /introspect HTTP/1.1", "Content-Length: 0", "", "")
		for pad := 1500; pad < 2500; pad += 20 { // about where net/http stops to count
			post("/introspect", "orders", form("token", mint(corp(), members{"pad": strings.Repeat("p", pad)})))
		}
		post("/introspect", "orders", form("token", mint(corp(), members{"pad": strings.Repeat("p", 8000)})))
		post("/revoke", "owner", form("token", mint(corp(), members{"client_id": "app", "jti": "length"})))
	})
	t.Run("INT-16 two Authorization lines", func(t *testing.T) {
		got, _ := raw(t, address, lines("POST /introspect HTTP/1.1", "Host: x", "Authorization: "+basic("orders", secretOf("orders")), "authorization: "+basic("orders", secretOf("orders")),
			"Content-Type: "+formType, "Content-Length: "+fmt.Sprint(len(q)), "", q))
		if got.StatusCode != http.StatusBadRequest {
			t.Errorf("got %d, want 400", got.StatusCode)
		}
	})
	t.Run("INT-11 a body declared too large is refused at once", func(t *testing.T) {
		got, _ := raw(t, address, lines("POST /introspect HTTP/1.1", "Host: x", "Content-Type: "+formType, "Content-Length: 70000", "", ""))
		if got.StatusCode != http.StatusRequestEntityTooLarge || !got.Close {
			t.Errorf("got %d, close %t, want 413 and the connection closed", got.StatusCode, got.Close)
		}
	})
	for _, row := range []struct {
		name, request string
		status        int
	}{
		{"ATH-04 two Authorization lines, nginx-safe", lines("GET /auth/lenient HTTP/1.1", "Host: x", bearer, bearer, "", ""), 401},
		{"ATH-04 two Authorization lines, RFC 6750", lines("GET /ext-authz/lenient HTTP/1.1", "Host: x", bearer, "authorization: DPoP x", "", ""), 400},
		{"ATH-10 PROPFIND", lines("PROPFIND /auth/lenient HTTP/1.1", "Host: x", bearer, "", ""), 200},
		{"ATH-10 QUERY", lines("QUERY /ext-authz/lenient/a HTTP/1.1", "Host: x", bearer, "", ""), 200},
		{"ATH-10 a header of 60 KiB", lines("GET /auth/lenient HTTP/1.1", "Host: x", "Authorization: Bearer "+strings.Repeat("A", 60<<10), "", ""), 401},
		{"ATH-10 a cookie of 60 KiB", lines("GET /auth/lenient HTTP/1.1", "Host: x", bearer, "Cookie: "+strings.Repeat("c", 60<<10), "", ""), 200},
		{"ATH-11 HEAD", lines("HEAD /auth/lenient HTTP/1.1", "Host: x", bearer, "Connection: close", "", ""), 200},
		{"ATH-11 OPTIONS", lines("OPTIONS /auth/lenient HTTP/1.1", "Host: x", "", ""), 401},
		{"GW-01 the absolute form", lines("GET http://gw.example/auth/strict?scope=read HTTP/1.1", "Host: x", bearer, "", ""), 403},
		{"GW-01 the absolute form of ext-authz", lines("GET https://gw.example:444/ext-authz/lenient/x HTTP/1.1", "Host: x", bearer, "", ""), 200},
		{"GW-01 the absolute form without a path", lines("GET http://gw.example?/auth/lenient HTTP/1.1", "Host: x", bearer, "", ""), 404},
		{"GW-01 dot segments", lines("GET /ext-authz/strict/../lenient/x HTTP/1.1", "Host: x", bearer, "", ""), 403},
		{"GW-01 encoded dot segments", lines("GET /ext-authz/strict/%2e%2e/lenient/x HTTP/1.1", "Host: x", bearer, "", ""), 403},
		{"GW-01 encoded slash", lines("GET /ext-authz/strict%2f../lenient HTTP/1.1", "Host: x", bearer, "", ""), 503},
		{"GW-01 encoded slash on auth", lines("GET /auth/x%2f..%2flenient HTTP/1.1", "Host: x", bearer, "", ""), 503},
		{"GW-01 dot segments on auth", lines("GET /auth/x/../lenient HTTP/1.1", "Host: x", bearer, "", ""), 503},
		{"GW-01 a doubled slash", lines("GET //auth/lenient HTTP/1.1", "Host: x", bearer, "", ""), 404},
		{"GW-01 a fragment", lines("GET /ext-authz/lenient#/x HTTP/1.1", "Host: x", bearer, "", ""), 503},
		{"9b HTTP/1.0 with Connection: close", lines("GET /auth/lenient HTTP/1.0", "Connection: close", bearer, "", ""), 200},
		{"9b HTTP/1.0 without Host, introspect", lines("POST /introspect HTTP/1.0", "Connection: close", "Authorization: "+basic("orders", secretOf("orders")), "Content-Type: "+formType, "Content-Length: "+fmt.Sprint(len(q)), "", q), 200},
		{"9b Host is the upstream's name and a stray Content-Type", lines("GET /auth HTTP/1.1", "Host: introspectd_upstream", "Content-Type: application/json", bearer, "", ""), 200},
		{"9b chunked form", lines("POST /introspect HTTP/1.1", "Host: x", "Authorization: "+basic("orders", secretOf("orders")), "Content-Type: "+formType, "Transfer-Encoding: chunked", "", fmt.Sprintf("%x", len(q)), q, "0", "", ""), 200},
		{"ERR-10 Upgrade: h2c is ignored", lines("GET /auth/lenient HTTP/1.1", "Host: x", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", bearer, "", ""), 200},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, whole := raw(t, address, row.request)
			if got.StatusCode != row.status {
				t.Errorf("got %s, want %d", strings.ReplaceAll(whole, "\r\n", " | "), row.status)
			}
		})
	}
	t.Run("ATH-10 a declared body that never comes is answered at once", func(t *testing.T) {
		for _, declared := range []string{"Content-Length: 1000", "Content-Length: 99999999999", "Transfer-Encoding: chunked"} {
			for path, status := range map[string]int{"/auth/lenient": 200, "/ext-authz/lenient/upload": 200, "/auth/strict?scope=x": 403, "/auth/nothing": 503} {
				for _, method := range []string{"GET", "POST", "PUT"} {
					got, whole := raw(t, address, lines(method+" "+path+" HTTP/1.1", "Host: x", declared, bearer, "", ""))
					if got.StatusCode != status || !got.Close || !strings.Contains(whole, "\r\nConnection: close\r\n") {
						t.Errorf("%s %s %s: got %q, want %d with Connection: close", method, path, declared, whole, status)
					}
				}
			}
		}
		got, _ := raw(t, address, lines("POST /auth/lenient HTTP/1.1", "Host: x", "Content-Length: 9", "Expect: 100-continue", bearer, "", ""))
		if got.StatusCode != 200 {
			t.Errorf("Expect: 100-continue: got %d, want 200 at once", got.StatusCode)
		}
	})
	t.Run("INT-07 INT-09 INT-10 a refusal doesn't wait for a body that never comes", func(t *testing.T) {
		for _, row := range []struct {
			head   string
			status int
		}{
			{"PUT /introspect HTTP/1.1", 405},
			{"POST /nothing HTTP/1.1", 404},
			{"POST /introspect HTTP/1.1\r\nContent-Type: text/plain", 415},
			{"POST /transform HTTP/1.1\r\nContent-Encoding: gzip", 415},
		} {
			got, whole := raw(t, address, lines(row.head, "Host: x", "Content-Length: 1000", "", ""))
			if got.StatusCode != row.status || !got.Close {
				t.Errorf("%s: got %q, want %d with Connection: close", row.head, whole, row.status)
			}
		}
		got, whole := raw(t, address, lines("POST /introspect HTTP/1.1", "Host: x", "Content-Type: "+formType, "Transfer-Encoding: chunked", "", "11170", strings.Repeat("x", 70_000)))
		if got.StatusCode != http.StatusRequestEntityTooLarge || !got.Close {
			t.Errorf("INT-11 chunks over 64 KiB: got %q, want 413 with Connection: close", whole)
		}
	})
	t.Run("ATH-10 over HTTP/2 a body is neither waited for nor missed", func(t *testing.T) {
		server := httptest.NewUnstartedServer(f.api)
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(true)
		server.Config.Protocols = protocols
		server.Start()
		defer server.Close()
		client := &http.Client{Transport: &http.Transport{Protocols: protocols}}
		defer client.CloseIdleConnections()
		never, end := io.Pipe()
		defer end.Close()
		for name, body := range map[string]io.Reader{"never comes": never, "comes": strings.NewReader(strings.Repeat("x", 90<<10))} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/auth/lenient", body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", strings.TrimPrefix(bearer, "Authorization: "))
			got, err := client.Do(r)
			if err != nil {
				t.Fatalf("a body that %s: %v", name, err)
			}
			_ = got.Body.Close()
			if got.StatusCode != http.StatusOK || got.ProtoMajor != 2 {
				t.Errorf("a body that %s: got %d over HTTP/%d, want 200 over HTTP/2", name, got.StatusCode, got.ProtoMajor)
			}
		}
	})
	t.Run("GW-05 ATH-06 a challenge fits into 3,500 bytes", func(t *testing.T) {
		var scopes []string
		for n := range 200 {
			scopes = append(scopes, fmt.Sprintf("a-scope-of-some-length-%d", n))
		}
		got, whole := raw(t, address, lines("GET /auth/lenient?scope="+strings.Join(scopes, "+")+" HTTP/1.1", "Host: x", bearer, "", ""))
		head, _, _ := strings.Cut(whole, "\r\n\r\n")
		if challenge := got.Header.Get("WWW-Authenticate"); got.StatusCode != 403 || len(head) > 3500 || !strings.HasSuffix(challenge, `error="insufficient_scope"`) {
			t.Errorf("got %d, %d bytes of header, challenge %.100q; want 403 without the scopes", got.StatusCode, len(head), challenge)
		}
	})
	t.Run("GW-05 all headers as sent fit into 3,500 bytes", func(t *testing.T) {
		var remove []string
		for n := range 12 {
			remove = append(remove, fmt.Sprintf("X-Something-To-Remove-%d", n))
		}
		f := newFixture(t, func(s *setup) {
			p := httpapi.Policy{Name: "full", AnyIssuer: true, AnyAudience: true, Realm: "r", Headers: map[string]string{"X-Auth-Subject": "sub", "X-Pad": "pad"}}
			s.policies = append(s.policies, p)
			p.Name, p.RemoveHeaders = "removing", remove
			s.policies = append(s.policies, p)
		})
		address := listening(t, f.api)
		for _, policy := range []string{"full", "removing"} {
			longest := 0
			for length := 1500; length < 3500; length += 40 {
				token := mint(corp(), members{"sub": strings.Repeat("s", 1000), "pad": strings.Repeat("p", length)})
				got, whole := raw(t, address, lines("GET /auth/"+policy+" HTTP/1.1", "Host: x", "Content-Length: 5", "Authorization: Bearer "+token, "", "12345"))
				if got.StatusCode != 200 || len(whole) > 3500 {
					t.Errorf("%s, %d: got %d with %d bytes of headers, want 200 with at most 3500", policy, length, got.StatusCode, len(whole))
				}
				if pad := got.Header.Values("X-Pad"); len(pad) != 1 || len(pad[0]) != 0 && len(pad[0]) != length {
					t.Errorf("%s, %d: got X-Pad %q, want it whole or empty", policy, length, pad)
				}
				longest = max(longest, len(whole))
			}
			if longest < 3300 {
				t.Errorf("%s: got at most %d bytes, want nearly 3500", policy, longest)
			}
		}
	})
	t.Run("GW-05 as sent, a claim adds no header", func(t *testing.T) {
		_, whole := raw(t, address, lines("GET /auth/lenient HTTP/1.1", "Host: x", "Authorization: Bearer "+mint(corp(), members{"client_id": "a\r\nX-Admin: 1"}), "", ""))
		if strings.Contains(whole, "X-Admin") {
			t.Errorf("got %q, want no X-Admin", whole)
		}
	})
}

// panicking is a store that panics.
type panicking struct{ lost }

func (panicking) Get(context.Context, introspect.Key, []byte) []byte { panic("the store panics") }

func TestErrors(t *testing.T) {
	f := newFixture(t)
	t.Run("ERR-01 no such path, no redirect", func(t *testing.T) {
		for _, path := range []string{
			"/", "/introspect/", "/INTROSPECT", "/oauth2/introspect/", "/oauth2", "/revoke/", "/oauth2/revoke", "/revocations", "/jwks.json", "/token", "/authx", "/metrics", "/issuers", "/explain", "/debug/pprof/", "/dev/token", "/openapi.yaml",
			"/.well-known/openid-configuration", "/livez/", "//introspect", "/./introspect",
		} {
			for _, method := range []string{"GET", "POST"} {
				f.send(method, path, "").want(t, http.StatusNotFound, `{"error":"not_found"}`).wantHeader(t, "Location")
			}
		}
	})
	t.Run("ERR-01 input is never echoed", func(t *testing.T) {
		const echo = "zzECHOzz"
		for _, got := range []response{
			f.send("GET", "/"+echo+"?"+echo, "", echo, echo), f.post("/introspect", echo+"=%zz", "X-Y", echo), f.post("/introspect", "token="+echo, "Authorization", "Bearer "+echo),
			f.send("POST", "/transform", `{"`+echo+`":"`+echo+`"}`, append(as("any"), "Content-Type", "application/json")...), f.get("/auth/"+echo, echo), f.get("/auth/lenient?scope="+echo+"%22", echo),
			f.get("/ext-authz/lenient/"+echo, echo), f.send("POST", "/introspect", "", "Content-Type", echo), f.send(echo, "/introspect", ""),
		} {
			if strings.Contains(got.body+text(got.header), echo) {
				t.Errorf("got %v, want nothing of the input", got)
			}
		}
	})
	t.Run("ERR-02 errors are OAuth's, whatever Accept prefers", func(t *testing.T) {
		f.post("/introspect", "", "Accept", "application/problem+json").want(t, http.StatusUnauthorized, `{"error":"invalid_client"}`).wantHeader(t, "Content-Type", "application/json")
	})
	t.Run("ERR-07 no CORS", func(t *testing.T) {
		f.send("OPTIONS", "/introspect", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST").wantStatus(t, http.StatusMethodNotAllowed)
		f.post("/introspect", form("token", "x"), append(as("any"), "Origin", "https://evil.example")...).want(t, http.StatusOK, inactive)
	})
	t.Run("ERR-09 a panic is 500 with a request id, and never a verdict", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.store = panicking{} })
		good := mint(corp(), nil)
		form500 := regexp.MustCompile(`^\{"error":"server_error","request_id":"[0-9a-f]{16,32}"\}$`)
		for name, got := range map[string]response{
			"introspect": f.ask("any", "/introspect", good), "transform": f.ask("any", "/transform", good),
			"auth": f.get("/auth/lenient", good), "ext-authz": f.get("/ext-authz/lenient", good),
		} {
			got.wantStatus(t, http.StatusInternalServerError)
			if !form500.MatchString(got.body) {
				t.Errorf("%s: got %s, want only an error and a request id", name, got.body)
			}
			got.wantHeader(t, "X-Auth-Subject")
		}
		panics, requests := f.lines("panic"), f.lines("request")
		if len(panics) != 4 || len(requests) != 4 || panics[0]["request_id"] == nil || panics[0]["stack"] == nil {
			t.Errorf("got %d panics and %d requests in the log, want 4 of each, with id and stack", len(panics), len(requests))
		}
		for n, line := range requests {
			if line["status"] != 500.0 || line["active"] != nil || !strings.Contains(fmt.Sprint(line["note"]), fmt.Sprint(panics[n]["request_id"])) {
				t.Errorf("got %v, want the id of %v", line, panics[n]["request_id"])
			}
		}
		address := listening(t, f.api)
		got, _ := raw(t, address, lines("POST /auth/lenient HTTP/1.1", "Host: x", "Content-Length: 1000", "Authorization: Bearer "+good, "", ""))
		if got.StatusCode != 500 {
			t.Errorf("a panic before a body that never comes: got %d, want 500", got.StatusCode)
		}
	})
	t.Run("ERR-09 a panic in a probe", func(t *testing.T) {
		f := newFixture(t, func(s *setup) {
			s.ready = func() httpapi.Readiness { panic("readiness") }
			s.states = func() any { panic("states") }
		})
		f.send("GET", "/readyz", "").wantError(t, http.StatusInternalServerError, "server_error")
		f.through(f.metrics, newRequest("GET", "/readyz", "")).wantError(t, http.StatusInternalServerError, "server_error")
		f.through(f.admin, newRequest("GET", "http://localhost/issuers", "")).wantError(t, http.StatusInternalServerError, "server_error")
	})
	t.Run("ERR-09 traceparent names the request", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.store = panicking{} })
		got := f.get("/auth/lenient", mint(corp(), nil), "Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
		if id := got.object(t)["request_id"]; id != "4bf92f3577b34da6a3ce929d0e0e4736" {
			t.Errorf("got %v, want the trace id", id)
		}
	})
}

func TestMetadata(t *testing.T) {
	const base = "https://introspect.example"
	f := newFixture(t, func(s *setup) { s.public = base })
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
		t.Run("MET-01 "+path, func(t *testing.T) {
			got := f.send("GET", path, "").wantStatus(t, http.StatusOK).wantHeader(t, "Content-Type", "application/json").wantHeader(t, "Cache-Control", "max-age=3600")
			doc := got.object(t)
			for name, want := range map[string]any{"issuer": base, "introspection_endpoint": base + "/introspect", "revocation_endpoint": base + "/revoke", "token_endpoint": base + "/token"} {
				if doc[name] != want {
					t.Errorf("%s: got %v, want %v", name, doc[name], want)
				}
			}
			if got := fmt.Sprint(doc["response_types_supported"]); got != "[none]" {
				t.Errorf("response_types_supported: got %s, want [none]", got)
			}
			// What is not built must not be promised, and no list is empty.
			for _, name := range []string{"jwks_uri", "grant_types_supported", "introspection_signing_alg_values_supported", "introspection_endpoint_auth_signing_alg_values_supported", "authorization_endpoint"} {
				if _, ok := doc[name]; ok {
					t.Errorf("%s: got %v, want none", name, doc[name])
				}
			}
			if strings.Contains(got.body, "[]") || strings.Contains(got.body, "private_key_jwt") {
				t.Errorf("got %s, want no empty list and no method that isn't built", got.body)
			}
		})
		t.Run("MET-01 only with public_url "+path, func(t *testing.T) {
			newFixture(t).send("GET", path, "").wantStatus(t, http.StatusNotFound)
		})
	}
	t.Run("MET-01 the methods are those that some caller may use", func(t *testing.T) {
		row := func(methods ...callers.Method) callers.Config {
			c := caller("one", callers.Introspect)
			c.BearerTokens, c.Methods = digestOf(bearerOf("one")), methods
			return c
		}
		for _, tt := range []struct {
			rows                      []callers.Config
			introspection, revocation string
		}{
			{standardCallers(), "[client_secret_basic client_secret_post Bearer]", "[client_secret_basic client_secret_post]"},
			{[]callers.Config{row(callers.ClientSecretPost)}, "[client_secret_post]", "[client_secret_post]"},
			{[]callers.Config{row(callers.Bearer)}, "[Bearer]", "<nil>"}, // a list without elements is left out
			{nil, "<nil>", "<nil>"},
		} {
			f := newFixture(t, func(s *setup) { s.public, s.callers = base, tt.rows })
			doc := f.send("GET", "/.well-known/oauth-authorization-server", "").object(t)
			for name, want := range map[string]string{"introspection_endpoint_auth_methods_supported": tt.introspection, "revocation_endpoint_auth_methods_supported": tt.revocation} {
				if got := fmt.Sprint(doc[name]); got != want {
					t.Errorf("%s: got %s, want %s", name, got, want)
				}
			}
		}
	})
	t.Run("9b claims_supported", func(t *testing.T) {
		list := fmt.Sprint(f.send("GET", "/.well-known/openid-configuration", "").object(t)["claims_supported"])
		for _, claim := range []string{"sub", "iss", "aud", "exp", "iat", "scope", "client_id", "username"} {
			if !strings.Contains(list, claim) {
				t.Errorf("got %s, want %s in it", list, claim)
			}
		}
	})
	t.Run("9b the token endpoint has no grants", func(t *testing.T) {
		f.post("/token", "grant_type=client_credentials", as("any")...).want(t, http.StatusBadRequest, `{"error":"unsupported_grant_type"}`)
		f.post("/token", "").want(t, http.StatusBadRequest, `{"error":"unsupported_grant_type"}`)
		if got, whole := raw(t, listening(t, f.api), lines("POST /token HTTP/1.1", "Host: x", "Content-Length: 1000", "", "")); got.StatusCode != http.StatusBadRequest || !got.Close {
			t.Errorf("a body that never comes: got %q, want 400 with Connection: close", whole)
		}
		f.send("GET", "/token", "").wantStatus(t, http.StatusMethodNotAllowed).wantHeader(t, "Allow", "POST")
	})
}

// TestPromises names what holdToPromises checks of every answer in this suite,
// each once where it can be seen.
func TestPromises(t *testing.T) {
	f := newFixture(t)
	good := mint(corp(), nil)
	all := map[string]func() response{
		"active":           func() response { return f.ask("any", "/introspect", good) },
		"inactive":         func() response { return f.ask("any", "/introspect", altered(good)) },
		"transformed":      func() response { return f.ask("any", "/transform", good) },
		"allowed":          func() response { return f.get("/auth/lenient", good) },
		"denied":           func() response { return f.get("/auth/lenient", altered(good)) },
		"forbidden":        func() response { return f.get("/ext-authz/strict", good) },
		"unauthenticated":  func() response { return f.post("/introspect", form("token", good)) },
		"bad request":      func() response { return f.post("/introspect", "token=a&token=b") },
		"not found":        func() response { return f.send("GET", "/nothing", "") },
		"method":           func() response { return f.send("GET", "/introspect?token="+good, "") },
		"media type":       func() response { return f.send("POST", "/introspect", "x") },
		"too large":        func() response { return f.post("/introspect", strings.Repeat("x", 65<<10)) },
		"unavailable":      func() response { return f.ask("any", "/introspect", mint(dark(), nil)) },
		"no such policy":   func() response { return f.get("/auth/nothing", good) },
		"stranger":         func() response { return f.ask("gateway", "/introspect", good) },
		"guessing":         func() response { return f.post("/introspect", "", "Authorization", basic("guessed", "wrong")) },
		"not even a token": func() response { return f.send("GET", "/ext-authz/lenient", "", "Authorization", "Bearer") },
	}
	for range 20 {
		all["guessing"]()
	}
	status := map[string]int{
		"active": 200, "inactive": 200, "transformed": 200, "allowed": 200, "denied": 401, "forbidden": 403, "unauthenticated": 401, "bad request": 400, "not found": 404,
		"method": 405, "media type": 415, "too large": 413, "unavailable": 503, "no such policy": 503, "stranger": 403, "guessing": 429, "not even a token": 400,
	}
	for name, send := range all {
		got := send().wantStatus(t, status[name])
		t.Run("ERR-03 no-store: "+name, func(t *testing.T) { got.wantHeader(t, "Cache-Control", "no-store") })
		t.Run("ERR-08 the exact media type: "+name, func(t *testing.T) {
			if got.body == "" {
				got.wantHeader(t, "Content-Type")
			} else {
				got.wantHeader(t, "Content-Type", "application/json")
			}
			if strings.HasSuffix(got.body, "\n") {
				t.Errorf("got %q, want no newline at the end", got.body)
			}
		})
		t.Run("INT-25 nothing of the token, the reason or us: "+name, func(t *testing.T) {
			whole := strings.ToLower(got.body + text(got.header))
			for _, word := range []string{strings.ToLower(strings.Split(good, ".")[2]), "signature", "issuer corp", "dark", ".go:", "goroutine", "panic", "bad_", "malformed", "unknown_", "keys_", "reason", "127.0.0.1", "jwks"} {
				if strings.Contains(whole, word) {
					t.Errorf("got %s, want no %q in it", whole, word)
				}
			}
		})
		switch got.status {
		case 401:
			t.Run("ERR-04 a challenge on each line: "+name, func(t *testing.T) {
				if len(got.challenges()) == 0 {
					t.Errorf("got no challenge, want one")
				}
				for _, line := range got.challenges() {
					if strings.Count(line, "realm=") != 1 {
						t.Errorf("got %q, want one challenge a line", line)
					}
				}
			})
		case 405:
			t.Run("ERR-05 Allow: "+name, func(t *testing.T) { got.wantHeader(t, "Allow", "POST") })
		case 503:
			t.Run("ERR-06 Retry-After: "+name, func(t *testing.T) { got.wantHeader(t, "Retry-After", "5") })
		case 429:
			t.Run("ERR-06 Retry-After: "+name, func(t *testing.T) { got.wantHeader(t, "Retry-After", "1") })
		}
	}
}
