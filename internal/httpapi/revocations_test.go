package httpapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"introspectd/internal/revoke"
)

// listed is a row of /revocations.
type listed struct {
	ID, Kind, Issuer, Iss, Value, By string
	TokenRef                         string `json:"token_ref"`
	NotBefore                        string `json:"not_before"`
	Created, Expires                 time.Time
}

// page is the answer of GET /revocations.
type page struct {
	Revocations       []listed
	Next              string
	Total             int
	Complete, Current bool
	Lag               *float64 `json:"lag_seconds"`
}

func (r response) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), v); err != nil {
		t.Fatalf("body: got %q: %v", r.body, err)
	}
}

// withdraw asks for a revocation on the admin listener.
func (f *fixture) withdraw(id, body string) response {
	f.Helper()
	return f.sendAdmin("POST", "/revocations", body, append([]string{"Content-Type", "application/json"}, as(id)...)...)
}

// withdrawn is what was made of one that was taken.
func (f *fixture) withdrawn(id, body string) []listed {
	f.Helper()
	got := f.withdraw(id, body)
	if got.status != http.StatusCreated {
		f.Fatalf("POST /revocations %s: got %d %s, want 201", body, got.status, got.body)
	}
	var p page
	got.into(f, &p)
	return p.Revocations
}

// page asks for revocations.
func (f *fixture) page(id, query string) (p page) {
	f.Helper()
	f.sendAdmin("GET", "/revocations"+query, "", as(id)...).wantStatus(f, http.StatusOK).into(f, &p)
	return p
}

var idForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

func TestBroadRevocations(t *testing.T) {
	iat := time.Now().Unix() - 60
	claims := func(more members) members {
		all := members{"iat": iat, "nbf": iat, "sub": "raw-claim-alice", "sid": "raw-claim-session", "client_id": "app", "jti": "raw-claim-jti"}
		for name, value := range more {
			all[name] = value
		}
		return all
	}
	es256 := corp().Key("ES256")
	rs256 := func(more members) string { return noted(corp().MintBy(corp().Key("RS256"), claims(more))) }
	minute := func(n int) string { return time.Now().Add(time.Duration(n) * time.Minute).UTC().Format(time.RFC3339) }

	for _, row := range []struct {
		name, body string
		kind       string
		value      string
		hit, spare map[string]string // tokens
	}{
		{
			"by jti", `{"issuer":"corp","jti":"raw-claim-jti"}`, "jti", "raw-claim-jti",
			map[string]string{"the jti": mint(corp(), claims(nil)), "issued later": mint(corp(), claims(members{"iat": iat + 70}))},
			map[string]string{"another jti": mint(corp(), claims(members{"jti": "j"})), "none": mint(corp(), claims(members{"jti": nil}))},
		},
		{
			"by sub", `{"issuer":"corp","sub":"raw-claim-alice"}`, "sub", "raw-claim-alice",
			map[string]string{"the sub": mint(corp(), claims(nil)), "the sub by another key": rs256(nil)},
			map[string]string{
				"another sub": mint(corp(), claims(members{"sub": "raw-claim-bob"})), "the sub of another issuer": mint(partner(), claims(nil)),
				"issued later": mint(corp(), claims(members{"iat": time.Now().Unix() + 20})),
			},
		},
		{
			"by sub and not_before", `{"issuer":"corp","sub":"raw-claim-alice","not_before":"` + minute(-30) + `"}`, "sub", "raw-claim-alice",
			map[string]string{"issued before": mint(corp(), claims(members{"iat": iat - 3000}))},
			map[string]string{"issued later": mint(corp(), claims(nil))},
		},
		{
			"by sid", `{"issuer":"corp","sid":"raw-claim-session"}`, "sid", "raw-claim-session",
			map[string]string{"the sid": mint(corp(), claims(nil))},
			map[string]string{"another sid": mint(corp(), claims(members{"sid": "s"})), "none": mint(corp(), claims(members{"sid": nil}))},
		},
		{
			"by client", `{"issuer":"corp","client_id":"app"}`, "client_id", "app",
			map[string]string{"the client": mint(corp(), claims(nil)), "by azp": mint(corp(), claims(members{"client_id": nil, "azp": "app"}))},
			map[string]string{"another client": mint(corp(), claims(members{"client_id": "app2"}))},
		},
		{
			"by kid", `{"issuer":"corp","kid":"` + es256.Kid + `"}`, "kid", es256.Kid,
			map[string]string{"by the key": mint(corp(), claims(nil)), "issued later": mint(corp(), claims(members{"iat": time.Now().Unix() + 20}))},
			map[string]string{"by another key": rs256(nil)},
		},
		{
			"by issuer", `{"issuer":"corp","all":true,"not_before":"` + minute(0) + `"}`, "issuer", "",
			map[string]string{"one key": mint(corp(), claims(nil)), "another": rs256(nil)},
			map[string]string{"another issuer": mint(partner(), claims(nil)), "issued later": mint(corp(), claims(members{"iat": time.Now().Unix() + 20}))},
		},
	} {
		t.Run("REV-07 "+row.name, func(t *testing.T) {
			f := newFixture(t, func(s *setup) {
				for n := range s.issuers {
					s.issuers[n].Require = []string{"exp", "iss"}
				}
			})
			for _, token := range row.hit {
				f.askAll(t, token, true)
			}
			got := f.withdrawn("officer", row.body)
			if len(got) == 0 {
				t.Fatal("got no revocation")
			}
			if r := got[0]; !idForm.MatchString(r.ID) || r.Kind != row.kind || r.Value != row.value || r.Issuer != "corp" || r.Iss != corpIss || r.By != "officer" || r.Created.IsZero() || !r.Expires.After(r.Created) {
				t.Errorf("got %+v, want %s of %q of corp by officer", r, row.kind, row.value)
			}
			for name, token := range row.hit {
				t.Log(name)
				f.askAll(t, token, false)
				f.wantReason(t, "revoked", "corp")
			}
			for name, token := range row.spare {
				t.Log(name)
				f.askAll(t, token, true)
			}
			// All of it is taken back, one by one.
			for _, r := range f.page("officer", "").Revocations {
				f.sendAdmin("DELETE", "/revocations/"+r.ID, "", as("officer")...).want(t, http.StatusNoContent, "")
			}
			for name, token := range row.hit {
				t.Log(name)
				f.askAll(t, token, true)
			}
		})
	}

	t.Run("REV-07 a token without iat falls under every not-before", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.issuers[0].Require = []string{"exp", "iss"} })
		token := mint(corp(), claims(members{"iat": nil}))
		f.askAll(t, token, true)
		f.withdrawn("officer", `{"issuer":"corp","sub":"raw-claim-alice","not_before":"2020-01-01T00:00:00Z"}`)
		f.askAll(t, token, false)
	})
	t.Run("REV-07 what is read", func(t *testing.T) {
		f := newFixture(t)
		for body, description := range map[string]string{
			``:                                       "expected one JSON object, each member once",
			`[]`:                                     "expected one JSON object, each member once",
			`{"issuer":"corp","sub":"a","sub":"a"}`:  "expected one JSON object, each member once",
			`{"issuer":"corp","sub":"a"}{}`:          "expected one JSON object, each member once",
			`{}`:                                     "issuer is missing",
			`{"sub":"a"}`:                            "issuer is missing",
			`{"issuer":"corp"}`:                      "expected exactly one of jti, sub, sid, client_id, kid and all",
			`{"issuer":"corp","sub":"a","sid":"b"}`:  "expected exactly one of jti, sub, sid, client_id, kid and all",
			`{"issuer":"corp","sub":"a","all":true}`: "expected exactly one of jti, sub, sid, client_id, kid and all",
			`{"issuer":"corp","all":false}`:          "all: expected true",
			`{"issuer":"corp","all":"true"}`:         "all: expected true",
			`{"issuer":"corp","all":1}`:              "all: expected true",
			`{"issuer":"corp","sub":""}`:             "sub: expected a text of 1 to 1024 bytes",
			`{"issuer":"corp","sub":7}`:              "sub: expected a text of 1 to 1024 bytes",
			`{"issuer":"corp","sub":null}`:           "sub: expected a text of 1 to 1024 bytes",
			`{"issuer":"corp","sub":["a"]}`:          "sub: expected a text of 1 to 1024 bytes",
			`{"issuer":"corp","sub":"` + strings.Repeat("x", 1025) + `"}`:                 "sub: expected a text of 1 to 1024 bytes",
			`{"issuer":"","sub":"a"}`:                                                     "issuer: expected a text of 1 to 1024 bytes",
			`{"issuer":7,"sub":"a"}`:                                                      "issuer: expected a text of 1 to 1024 bytes",
			`{"issuer":"corp","user":"a"}`:                                                "expected no member but issuer, jti, sub, sid, client_id, kid, all, not_before and expires",
			`{"issuer":"corp","Sub":"a"}`:                                                 "expected no member but issuer, jti, sub, sid, client_id, kid, all, not_before and expires",
			`{"issuer":"corp","sub":"a","id":"b"}`:                                        "expected no member but issuer, jti, sub, sid, client_id, kid, all, not_before and expires",
			`{"issuer":"corp","jti":"a","not_before":"` + minute(-1) + `"}`:               "not_before: expected none beside jti, which is revoked whenever it was issued",
			`{"issuer":"corp","sub":"a","not_before":"` + minute(61) + `"}`:               "not_before: expected a time at most an hour ahead",
			`{"issuer":"corp","sub":"a","expires":"` + minute(1) + `"}`:                   "expires: expected none but beside jti",
			`{"issuer":"corp","jti":"a","expires":"` + minute(-1) + `"}`:                  "expires: expected a time to come",
			`{"issuer":"corp","sub":"a","not_before":"yesterday"}`:                        "not_before: expected a time such as 2026-11-25T09:30:00Z (RFC 3339), not before 1970",
			`{"issuer":"corp","sub":"a","not_before":1795449600}`:                         "not_before: expected a time such as 2026-11-25T09:30:00Z (RFC 3339), not before 1970",
			`{"issuer":"corp","sub":"a","not_before":"2026-11-25"}`:                       "not_before: expected a time such as 2026-11-25T09:30:00Z (RFC 3339), not before 1970",
			`{"issuer":"corp","sub":"a","not_before":"0001-01-01T00:00:00Z"}`:             "not_before: expected a time such as 2026-11-25T09:30:00Z (RFC 3339), not before 1970",
			`{"issuer":"corp","jti":"a","expires":"never"}`:                               "expires: expected a time such as 2026-11-25T09:30:00Z (RFC 3339), not before 1970",
			`{"issuer":"corp","sub":"a","not_before":"","expires":"2026-11-25T09:30:00"}`: "not_before: expected a time such as 2026-11-25T09:30:00Z (RFC 3339), not before 1970",
		} {
			f.withdraw("officer", body).want(t, http.StatusBadRequest, text(members{"error": "invalid_request", "error_description": description}))
		}
		f.withdraw("officer", `{"issuer":"corp","sub":"`+strings.Repeat("x", 65<<10)+`"}`).wantError(t, http.StatusRequestEntityTooLarge, "invalid_request")
		f.withdraw("officer", `{"issuer":"nobody","sub":"a"}`).want(t, http.StatusNotFound, `{"error":"not_found","error_description":"no issuer of this name is configured"}`)
		if got := f.revocations.Live(time.Now()); got != 0 {
			t.Errorf("got %d records, want none", got)
		}
		f.withdrawn("officer", `{"issuer":"corp","sub":"`+strings.Repeat("x ", 512)+`","not_before":"`+minute(59)+`"}`)
		f.withdrawn("officer", `{"issuer":"corp","sub":"a","not_before":"2026-11-25T09:30:00.5+01:00"}`)
		got := f.withdrawn("officer", `{"issuer":"corp","jti":"a","expires":"2095-11-25T09:30:00Z"}`)
		if !got[0].Expires.Equal(time.Date(2095, 11, 25, 9, 30, 0, 0, time.UTC)) || got[0].NotBefore != "" {
			t.Errorf("got %+v, want it until then, without a not_before", got[0])
		}
	})
	t.Run("REV-07 how long they live", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.issuers[0].MaxLifetime = time.Hour })
		limited := f.withdrawn("officer", `{"issuer":"corp","sub":"a"}`)[0]
		if got := limited.Expires.Sub(limited.Created); got < time.Hour+300*time.Second-time.Second || got > time.Hour+301*time.Second {
			t.Errorf("with max_lifetime: got %s, want an hour and 300 s", got)
		}
		if got := f.withdrawn("officer", `{"issuer":"partner","sub":"a"}`)[0].Expires; !got.Equal(revoke.Forever) {
			t.Errorf("without max_lifetime: got %s, want until it is deleted", got)
		}
	})
	t.Run("REV-07 a caller's issuers bound what it may revoke, list and take back", func(t *testing.T) {
		f := newFixture(t)
		token := mint(partner(), claims(nil))
		f.withdraw("clerk", `{"issuer":"partner","sub":"raw-claim-alice"}`).wantError(t, http.StatusForbidden, "access_denied")
		if line := f.lines("admin act"); line[len(line)-1]["kind"] != "sub" || line[len(line)-1]["who"] != "clerk" {
			t.Errorf("audit line: got %v, want who asked for what", line[len(line)-1])
		}
		f.askAll(t, token, true)
		theirs := f.withdrawn("officer", `{"issuer":"partner","sub":"raw-claim-alice"}`)[0]
		ours := f.withdrawn("clerk", `{"issuer":"corp","sub":"raw-claim-alice"}`)[0]
		if got := f.page("clerk", "").Revocations; len(got) != 1 || got[0].ID != ours.ID {
			t.Errorf("got %+v, want corp's alone", got)
		}
		if got := f.page("officer", "").Revocations; len(got) != 2 {
			t.Errorf("got %+v, want both", got)
		}
		f.sendAdmin("GET", "/revocations?issuer=partner", "", as("clerk")...).wantError(t, http.StatusForbidden, "access_denied")
		f.sendAdmin("DELETE", "/revocations/"+theirs.ID, "", as("clerk")...).wantError(t, http.StatusNotFound, "not_found")
		f.askAll(t, token, false)
		f.sendAdmin("DELETE", "/revocations/"+ours.ID, "", as("clerk")...).wantStatus(t, http.StatusNoContent)
	})
	t.Run("REV-07 revoke alone is not enough", func(t *testing.T) {
		f := newFixture(t)
		for _, id := range []string{"revoke-any", "revoker", "owner", "operator"} {
			f.withdraw(id, `{"issuer":"corp","sub":"a"}`).wantError(t, http.StatusForbidden, "access_denied")
			f.sendAdmin("GET", "/revocations", "", as(id)...).wantError(t, http.StatusForbidden, "access_denied")
			f.sendAdmin("DELETE", "/revocations/"+strings.Repeat("0", 32), "", as(id)...).wantError(t, http.StatusForbidden, "access_denied")
		}
		f.sendAdmin("GET", "/revocations", "", "Authorization", "Bearer "+bearerOf("revoker")).wantError(t, http.StatusUnauthorized, "insufficient_scope").
			wantHeader(t, "WWW-Authenticate", bearerLine+`, error="insufficient_scope", scope="revoke_broad"`)
	})
	t.Run("REV-07 forms and pages of other origins are refused", func(t *testing.T) {
		f := newFixture(t)
		for _, kind := range []string{formType, "text/plain", "multipart/form-data"} {
			f.sendAdmin("POST", "/revocations", `{"issuer":"corp","all":true}`, append([]string{"Content-Type", kind}, as("officer")...)...).wantError(t, http.StatusUnsupportedMediaType, "invalid_request")
			f.sendAdmin("DELETE", "/revocations/"+strings.Repeat("0", 32), "x", append([]string{"Content-Type", kind}, as("officer")...)...).wantError(t, http.StatusUnsupportedMediaType, "invalid_request")
		}
		f.sendAdmin("POST", "/revocations", `{"issuer":"corp","all":true}`, append([]string{"Content-Type", "application/json", "Sec-Fetch-Site", "cross-site"}, as("officer")...)...).wantError(t, http.StatusForbidden, "access_denied")
		for _, method := range []string{"PUT", "PATCH", "DELETE"} {
			f.sendAdmin(method, "/revocations", "", as("officer")...).wantError(t, http.StatusMethodNotAllowed, "invalid_request").wantHeader(t, "Allow", "GET, POST")
		}
		for _, method := range []string{"GET", "POST"} {
			f.sendAdmin(method, "/revocations/"+strings.Repeat("0", 32), "", as("officer")...).wantError(t, http.StatusMethodNotAllowed, "invalid_request").wantHeader(t, "Allow", "DELETE")
		}
	})
	t.Run("REV-05 REV-07 what is not durable is 503, and holds here", func(t *testing.T) {
		f := newFixture(t)
		token := mint(corp(), claims(nil))
		f.shelf.fail(errors.New("the disk is full"))
		got := f.withdraw("officer", `{"issuer":"corp","sub":"raw-claim-alice"}`).wantError(t, http.StatusServiceUnavailable, "temporarily_unavailable")
		if strings.Contains(got.body, "disk") {
			t.Errorf("got %s, want no word of the cause", got.body)
		}
		f.askAll(t, token, false)
		row := f.page("officer", "").Revocations[0]
		line := f.lines("admin act")[0]
		if fmt.Sprint(line["revocations"]) != "["+row.ID+"]" || line["kind"] != "sub" || line["status"] != 503.0 {
			t.Errorf("audit line: got %v, want the one that holds", line)
		}
		f.sendAdmin("DELETE", "/revocations/"+row.ID, "", as("officer")...).wantError(t, http.StatusServiceUnavailable, "temporarily_unavailable")
		f.wantReason(t, "revocation_unavailable", "corp")
		f.askAll(t, token, false)
		f.shelf.fail(nil)
		f.sendAdmin("DELETE", "/revocations/"+row.ID, "", as("officer")...).wantStatus(t, http.StatusNoContent)
		f.askAll(t, token, true)
	})
	t.Run("REV-05 REV-07 no store, or a full list", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.list.File = nil })
		f.withdraw("officer", `{"issuer":"corp","all":true}`).
			want(t, http.StatusServiceUnavailable, `{"error":"temporarily_unavailable","error_description":"nothing keeps revocations: neither redis nor state.path is configured"}`)
		f = newFixture(t, func(s *setup) { s.list.Config.MaxEntries = 1 })
		f.withdrawn("officer", `{"issuer":"corp","sub":"a"}`)
		f.withdraw("officer", `{"issuer":"corp","sub":"b"}`).
			want(t, http.StatusServiceUnavailable, `{"error":"temporarily_unavailable","error_description":"the list of revocations is full"}`)
	})
}

func TestListingRevocations(t *testing.T) {
	f := newFixture(t)
	token := mint(corp(), members{"client_id": "app"})
	f.ask("owner", "/revoke", token).wantRevoked(t)
	for n := range 12 {
		f.withdrawn("officer", fmt.Sprintf(`{"issuer":"corp","sub":"raw-claim-%d"}`, n))
	}
	f.withdrawn("officer", `{"issuer":"partner","jti":"raw-claim-jti"}`)
	f.withdrawn("officer", `{"issuer":"corp","kid":"`+corp().Key("RS256").Kid+`"}`) // and its key

	t.Run("REV-07 all, with what there is to say of the list", func(t *testing.T) {
		got := f.page("officer", "")
		if len(got.Revocations) != 16 || got.Total != 16 || got.Next != "" || !got.Complete || !got.Current || got.Lag == nil || *got.Lag != 0 {
			t.Fatalf("got %+v, want 16 of 16 in a list that is current", got)
		}
		kinds := map[string]int{}
		for _, r := range got.Revocations {
			kinds[r.Kind]++
			switch r.Kind {
			case "token":
				if want := f.tokenRef(token); r.TokenRef != want || r.Value != "" || r.By != "owner" || r.Issuer != "corp" {
					t.Errorf("got %+v, want the token's ref %s in place of a value, by owner", r, want)
				}
			case "jti":
				if r.Issuer != "partner" || r.Iss != partnerIss || r.Value != "raw-claim-jti" {
					t.Errorf("got %+v, want the jti of partner", r)
				}
			case "dropped_key":
				if !regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`).MatchString(r.Value) || r.NotBefore == "" {
					t.Errorf("got %+v, want a thumbprint and when it was dropped", r)
				}
			}
		}
		if fmt.Sprint(kinds) != "map[dropped_key:1 jti:1 kid:1 sub:12 token:1]" {
			t.Errorf("got %v, want each kind", kinds)
		}
	})
	t.Run("REV-07 in pages", func(t *testing.T) {
		for _, limit := range []int{1, 5, 8, 15, 16} {
			var ids []string
			query, pages := fmt.Sprintf("?limit=%d", limit), 0
			for next := ""; ; pages++ {
				got := f.page("officer", query+next)
				if len(got.Revocations) == 0 || len(got.Revocations) > limit || got.Total != 16 || pages > 16 {
					t.Fatalf("limit %d: got %+v", limit, got)
				}
				for _, r := range got.Revocations {
					ids = append(ids, r.ID)
				}
				if got.Next == "" {
					break
				}
				next = "&after=" + got.Next
			}
			if len(ids) != 16 || !slices.IsSorted(ids) || len(slices.Compact(ids)) != 16 {
				t.Errorf("limit %d: got %q, want 16 in order", limit, ids)
			}
			if want := (16 + limit - 1) / limit; pages+1 != want {
				t.Errorf("limit %d: got %d pages, want %d", limit, pages+1, want)
			}
		}
	})
	t.Run("REV-07 by issuer and kind", func(t *testing.T) {
		for query, want := range map[string]int{
			"?issuer=corp": 15, "?issuer=partner": 1, "?kind=sub": 12, "?kind=token": 1, "?kind=issuer": 0, "?issuer=partner&kind=sub": 0, "?kind=sub&issuer=corp&limit=10000": 12, "?&": 16,
		} {
			if got := f.page("officer", query); len(got.Revocations) != want || got.Total != 16 {
				t.Errorf("%s: got %d of %d, want %d of 16", query, len(got.Revocations), got.Total, want)
			}
		}
	})
	t.Run("REV-07 queries that are refused", func(t *testing.T) {
		for _, query := range []string{
			"limit=0", "limit=10001", "limit=", "limit=x", "limit=-1", "limit=1&limit=1", "after=", "after=x", "after=00", "after=" + strings.Repeat("0", 34), "after=" + strings.Repeat("g", 32),
			"kind=", "kind=subject", "kind=sub&kind=sub", "issuer=", "x=y", "Limit=1", "limit=1;kind=sub", "limit=%zz",
		} {
			f.sendAdmin("GET", "/revocations?"+query, "", as("officer")...).wantError(t, http.StatusBadRequest, "invalid_request")
		}
		f.sendAdmin("GET", "/revocations?issuer=nobody", "", as("officer")...).wantError(t, http.StatusNotFound, "not_found")
	})
	t.Run("REV-07 an issuer that is no longer configured is shown by its iss, to whoever may know any", func(t *testing.T) {
		_, err := f.revocations.Add(t.Context(), revoke.Revocation{
			Kind: revoke.Subject, IDs: []revoke.ID{revoke.Of(revoke.Subject, "https://gone.example", "a")}, Issuer: "https://gone.example", Value: "a", Expires: revoke.Forever, By: "x",
		})
		f.must(err)
		var found bool
		for _, r := range f.page("officer", "").Revocations {
			found = found || r.Issuer == "" && r.Iss == "https://gone.example"
		}
		if !found || len(f.page("clerk", "").Revocations) != 15 {
			t.Errorf("got it listed %t for any issuer, and %d for corp's, want it and 15", found, len(f.page("clerk", "").Revocations))
		}
	})
	t.Run("REV-07 what is over is not listed", func(t *testing.T) {
		f := newFixture(t)
		f.withdrawn("officer", `{"issuer":"corp","jti":"a","expires":"`+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+`"}`)
		f.clock.advance(2 * time.Hour)
		if got := f.page("officer", "").Revocations; len(got) != 0 {
			t.Errorf("got %+v, want none", got)
		}
	})
	t.Run("REV-07 a list that can't be relied on says so", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.list.Shared, s.list.File, s.list.Config.MaxDelay = s.list.File, nil, 0 })
		f.withdrawn("officer", `{"issuer":"corp","sub":"a"}`)
		if got := f.page("officer", ""); got.Complete || got.Current || len(got.Revocations) != 1 {
			t.Errorf("got %+v, want one in a list that is neither complete nor current", got)
		}
		f.revocations.Current(time.Now().Add(-time.Minute))
		if got := f.page("officer", ""); !got.Complete || got.Current || *got.Lag <= 0 {
			t.Errorf("got %+v, want a list that was once complete and is not current", got)
		}
	})
	t.Run("REV-07 delete what is not there", func(t *testing.T) {
		f.sendAdmin("DELETE", "/revocations/"+strings.Repeat("0", 32), "", as("officer")...).want(t, http.StatusNotFound, `{"error":"not_found","error_description":"there is no such revocation"}`)
		for _, id := range []string{"x", strings.Repeat("0", 31), strings.Repeat("0", 33), strings.Repeat("0", 34), strings.Repeat("g", 32), token} {
			f.sendAdmin("DELETE", "/revocations/"+id, "", as("officer")...).wantError(t, http.StatusBadRequest, "invalid_request")
		}
		id := f.withdrawn("officer", `{"issuer":"corp","sub":"twice"}`)[0].ID
		f.sendAdmin("DELETE", "/revocations/"+id, "", as("officer")...).wantStatus(t, http.StatusNoContent)
		f.sendAdmin("DELETE", "/revocations/"+id, "", as("officer")...).wantStatus(t, http.StatusNotFound)
	})
	t.Run("REV-07 ADMIN the audit lines name kind and ids, and nothing of a token", func(t *testing.T) {
		f := newFixture(t)
		made := f.withdrawn("officer", `{"issuer":"corp","kid":"`+corp().Key("ES256").Kid+`"}`)
		f.sendAdmin("DELETE", "/revocations/"+made[0].ID, "", as("officer")...).wantStatus(t, http.StatusNoContent)
		f.sendAdmin("GET", "/revocations?issuer=corp", "", as("officer")...).wantStatus(t, http.StatusOK)
		f.withdraw("officer", `{"issuer":"corp","sub":7}`)
		var ids []any
		for _, r := range made {
			ids = append(ids, r.ID)
		}
		want := []members{
			{"who": "officer", "what": "POST /revocations", "status": 201.0, "issuer": "corp", "kind": "kid", "revocations": ids},
			{"who": "officer", "what": "DELETE /revocations/{id}", "status": 204.0, "issuer": "corp", "kind": "kid", "revocations": ids[:1]},
			{"who": "officer", "what": "GET /revocations", "status": 200.0, "issuer": "corp", "kind": nil, "revocations": nil},
			{"who": "officer", "what": "POST /revocations", "status": 400.0, "issuer": nil, "kind": nil, "revocations": nil},
		}
		lines := f.lines("admin act")
		if len(lines) != len(want) {
			t.Fatalf("got %d audit lines, want %d", len(lines), len(want))
		}
		for n := range want {
			for key, value := range want[n] {
				if got := lines[n][key]; lines[n]["audit"] != true || fmt.Sprint(got) != fmt.Sprint(value) {
					t.Errorf("line %d, %s: got %v, want %v in %v", n, key, got, value, lines[n])
				}
			}
		}
	})
}

func (f *fixture) tokenRef(token string) string {
	f.Helper()
	f.ask("any", "/introspect", token)
	return fmt.Sprint(f.last()["token_ref"])
}

func TestDroppingKeys(t *testing.T) {
	drop := func(f *fixture, issuer string) response {
		return f.sendAdmin("POST", "/issuers/"+issuer+"/refresh?drop=true", "", as("operator")...)
	}
	t.Run("ADMIN drop leaves a tombstone for each key, and fetches anew", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.issuers[0].Keys.MaxStale = 24 * time.Hour })
		drop(f, "corp").want(t, http.StatusOK, `{"refreshed":true}`)
		got := f.page("officer", "?kind=dropped_key").Revocations
		if len(got) != 2 || f.shelf.kept() != 2 {
			t.Errorf("got %+v and %d kept, want the two keys of corp", got, f.shelf.kept())
		}
		for _, r := range got {
			if r.Issuer != "corp" || r.By != "operator" {
				t.Errorf("got %+v, want corp's by operator", r)
			}
		}
		f.askAll(t, mint(corp(), nil), true) // a dropped key withdraws no token by itself
		line := f.lines("admin act")[0]
		if line["note"] != "keys dropped" || line["who"] != "operator" || line["issuer"] != "corp" {
			t.Errorf("audit line: got %v, want who dropped whose keys", line)
		}
	})
	t.Run("ADMIN drop of no issuer", func(t *testing.T) {
		f := newFixture(t)
		drop(f, "nobody").wantError(t, http.StatusNotFound, "not_found")
	})
	t.Run("ADMIN drop without a store: nothing could bring them back", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.list.File = nil })
		drop(f, "corp").want(t, http.StatusOK, `{"refreshed":true}`)
	})
	t.Run("ADMIN drop of keys that are configuration is refused: they would go on verifying", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.local = "corp" })
		drop(f, "corp").want(t, http.StatusConflict, `{"error":"invalid_request","error_description":"the keys of this issuer are configuration, and go on verifying: take the key out of the configuration, or out of the trust store"}`)
		if got := len(f.page("officer", "?kind=dropped_key").Revocations); got != 0 {
			t.Errorf("got %d keys dropped, want none", got)
		}
		line := f.lines("admin act")[0]
		if line["note"] != nil || line["status"] != 409.0 || line["issuer"] != "corp" {
			t.Errorf("audit line: got %v, want it to say of whom, and nothing of dropped keys", line)
		}
		f.sendAdmin("POST", "/issuers/corp/refresh", "", as("operator")...).want(t, http.StatusOK, `{"refreshed":true}`)
	})
	t.Run("ADMIN drop that other replicas may not know of is 503, and done here", func(t *testing.T) {
		fetched := 0
		f := newFixture(t, func(s *setup) {
			s.issuers[0].Keys.MaxStale = 24 * time.Hour
			s.refreshed = func() { fetched++ }
		})
		f.shelf.fail(errors.New("the store is away"))
		drop(f, "corp").want(t, http.StatusServiceUnavailable,
			`{"error":"temporarily_unavailable","error_description":"the keys were dropped here, and fetched; other replicas may still have the old ones"}`)
		if got := len(f.page("officer", "?kind=dropped_key").Revocations); got != 2 || fetched != 1 {
			t.Errorf("got %d keys dropped and %d fetches, want 2 and one", got, fetched)
		}
	})
	t.Run("ADMIN drop where the source is away", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.refresh["corp"] = errors.New("the endpoint said 500") })
		drop(f, "corp").want(t, http.StatusBadGateway, `{"error":"temporarily_unavailable","error_description":"the keys were dropped, and could not be fetched"}`)
		f.shelf.fail(errors.New("the store is away"))
		drop(f, "corp").want(t, http.StatusServiceUnavailable,
			`{"error":"temporarily_unavailable","error_description":"the keys were dropped here, and could not be fetched; other replicas may still have them"}`)
	})
}
