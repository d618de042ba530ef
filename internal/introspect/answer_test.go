package introspect_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"introspectd/internal/claims"
	"introspectd/internal/devissuer"
	"introspectd/internal/introspect"
	"introspectd/internal/revoke"
	"introspectd/internal/transform"
	"introspectd/internal/verify"
)

// strip removes the members that every token of the fixture has.
func strip(body string) string {
	for _, member := range []string{`"active":true,`, `"token_type":"Bearer",`, `"exp":1780318800,`, `"iat":1780315200,`, `"iss":"https://idp.example"`} {
		body = strings.Replace(body, member, "", 1)
	}
	return strings.Trim(strings.ReplaceAll(body, ",,", ","), "{,}")
}

func TestRendering(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(nil)
	for _, row := range []struct{ name, claims, want string }{
		{"nothing more", ``, ``},
		{"OUT-01 computed members can't be overridden", `"active":false,"token_type":"N_A","client_id":7,"username":{},"azp":"c"`, `"client_id":"c","azp":"c"`},
		{"OUT-02 sub and jti copied", `"sub":"a","jti":"j"`, `"sub":"a","jti":"j"`},
		{"OUT-03 integers", `"nbf":1780315199.2,"auth_time":1.78e9`, `"nbf":1780315200,"auth_time":1780000000`},
		{"OUT-04 aud keeps its shape: string", `"aud":"x"`, `"aud":"x"`},
		{"OUT-04 aud keeps its shape: list of one", `"aud":["x"]`, `"aud":["x"]`},
		{"OUT-05 one scope string", `"scp":["b","a","b"]`, `"scope":"b a",SCP`},
		{"OUT-05 no scope member", `"scope":" "`, ``},
		{"OUT-08 a user", `"sub":"s","azp":"c","preferred_username":"u"`, `"client_id":"c","username":"u","sub":"s","azp":"c","preferred_username":"u"`},
		{"OUT-10 verbatim when well-typed", `"acr":"1","act":{"sub":"x"},"amr":["pwd"],"txn":"t","may_act":{},"authorization_details":[{"type":"a","n":1}]`, `"acr":"1","act":{"sub":"x"},"amr":["pwd"],"authorization_details":[{"type":"a","n":1}],"may_act":{},"txn":"t"`},
		{"OUT-10 left out when not", `"acr":1,"act":"x","amr":"pwd","txn":{},"may_act":[],"auth_time":"now"`, ``},
		{"OUT-10 authorization_details without a type", `"authorization_details":[{"type":"a"},{}]`, ``},
		{"OUT-10 authorization_details an object", `"authorization_details":{"type":"a"}`, ``},
		{"OUT-11 others by name", `"z":1,"b":null,"a":[true]`, `"a":[true],"b":null,"z":1`},
		{"OUT-12 row 23 integers beyond 2^53", `"n":9007199254740993,"f":1.10`, `"f":1.10,"n":9007199254740993`},
		{"ERR-08 no HTML escaping", `"u":"<a>&"`, `"u":"<a>&"`},
		{"OUT-07 never from aud", `"aud":"client"`, `"aud":"client"`},
	} {
		a := f.judge(in, f.sign(row.claims))
		want := strings.Replace(row.want, "SCP", `"scp":["b","a","b"]`, 1)
		if got := strip(string(a.Body())); got != want {
			t.Errorf("%s: got %s, want %s, of %s", row.name, got, want, row.claims)
		}
	}
	bound := f.judge(in, f.sign(`"cnf":{"jkt":"x"}`))
	if got := string(bound.Find("token_type")); got != `"DPoP"` || !bound.HasConfirmation() || string(bound.Find("cnf")) != `{"jkt":"x"}` {
		t.Errorf("OUT-09: got token_type %s of %s, want DPoP and cnf", got, bound.Body())
	}
	certificate := f.judge(in, f.sign(`"cnf":{"x5t#S256":"x"}`))
	if got := string(certificate.Find("token_type")); got != `"Bearer"` || !certificate.HasConfirmation() {
		t.Errorf("OUT-09 bound to a certificate: got token_type %s", got)
	}
}

func TestAnAnswerIsBounded(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(func(c *introspect.IssuerConfig) {
		for _, name := range strings.Split("abcdefghijkl", "") {
			c.Claims.Map = append(c.Claims.Map, transform.Rename{RemoteClaim: "big", LocalClaim: name})
		}
	})
	token := f.sign(`"big":"` + strings.Repeat("x", 9000) + `"`)
	if a := f.judge(in, token); a.Active() || a.Reason() != verify.BadClaims {
		t.Errorf("R14: a claim answered under twelve names: got active %t, %d bytes", a.Active(), len(a.Body()))
	}
	if a := f.judge(in, token); a.Active() {
		t.Error("R14: and remembered")
	}
}

func TestAMappedIdentityThatIsNoneIsRefused(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(func(c *introspect.IssuerConfig) {
		c.Claims.AllowReserved = []string{"sub"}
		c.Claims.Map = []transform.Rename{{RemoteClaim: "uid", LocalClaim: "sub"}}
	})
	if a := f.judge(in, f.sign(`"sub":"a","uid":"b"`)); string(a.Find("sub")) != `"b"` {
		t.Errorf("TRN-06 got sub %s, want the mapped one", a.Find("sub"))
	}
	for range 2 {
		if a := f.judge(in, f.sign(`"sub":"a","uid":7`)); a.Active() || a.Reason() != verify.BadClaims {
			t.Errorf("TRN-04: got active %t %s, want a refusal", a.Active(), a.Reason())
		}
	}
}

func TestViews(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(nil)
	a := f.judge(in, f.sign(`"sub":"a","aud":"x","cnf":{"jkt":"k"},"email":"a@b","http://wso2.org/claims/role":"r","acr":"1","scope":"s"`))
	names := func(text []byte) string {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		var all []string
		for _, n := range []string{"active", "scope", "token_type", "exp", "iat", "sub", "aud", "iss", "cnf", "acr", "email", "http://wso2.org/claims/role"} {
			if _, ok := m[n]; ok {
				all = append(all, n)
				delete(m, n)
			}
		}
		if len(m) > 0 {
			t.Errorf("unexpected members in %s", text)
		}
		return strings.Join(all, " ")
	}
	for _, row := range []struct {
		name string
		view introspect.View
		want string
	}{
		{"OUT-11 passthrough", introspect.Passthrough(), "active scope token_type exp iat sub aud iss cnf acr email http://wso2.org/claims/role"},
		{"OUT-11 minimal", introspect.Minimal(), "active scope token_type exp iat sub aud iss cnf acr"},
		{"OUT-11 a list", introspect.Only([]string{"http://wso2.org/claims/role"}), "active token_type exp iss cnf http://wso2.org/claims/role"},
		{"the zero view", introspect.View{}, ""},
	} {
		if got := names(row.view.Append(nil, a)); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
	var transformed struct {
		Active bool
		Iss    string
		Exp    int64
		Claims map[string]any
	}
	text := introspect.Only([]string{"email"}).AppendTransformed(nil, a)
	if err := json.Unmarshal(text, &transformed); err != nil || !transformed.Active || transformed.Iss != iss || transformed.Exp != start.Unix()+3600 || transformed.Claims["email"] != "a@b" || transformed.Claims["acr"] != nil || transformed.Claims["active"] != nil {
		t.Errorf("TRN-02: got %s, %v", text, err)
	}
}

func TestDemands(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(nil)
	list := f.judge(in, f.sign(`"aud":["a","b"],"scope":"read write"`))
	one := f.judge(in, f.sign(`"aud":"a"`))
	none := f.judge(in, f.sign(``))
	refused := f.judge(in, "x")
	for _, row := range []struct {
		name   string
		demand introspect.Demand
		answer introspect.Answer
		want   verify.Reason
	}{
		{"the zero demand allows nothing", introspect.Demand{}, list, verify.UnknownIssuer},
		{"the zero answer is inactive", introspect.Demand{AnyIssuer: true, AnyAudience: true}, introspect.Answer{}, verify.NoReason},
		{"INT-21 another issuer's", introspect.Demand{Issuers: []string{"other"}, AnyAudience: true}, list, verify.UnknownIssuer},
		{"INT-21 any issuer", introspect.Demand{AnyIssuer: true, AnyAudience: true}, list, verify.NoReason},
		{"INT-22 one of several audiences", introspect.Demand{Issuers: []string{"idp"}, Audiences: []string{"z", "b"}}, list, verify.NoReason},
		{"INT-21 none of them", introspect.Demand{Issuers: []string{"idp"}, Audiences: []string{"z"}}, list, verify.WrongAudience},
		{"R6 exact match", introspect.Demand{Issuers: []string{"idp"}, Audiences: []string{"A", "a ", "a/"}}, one, verify.WrongAudience},
		{"no audience at all", introspect.Demand{Issuers: []string{"idp"}, Audiences: []string{"a"}}, none, verify.WrongAudience},
		{"an empty audience matches nothing", introspect.Demand{Issuers: []string{"idp"}, Audiences: []string{""}}, none, verify.WrongAudience},
		{"no audience, from an issuer that gives none", introspect.Demand{Issuers: []string{"idp"}, NoAudienceFrom: []string{"idp"}}, none, verify.NoReason},
		{"an audience all the same", introspect.Demand{Issuers: []string{"idp"}, NoAudienceFrom: []string{"idp"}}, one, verify.WrongAudience},
		{"no audience, from another issuer", introspect.Demand{Issuers: []string{"idp"}, NoAudienceFrom: []string{"x"}}, none, verify.WrongAudience},
		{"scopes there", introspect.Demand{AnyIssuer: true, AnyAudience: true, Scopes: []string{"write", "read"}}, list, verify.NoReason},
		{"one scope missing", introspect.Demand{AnyIssuer: true, AnyAudience: true, Scopes: []string{"read", "admin"}}, list, verify.InsufficientScope},
		{"part of a scope", introspect.Demand{AnyIssuer: true, AnyAudience: true, Scopes: []string{"rea"}}, list, verify.InsufficientScope},
		{"no scopes", introspect.Demand{AnyIssuer: true, AnyAudience: true, Scopes: []string{"read"}}, one, verify.InsufficientScope},
		{"its own reason", introspect.Demand{AnyIssuer: true, AnyAudience: true}, refused, verify.Malformed},
	} {
		got, isRefused := row.demand.Refuses(row.answer)
		if got != row.want || isRefused != (row.want != verify.NoReason || !row.answer.Active()) {
			t.Errorf("%s: got %q %t, want %q", row.name, got, isRefused, row.want)
		}
	}
}

func TestExplain(t *testing.T) {
	f := newFixture(t)
	in := f.introspector(nil)
	token := f.sign(`"aud":"a"`)
	ladder := func(x introspect.Explanation) string {
		var all []string
		for _, r := range x.Steps {
			all = append(all, r.Step+"="+r.Result)
		}
		return strings.Join(all, " ")
	}
	x := in.Explain(t.Context(), token, start, introspect.For{Who: "caller app", Demand: introspect.Demand{AnyIssuer: true, Audiences: []string{"b"}}})
	if x.Active || x.Reason != "wrong_audience" || x.Answer != nil ||
		ladder(x) != "spelling=ok header=ok payload=ok issuer=ok algorithm=ok type=ok claims=ok key=ok signature=ok times=ok rules=ok audience=failed revocation=not checked" {
		t.Errorf("another's token: got %+v", x)
	}
	if x := in.Explain(t.Context(), token, start); !x.Active || x.TokenRef != f.judge(in, token).Ref().String() || len(x.Answer) == 0 {
		t.Errorf("a good token: got %+v", x)
	}
	x = in.Explain(t.Context(), token, start.Add(2*60*60*1e9))
	if x.Active || x.Reason != "expired" || !strings.Contains(ladder(x), "signature=ok times=failed rules=not reached") {
		t.Errorf("later: got %s %s", x.Reason, ladder(x))
	}
	key := f.idp.Key("ES256")
	x = in.Explain(t.Context(), key.Sign(fmt.Sprintf(`{"alg":"ES256","kid":%q}`, key.Kid), `{"iss":"https://elsewhere.example",`), start)
	if x.Reason != "unknown_issuer" || !strings.Contains(ladder(x), "payload=ok issuer=failed algorithm=not reached") || x.Steps[verify.Payload].Detail != "read as far as iss" {
		t.Errorf("JWT-07 a stranger's: got %s %s, payload %q", x.Reason, ladder(x), x.Steps[verify.Payload].Detail)
	}
	x = in.Explain(t.Context(), "x.y", start)
	if x.Reason != "malformed" || !strings.HasPrefix(ladder(x), "spelling=failed header=not reached") {
		t.Errorf("no token: got %s %s", x.Reason, ladder(x))
	}
}

// What a token says is read into memory that others were read into: nobody may be
// told of another's, least of all while many are judged at once.
func TestManyFirstSightsAtOnceAreOfTheirOwnTokens(t *testing.T) {
	f := newFixture(t)
	f.store = nil // each is a first sight
	in := f.introspector(nil)
	type owned struct {
		mark, token string
		reason      verify.Reason
	}
	var tokens []owned
	for n := range 24 { // of many sizes
		of := owned{mark: fmt.Sprintf("mark-%d-", n)}
		subject := of.mark + strings.Repeat("x", 37*n)
		of.token = f.sign(fmt.Sprintf(`"sub":%q,"roles":[ %q ]`, subject, of.mark))
		switch n % 6 {
		case 4:
			of.token, of.reason = f.sign(fmt.Sprintf(`"sub":[%q]`, subject)), verify.BadClaims
		case 5:
			of.token, of.reason = of.token[:len(of.token)-8]+"AAAAAAAA", verify.BadSignature
		}
		tokens = append(tokens, of)
	}
	var all sync.WaitGroup
	for a := range 8 {
		all.Go(func() {
			for n := range 200 {
				of := tokens[(n*(a+1)+a)%len(tokens)]
				answer, err := in.Introspect(t.Context(), []byte(of.token), nil)
				want := 0
				if of.reason == verify.NoReason {
					want = 2
				}
				body := string(answer.Body())
				if err != nil || answer.Reason() != of.reason || strings.Count(body, "mark-") != want || strings.Count(body, of.mark) != want {
					t.Errorf("got %q, %s, %v, want %q and %q %d times", answer.Reason(), body, err, of.reason, of.mark, want)
					return
				}
			}
		})
	}
	all.Wait()
}

// A revocation of another's is there: the list is looked into, not passed by.
func BenchmarkHit(b *testing.B) {
	for _, row := range []string{"no list", "a list"} {
		b.Run(row, func(b *testing.B) {
			f := newFixture(b)
			if row == "a list" {
				f.withdrawing(revoke.Options{})
			}
			in := f.introspector(nil)
			if f.list != nil {
				f.withdraw(in, introspect.Withdrawal{Kind: revoke.Subject, Value: "mallory"})
			}
			token := f.sign(typical)
			f.judge(in, token)
			demand := introspect.Demand{AnyIssuer: true, Audiences: []string{"https://api.example/orders"}}
			view, dst := introspect.Passthrough(), make([]byte, 0, 4096)
			b.ReportAllocs()
			for b.Loop() {
				a, err := in.Introspect(b.Context(), []byte(token), nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, refused := demand.Refuses(a); refused {
					b.Fatal("refused")
				}
				dst = view.Append(dst[:0], a)
			}
		})
	}
}

// typical are the claims of a user's token.
const typical = `"jti":"b52c96be","sid":"7f1c","sub":"5f0c3b1e","aud":["https://api.example/orders","account"],"azp":"orders","scope":"openid read write","preferred_username":"alice","realm_access":{"roles":["offline_access","user"]}`

// What a first sight costs, and beside it what the check of its signature alone
// does: nothing is remembered, so each is one.
func BenchmarkFirstSight(b *testing.B) {
	f := newFixture(b)
	key := devissuer.NewKey("RS256")
	f.idp.AddKey(key)
	f.publish()
	f.store = nil
	in := f.introspector(nil)
	token := key.Sign(fmt.Sprintf(`{"alg":"RS256","typ":"JWT","kid":%q}`, key.Kid), f.payload(typical))
	b.Run("all", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f.judge(in, token)
		}
	})
	b.Run("signature alone", func(b *testing.B) {
		signed := token[:strings.LastIndexByte(token, '.')]
		signature, err := base64.RawURLEncoding.DecodeString(token[len(signed)+1:])
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := jwt.SigningMethodRS256.Verify(signed, signature, key.Signer.Public()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestATokenOfManyClaimsHasAProfile(t *testing.T) {
	f := newFixture(t)
	var more []string
	for n := range claims.MaxMembers - 3 { // iss, exp and iat are there
		more = append(more, fmt.Sprintf(`"\u0063%d":0`, n)) // c, spelled as nobody does
	}
	a := f.judge(f.introspector(nil), f.sign(strings.Join(more, ",")))
	shown, problem := introspect.NewProfile(introspect.Mapping{}, introspect.Passthrough(), introspect.Plain).Claims(a)
	if !a.Active() || problem != "" || !shown.Has("c0") {
		t.Errorf("JWT-19 active %t, and the profile says %q of it; want it shown", a.Active(), problem)
	}
}
