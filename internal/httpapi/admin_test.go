package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"introspectd/internal/callers"
	"introspectd/internal/httpapi"
	"introspectd/internal/revoke"
)

// sendAdmin sends to the admin listener as if it were asked for by localhost.
func (f *fixture) sendAdmin(method, path, body string, headers ...string) response {
	f.Helper()
	return f.through(f.admin, newRequest(method, "http://localhost:8081"+path, body, headers...))
}

func TestAdmin(t *testing.T) {
	f := newFixture(t, func(s *setup) {
		s.refresh["partner"] = errors.New("the endpoint said 500")
		s.hosts, s.pprof = []string{"Admin.Example"}, true
		operator := caller("operator-by-token", callers.Operate)
		operator.BearerTokens = digestOf(bearerOf("operator-by-token"))
		s.callers = append(s.callers, operator)
	})
	asOperator, asExplainer := as("operator"), as("explainer")
	asJSON := func(headers []string) []string {
		return append([]string{"Content-Type", "application/json"}, headers...)
	}

	t.Run("ADMIN Host must be ours: DNS rebinding", func(t *testing.T) {
		for host, status := range map[string]int{
			"127.0.0.1:8081": 200, "127.0.0.1": 200, "127.0.0.1:9999": 200, "localhost": 200, "LOCALHOST:8081": 200, "admin.example": 200, "ADMIN.example:1": 200,
			"evil.example": 421, "evil.example:8081": 421, "127.0.0.1.evil.example": 421, "localhost.evil.example": 421, "admin.example.evil": 421, "": 421, "127.0.0.2": 421, "[::1]:8081": 421,
		} {
			for _, path := range []string{"/livez", "/readyz", "/metrics", "/issuers", "/openapi.yaml"} {
				r := newRequest("GET", path, "")
				r.Host = host
				if got := f.through(f.admin, r); got.status != status {
					t.Errorf("Host %q, %s: got %d, want %d", host, path, got.status, status)
				}
			}
		}
		for _, path := range []string{"/nothing", "/explain", "/issuers/corp/refresh"} {
			for _, method := range []string{"GET", "POST"} {
				r := newRequest(method, path, `{"token":"x"}`, asJSON(as("operator"))...)
				r.Host = "evil.example"
				f.through(f.admin, r).wantError(t, http.StatusMisdirectedRequest, "invalid_request")
			}
		}
	})
	t.Run("ADMIN a listener on every address is its own at the one that was dialled", func(t *testing.T) {
		for _, address := range []string{":8081", "0.0.0.0:8081", "[::]:8081"} {
			f := newFixture(t, func(s *setup) { s.address = address })
			for host, status := range map[string]int{"10.0.0.5:8081": 200, "10.0.0.5": 200, "localhost": 200, "10.0.0.6": 421, "evil.example": 421, "": 421} {
				r := newRequest("GET", "/livez", "")
				r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 5), Port: 8081}))
				r.Host = host
				if got := f.through(f.admin, r); got.status != status {
					t.Errorf("%s, Host %q: got %d, want %d", address, host, got.status, status)
				}
			}
		}
	})
	t.Run("ADMIN a unix socket has no rebinding", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.address = "unix:/run/admin.sock" })
		r := newRequest("GET", "/livez", "")
		r.Host = "whatever"
		f.through(f.admin, r).wantStatus(t, http.StatusOK)
	})
	t.Run("ADMIN what is open", func(t *testing.T) {
		f.sendAdmin("GET", "/livez", "").want(t, http.StatusOK, `{"status":"alive"}`)
		f.sendAdmin("GET", "/openapi.yaml", "").want(t, http.StatusOK, "openapi: 3.1.0\n").wantHeader(t, "Content-Type", "application/yaml")
		f.sendAdmin("GET", "/issuers", "").want(t, http.StatusOK, `{"issuers":["corp"]}`)
		f.sendAdmin("GET", "/metrics", "").want(t, http.StatusOK, "introspectd_build_info 1\n")
		f.sendAdmin("POST", "/introspect", form("token", "x"), as("any")...).wantStatus(t, http.StatusNotFound)
		f.sendAdmin("GET", "/auth/lenient", "").wantStatus(t, http.StatusNotFound)
	})
	t.Run("ADMIN acts need a caller with the permission", func(t *testing.T) {
		for _, act := range []struct{ method, path, body, caller string }{
			{"POST", "/explain", `{"token":"x"}`, "explainer"},
			{"POST", "/issuers/corp/refresh", "", "operator"},
			{"GET", "/debug/pprof/cmdline", "", "operator"},
			{"GET", "/debug/pprof/", "", "operator"},
			{"POST", "/issuers/corp/refresh?drop=true", "", "operator"},
			{"GET", "/revocations", "", "officer"},
		} {
			send := func(headers ...string) response {
				if act.body != "" {
					headers = asJSON(headers)
				}
				return f.sendAdmin(act.method, act.path, act.body, headers...)
			}
			send().wantError(t, http.StatusUnauthorized, "invalid_client").wantHeader(t, "WWW-Authenticate", basicLine, bearerLine)
			send("Authorization", basic(act.caller, "wrong")).wantError(t, http.StatusUnauthorized, "invalid_client")
			send("Authorization", basic(act.caller, secretOf(act.caller)), "Authorization", "Bearer x").wantError(t, http.StatusBadRequest, "invalid_request")
			for _, id := range []string{"orders", "gateway", "explainer", "operator", "officer", "revoke-any"} {
				want := http.StatusForbidden
				if id == act.caller {
					want = http.StatusOK
				}
				send(as(id)...).wantStatus(t, want)
			}
		}
		f.sendAdmin("POST", "/issuers/corp/refresh", "", "Authorization", "Bearer "+bearerOf("operator-by-token")).wantStatus(t, http.StatusOK)
		f.sendAdmin("POST", "/explain", `{"token":"x"}`, asJSON([]string{"Authorization", "Bearer " + bearerOf("operator-by-token")})...).
			wantError(t, http.StatusUnauthorized, "insufficient_scope").wantHeader(t, "WWW-Authenticate", bearerLine+`, error="insufficient_scope", scope="explain"`)
		r := newRequest("POST", "/issuers/corp/refresh", "")
		r.Host, r.RemoteAddr = "localhost", "@"
		f.through(f.admin, r).wantStatus(t, http.StatusUnauthorized)
	})
	t.Run("ADMIN pprof only where it is switched on", func(t *testing.T) {
		newFixture(t).sendAdmin("GET", "/debug/pprof/", "", asOperator...).wantStatus(t, http.StatusNotFound)
		f.sendAdmin("POST", "/debug/pprof/profile", "", asOperator...).wantStatus(t, http.StatusMethodNotAllowed)
	})
	t.Run("ADMIN refresh", func(t *testing.T) {
		f.sendAdmin("POST", "/issuers/corp/refresh", "", asOperator...).want(t, http.StatusOK, `{"refreshed":true}`)
		f.sendAdmin("POST", "/issuers/nobody/refresh", "", asOperator...).wantError(t, http.StatusNotFound, "not_found")
		got := f.sendAdmin("POST", "/issuers/partner/refresh", "", asOperator...).wantError(t, http.StatusBadGateway, "temporarily_unavailable")
		if strings.Contains(got.body, "500") {
			t.Errorf("got %s, want no word of the cause", got.body)
		}
		if cause := f.last()["cause"]; cause != "the endpoint said 500" {
			t.Errorf("logged cause: got %v, want it", cause)
		}
		f.sendAdmin("GET", "/issuers/corp/refresh", "", asOperator...).wantError(t, http.StatusMethodNotAllowed, "invalid_request").wantHeader(t, "Allow", "POST")
	})
	t.Run("ADMIN acts are refused to pages of other origins", func(t *testing.T) {
		for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}} {
			f.sendAdmin("POST", "/issuers/corp/refresh", "", append(header, asOperator...)...).wantError(t, http.StatusForbidden, "access_denied")
			// A profile costs a processor its time, also for a page that can't read it.
			f.sendAdmin("GET", "/debug/pprof/cmdline", "", append(header, asOperator...)...).wantError(t, http.StatusForbidden, "access_denied")
			f.sendAdmin("GET", "/revocations", "", append(header, as("officer")...)...).wantError(t, http.StatusForbidden, "access_denied")
		}
		for _, header := range [][]string{{"Sec-Fetch-Site", "none"}, {"Sec-Fetch-Site", "same-origin"}, {"Origin", "http://localhost:8081"}} {
			f.sendAdmin("GET", "/debug/pprof/cmdline", "", append(header, asOperator...)...).wantStatus(t, http.StatusOK)
		}
	})
	t.Run("ADMIN refresh: what isn't understood is refused, not ignored", func(t *testing.T) {
		before := f.revocations.Live(time.Now())
		for _, query := range []string{"drop", "drop=", "drop=false", "drop=TRUE", "Drop=true", "drop=true&drop=true", "drop=true&x=y", "x=y&drop=true", "&drop=true", "x"} {
			f.sendAdmin("POST", "/issuers/corp/refresh?"+query, "", asOperator...).wantError(t, http.StatusBadRequest, "invalid_request")
		}
		if got := f.revocations.Live(time.Now()); got != before {
			t.Errorf("got %d records, want %d as before", got, before)
		}
	})
	t.Run("ADMIN refresh is for the keys of the caller's issuers", func(t *testing.T) {
		fetched := 0
		f := newFixture(t, func(s *setup) {
			s.refresh["partner"], s.refreshed = nil, func() { fetched++ }
			ops := caller("corp-ops", callers.Operate)
			ops.AnyIssuer, ops.Issuers = false, []string{"corp"}
			s.callers = append(s.callers, ops)
		})
		before := f.shelf.kept()
		for _, query := range []string{"", "?drop=true"} {
			f.sendAdmin("POST", "/issuers/partner/refresh"+query, "", as("corp-ops")...).wantError(t, http.StatusForbidden, "access_denied")
			f.sendAdmin("POST", "/issuers/nobody/refresh"+query, "", as("corp-ops")...).wantError(t, http.StatusNotFound, "not_found")
		}
		if made := f.shelf.kept() - before; made != 0 || fetched != 0 {
			t.Errorf("got %d records and %d fetches for another's issuer, want none", made, fetched)
		}
		f.sendAdmin("POST", "/issuers/corp/refresh?drop=true", "", as("corp-ops")...).wantStatus(t, http.StatusOK)
	})
	t.Run("ADMIN JSON bodies only: a web page's form is refused", func(t *testing.T) {
		for _, kind := range []string{formType, "multipart/form-data", "text/plain"} {
			f.sendAdmin("POST", "/issuers/corp/refresh", "x=y", append([]string{"Content-Type", kind}, asOperator...)...).wantError(t, http.StatusUnsupportedMediaType, "invalid_request")
			f.sendAdmin("POST", "/explain", form("token", "x"), append([]string{"Content-Type", kind}, asExplainer...)...).
				wantError(t, http.StatusUnsupportedMediaType, "invalid_request").wantHeader(t, "Accept", "application/json")
		}
		f.sendAdmin("POST", "/issuers/corp/refresh", "", append([]string{"Content-Type", formType}, asOperator...)...).wantStatus(t, http.StatusOK)
		f.sendAdmin("POST", "/issuers/corp/refresh", "{}", asJSON(asOperator)...).want(t, http.StatusOK, `{"refreshed":true}`)
	})
	t.Run("ADMIN explain is the one place for a reason", func(t *testing.T) {
		token := mint(corp(), members{"exp": time.Now().Unix() - 100})
		got := f.sendAdmin("POST", "/explain", text(members{"token": token}), asJSON(asExplainer)...).wantStatus(t, http.StatusOK)
		var x struct {
			Active         bool
			Reason, Issuer string
			Steps          []struct{ Step, Result, Detail string }
		}
		if err := json.Unmarshal([]byte(got.body), &x); err != nil {
			t.Fatal(err)
		}
		if x.Active || x.Reason != "expired" || x.Issuer != "corp" || len(x.Steps) < 10 {
			t.Errorf("got %s, want the ladder of an expired token", got.body)
		}
		for _, row := range []struct{ token, reason string }{{"x", "malformed"}, {mint(dark(), nil), "keys_unavailable"}, {altered(mint(corp(), nil)), "bad_signature"}} {
			got := f.sendAdmin("POST", "/explain", text(members{"token": row.token}), asJSON(asExplainer)...).wantStatus(t, http.StatusOK)
			if reason := got.object(t)["reason"]; reason != row.reason {
				t.Errorf("got %v, want %s", reason, row.reason)
			}
		}
	})
	t.Run("ADMIN ERR-08 explain shows claims as they were signed", func(t *testing.T) {
		got := f.sendAdmin("POST", "/explain", text(members{"token": signed(`"site":"<a>&b","big":9007199254740993`)}), asJSON(asExplainer)...).wantStatus(t, http.StatusOK)
		if !strings.Contains(got.body, `"site":"<a>&b"`) || !strings.Contains(got.body, `"big":9007199254740993`) {
			t.Errorf("got %s, want the claims unescaped", got.body)
		}
	})
	t.Run("ADMIN explain of what isn't a request", func(t *testing.T) {
		for _, body := range []string{``, `{}`, `[]`, `null`, `{"token":7}`, `{"token":"x","token":"y"}`, `{"token":"x","at":"now"}`, `{"Token":"x"}`, `{"token":"x"}{}`} {
			f.sendAdmin("POST", "/explain", body, asJSON(asExplainer)...).wantError(t, http.StatusBadRequest, "invalid_request")
		}
		f.sendAdmin("POST", "/explain", `{"token":"`+strings.Repeat("x", 65<<10)+`"}`, asJSON(asExplainer)...).wantError(t, http.StatusRequestEntityTooLarge, "invalid_request")
		f.sendAdmin("POST", "/explain", `{"token":""}`, asJSON(asExplainer)...).wantStatus(t, http.StatusOK)
	})
	t.Run("ADMIN every act is one audit line: who, what, result", func(t *testing.T) {
		token := mint(corp(), nil)
		for _, row := range []struct {
			send func() response
			want map[string]any
		}{
			{
				func() response {
					return f.sendAdmin("POST", "/explain", text(members{"token": token}), asJSON(asExplainer)...)
				},
				map[string]any{"audit": true, "who": "explainer", "what": "POST /explain", "status": 200.0},
			},
			{
				func() response { return f.sendAdmin("POST", "/issuers/corp/refresh", "", asOperator...) },
				map[string]any{"audit": true, "who": "operator", "what": "POST /issuers/{name}/refresh", "issuer": "corp", "status": 200.0},
			},
			{
				func() response { return f.sendAdmin("POST", "/issuers/partner/refresh", "", asOperator...) },
				map[string]any{"who": "operator", "issuer": "partner", "status": 502.0},
			},
			{
				func() response { return f.sendAdmin("POST", "/issuers/"+token+"/refresh", "", asOperator...) },
				map[string]any{"who": "operator", "issuer": nil, "status": 404.0},
			},
			{
				func() response { return f.sendAdmin("POST", "/issuers/corp/refresh", "", as("gateway")...) },
				map[string]any{"who": "gateway", "status": 403.0},
			},
			{
				func() response { return f.sendAdmin("POST", "/issuers/corp/refresh", "") },
				map[string]any{"who": "", "status": 401.0},
			},
		} {
			before := len(f.lines("admin act"))
			row.send()
			all := f.lines("admin act")
			if len(all) != before+1 {
				t.Fatalf("got %d audit lines, want one for %v", len(all)-before, row.want)
			}
			for key, want := range row.want {
				if got := all[before][key]; got != want {
					t.Errorf("%s: got %v, want %v in %v", key, got, want, all[before])
				}
			}
		}
	})
}

func TestMetricsListener(t *testing.T) {
	f := newFixture(t)
	t.Run("METRICS, LIVEZ, READYZ and nothing else", func(t *testing.T) {
		send := func(method, path string) response {
			r := newRequest(method, path, "")
			r.Host = "10.0.0.7:8082"
			return f.through(f.metrics, r)
		}
		send("GET", "/metrics").want(t, http.StatusOK, "introspectd_build_info 1\n")
		send("GET", "/livez").want(t, http.StatusOK, `{"status":"alive"}`)
		send("GET", "/readyz").want(t, http.StatusOK, `{"status":"ready"}`)
		for _, path := range []string{"/issuers", "/openapi.yaml", "/debug/pprof/", "/introspect", "/auth"} {
			send("GET", path).wantStatus(t, http.StatusNotFound)
		}
		for _, path := range []string{"/explain", "/issuers/corp/refresh", "/introspect"} {
			send("POST", path).wantStatus(t, http.StatusNotFound)
		}
		send("POST", "/metrics").wantStatus(t, http.StatusMethodNotAllowed).wantHeader(t, "Allow", "GET")
	})
}

func TestReadiness(t *testing.T) {
	const none, some, all = 0, 1, 2
	whole := revoke.State{Complete: true, Current: true}
	keys := func(n int) map[string]bool { return map[string]bool{"a": n > 0, "b": n > 1} }
	type look struct {
		after  time.Duration
		keys   int
		status string
		ready  bool
	}
	for _, row := range []struct {
		name  string
		looks []look
	}{
		{"READYZ once every issuer has keys", []look{{0, none, "starting", false}, {0, some, "starting", false}, {0, all, "ready", true}}},
		{"READYZ after 30 s with at least one", []look{{30*time.Second - 1, some, "starting", false}, {1, some, "degraded", true}}},
		{"READYZ never without any", []look{{time.Hour, none, "starting", false}, {time.Hour, some, "degraded", true}}},
		{"READYZ a lost issuer is degraded, not unready", []look{{0, all, "ready", true}, {time.Second, some, "degraded", true}, {time.Hour, none, "degraded", true}, {0, all, "ready", true}}},
		{"READYZ at 30 s with all", []look{{time.Minute, all, "ready", true}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := httpapi.NewGate()
				for n, l := range row.looks {
					time.Sleep(l.after)
					got := gate.Read(keys(l.keys), whole)
					if got.Status != l.status || got.Ready != l.ready {
						t.Errorf("look %d: got %+v, want %s, ready %t", n, got, l.status, l.ready)
					}
				}
			})
		})
	}
	t.Run("READYZ draining is unready for good", func(t *testing.T) {
		gate := httpapi.NewGate()
		gate.Read(keys(all), whole)
		gate.Drain()
		for range 2 {
			if got := gate.Read(keys(all), whole); got.Ready || got.Status != "draining" {
				t.Errorf("got %+v, want draining and unready", got)
			}
		}
	})
	t.Run("READYZ the list of revocations: late is degraded, denying is unready", func(t *testing.T) {
		late := revoke.State{Complete: true, Lag: time.Minute}
		denying, never := revoke.State{Complete: true, Lag: time.Hour, Denies: true}, revoke.State{Denies: true}
		allowing := revoke.State{Lag: time.Hour}
		gate := httpapi.NewGate()
		for n, row := range []struct {
			keys    int
			list    revoke.State
			status  string
			ready   bool
			missing []string
		}{
			{none, never, "starting", false, []string{"keys of a", "keys of b", "revocations: no complete list was read yet"}},
			{all, never, "revocations_unknown", false, []string{"revocations: no complete list was read yet"}},
			{all, whole, "ready", true, nil},
			{all, late, "degraded", true, []string{"revocations: the list is 1m0s old"}},
			{some, late, "degraded", true, []string{"keys of b", "revocations: the list is 1m0s old"}},
			{all, denying, "revocations_unknown", false, []string{"revocations: the list is 1h0m0s old"}},
			{all, allowing, "degraded", true, []string{"revocations: no complete list was read yet"}},
			{all, whole, "ready", true, nil},
		} {
			got := gate.Read(keys(row.keys), row.list)
			if got.Status != row.status || got.Ready != row.ready || !slices.Equal(got.Missing, row.missing) {
				t.Errorf("look %d: got %+v, want %s, ready %t, missing %q", n, got, row.status, row.ready, row.missing)
			}
		}
		gate.Drain()
		if got := gate.Read(keys(all), denying); got.Status != "draining" {
			t.Errorf("got %+v, want draining", got)
		}
	})
	t.Run("READYZ on the wire", func(t *testing.T) {
		state := httpapi.Readiness{}
		f := newFixture(t, func(s *setup) { s.ready = func() httpapi.Readiness { return state } })
		for _, row := range []struct {
			state            httpapi.Readiness
			status           int
			public, verbosed string
		}{
			{httpapi.Readiness{Ready: true, Status: "ready"}, 200, `{"status":"ready"}`, `{"status":"ready"}`},
			{httpapi.Readiness{Ready: true, Status: "degraded", Missing: []string{"keys of corp"}}, 200, `{"status":"degraded"}`, `{"status":"degraded","missing":["keys of corp"]}`},
			{httpapi.Readiness{Status: "starting", Missing: []string{"keys of a", "keys of b"}}, 503, `{"status":"starting"}`, `{"status":"starting","missing":["keys of a","keys of b"]}`},
			{httpapi.Readiness{Status: "draining"}, 503, `{"status":"draining"}`, `{"status":"draining"}`},
		} {
			state = row.state
			for _, query := range []string{"", "?verbose"} {
				f.send("GET", "/readyz"+query, "").want(t, row.status, row.public)
				f.through(f.metrics, newRequest("GET", "/readyz"+query, "")).want(t, row.status, row.public)
			}
			f.sendAdmin("GET", "/readyz", "").want(t, row.status, row.public)
			f.sendAdmin("GET", "/readyz?verbose", "").want(t, row.status, row.verbosed)
			f.send("GET", "/livez", "").want(t, http.StatusOK, `{"status":"alive"}`)
		}
	})
	t.Run("READYZ what is missing is told in order", func(t *testing.T) {
		issuers := map[string]bool{}
		for n := range 20 {
			issuers[fmt.Sprintf("issuer-%02d", n)] = n == 7
		}
		got := httpapi.NewGate().Read(issuers, whole).Missing
		if len(got) != 19 || got[0] != "keys of issuer-00" || got[7] != "keys of issuer-08" || got[18] != "keys of issuer-19" {
			t.Errorf("got %v, want 19 in order", got)
		}
	})
}
