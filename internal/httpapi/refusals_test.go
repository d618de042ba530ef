package httpapi_test

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"introspectd/internal/httpapi"
)

// The bodies of API Manager 4, whole: clients were written against them.
const (
	unclassified = `{"code":"900900","message":"Unclassified Authentication Failure","description":"Unclassified Authentication Failure"}`
	badToken     = `{"code":"900901","message":"Invalid Credentials","description":"Invalid Credentials. Make sure you have provided the correct security credentials"}`
	noToken      = `{"code":"900902","message":"Missing Credentials","description":"Invalid Credentials. Make sure your API invocation call has a header: 'Authorization : Bearer ACCESS_TOKEN'"}`
	forbidden    = `{"code":"900908","message":"Resource forbidden","description":"User is NOT authorized to access the Resource"}`
	badScope     = `{"code":"900910","message":"The access token does not allow you to access the requested resource","description":"User is NOT authorized to access the Resource. Scope validation failed."}`
)

func inWSO2(s *setup) { s.errors = httpapi.WSO2 }

func TestGatewaysRefuseInTheWordsOfWSO2(t *testing.T) {
	f := newFixture(t, inWSO2)
	good := mint(corp(), members{"scope": "read"})

	bothGateways(t, "900902 ATH-02 no token", func(t *testing.T, prefix string, _ int) {
		f.send("GET", prefix+"/lenient", "").want(t, http.StatusUnauthorized, noToken).
			wantHeader(t, "WWW-Authenticate", plainChallenge).wantHeader(t, "Content-Type", "application/json").
			wantHeader(t, "Cache-Control", "no-store")
		f.send("GET", prefix+"/lenient", "", "Authorization", basic("orders", secretOf("orders"))).want(t, http.StatusUnauthorized, noToken)
	})
	bothGateways(t, "900902 ATH-04 malformed", func(t *testing.T, prefix string, malformed int) {
		f.send("GET", prefix+"/lenient", "", "Authorization", "Bearer").want(t, malformed, noToken).wantHeader(t, "WWW-Authenticate", requestChallenge)
		f.send("GET", prefix+"/lenient", "", "Authorization", "Bearer a", "Authorization", "Bearer a").want(t, malformed, noToken)
	})
	bothGateways(t, "900901 ATH-05 a token that is not good, for whatever reason", func(t *testing.T, prefix string, _ int) {
		expired := mint(corp(), members{"exp": time.Now().Unix() - 100})
		f.get(prefix+"/lenient", expired).want(t, http.StatusUnauthorized, badToken).wantHeader(t, "WWW-Authenticate", expiredChallenge)
		unknown := strings.Replace(corpIss, "corp", "nobody", 1)
		for _, token := range []string{
			"garbage", altered(good), mint(corp(), members{"iss": unknown}), mint(corp(), members{"nbf": time.Now().Unix() + 3000}),
			mint(corp(), members{"cnf": members{"jkt": "k"}}), sign(`{"alg":"none"}`, `{}`),
		} {
			for range 2 {
				f.get(prefix+"/lenient", token).want(t, http.StatusUnauthorized, badToken).wantHeader(t, "WWW-Authenticate", invalidChallenge)
			}
		}
	})
	bothGateways(t, "900910 ATH-06 a scope is missing", func(t *testing.T, prefix string, _ int) {
		f.get(prefix+"/strict", good).want(t, http.StatusForbidden, badScope).
			wantHeader(t, "WWW-Authenticate", `Bearer realm="strict zone", error="insufficient_scope", scope="read write"`)
	})
	bothGateways(t, "900900 ATH-08 ATH-09 we can't tell: still 503", func(t *testing.T, prefix string, _ int) {
		f.get(prefix+"/lenient", mint(dark(), nil)).want(t, http.StatusServiceUnavailable, unclassified).
			wantHeader(t, "Retry-After", "5").wantHeader(t, "WWW-Authenticate")
		f.get(prefix+"/nothing", good).want(t, http.StatusServiceUnavailable, unclassified)
	})
	t.Run("900900 ATH-09 a query of /auth that can't be understood", func(t *testing.T) {
		f.get("/auth/lenient?x=y", good).want(t, http.StatusServiceUnavailable, unclassified)
	})
	bothGateways(t, "900908 the gateway itself may not ask", func(t *testing.T, prefix string, _ int) {
		f := newFixture(t, inWSO2, func(s *setup) { s.allow = nil })
		f.get(prefix+"/lenient", good).want(t, http.StatusForbidden, forbidden).wantHeader(t, "WWW-Authenticate")
	})
	bothGateways(t, "ATH-01 what is allowed is as ever", func(t *testing.T, prefix string, _ int) {
		f.get(prefix+"/lenient", good).want(t, http.StatusOK, "").wantHeader(t, "X-Auth-Subject", "raw-claim-alice")
	})
	t.Run("INT-12 other endpoints keep their own errors", func(t *testing.T) {
		f.post("/introspect", form("token", good)).wantError(t, http.StatusUnauthorized, "invalid_client")
		f.ask("any", "/introspect", mint(dark(), nil)).wantError(t, http.StatusServiceUnavailable, "temporarily_unavailable")
		f.send("GET", "/authx", "").wantError(t, http.StatusNotFound, "not_found")
	})
	t.Run("the log keeps the reason and our own code", func(t *testing.T) {
		f.get("/auth/lenient", altered(good))
		f.wantReason(t, "bad_signature", "corp")
		if got := f.last()["error"]; got != "invalid_token" {
			t.Errorf("logged error: got %v, want invalid_token", got)
		}
	})
}

// A HEAD is forwarded like any other request: its answer has the headers of the
// GET, and no body (RFC 9110 section 9.3.2).
func TestHEADIsRefusedWithoutABody(t *testing.T) {
	for format, length := range map[httpapi.ErrorFormat]int{httpapi.OAuth: len(`{"error":"unauthorized"}`), httpapi.WSO2: len(noToken)} {
		t.Run("ATH-10 "+string(format), func(t *testing.T) {
			f := newFixture(t, func(s *setup) { s.errors = format })
			address := listening(t, f.api)
			for _, path := range []string{"/auth/lenient", "/ext-authz/lenient/x"} {
				connection, err := net.Dial("tcp", address)
				f.must(err)
				defer connection.Close()
				_, err = io.WriteString(connection, lines("HEAD "+path+" HTTP/1.1", "Host: x", "Connection: close", "", ""))
				f.must(err)
				all, err := io.ReadAll(connection)
				f.must(err)
				whole := string(all)
				if !strings.HasPrefix(whole, "HTTP/1.1 401 ") || !strings.Contains(whole, "\r\nContent-Length: "+strconv.Itoa(length)+"\r\n") || strings.Contains(whole, "{") {
					t.Errorf("%s: got %q, want 401, the length of the body and none", path, whole)
				}
			}
		})
	}
}
