package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// signed is a token of corp with the given members of its payload, raw, after
// iss, sub, aud, iat and exp; a member named twice makes the payload no JSON.
func signed(raw string) string {
	now := time.Now().Unix()
	base := []string{
		`"iss":"` + corpIss + `"`, `"sub":"raw-claim-alice"`, `"aud":"` + ordersAud + `"`,
		fmt.Sprintf(`"iat":%d`, now), fmt.Sprintf(`"exp":%d`, now+600),
	}
	var kept []string
	for _, member := range base {
		name, _, _ := strings.Cut(member, ":")
		if !strings.HasPrefix(raw, name+":") && !strings.Contains(raw, ","+name+":") {
			kept = append(kept, member)
		}
	}
	if raw != "" {
		kept = append(kept, raw)
	}
	return sign(corpHeader("at+jwt"), "{"+strings.Join(kept, ",")+"}")
}

// absent is the value of a member that must not be there.
const absent = "\x00absent"

// wantMembers compares members by their raw JSON.
func (r response) wantMembers(t testing.TB, want map[string]string) {
	t.Helper()
	var got map[string]json.RawMessage
	if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.status != http.StatusOK {
		t.Errorf("got %d %q, want 200 and an object", r.status, r.body)
		return
	}
	for name, value := range want {
		raw, ok := got[name]
		switch {
		case value == absent && ok:
			t.Errorf("%s: got %s, want none in %s", name, raw, r.body)
		case value != absent && string(raw) != value:
			t.Errorf("%s: got %s, want %s in %s", name, raw, value, r.body)
		}
	}
}

func TestAnswerMembers(t *testing.T) {
	f := newFixture(t)
	now := time.Now().Unix()
	exp := fmt.Sprint(now + 1000)
	for _, row := range []struct {
		name, raw string
		want      map[string]string // nil: inactive
	}{
		{"OUT-01 active, token_type and cnf are computed", `"active":false,"token_type":"N_A"`, map[string]string{"active": "true", "token_type": `"Bearer"`}},
		{"OUT-01 active as a text", `"active":"no"`, map[string]string{"active": "true"}},
		{"OUT-01 scope and client_id of other types", `"scope":{"a":1},"client_id":7,"username":["x"]`, map[string]string{"scope": absent, "client_id": absent, "username": absent}},
		{"OUT-01 names that differ in case are other claims", `"Active":false,"ACTIVE":0`, map[string]string{"active": "true", "Active": "false", "ACTIVE": "0"}},
		{"OUT-02 sub a number", `"sub":7`, nil},
		{"OUT-02 sub empty", `"sub":""`, nil},
		{"OUT-02 sub null", `"sub":null`, nil},
		{"OUT-02 sub a list", `"sub":["raw-claim-a"]`, nil},
		{"OUT-02 jti a number", `"jti":7`, nil},
		{"OUT-02 jti as it is", `"jti":"a\u0020b"`, map[string]string{"jti": `"a\u0020b"`}},
		{"OUT-02 iss a list", `"iss":["` + corpIss + `"]`, nil},
		{"OUT-03 exp floors", `"exp":` + exp + `.9`, map[string]string{"exp": exp}},
		{"OUT-03 exp with an exponent", fmt.Sprintf(`"exp":%de-1`, (now+1000)*10), map[string]string{"exp": exp}},
		{"OUT-03 iat floors", fmt.Sprintf(`"iat":%d.99`, now-5), map[string]string{"iat": fmt.Sprint(now - 5)}},
		{"OUT-03 nbf ceils", fmt.Sprintf(`"nbf":%d.01`, now-5), map[string]string{"nbf": fmt.Sprint(now - 4)}},
		{"OUT-03 auth_time floors", fmt.Sprintf(`"auth_time":%d.5`, now-50), map[string]string{"auth_time": fmt.Sprint(now - 50)}},
		{"OUT-03 auth_time of another type is left out", `"auth_time":"yesterday"`, map[string]string{"active": "true", "auth_time": absent}},
		{"OUT-03 exp a text", `"exp":"` + exp + `"`, nil},
		{"OUT-03 exp beyond the year 9999", `"exp":253402300800`, nil},
		{"OUT-03 exp too large to be one", `"exp":1e400`, nil},
		{"OUT-04 cnf a text", `"cnf":"x"`, nil},
		{"OUT-04 cnf null", `"cnf":null`, nil},
		{"OUT-04 cnf empty", `"cnf":{}`, nil},
		{"OUT-04 cnf a list", `"cnf":[{"jkt":"x"}]`, nil},
		{"OUT-04 aud a text stays one", ``, map[string]string{"aud": `"` + ordersAud + `"`}},
		{"OUT-04 aud a list of one stays one", `"aud":["` + ordersAud + `"]`, map[string]string{"aud": `["` + ordersAud + `"]`}},
		{"OUT-04 aud with a number in it", `"aud":["` + ordersAud + `",7]`, nil},
		{"OUT-04 aud a number", `"aud":7`, nil},
		{"OUT-04 aud an object", `"aud":{"x":"` + ordersAud + `"}`, nil},
		{"OUT-05 a text: white space and duplicates", `"scope":" b  a\tb\nc a "`, map[string]string{"scope": `"b a c"`}},
		{"OUT-05 a list", `"scope":["b","a","b"]`, map[string]string{"scope": `"b a"`}},
		{"OUT-05 values outside the charset are dropped", `"scope":"a b\"c d\\e \u00e9 f"`, map[string]string{"scope": `"a f"`}},
		{"OUT-05 a list's value with a space is no scope", `"scope":["a b","c",7,null]`, map[string]string{"scope": `"c"`}},
		{"OUT-05 none: absent, as a text", `"scope":"  "`, map[string]string{"scope": absent}},
		{"OUT-05 none: absent, as a list", `"scope":[]`, map[string]string{"scope": absent}},
		{"OUT-06 scope before scp", `"scp":["x"],"scope":"y"`, map[string]string{"scope": `"y"`, "scp": `["x"]`}},
		{"OUT-06 scp when there is no scope", `"scp":["x","y"]`, map[string]string{"scope": `"x y"`}},
		{"OUT-06 roles and permissions keep their names", `"roles":["a"],"permissions":["b"],"groups":["c"],"entitlements":["d"],"realm_access":{"roles":["e"]}`, map[string]string{
			"scope": absent, "roles": `["a"]`, "permissions": `["b"]`, "groups": `["c"]`, "entitlements": `["d"]`, "realm_access": `{"roles":["e"]}`,
		}},
		{"OUT-07 client_id first", `"azp":"z","client_id":"c","cid":"i"`, map[string]string{"client_id": `"c"`}},
		{"OUT-07 the first text", `"client_id":null,"azp":7,"cid":"","appid":"a","consumerKey":"k"`, map[string]string{"client_id": `"a"`}},
		{"OUT-07 never from aud", ``, map[string]string{"client_id": absent}},
		{"OUT-08 preferred_username first", `"username":"raw-claim-u","preferred_username":"raw-claim-p"`, map[string]string{"username": `"raw-claim-p"`}},
		{"OUT-08 upn", `"upn":"raw-claim-u"`, map[string]string{"username": `"raw-claim-u"`}},
		{"OUT-08 not from email", `"email":"raw-claim-e@x"`, map[string]string{"username": absent}},
		{"OUT-08 none when sub is the client", `"client_id":"raw-claim-alice","username":"raw-claim-u"`, map[string]string{"username": absent}},
		{"OUT-08 none for WSO2's application tokens", `"aut":"APPLICATION","username":"raw-claim-u"`, map[string]string{"username": absent}},
		{"OUT-08 none for Entra's application tokens", `"idtyp":"app","upn":"raw-claim-u"`, map[string]string{"username": absent}},
		{"OUT-09 DPoP", `"cnf":{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}`, map[string]string{"token_type": `"DPoP"`, "cnf": `{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}`}},
		{"OUT-09 ATH-12 mTLS is answered active with cnf", `"cnf":{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}`, map[string]string{
			"token_type": `"Bearer"`, "cnf": `{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}`,
		}},
		{"OUT-10 passed through", `"act":{"sub":"x","act":{"sub":"y"}},"may_act":{"sub":"z"},"acr":"urn:mace:incommon:iap:silver","amr":["pwd","otp"],"txn":"t","authorization_details":[{"type":"a","b":[1.50]}]`, map[string]string{
			"act": `{"sub":"x","act":{"sub":"y"}}`, "may_act": `{"sub":"z"}`, "acr": `"urn:mace:incommon:iap:silver"`, "amr": `["pwd","otp"]`,
			"txn": `"t"`, "authorization_details": `[{"type":"a","b":[1.50]}]`,
		}},
		{"OUT-10 left out when not of their type", `"act":"x","may_act":[],"acr":7,"amr":["a",7],"txn":1,"authorization_details":[{"b":1}]`, map[string]string{
			"active": "true", "act": absent, "may_act": absent, "acr": absent, "amr": absent, "txn": absent, "authorization_details": absent,
		}},
		{"OUT-12 large integers survive", `"big":9007199254740993,"deep":{"n":[12345678901234567890]},"f":1.0,"e":1E2,"neg":-0`, map[string]string{
			"big": "9007199254740993", "deep": `{"n":[12345678901234567890]}`, "f": "1.0", "e": "1E2", "neg": "-0",
		}},
		{"ERR-08 no HTML escaping", `"site":"https://x.example/?a=1&b=<2>"`, map[string]string{"site": `"https://x.example/?a=1&b=<2>"`}},
	} {
		t.Run(row.name, func(t *testing.T) {
			token := signed(row.raw)
			cold, remembered := f.ask("any", "/introspect", token), f.ask("any", "/introspect", token)
			if cold.body != remembered.body {
				t.Errorf("got cold %s and remembered %s, want them equal", cold.body, remembered.body)
			}
			if row.want == nil {
				cold.want(t, http.StatusOK, inactive)
				return
			}
			cold.wantMembers(t, row.want)
		})
	}
}

func TestAnswerViews(t *testing.T) {
	f := newFixture(t)
	token := signed(`"scope":"read","client_id":"app","username":"raw-claim-u","zeta":1,"department":"raw-claim-sales","Alpha":2,"cnf":{"jkt":"k"},"acr":"a","jti":"j","roles":["r"],"act":{"sub":"s"}`)
	for _, row := range []struct {
		name, caller string
		want         []string
	}{
		{"OUT-11 everything, in order", "any", []string{"active", "scope", "client_id", "username", "token_type", "exp", "iat", "sub", "aud", "iss", "jti", "Alpha", "acr", "act", "cnf", "department", "roles", "zeta"}},
		{"OUT-11 minimal", "small", []string{"active", "scope", "client_id", "username", "token_type", "exp", "iat", "sub", "aud", "iss", "jti", "acr", "act", "cnf"}},
		{"OUT-11 a list, and what is never filtered out", "listed", []string{"active", "token_type", "exp", "iss", "cnf", "department"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for range 2 {
				got := f.ask(row.caller, "/introspect", token).wantActive(t)
				if diff := cmp.Diff(row.want, names(t, got.body)); diff != "" {
					t.Errorf("members of %s (-want +got):\n%s", got.body, diff)
				}
			}
		})
	}
}

// names are the members of an object in the order of its text.
func names(t *testing.T, object string) (out []string) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(object))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	for d.More() {
		name, err := d.Token()
		var value json.RawMessage
		if err != nil || d.Decode(&value) != nil {
			t.Fatalf("got %s, want an object", object)
		}
		out = append(out, name.(string))
	}
	return out
}

func TestMappingShowsOnEveryEndpoint(t *testing.T) {
	f := newFixture(t, mapped(
		"http://wso2.org/claims/role", "roles", "scp", "scope", "cognito:groups", "groups", "given.name", "first", "sub", "login", "nothing", "void",
	))
	token := signed(`"http://wso2.org/claims/role":["admin"],"scp":["read","write"],"cognito:groups":["g"],"given.name":"raw-claim-n","stays":1,"aud":"` + ordersAud + `"`)
	want := map[string]string{
		"roles": `["admin"]`, "http://wso2.org/claims/role": absent, "scope": `"read write"`, "scp": absent, "groups": `["g"]`, "cognito:groups": absent,
		"first": `"raw-claim-n"`, "given.name": absent, "login": `"raw-claim-alice"`, "sub": `"raw-claim-alice"`, "void": absent, "stays": "1",
	}
	t.Run("OUT-13 TRN-04 TRN-05 literal names move, protected ones are copied", func(t *testing.T) {
		f.ask("any", "/introspect", token).wantMembers(t, want)
		var inner struct{ Claims json.RawMessage }
		got := f.ask("any", "/transform", token)
		if err := json.Unmarshal([]byte(got.body), &inner); err != nil {
			t.Fatal(err)
		}
		response{status: got.status, body: string(inner.Claims)}.wantMembers(t, want)
	})
	t.Run("OUT-13 TRN-07 a mapped scope counts for a policy", func(t *testing.T) {
		f.get("/auth/strict", token).wantStatus(t, http.StatusOK).wantHeader(t, "X-Auth-Scope", "read write")
		f.get("/auth/strict?scope=admin", token).wantStatus(t, http.StatusForbidden)
	})
	t.Run("TRN-06 the mapped aud is the one that is checked", func(t *testing.T) {
		f := newFixture(t, mapped("resource", "aud"), func(s *setup) { s.issuers[0].Claims.AllowReserved = []string{"aud"} })
		f.ask("orders", "/introspect", signed(`"aud":"elsewhere","resource":"`+ordersAud+`"`)).wantActive(t)
		f.ask("orders", "/introspect", signed(`"resource":"elsewhere"`)).want(t, http.StatusOK, inactive)
		f.ask("any", "/introspect", signed(`"resource":7`)).want(t, http.StatusOK, inactive)
		f.wantReason(t, "bad_claims", "corp")
	})
	t.Run("TRN-06 active, exp, iss and cnf can't be written by a token's own claims", func(t *testing.T) {
		f := newFixture(t, mapped("ok", "active", "later", "exp", "who", "iss", "free", "cnf"))
		got := f.ask("any", "/introspect", signed(`"ok":false,"later":9999999999,"who":"raw-claim-mallory","cnf":{"jkt":"k"}`))
		if got.body == inactive {
			t.Fatalf("got %s, want an active answer", got.body)
		}
		if got.object(t)["active"] != true || strings.Contains(fmt.Sprint(got.object(t)["exp"]), "9999999999") {
			t.Errorf("got %s, want active and exp computed", got.body)
		}
	})
}

// mapped gives corp a claims.map of pairs: remote, local.
func mapped(pairs ...string) func(*setup) {
	return func(s *setup) {
		for i := 0; i < len(pairs); i += 2 {
			s.issuers[0].Claims.Map = append(s.issuers[0].Claims.Map, rename(pairs[i], pairs[i+1]))
		}
	}
}

// TestVendorShapes feeds access tokens in the shapes that issuers in the field
// give them.
func TestVendorShapes(t *testing.T) {
	f := newFixture(t)
	now := time.Now().Unix()
	times := fmt.Sprintf(`"iat":%d,"exp":%d`, now, now+600)
	for _, row := range []struct {
		name, typ, payload string
		want               map[string]string
	}{
		{
			"Keycloak", "JWT",
			`"jti":"onrtac:1","aud":["` + ordersAud + `","account"],"sub":"raw-claim-f81d4fae","typ":"Bearer","azp":"webshop","sid":"s","acr":"1","realm_access":{"roles":["offline_access"]},"resource_access":{"account":{"roles":["view-profile"]}},"scope":"openid email profile","email_verified":true,"preferred_username":"raw-claim-alice","allowed-origins":["*"]`,
			map[string]string{"client_id": `"webshop"`, "scope": `"openid email profile"`, "username": `"raw-claim-alice"`, "token_type": `"Bearer"`, "realm_access": `{"roles":["offline_access"]}`, "typ": `"Bearer"`, "acr": `"1"`},
		},
		{
			"Keycloak with a nonce", "JWT",
			`"aud":"` + ordersAud + `","sub":"raw-claim-f81d4fae","typ":"Bearer","azp":"webshop","nonce":"n"`,
			map[string]string{"client_id": `"webshop"`, "nonce": `"n"`},
		},
		{
			"Auth0", "JWT",
			`"sub":"auth0|raw-claim-123","aud":["` + ordersAud + `","https://tenant.example/userinfo"],"azp":"my_client","scope":"openid read:messages","gty":"password","permissions":["read:messages"]`,
			map[string]string{"client_id": `"my_client"`, "scope": `"openid read:messages"`, "permissions": `["read:messages"]`, "username": absent},
		},
		{
			"Auth0, machine to machine", "at+jwt",
			`"sub":"my_client@clients","aud":"` + ordersAud + `","azp":"my_client","scope":"read:messages","gty":"client-credentials","client_id":"my_client","jti":"j"`,
			map[string]string{"client_id": `"my_client"`, "sub": `"my_client@clients"`},
		},
		{
			"Okta", "",
			`"ver":1,"jti":"AT.1","aud":"` + ordersAud + `","cid":"0oabskvc6442nkvQO0h7","uid":"raw-claim-00u5t60iloOHN9pBi0h7","scp":["offline_access","openid"],"auth_time":` + fmt.Sprint(now) + `,"sub":"raw-claim-alice@example.com"`,
			map[string]string{"client_id": `"0oabskvc6442nkvQO0h7"`, "scope": `"offline_access openid"`, "uid": `"raw-claim-00u5t60iloOHN9pBi0h7"`, "auth_time": fmt.Sprint(now)},
		},
		{
			"Entra v1", "JWT",
			`"aud":"` + ordersAud + `","nbf":` + fmt.Sprint(now) + `,"acr":"1","aio":"x","amr":["pwd"],"appid":"b14a7505-96e9-4927-91e8-0601d0fc9caa","appidacr":"0","oid":"o","rh":"r","roles":["Reader"],"scp":"user_impersonation Files.Read","sub":"raw-claim-s","tid":"t","unique_name":"u","upn":"raw-claim-alice@example.com","uti":"u","ver":"1.0"`,
			map[string]string{"client_id": `"b14a7505-96e9-4927-91e8-0601d0fc9caa"`, "scope": `"user_impersonation Files.Read"`, "roles": `["Reader"]`, "username": `"raw-claim-alice@example.com"`},
		},
		{
			"Entra v2", "JWT",
			`"aud":"` + ordersAud + `","nbf":` + fmt.Sprint(now) + `,"azp":"b14a7505-96e9-4927-91e8-0601d0fc9caa","azpacr":"0","name":"raw-claim-A","oid":"o","preferred_username":"raw-claim-alice","scp":"access","sub":"raw-claim-s","tid":"t","ver":"2.0"`,
			map[string]string{"client_id": `"b14a7505-96e9-4927-91e8-0601d0fc9caa"`, "scope": `"access"`, "username": `"raw-claim-alice"`},
		},
		{
			"Entra v2, application", "JWT",
			`"aud":"` + ordersAud + `","azp":"b14a7505","idtyp":"app","oid":"o","roles":["Task.Read"],"sub":"o","ver":"2.0"`,
			map[string]string{"client_id": `"b14a7505"`, "username": absent, "scope": absent, "roles": `["Task.Read"]`},
		},
		{
			"Cognito, without aud", "",
			`"sub":"raw-claim-a","cognito:groups":["admins"],"token_use":"access","scope":"aws.cognito.signin.user.admin","auth_time":` + fmt.Sprint(now) + `,"jti":"j","client_id":"xxxxxxxxxxxxexample","username":"raw-claim-janedoe","version":2`,
			map[string]string{"client_id": `"xxxxxxxxxxxxexample"`, "aud": absent, "username": `"raw-claim-janedoe"`, "cognito:groups": `["admins"]`, "token_use": `"access"`},
		},
		{
			"Spring Authorization Server", "",
			`"sub":"messaging-client","aud":"` + ordersAud + `","nbf":` + fmt.Sprint(now) + `,"scope":["message.read","message.write"],"jti":"j"`,
			map[string]string{"scope": `"message.read message.write"`, "client_id": absent},
		},
		{
			"ForgeRock", "JWT",
			`"sub":"raw-claim-demo","cts":"OAUTH2_STATELESS_GRANT","auth_level":0,"auditTrackingId":"a","subname":"demo","tokenName":"access_token","token_type":"Bearer","authGrantId":"g","aud":"` + ordersAud + `","nbf":` + fmt.Sprint(now) + `,"grant_type":"client_credentials","scope":["write","read"],"auth_time":` + fmt.Sprint(now) + `,"realm":"/alpha","expires_in":3600,"jti":"j"`,
			map[string]string{"scope": `"write read"`, "token_type": `"Bearer"`, "realm": `"/alpha"`},
		},
		{
			"WSO2, application", "",
			`"sub":"raw-claim-admin@carbon.super","aut":"APPLICATION","aud":"` + ordersAud + `","nbf":` + fmt.Sprint(now) + `,"azp":"` + ordersAud + `","scope":"am_application_scope default","jti":"j"`,
			map[string]string{"client_id": `"` + ordersAud + `"`, "scope": `"am_application_scope default"`, "username": absent, "aut": `"APPLICATION"`},
		},
		{
			"WSO2, old consumerKey", "JWT",
			`"sub":"raw-claim-admin","aud":"` + ordersAud + `","consumerKey":"ck","keytype":"PRODUCTION","application":{"owner":"admin","id":1,"tier":"Unlimited"},"scope":"default"`,
			map[string]string{"client_id": `"ck"`, "application": `{"owner":"admin","id":1,"tier":"Unlimited"}`},
		},
	} {
		t.Run("OUT-06 OUT-07 OUT-08 OUT-10 vendor shape: "+row.name, func(t *testing.T) {
			token := sign(corpHeader(row.typ), `{"iss":"https:\/\/idp.example\/realms\/corp",`+times+`,`+row.payload+`}`)
			for range 2 {
				f.ask("absent-audience", "/introspect", token).wantActive(t).wantMembers(t, row.want)
				f.get("/auth/lenient", token).wantStatus(t, http.StatusOK)
			}
		})
	}
}
