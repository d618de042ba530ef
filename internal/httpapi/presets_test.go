package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"introspectd/internal/callers"
	"introspectd/internal/transform"
)

// preset makes corp an issuer of this vendor, with nothing else written; "" is
// the plain defaults.
func preset(name transform.PresetName) func(*setup) {
	return func(s *setup) {
		row := s.issuers[0]
		row.Claims.Preset = name
		s.issuers[0], _ = row.WithPreset(func(string) bool { return false })
		app := caller("app", callers.Introspect)
		app.AnyAudience, app.Audiences = callers.AnyAudience{}, []string{"the-app"}
		s.callers = append(s.callers, app)
	}
}

// TestPresets judges tokens in the shapes that vendors document, those of users
// and those of machines, end to end. Times and iss are ours.
func TestPresets(t *testing.T) {
	now := time.Now().Unix()
	fill := strings.NewReplacer("NOW", fmt.Sprint(now), "AUD", ordersAud)
	fixtures := map[transform.PresetName]*fixture{"": newFixture(t, preset(""))}
	for _, row := range []struct {
		preset            transform.PresetName
		kind, typ, claims string
		without           string // reason without the preset; "" for active
		want              map[string]string
		header            string // X-Auth-Subject
	}{
		{
			"wso2", "4.x, a user's", "at+jwt",
			`"sub":"raw-claim-3d1b4a0c","aut":"APPLICATION_USER","aud":"AUD","nbf":NOW,"azp":"Xq9","scope":"default openid","jti":"j","client_id":"Xq9","org_id":"10084a8d","org_name":"Super","org_handle":"carbon.super","binding_type":"sso-session","given_name":"raw-claim-A","family_name":"raw-claim-B","email":"raw-claim-a@b","groups":["admin"],"preferred_username":"raw-claim-amy"`,
			"",
			map[string]string{
				"client_id": `"Xq9"`, "scope": `"default openid"`, "username": `"raw-claim-3d1b4a0c"`, "http://wso2.org/claims/givenname": `"raw-claim-A"`,
				"http://wso2.org/claims/lastname": `"raw-claim-B"`, "http://wso2.org/claims/emailaddress": `"raw-claim-a@b"`,
				"http://wso2.org/claims/role": `["admin"]`, "http://wso2.org/claims/displayName": `"raw-claim-amy"`, "email": absent, "org_handle": `"carbon.super"`,
			},
			"raw-claim-3d1b4a0c",
		},
		{
			"wso2", "3.2, an application's", "",
			`"sub":"raw-claim-admin@carbon.super","aut":"APPLICATION","aud":"AUD","nbf":NOW,"azp":"Xq9","scope":"am_application_scope default","jti":"j"`,
			"",
			map[string]string{"client_id": `"Xq9"`, "scope": `"am_application_scope default"`, "username": absent},
			"raw-claim-admin@carbon.super",
		},
		{
			"keycloak", "a user's", "JWT",
			`"auth_time":NOW,"jti":"onrtac:1","aud":["AUD","account"],"sub":"raw-claim-f81d4fae","typ":"Bearer","azp":"webshop","sid":"s","acr":"1","allowed-origins":["*"],"realm_access":{"roles":["offline_access"]},"resource_access":{"account":{"roles":["view-profile"]}},"scope":"openid email profile","email_verified":true,"preferred_username":"raw-claim-alice"`,
			"",
			map[string]string{"client_id": `"webshop"`, "scope": `"openid email profile"`, "username": `"raw-claim-alice"`},
			"raw-claim-f81d4fae",
		},
		{
			"keycloak", "a client's without the scope basic", "JWT",
			`"jti":"trrtcc:1","aud":"AUD","typ":"Bearer","azp":"batch","acr":"1","realm_access":{"roles":["default-roles-corp"]},"scope":"email profile","clientHost":"10.0.0.7","email_verified":false,"preferred_username":"service-account-batch","clientAddress":"10.0.0.7","client_id":"batch"`,
			"missing_claim",
			map[string]string{"client_id": `"batch"`, "scope": `"email profile"`, "sub": absent},
			"",
		},
		{
			"keycloak", "a lightweight one", "JWT",
			`"jti":"j","aud":"AUD","typ":"Bearer","azp":"admin-cli","sid":"s","scope":"email profile"`,
			"missing_claim",
			map[string]string{"client_id": `"admin-cli"`, "username": absent},
			"",
		},
		{
			"auth0", "a user's", "JWT",
			`"sub":"auth0|raw-claim-123456","aud":["AUD","https://tenant.example/userinfo"],"azp":"my_client","scope":"openid profile read:patients","permissions":["read:patients"]`,
			"",
			map[string]string{"client_id": `"my_client"`, "scope": `"openid profile read:patients"`, "username": absent, "permissions": `["read:patients"]`},
			"auth0|raw-claim-123456",
		},
		{
			"auth0", "a machine's", "JWT",
			`"sub":"my_client@clients","aud":"AUD","azp":"my_client","scope":"read:patients","gty":"client-credentials"`,
			"",
			map[string]string{"client_id": `"my_client"`, "scope": `"read:patients"`, "username": absent},
			"my_client@clients",
		},
		{
			"auth0", "of the profile of RFC 9068", "at+jwt",
			`"sub":"auth0|raw-claim-123456","aud":"AUD","client_id":"my_client","jti":"j","scope":"read:patients"`,
			"",
			map[string]string{"client_id": `"my_client"`},
			"auth0|raw-claim-123456",
		},
		{
			"okta", "a user's", "",
			`"ver":1,"jti":"AT.1","aud":"AUD","cid":"0oabskvc6442nkvQO0h7","uid":"raw-claim-00u5t60","scp":["offline_access","openid"],"auth_time":NOW,"sub":"raw-claim-alice@example.com"`,
			"",
			map[string]string{"client_id": `"0oabskvc6442nkvQO0h7"`, "scope": `"offline_access openid"`, "username": `"raw-claim-alice@example.com"`},
			"raw-claim-alice@example.com",
		},
		{
			"okta", "a machine's", "",
			`"ver":1,"jti":"AT.2","aud":"AUD","cid":"0oabskvc6442nkvQO0h7","scp":["orders.read"],"sub":"0oabskvc6442nkvQO0h7"`,
			"",
			map[string]string{"client_id": `"0oabskvc6442nkvQO0h7"`, "scope": `"orders.read"`, "username": absent},
			"0oabskvc6442nkvQO0h7",
		},
		{
			"entra", "v1, a user's", "JWT",
			`"aud":"AUD","nbf":NOW,"acr":"1","aio":"x","amr":["pwd"],"appid":"b14a7505","appidacr":"0","ipaddr":"1.2.3.4","name":"raw-claim-A","oid":"o","rh":"r","scp":"user_impersonation Files.Read","sub":"raw-claim-s","tid":"t","unique_name":"raw-claim-alice@example.com","upn":"raw-claim-alice@example.com","uti":"u","ver":"1.0"`,
			"",
			map[string]string{"client_id": `"b14a7505"`, "scope": `"user_impersonation Files.Read"`, "username": `"raw-claim-alice@example.com"`, "oid": `"o"`, "tid": `"t"`},
			"raw-claim-s",
		},
		{
			"entra", "v1, an application's", "JWT",
			`"aud":"AUD","nbf":NOW,"aio":"x","appid":"b14a7505","appidacr":"1","idp":"https://sts.windows.net/t/","oid":"raw-claim-o","rh":"r","roles":["Orders.Read"],"sub":"raw-claim-o","tid":"t","uti":"u","ver":"1.0"`,
			"",
			map[string]string{"client_id": `"b14a7505"`, "scope": absent, "username": absent, "roles": `["Orders.Read"]`},
			"raw-claim-o",
		},
		{
			"entra", "v2, a user's", "JWT",
			`"aud":"AUD","nbf":NOW,"aio":"x","azp":"b14a7505","azpacr":"0","name":"raw-claim-A","oid":"o","preferred_username":"raw-claim-alice","rh":"r","scp":"access_as_user","sub":"raw-claim-s","tid":"t","uti":"u","ver":"2.0"`,
			"",
			map[string]string{"client_id": `"b14a7505"`, "scope": `"access_as_user"`, "username": `"raw-claim-alice"`},
			"raw-claim-s",
		},
		{
			"entra", "v2, an application's", "JWT",
			`"aud":"AUD","nbf":NOW,"aio":"x","azp":"b14a7505","azpacr":"1","idtyp":"app","oid":"raw-claim-o","rh":"r","roles":["Orders.Read"],"sub":"raw-claim-o","tid":"t","uti":"u","ver":"2.0"`,
			"",
			map[string]string{"client_id": `"b14a7505"`, "scope": absent, "username": absent},
			"raw-claim-o",
		},
		{
			"cognito", "a user's", "",
			`"sub":"raw-claim-aaaaaaaa","cognito:groups":["admins"],"version":2,"client_id":"the-app","origin_jti":"o","event_id":"e","token_use":"access","scope":"aws.cognito.signin.user.admin openid","auth_time":NOW,"jti":"j","username":"raw-claim-janedoe"`,
			"",
			map[string]string{"client_id": `"the-app"`, "scope": `"aws.cognito.signin.user.admin openid"`, "username": `"raw-claim-janedoe"`, "aud": `"the-app"`, "cognito:groups": `["admins"]`},
			"raw-claim-aaaaaaaa",
		},
		{
			"cognito", "a machine's", "",
			`"sub":"the-app","token_use":"access","scope":"https://api.example/orders.read","auth_time":NOW,"version":2,"jti":"j","client_id":"the-app"`,
			"",
			map[string]string{"client_id": `"the-app"`, "scope": `"https://api.example/orders.read"`, "username": absent, "aud": `"the-app"`},
			"the-app",
		},
		{
			"cognito", "a user's for a resource", "",
			`"sub":"raw-claim-aaaaaaaa","aud":"AUD","client_id":"the-app","token_use":"access","scope":"openid","username":"raw-claim-janedoe"`,
			"",
			map[string]string{"aud": `"` + ordersAud + `"`},
			"raw-claim-aaaaaaaa",
		},
		{
			"zitadel", "a user's", "JWT",
			`"sub":"raw-claim-170848145649959169","aud":["259254409320529922@portal","AUD"],"nbf":NOW,"jti":"V2_1","urn:zitadel:iam:org:project:roles":{"editor":{"170848145649959170":"acme.example"},"admin":{"170848145649959170":"acme.example"}},"urn:zitadel:iam:user:resourceowner:id":"170848145649959170"`,
			"",
			map[string]string{"client_id": absent, "scope": absent, "username": absent, "roles": `["editor","admin"]`, "urn:zitadel:iam:user:resourceowner:id": `"170848145649959170"`},
			"raw-claim-170848145649959169",
		},
		{
			"zitadel", "a service user's", "JWT",
			`"sub":"raw-claim-170848145649959171","aud":["AUD"],"nbf":NOW,"jti":"at_1"`,
			"",
			map[string]string{"roles": absent, "username": absent},
			"raw-claim-170848145649959171",
		},
		{
			"identityserver", "a user's", "at+jwt",
			`"nbf":NOW,"aud":["AUD"],"scope":["openid","orders.read","offline_access"],"amr":["pwd"],"client_id":"web","sub":"raw-claim-88421113","auth_time":NOW,"idp":"local","sid":"S","jti":"J"`,
			"",
			map[string]string{"client_id": `"web"`, "scope": `"openid orders.read offline_access"`},
			"raw-claim-88421113",
		},
		{
			"identityserver", "client credentials", "at+jwt",
			`"nbf":NOW,"aud":["AUD"],"scope":["orders.read"],"client_id":"batch","jti":"J"`,
			"missing_claim",
			map[string]string{"client_id": `"batch"`, "scope": `"orders.read"`, "sub": absent, "username": absent},
			"",
		},
	} {
		t.Run(fmt.Sprintf("OUT-13 %s: %s", row.preset, row.kind), func(t *testing.T) {
			f := fixtures[row.preset]
			if f == nil {
				f = newFixture(t, preset(row.preset))
				fixtures[row.preset] = f
			}
			token := sign(corpHeader(row.typ), fill.Replace(fmt.Sprintf(`{"iss":"%s","iat":%d,"exp":%d,%s}`, corpIss, now, now+600, row.claims)))
			for range 2 {
				f.ask("any", "/introspect", token).wantActive(t).wantMembers(t, row.want)
				f.get("/auth/lenient", token).wantStatus(t, http.StatusOK).wantHeader(t, "X-Auth-Subject", row.header)
			}
			who, other := "orders", "app"
			if row.want["aud"] == `"the-app"` { // the audience that is demanded is the mapped one
				who, other = other, who
			}
			f.ask(who, "/introspect", token).wantActive(t)
			f.ask(other, "/introspect", token).want(t, http.StatusOK, inactive)

			plain := fixtures[""]
			got := plain.ask("any", "/introspect", token)
			if (got.body == inactive) != (row.without != "") {
				t.Errorf("without the preset: got %s, want reason %q", got.body, row.without)
			}
			plain.wantReason(t, row.without, "corp")
		})
	}
}

// TestPresetsKeepOtherTokensOut feeds each vendor's ID and refresh tokens, also
// those that nothing but the preset tells from access tokens.
func TestPresetsKeepOtherTokensOut(t *testing.T) {
	now := time.Now().Unix()
	for _, row := range []struct {
		preset                    transform.PresetName
		kind, typ, claims, reason string
	}{
		{"keycloak", "an ID token", "JWT", `"aud":"webshop","sub":"raw-claim-a","typ":"ID","azp":"webshop","sid":"s"`, "wrong_type"},
		{"keycloak", "a refresh token", "JWT", `"aud":"x","sub":"raw-claim-a","typ":"Refresh","azp":"webshop"`, "wrong_type"},
		{"keycloak", "an offline token", "JWT", `"aud":"x","sub":"raw-claim-a","typ":"Offline","azp":"webshop"`, "wrong_type"},
		{"keycloak", "a registration token", "JWT", `"aud":"x","typ":"RegistrationAccessToken"`, "rule_failed"},
		{"keycloak", "one without typ", "JWT", `"aud":"x","sub":"raw-claim-a","azp":"webshop"`, "rule_failed"},
		{"auth0", "an ID token", "JWT", `"nickname":"n","name":"raw-claim-A","email":"raw-claim-a@b","aud":"my_client","sub":"auth0|raw-claim-1","sid":"s"`, "rule_failed"},
		{"auth0", "an ID token with azp", "JWT", `"aud":"my_client","azp":"my_client","sub":"auth0|raw-claim-1"`, "rule_failed"},
		{"auth0", "an ID token with a nonce", "JWT", `"aud":"my_client","sub":"auth0|raw-claim-1","nonce":"n"`, "wrong_type"},
		{"okta", "an ID token", "", `"ver":1,"aud":"0oa","sub":"raw-claim-00u","jti":"ID.1","amr":["pwd"],"idp":"00o","auth_time":1,"name":"raw-claim-A"`, "rule_failed"},
		{"entra", "a v1 ID token", "JWT", `"aud":"b14a7505","sub":"raw-claim-s","oid":"o","tid":"t","ver":"1.0","upn":"raw-claim-a","roles":["Admin"]`, "rule_failed"},
		{"entra", "a v2 ID token", "JWT", `"aud":"b14a7505","sub":"raw-claim-s","oid":"o","tid":"t","ver":"2.0","preferred_username":"raw-claim-a","roles":["Admin"]`, "rule_failed"},
		{"cognito", "an ID token", "", `"sub":"raw-claim-a","aud":"the-app","token_use":"id","cognito:username":"raw-claim-a","event_id":"e"`, "wrong_type"},
		{"cognito", "an ID token in capitals", "", `"sub":"raw-claim-a","aud":"the-app","token_use":"ID"`, "wrong_type"},
		{"cognito", "one of another use", "", `"sub":"raw-claim-a","client_id":"the-app","token_use":"refresh"`, "rule_failed"},
		{"cognito", "one without a use", "", `"sub":"raw-claim-a","client_id":"the-app"`, "rule_failed"},
		{"cognito", "one whose client is no audience", "", `"sub":"raw-claim-a","client_id":7,"token_use":"access"`, "rule_failed"},
		{"zitadel", "an ID token", "JWT", `"sub":"raw-claim-1","aud":["259@portal"],"azp":"259@portal","client_id":"259@portal","amr":["pwd"],"auth_time":1`, "rule_failed"},
		{"identityserver", "an ID token", "JWT", `"nbf":1,"aud":"web","sub":"raw-claim-8","auth_time":1,"idp":"local","amr":["pwd"],"sid":"S"`, "rule_failed"},
	} {
		f := newFixture(t, preset(row.preset))
		token := sign(corpHeader(row.typ), fmt.Sprintf(`{"iss":"%s","iat":%d,"exp":%d,%s}`, corpIss, now, now+600, row.claims))
		f.ask("any", "/introspect", token).want(t, http.StatusOK, inactive)
		if got := f.last()["reason"]; got != row.reason {
			t.Errorf("%s: %s: got reason %v, want %s", row.preset, row.kind, got, row.reason)
		}
		f.get("/auth/lenient", token).wantStatus(t, http.StatusUnauthorized)
	}
}
