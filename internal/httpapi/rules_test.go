package httpapi_test

import (
	"net/http"
	"testing"

	"introspectd/internal/transform"
)

func following(rules ...transform.Rule) func(*setup) {
	return func(s *setup) { s.issuers[0].Claims.Rules = rules }
}

// TestRules holds that an issuer's rules show on every endpoint, and that why
// one failed shows on none.
func TestRules(t *testing.T) {
	f := newFixture(t, following(
		transform.Rule{Require: `claims.department.startsWith("raw-claim-")`, Message: "not of a department of ours"},
		transform.Rule{Set: "scope", Value: `claims.department.substring(10)`},
		transform.Rule{Set: "level", Value: `int(claims.?level.orValue("0"))`},
	))
	t.Run("OUT-13 rules show everywhere", func(t *testing.T) {
		token := mint(corp(), members{"department": "raw-claim-read write"})
		for range 2 {
			f.ask("orders", "/introspect", token).wantActive(t).wantMembers(t, map[string]string{"scope": `"read write"`, "level": "0"})
			f.ask("orders", "/transform", token).wantActive(t)
			f.get("/auth/strict", token).wantStatus(t, http.StatusOK).wantHeader(t, "X-Auth-Scope", "read write")
			f.get("/ext-authz/strict/", token).wantStatus(t, http.StatusOK).wantHeader(t, "X-Auth-Scope", "read write")
		}
	})
	t.Run("TRN-07 before scopes are demanded", func(t *testing.T) {
		f.get("/auth/strict", mint(corp(), members{"department": "raw-claim-read", "scope": "read write"})).wantStatus(t, http.StatusForbidden)
	})
	t.Run("TRN-04 a failing rule is inactive, and its message is the log's alone", func(t *testing.T) {
		for _, row := range []struct {
			claims members
			note   string
		}{
			{members{"department": "sales"}, "rules[0]: not of a department of ours"},
			{members{}, "rules[0]: the expression failed"},
			{members{"department": 7}, "rules[0]: the expression failed"},
			{members{"department": "raw-claim-x", "level": "raw-claim-high"}, "rules[2]: the expression failed"},
		} {
			token := mint(corp(), row.claims)
			for range 2 { // judged, and remembered
				for _, path := range []string{"/introspect", "/transform"} {
					f.ask("orders", path, token).want(t, http.StatusOK, inactive)
				}
				for _, path := range []string{"/auth", "/ext-authz/default/"} {
					f.get(path, token).wantStatus(t, http.StatusUnauthorized).
						wantHeader(t, "WWW-Authenticate", `Bearer realm="introspectd", error="invalid_token", error_description="The access token is invalid"`)
				}
				f.wantReason(t, "rule_failed", "corp")
				if got := f.last()["note"]; got != row.note {
					t.Errorf("%v: logged note: got %v, want %s", row.claims, got, row.note)
				}
			}
		}
	})
}
