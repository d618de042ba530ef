package httpapi_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"introspectd/internal/devissuer"
	"introspectd/internal/revoke"
)

// wantRevoked wants the answer of /revoke where nothing is left to do.
func (r response) wantRevoked(t testing.TB) response {
	t.Helper()
	return r.want(t, http.StatusOK, "").wantHeader(t, "Cache-Control", "no-store").wantHeader(t, "Content-Type")
}

const unavailableBody = `{"error":"temporarily_unavailable"}`

// wantNote wants the last request to be logged with a note and, where it has
// one, the label of what was not to be had.
func (f *fixture) wantNote(t testing.TB, note, label string) {
	t.Helper()
	last := f.last()
	if got := fmt.Sprint(last["note"], " ", last["reason"]); got != fmt.Sprint(orNil(note), " ", orNil(label)) {
		t.Errorf("logged note and label: got %s, want %s and %s", got, note, label)
	}
}

func orNil(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// askAll asks every endpoint about a token, in the name of the caller `any` and
// a gateway, and wants all to agree.
func (f *fixture) askAll(t testing.TB, token string, active bool) {
	t.Helper()
	for _, path := range []string{"/introspect", "/oauth2/introspect", "/transform"} {
		if got := f.ask("any", path, token); got.status != http.StatusOK || active == (got.body == inactive) {
			t.Errorf("%s: got %d %s, want active %t", path, got.status, got.body, active)
		}
	}
	want := http.StatusUnauthorized
	if active {
		want = http.StatusOK
	}
	for _, path := range []string{"/auth", "/auth/lenient", "/ext-authz/lenient", "/ext-authz/lenient/a?b"} {
		f.get(path, token).wantStatus(t, want)
	}
}

func TestRevoke(t *testing.T) {
	ofApp := func() string { return mint(corp(), members{"client_id": "app"}) }

	for _, id := range []string{"revoker", "owner", "revoke-any"} {
		for _, memory := range []string{"cold", "remembered"} {
			t.Run("REV-01 a revoked token is refused by all endpoints at once, "+memory+", revoked by "+id, func(t *testing.T) {
				f := newFixture(t)
				token, another := ofApp(), ofApp()
				if memory == "remembered" {
					f.askAll(t, token, true)
				}
				f.ask(id, "/revoke", token).wantRevoked(t)
				f.wantNote(t, "revoked", "")
				for range 2 {
					f.askAll(t, token, false)
					f.wantReason(t, "revoked", "corp")
				}
				f.askAll(t, another, true)
				if got := f.shelf.kept(); got != 1 {
					t.Errorf("REV-05 got %d records kept, want one", got)
				}
			})
		}
	}
	t.Run("REV-01 by a bearer, and by id and secret in the form", func(t *testing.T) {
		f := newFixture(t)
		first, second := ofApp(), ofApp()
		f.post("/revoke", form("token", first), "Authorization", "Bearer "+bearerOf("revoker")).wantRevoked(t)
		f.post("/revoke", form("token", second, "client_id", "revoker", "client_secret", secretOf("revoker"))).wantRevoked(t)
		f.askAll(t, first, false)
		f.askAll(t, second, false)
	})
	t.Run("REV-01 again is 200 and leaves one record", func(t *testing.T) {
		f := newFixture(t)
		token := ofApp()
		for _, id := range []string{"owner", "owner", "revoker"} {
			f.ask(id, "/revoke", token).wantRevoked(t)
			f.wantNote(t, "revoked", "")
		}
		if got := f.revocations.Live(time.Now()); got != 1 {
			t.Errorf("got %d records, want one", got)
		}
	})
	t.Run("REV-01 an issuer and its client are one name: the same client of another issuer is another", func(t *testing.T) {
		f := newFixture(t)
		desk := mint(partner(), members{"client_id": "desk"})
		for _, token := range []string{mint(corp(), members{"client_id": "desk"}), mint(partner(), members{"client_id": "app"}), mint(corp(), members{"client_id": nil}), mint(corp(), members{"client_id": "app "})} {
			f.ask("owner", "/revoke", token).want(t, http.StatusBadRequest, `{"error":"unauthorized_client"}`)
			f.askAll(t, token, true)
		}
		f.ask("owner", "/revoke", desk).wantRevoked(t)
		f.askAll(t, desk, false)
	})
	t.Run("REV-01 a token that is not valid yet", func(t *testing.T) {
		f := newFixture(t)
		token := mint(corp(), members{"client_id": "app", "nbf": time.Now().Unix() + 100})
		f.ask("owner", "/revoke", token).wantRevoked(t)
		f.wantNote(t, "revoked", "")
		f.clock.advance(2 * time.Minute)
		f.askAll(t, token, false)
		f.wantReason(t, "revoked", "corp")
	})
	t.Run("REV-02 what is no token of ours is 200", func(t *testing.T) {
		f := newFixture(t)
		for name, token := range map[string]string{
			"garbage": "garbage", "opaque": "2YotnFZFEjr1zCsicMWpAA", "expired": mint(corp(), members{"exp": time.Now().Unix() - 3600}), "bad signature": altered(ofApp()),
			"unknown issuer": noted(devissuer.New("https://elsewhere.example", "ES256").Mint(nil)), "unknown kid": noted(corp().MintBy(devissuer.NewKey("ES256"), nil)),
			"never valid": mint(corp(), members{"nbf": time.Now().Unix() + 9999, "exp": time.Now().Unix() + 999}), "too long": ofApp() + strings.Repeat("A", 16<<10), "a NUL": "\x00",
		} {
			for _, id := range []string{"revoker", "owner"} {
				if got := f.ask(id, "/revoke", token); got.status != http.StatusOK || got.body != "" {
					t.Errorf("%s: got %d %s, want 200 without a body", name, got.status, got.body)
				}
				if note := f.last()["note"]; note != "nothing to revoke" {
					t.Errorf("%s: got the note %v, want nothing to revoke", name, note)
				}
			}
		}
		if got := f.revocations.Live(time.Now()); got != 0 {
			t.Errorf("got %d records, want none", got)
		}
	})
	t.Run("REV-02 any hint will do", func(t *testing.T) {
		f := newFixture(t)
		for _, hint := range []string{"refresh_token", "access_token", "nonsense", ""} {
			token := ofApp()
			f.post("/revoke", form("token", token, "token_type_hint", hint), as("owner")...).wantRevoked(t)
			f.askAll(t, token, false)
		}
	})
	t.Run("REV-04 another client's token: an error only where the caller sees it active", func(t *testing.T) {
		f := newFixture(t, func(s *setup) {
			blind := caller("blind")
			blind.May, blind.Clients = nil, s.callers[1].Clients
			blind.AnyAudience.All, blind.Audiences = false, []string{partnerAud}
			s.callers = append(s.callers, blind)
		})
		token, foreign := mint(corp(), members{"client_id": "other"}), mint(partner(), members{"client_id": "other"})
		for range 2 {
			f.ask("owner", "/revoke", token).want(t, http.StatusBadRequest, `{"error":"unauthorized_client"}`)
			f.wantNote(t, "not this caller's to revoke", "")
			f.ask("blind", "/revoke", token).wantRevoked(t)
			f.wantNote(t, "not this caller's to revoke", "")
			f.ask("revoker", "/revoke", foreign).wantRevoked(t) // revoke, but only of corp
		}
		f.askAll(t, token, true)
		f.askAll(t, foreign, true)
		if got := f.revocations.Live(time.Now()); got != 0 {
			t.Errorf("got %d records, want no state changed", got)
		}
		f.ask("revoke-any", "/revoke", token).wantRevoked(t)
		f.ask("owner", "/revoke", token).wantRevoked(t) // inactive now, as /introspect says
	})
	t.Run("REV-05 what is not durable is never 200, and holds here", func(t *testing.T) {
		f := newFixture(t)
		token := ofApp()
		f.shelf.fail(errors.New("the disk is full"))
		f.ask("owner", "/revoke", token).want(t, http.StatusServiceUnavailable, unavailableBody).wantHeader(t, "Retry-After", "5")
		f.wantNote(t, "", "revocation_unavailable")
		if last := f.last(); !strings.Contains(fmt.Sprint(last["cause"]), "the disk is full") || last["level"] != "ERROR" {
			t.Errorf("log line: got %v, want an error with its cause", last)
		}
		f.askAll(t, token, false)
		f.ask("owner", "/revoke", token).wantStatus(t, http.StatusServiceUnavailable)
		f.shelf.fail(nil)
		f.ask("owner", "/revoke", token).wantRevoked(t)
		if got := f.shelf.kept(); got != 1 {
			t.Errorf("got %d records kept, want one", got)
		}
	})
	t.Run("REV-05 without anything that keeps revocations", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.list.File = nil })
		token := ofApp()
		f.ask("owner", "/revoke", token).want(t, http.StatusServiceUnavailable, unavailableBody).wantHeader(t, "Retry-After", "5")
		if cause := f.last()["cause"]; cause != revoke.ErrNoStore.Error() {
			t.Errorf("logged cause: got %v, want %v", cause, revoke.ErrNoStore)
		}
		f.askAll(t, token, true)
		f.ask("owner", "/revoke", "garbage").wantRevoked(t)
	})
	t.Run("REV-05 a list that is full evicts nothing", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.list.Config.MaxEntries = 1 })
		first, second := ofApp(), ofApp()
		f.ask("owner", "/revoke", first).wantRevoked(t)
		f.ask("owner", "/revoke", second).want(t, http.StatusServiceUnavailable, unavailableBody)
		if cause := f.last()["cause"]; cause != revoke.ErrFull.Error() {
			t.Errorf("logged cause: got %v, want %v", cause, revoke.ErrFull)
		}
		f.askAll(t, first, false)
		f.askAll(t, second, true)
		f.ask("owner", "/revoke", first).wantRevoked(t)
	})
	t.Run("REV-05 keys that can't be had", func(t *testing.T) {
		f := newFixture(t)
		f.ask("revoke-any", "/revoke", mint(dark(), nil)).want(t, http.StatusServiceUnavailable, unavailableBody).wantHeader(t, "Retry-After", "5")
		f.wantReason(t, "keys_unavailable", "dark")
	})
	t.Run("REV-06 until exp and 300 s, whatever the leeway", func(t *testing.T) {
		f := newFixture(t)
		exp := time.Now().Unix() + 600
		f.ask("owner", "/revoke", mint(corp(), members{"client_id": "app", "exp": exp})).wantRevoked(t)
		for _, until := range f.shelf.records {
			if until.Unix() != exp+300 {
				t.Errorf("got a record until %d, want %d", until.Unix(), exp+300)
			}
		}
	})
	t.Run("REV-06 by header.payload and by (iss, jti)", func(t *testing.T) {
		f := newFixture(t)
		now := time.Now().Unix()
		payload := func(more string) string {
			return fmt.Sprintf(`{"iss":"%s","sub":"raw-claim-a","client_id":"app","iat":%d,"exp":%d%s}`, corpIss, now, now+600, more)
		}
		withJTI, sameJTI, otherJTI := payload(`,"jti":"one"`), payload(`,"jti":"one","x":1`), payload(`,"jti":"two"`)
		f.ask("owner", "/revoke", sign(corpHeader(""), withJTI)).wantRevoked(t)
		f.askAll(t, sign(corpHeader(""), withJTI), false) // the same header.payload under another signature
		f.askAll(t, sign(corpHeader(""), sameJTI), false)
		f.askAll(t, sign(corpHeader(""), otherJTI), true)
		f.ask("owner", "/revoke", sign(corpHeader(""), payload(""))).wantRevoked(t)
		f.askAll(t, sign(corpHeader(""), payload("")), false)
		f.askAll(t, sign(corpHeader(""), payload(`,"x":1`)), true)
	})
}

func TestRevokeRefusesRequests(t *testing.T) {
	f := newFixture(t)
	token := mint(corp(), members{"client_id": "app"})
	q := form("token", token)

	t.Run("REV-03 token missing or empty", func(t *testing.T) {
		for _, body := range []string{"", "token=", "token", "Token=x"} {
			f.post("/revoke", body, as("owner")...).want(t, http.StatusBadRequest, `{"error":"invalid_request","error_description":"token is missing"}`)
		}
	})
	t.Run("REV-03 other methods", func(t *testing.T) {
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "post"} {
			f.send(method, "/revoke?"+q, "", as("owner")...).wantError(t, http.StatusMethodNotAllowed, "invalid_request").wantHeader(t, "Allow", "POST")
		}
	})
	t.Run("REV-03 nobody, or a wrong secret", func(t *testing.T) {
		f.post("/revoke", q).want(t, http.StatusUnauthorized, `{"error":"invalid_client"}`).wantHeader(t, "WWW-Authenticate", basicLine, bearerLine)
		f.post("/revoke", q, "Authorization", basic("owner", "wrong")).want(t, http.StatusUnauthorized, `{"error":"invalid_client"}`).wantHeader(t, "WWW-Authenticate", basicLine)
		f.post("/revoke", "").wantStatus(t, http.StatusUnauthorized)
	})
	t.Run("REV-03 a caller that may revoke nothing", func(t *testing.T) {
		for _, id := range []string{"any", "operator", "officer"} {
			f.ask(id, "/revoke", token).wantError(t, http.StatusForbidden, "access_denied")
		}
		f.post("/revoke", q, "Authorization", "Bearer "+bearerOf("orders")).wantError(t, http.StatusUnauthorized, "insufficient_scope").
			wantHeader(t, "WWW-Authenticate", bearerLine+`, error="insufficient_scope", scope="revoke"`)
	})
	t.Run("REV-03 INT-04 INT-08 INT-16 INT-23 a form that is none", func(t *testing.T) {
		for _, body := range []string{q + "&" + q, q + "&token_type_hint=a&token_type_hint=b", "token=%zz", q + ";a=b", q + "&client_id=owner&client_secret=another-secret-of-0123456789"} {
			f.post("/revoke", body, as("owner")...).wantError(t, http.StatusBadRequest, "invalid_request")
		}
		for _, query := range []string{q, "token=", "access_token=x", "client_secret=x"} {
			f.post("/revoke?"+query, q, as("owner")...).wantError(t, http.StatusBadRequest, "invalid_request")
		}
	})
	t.Run("REV-03 INT-09 INT-10 forms only", func(t *testing.T) {
		json := append([]string{"Content-Type", "application/json"}, as("owner")...)
		f.send("POST", "/revoke", text(members{"token": token}), json...).wantError(t, http.StatusUnsupportedMediaType, "invalid_request").wantHeader(t, "Accept", formType)
		f.send("POST", "/revoke", q, as("owner")...).wantStatus(t, http.StatusUnsupportedMediaType)
		f.post("/revoke", q, append(as("owner"), "Content-Encoding", "gzip")...).wantStatus(t, http.StatusUnsupportedMediaType).wantHeader(t, "Accept-Encoding", "identity")
	})
	t.Run("REV-03 INT-11 the order of checks: method, media type, size, form, caller, token", func(t *testing.T) {
		large := strings.Repeat("x", 65<<10)
		f.send("PUT", "/revoke", large).wantStatus(t, http.StatusMethodNotAllowed)
		f.send("POST", "/revoke", large).wantStatus(t, http.StatusUnsupportedMediaType)
		f.post("/revoke", large).wantStatus(t, http.StatusRequestEntityTooLarge)
		f.post("/revoke", q+"&"+q).wantStatus(t, http.StatusBadRequest)
		f.post("/revoke", "token=").wantStatus(t, http.StatusUnauthorized)
		f.post("/revoke", "token=", as("any")...).wantStatus(t, http.StatusForbidden)
	})
	t.Run("REV-03 none of these has changed anything", func(t *testing.T) {
		f.askAll(t, token, true)
		if got := f.revocations.Live(time.Now()); got != 0 {
			t.Errorf("got %d records, want none", got)
		}
	})
	t.Run("INT-18 guesses are slowed down here too", func(t *testing.T) {
		f := newFixture(t)
		for range 40 {
			f.post("/revoke", q, "Authorization", basic("owner", "wrong"))
		}
		f.post("/revoke", q, "Authorization", basic("owner", "wrong")).wantStatus(t, http.StatusTooManyRequests)
	})
}

func TestRevokeIsLoggedOnce(t *testing.T) {
	f := newFixture(t)
	token := mint(corp(), members{"client_id": "app"})
	digest := sha256.Sum256([]byte(token[:strings.LastIndexByte(token, '.')]))
	ref := hex.EncodeToString(digest[:8])
	for _, row := range []struct {
		name string
		send func() response
		want map[string]any
	}{
		{
			"refused", func() response { return f.ask("owner", "/revoke", mint(corp(), nil)) },
			map[string]any{"route": "/revoke", "status": 400.0, "error": "unauthorized_client", "caller": "owner", "issuer": "corp", "note": "not this caller's to revoke"},
		},
		{
			"revoked", func() response { return f.ask("owner", "/revoke", token) },
			map[string]any{"route": "/revoke", "method": "POST", "status": 200.0, "caller": "owner", "issuer": "corp", "token_ref": ref, "note": "revoked", "active": nil, "reason": nil, "error": nil},
		},
		{
			"nothing to revoke", func() response { return f.ask("owner", "/revoke", altered(token)) },
			map[string]any{"status": 200.0, "token_ref": ref, "note": "nothing to revoke", "reason": "bad_signature"},
		},
		{
			"keys can't be had", func() response { return f.ask("owner", "/revoke", mint(dark(), nil)) },
			map[string]any{"status": 503.0, "error": "temporarily_unavailable", "issuer": "dark", "reason": "keys_unavailable", "note": nil, "level": "ERROR"},
		},
		{
			"nobody", func() response { return f.post("/revoke", form("token", token)) },
			map[string]any{"status": 401.0, "caller": nil, "token_ref": nil, "note": nil},
		},
		{
			"no token", func() response { return f.post("/revoke", "", as("owner")...) },
			map[string]any{"status": 400.0, "caller": "owner", "token_ref": nil},
		},
	} {
		t.Run("R13 "+row.name, func(t *testing.T) {
			before := len(f.lines("request"))
			row.send()
			lines := f.lines("request")
			if len(lines) != before+1 {
				t.Fatalf("got %d lines, want one", len(lines)-before)
			}
			for key, want := range row.want {
				if got := lines[before][key]; got != want {
					t.Errorf("%s: got %v, want %v in %v", key, got, want, lines[before])
				}
			}
		})
	}
}

// TestWhenRevocationsCantBeTold is for a list that was never complete, or is
// past its grace.
func TestWhenRevocationsCantBeTold(t *testing.T) {
	// shared is a fixture whose list meets others at its shelf.
	shared := func(t *testing.T, outage revoke.OnOutage) *fixture {
		return newFixture(t, func(s *setup) {
			s.list.Shared, s.list.File = s.list.File, nil
			s.list.Config.OnOutage, s.list.Config.Grace = outage, 0
		})
	}
	wantNobodyTold := func(t *testing.T, f *fixture, token string) {
		t.Helper()
		for _, path := range []string{"/introspect", "/oauth2/introspect", "/transform"} {
			f.ask("any", path, token).want(t, http.StatusServiceUnavailable, unavailableBody).wantHeader(t, "Retry-After", "5")
			f.wantReason(t, "revocation_unavailable", "corp")
		}
		for _, path := range []string{"/auth", "/auth/lenient", "/ext-authz/lenient", "/ext-authz/lenient/a?b"} {
			f.get(path, token).want(t, http.StatusServiceUnavailable, unavailableBody).wantHeader(t, "Retry-After", "5").wantHeader(t, "X-Auth-Subject")
			f.wantReason(t, "revocation_unavailable", "corp")
		}
		if last := f.last(); last["active"] != nil || last["level"] != "ERROR" || len(fmt.Sprint(last["token_ref"])) != 16 {
			t.Errorf("log line: got %v, want an error that names the token, and no verdict", last)
		}
	}

	t.Run("INT-19 ATH-08 on_outage deny: no endpoint tells, cold or remembered", func(t *testing.T) {
		f := shared(t, revoke.Deny)
		token := mint(corp(), nil)
		for range 2 {
			wantNobodyTold(t, f, token)
		}
		f.ask("any", "/introspect", altered(token)).want(t, http.StatusOK, inactive) // it needs no list
	})
	t.Run("INT-19 a list that came and went", func(t *testing.T) {
		f := shared(t, revoke.Deny)
		token := mint(corp(), nil)
		f.revocations.Configure(revoke.Config{MaxDelay: time.Second, MaxEntries: 10, Grace: time.Hour, OnOutage: revoke.Deny})
		f.revocations.Current(time.Now())
		f.askAll(t, token, true)
		f.revocations.Configure(revoke.Config{MaxDelay: time.Second, MaxEntries: 10, OnOutage: revoke.Deny})
		wantNobodyTold(t, f, token)
	})
	t.Run("INT-20 on_outage allow: answered by what is known", func(t *testing.T) {
		f := shared(t, revoke.Allow)
		token, revoked := mint(corp(), nil), mint(corp(), nil)
		f.ask("revoke-any", "/revoke", revoked).wantRevoked(t)
		f.askAll(t, token, true)
		f.askAll(t, revoked, false)
	})
	t.Run("REV-01 what is known to be revoked is inactive all the same, and can be revoked", func(t *testing.T) {
		f := shared(t, revoke.Deny)
		token := mint(corp(), nil)
		f.ask("revoke-any", "/revoke", token).wantRevoked(t)
		f.askAll(t, token, false)
	})
	t.Run("REV-04 whether another's token is active can't be told", func(t *testing.T) {
		f := shared(t, revoke.Deny)
		f.ask("owner", "/revoke", mint(corp(), nil)).want(t, http.StatusServiceUnavailable, unavailableBody)
		f.wantReason(t, "revocation_unavailable", "corp")
		if got := f.revocations.Live(time.Now()); got != 0 {
			t.Errorf("got %d records, want none", got)
		}
	})
	t.Run("READYZ a replica whose list denies is unready, and says why", func(t *testing.T) {
		f := shared(t, revoke.Deny)
		f.send("GET", "/readyz", "").want(t, http.StatusServiceUnavailable, `{"status":"revocations_unknown"}`)
		f.sendAdmin("GET", "/readyz?verbose", "").want(t, http.StatusServiceUnavailable, `{"status":"revocations_unknown","missing":["revocations: no complete list was read yet"]}`)
		f.revocations.Current(time.Now().Add(time.Hour))
		f.send("GET", "/readyz", "").want(t, http.StatusOK, `{"status":"ready"}`)
		allowed := shared(t, revoke.Allow)
		allowed.send("GET", "/readyz", "").want(t, http.StatusOK, `{"status":"degraded"}`)
	})
}
