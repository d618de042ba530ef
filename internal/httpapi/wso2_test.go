package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestWSO2Introspection replays what a client of WSO2's /oauth2/introspect
// sends, with the username that `introspectd wso2 import` configures.
func TestWSO2Introspection(t *testing.T) {
	f := newFixture(t, func(s *setup) {
		s.issuers[0].Claims.Username = []string{"preferred_username", "username", "sub"}
	})
	now := time.Now().Unix()
	// The claims of API Manager 4 and Identity Server 7: aud is the client.
	payload := func(more string) string {
		return fmt.Sprintf(`{"sub":"raw-claim-admin@carbon.super","aut":"APPLICATION_USER","binding_type":"cookie","iss":"%s","client_id":"ck","azp":"ck",`+
			`"aud":"ck","nbf":%d,"org_id":"10084a8d","org_name":"Super","org_handle":"carbon.super","binding_ref":"5a1c","scope":"am_application_scope default",`+
			`"exp":%d,"iat":%d,"jti":"e4a386ed-3b98"%s}`, corpIss, now, now+600, now, more)
	}
	token := sign(corpHeader("at+jwt"), payload(`,"act":{"sub":"raw-claim-agent"},"cnf":{"x5t#S256":"t"}`))

	t.Run("the answer has every member that WSO2's has", func(t *testing.T) {
		for _, extra := range [][]string{nil, {"token_type_hint", "access_token"}, {"token_type_hint", "bearer"}, {"required_claims", "sub,scope,http://wso2.org/claims/role"}, {"required_claims", ""}} {
			got := f.post("/oauth2/introspect", form(append([]string{"token", token}, extra...)...), append(as("any"), "Accept", "application/json")...).wantActive(t)
			object := got.object(t)
			for name, want := range map[string]string{
				"active": "true", "scope": "am_application_scope default", "client_id": "ck", "username": "raw-claim-admin@carbon.super", "token_type": "Bearer",
				"nbf": fmt.Sprint(now), "exp": fmt.Sprint(now + 600), "iat": fmt.Sprint(now), "aud": "ck", "iss": corpIss, "jti": "e4a386ed-3b98",
				"sub": "raw-claim-admin@carbon.super", "aut": "APPLICATION_USER", "act": "map[sub:raw-claim-agent]", "org_id": "10084a8d", "org_name": "Super",
				"org_handle": "carbon.super", "binding_type": "cookie", "binding_ref": "5a1c", "cnf": "map[x5t#S256:t]",
			} {
				if got := fmt.Sprint(object[name]); got != want {
					t.Errorf("%v: %s: got %s, want %s", extra, name, got, want)
				}
			}
			if _, there := object["token_string"]; there {
				t.Error("got token_string: claims are not signed again for whoever asks")
			}
		}
	})
	t.Run("the alias is byte-identical, whatever is sent", func(t *testing.T) {
		for _, body := range []string{
			form("token", token), form("token", token, "required_claims", "sub"), form("token", altered(token)), form("token", "00000000-0000-0000-0000-000000000000"),
			"", "token=", "token=+", form("token", token, "token", token), form("token", token, "token_type_hint", "a", "token_type_hint", "b"), "token=%zz",
		} {
			for _, who := range [][]string{as("any"), as("gateway"), {"Authorization", "Basic x"}, nil} {
				one, other := f.post("/introspect", body, who...), f.post("/oauth2/introspect", body, who...)
				if one.status != other.status || one.body != other.body || text(one.header) != text(other.header) {
					t.Errorf("%.40q: got %v at /introspect and %v at /oauth2/introspect", body, one, other)
				}
			}
		}
	})
	t.Run("a blank token is 400", func(t *testing.T) {
		for _, body := range []string{"token=", "token=+", "token=%20+%20", "required_claims=sub"} {
			f.post("/oauth2/introspect", body, as("any")...).wantError(t, http.StatusBadRequest, "invalid_request")
		}
	})
	t.Run("every fault of a token is 200 and inactive", func(t *testing.T) {
		for _, bad := range []string{altered(token), "opaque", "a.b.c", sign(corpHeader(""), strings.Replace(payload(""), `"exp"`, `"was"`, 1))} {
			f.ask("any", "/oauth2/introspect", bad).want(t, http.StatusOK, inactive)
		}
	})
	t.Run("callers are asked for by Basic", func(t *testing.T) {
		f.post("/oauth2/introspect", form("token", token)).wantError(t, http.StatusUnauthorized, "invalid_client")
		f.ask("gateway", "/oauth2/introspect", token).wantError(t, http.StatusForbidden, "access_denied")
	})
	t.Run("OUT-08 no username where aut says APPLICATION", func(t *testing.T) {
		of := sign(corpHeader(""), strings.Replace(payload(""), "APPLICATION_USER", "Application", 1))
		if _, there := f.ask("any", "/oauth2/introspect", of).wantActive(t).object(t)["username"]; there {
			t.Error("got a username of a token that no user stands behind")
		}
	})
}
