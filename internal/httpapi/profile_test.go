package httpapi_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"introspectd/internal/callers"
	"introspectd/internal/httpapi"
	"introspectd/internal/introspect"
	"introspectd/internal/memstore"
	ours "introspectd/internal/sign"
	"introspectd/internal/transform"
)

const (
	ourIss  = "https://introspect.example"
	backend = "https://backend.example"
)

var ourKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

// profileOf is a profile that shows everything and signs for backend.
func profileOf(name string, shape introspect.Shape) httpapi.Profile {
	return httpapi.Profile{
		Name: name, Claims: callers.Claims{Mode: callers.Passthrough}, Shape: shape, Output: httpapi.Claims,
		Assertion: httpapi.Assertion{Audience: []string{backend}, Lifetime: 5 * time.Minute},
	}
}

// signing adds our key, some profiles, callers that may choose them, and a policy
// for each.
func signing(s *setup) {
	s.public, s.keys, s.kept = ourIss, []ours.Key{{Signer: ourKey()}}, memstore.New(32<<20)
	listed, unsigned, signed := profileOf("listed", introspect.Plain), profileOf("unsigned", introspect.Plain), profileOf("signed", introspect.Plain)
	listed.Claims = callers.Claims{Mode: callers.List, Names: []string{"unit"}}
	listed.Map = append(listed.Map, rename("department", "unit"))
	unsigned.Assertion = httpapi.Assertion{Lifetime: time.Minute}
	signed.Output = httpapi.JWT
	context := profileOf("context", introspect.TransactionToken)
	context.Map = append(context.Map, rename("context", "rctx"))
	s.profiles = []httpapi.Profile{profileOf("plain", introspect.Plain), listed, unsigned, signed, profileOf("wso2", introspect.WSO2), profileOf("txn", introspect.TransactionToken), context}
	for n, row := range s.callers {
		if row.ID == "orders" || row.ID == "any" {
			s.callers[n].Profiles = []string{"plain", "listed", "unsigned", "signed", "wso2", "txn", "context"}
		}
	}
	for _, profile := range []string{"plain", "listed", "wso2", "txn"} {
		p := anyPolicy("with-" + profile)
		p.Assertion.Profile = profile
		s.policies = append(s.policies, p)
	}
}

// opened is an assertion taken apart, its signature checked.
func opened(t *testing.T, text string) (header, payload string) {
	t.Helper()
	noted(text)
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("assertion: got %q, want a compact JWS", text)
	}
	var raw [3][]byte
	for n, part := range parts {
		var err error
		if raw[n], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			t.Fatalf("assertion: %v", err)
		}
	}
	if err := jwt.SigningMethodES256.Verify(parts[0]+"."+parts[1], raw[2], ourKey().Public()); err != nil {
		t.Errorf("the assertion's signature: %v", err)
	}
	return string(raw[0]), string(raw[1])
}

func assertionOf(t *testing.T, r response) string {
	t.Helper()
	text, _ := r.wantActive(t).object(t)["assertion"].(string)
	if text == "" {
		t.Fatalf("got %s, want an assertion", r.body)
	}
	return text
}

// steady replaces what differs from one assertion to the next.
var unsteady = regexp.MustCompile(`"(jti|txn)":"[A-Z2-7]{26}"`)

func steady(payload string) string { return unsteady.ReplaceAllString(payload, `"$1":"*"`) }

func TestProfiles(t *testing.T) {
	f := newFixture(t, signing)
	now := time.Now().Unix()
	token := sign1(now, `,"scope":"read","department":"raw-claim-sales"`)
	with := func(parameters ...string) response {
		return f.post("/transform", form(append([]string{"token", token}, parameters...)...), as("orders")...)
	}

	t.Run("TRN-01 JSON and form say the same", func(t *testing.T) {
		want := with("profile", "listed").wantActive(t)
		f.send(http.MethodPost, "/transform", `{"token":"`+token+`","profile":"listed","output":"claims"}`, append(as("orders"), "Content-Type", "application/json")...).
			want(t, http.StatusOK, want.body)
	})
	t.Run("TRN-02 only what is mapped and allowed", func(t *testing.T) {
		want := fmt.Sprintf(`{"active":true,"profile":"listed","iss":"%s","exp":%d,"claims":{"token_type":"Bearer","exp":%d,"iss":"%s","unit":"raw-claim-sales"}}`, corpIss, now+600, now+600, corpIss)
		for range 2 {
			with("profile", "listed").want(t, http.StatusOK, want)
		}
	})
	t.Run("OUT-13 the profile shows where it is chosen, the issuer's map everywhere", func(t *testing.T) {
		mappedFirst := newFixture(t, signing, mapped("team", "department"))
		token := signed(`"team":"raw-claim-blue"`)
		got := mappedFirst.post("/transform", form("token", token, "profile", "listed"), as("any")...).wantActive(t)
		if !strings.Contains(got.body, `"unit":"raw-claim-blue"`) {
			t.Errorf("got %s, want the issuer's map before the profile's", got.body)
		}
		for _, path := range []string{"/introspect", "/transform"} {
			if got := mappedFirst.ask("any", path, token).wantActive(t); !strings.Contains(got.body, `"department":"raw-claim-blue"`) || strings.Contains(got.body, "unit") {
				t.Errorf("%s: got %s, want the issuer's map alone", path, got.body)
			}
		}
		if got := mappedFirst.post("/introspect", form("token", token, "profile", "listed", "output", "jwt"), as("any")...).wantActive(t); strings.Contains(got.body, "unit") || strings.Contains(got.body, "assertion") {
			t.Errorf("got %s, want /introspect without profiles", got.body)
		}
	})
	t.Run("TRN-03 inactive as introspect says it", func(t *testing.T) {
		for _, bad := range []string{"garbage", altered(token), mint(corp(), members{"aud": "x"}), mint(partner(), nil)} {
			for _, output := range []string{"claims", "jwt"} {
				f.post("/transform", form("token", bad, "profile", "plain", "output", output), as("orders")...).want(t, http.StatusOK, inactive)
			}
		}
	})
	t.Run("TRN-03 which profile", func(t *testing.T) {
		with("profile", "nowhere").want(t, http.StatusBadRequest, `{"error":"invalid_request","error_description":"there is no such profile"}`)
		f.post("/transform", form("token", token, "profile", "plain"), as("small")...).want(t, http.StatusForbidden, `{"error":"access_denied"}`)
		f.post("/transform", form("token", token, "profile", "nowhere"), as("small")...).wantError(t, http.StatusBadRequest, "invalid_request")
		f.post("/transform", form("token", token, "profile", "plain")).wantError(t, http.StatusUnauthorized, "invalid_client")
		f.post("/transform", form("token", token, "profile", "plain"), as("gateway")...).want(t, http.StatusForbidden, `{"error":"access_denied"}`)
		with("profile", "plain", "profile", "plain").wantError(t, http.StatusBadRequest, "invalid_request")
		f.post("/transform", form("profile", "plain"), as("orders")...).want(t, http.StatusBadRequest, `{"error":"invalid_request","error_description":"token is missing"}`)
		with("profile", "").want(t, http.StatusOK, f.ask("orders", "/transform", token).body)
	})
	t.Run("ASN-01 which output", func(t *testing.T) {
		with("profile", "plain", "output", "xml").want(t, http.StatusBadRequest, `{"error":"invalid_request","error_description":"there is no such output"}`)
		with("output", "jwt").want(t, http.StatusBadRequest, `{"error":"invalid_request","error_description":"an output needs a profile"}`)
		with("profile", "unsigned", "output", "jwt").want(t, http.StatusBadRequest, `{"error":"invalid_request","error_description":"the profile signs nothing"}`)
		with("profile", "plain", "output", "jwt", "output", "jwt").wantError(t, http.StatusBadRequest, "invalid_request")
		for _, row := range [][3]string{{"plain", "", ""}, {"plain", "claims", ""}, {"plain", "jwt", "x"}, {"signed", "", "x"}, {"signed", "jwt", "x"}, {"signed", "claims", ""}} {
			got := with("profile", row[0], "output", row[1]).wantActive(t)
			if has := strings.Contains(got.body, `"assertion":"`); has != (row[2] != "") {
				t.Errorf("profile %s, output %q: got an assertion: %t", row[0], row[1], has)
			}
			if text, ok := got.object(t)["assertion"].(string); ok {
				noted(text)
			}
		}
	})
	t.Run("TRN-06 protected names stay what they were", func(t *testing.T) {
		f := newFixture(t, signing, func(s *setup) {
			s.profiles[0].Map = append(s.profiles[0].Map, rename("sub", "user"), rename("iss", "origin"))
		})
		got := f.post("/transform", form("token", token, "profile", "plain"), as("orders")...).wantActive(t)
		for _, want := range []string{`"sub":"raw-claim-bob"`, `"user":"raw-claim-bob"`, `"iss":"` + corpIss + `"`, `"origin":"` + corpIss + `"`} {
			if !strings.Contains(got.body, want) {
				t.Errorf("got %s, want %s in it", got.body, want)
			}
		}
	})
	t.Run("TRN-08 another profile, another answer, also from the same memory", func(t *testing.T) {
		kept := memstore.New(32 << 20)
		sharing := func(s *setup) { s.kept = kept }
		before := newFixture(t, signing, sharing)
		after := newFixture(t, signing, sharing, func(s *setup) { s.profiles[0].Map = append(s.profiles[0].Map, rename("department", "unit")) })
		q := form("token", token, "profile", "plain", "output", "jwt")
		_, payload := opened(t, assertionOf(t, before.post("/transform", q, as("orders")...)))
		_, edited := opened(t, assertionOf(t, after.post("/transform", q, as("orders")...)))
		if !strings.Contains(payload, `"department"`) || strings.Contains(edited, `"department"`) || !strings.Contains(edited, `"unit"`) {
			t.Errorf("got %s, and with an edited profile %s", payload, edited)
		}
	})
	t.Run("TRN-09 at most 16 KiB", func(t *testing.T) {
		f := newFixture(t, signing, func(s *setup) {
			for _, copied := range []string{"a", "b", "c"} {
				s.profiles[0].Map = append(s.profiles[0].Map, rename("sub", copied))
			}
		})
		for length, fits := range map[int]bool{3000: true, 5000: false} {
			long := mint(corp(), members{"sub": strings.Repeat("s", length)})
			got := f.post("/transform", form("token", long, "profile", "plain"), as("orders")...)
			if (got.body != inactive) != fits || got.status != http.StatusOK {
				t.Errorf("a sub of %d shown four times: got %d %.60s", length, got.status, got.body)
			}
			if !fits {
				f.wantReason(t, "rule_failed", "corp")
				if last := f.last(); last["profile"] != "plain" || last["note"] != "the claims are larger than 16384 bytes" {
					t.Errorf("TRN-04 logged %v, want why and in which profile", last)
				}
			}
		}
	})
	t.Run("TRN-04 TRN-05 the profile's rules, after its map", func(t *testing.T) {
		f := newFixture(t, signing, func(s *setup) {
			listed := &s.profiles[1]
			listed.Rules = []transform.Rule{
				{Require: `claims.unit.startsWith("raw-claim-")`, Message: "only some units"},
				{Set: "unit", Value: `claims.unit.upperAscii()`},
				{Set: "http://wso2.org/claims/role", Value: `claims.?realm_access.?roles.orValue([]).join(",")`},
				{Drop: "realm_access"},
			}
			listed.Claims.Names = append(listed.Claims.Names, "http://wso2.org/claims/role", "realm_access")
		})
		ask := func(more string) response {
			return f.post("/transform", form("token", sign1(now, more), "profile", "listed"), as("orders")...)
		}
		want := fmt.Sprintf(`"claims":{"token_type":"Bearer","exp":%d,"iss":"%s","unit":"RAW-CLAIM-SALES","http://wso2.org/claims/role":"a,b"}}`, now+600, corpIss)
		if got := ask(`,"department":"raw-claim-sales","realm_access":{"roles":["a","b"]}`).wantActive(t); !strings.HasSuffix(got.body, want) {
			t.Errorf("got %s\nwant its end %s", got.body, want)
		}
		for more, note := range map[string]string{`,"department":"other"`: "rules[0]: only some units", "": "rules[0]: the expression failed"} {
			ask(more).want(t, http.StatusOK, inactive)
			f.wantReason(t, "rule_failed", "corp")
			if last := f.last(); last["note"] != note || last["profile"] != "listed" {
				t.Errorf("logged %v, want the note %q", last, note)
			}
			f.get("/auth/with-listed", sign1(now, more)).wantStatus(t, http.StatusUnauthorized).wantHeader(t, "X-Jwt-Assertion").wantHeader(t, "X-Auth-Subject")
			f.ask("orders", "/transform", sign1(now, more)).wantActive(t)
		}
	})
	t.Run("TRN-04 what the shape requires and isn't there", func(t *testing.T) {
		f.post("/transform", form("token", mint(corp(), nil), "profile", "txn"), as("orders")...).want(t, http.StatusOK, inactive)
		f.wantReason(t, "rule_failed", "corp")
		f.get("/auth/with-txn", mint(corp(), nil)).wantStatus(t, http.StatusUnauthorized).wantHeader(t, "Txn-Token").wantHeader(t, "X-Auth-Subject").
			wantHeader(t, "WWW-Authenticate", invalidChallenge)
		f.wantReason(t, "rule_failed", "corp")
	})
	t.Run("INT-19 keys that can't be had", func(t *testing.T) {
		f.post("/transform", form("token", mint(dark(), nil), "profile", "plain"), as("any")...).want(t, http.StatusServiceUnavailable, `{"error":"temporarily_unavailable"}`)
	})
}

// sign1 is a token of corp with these claims after the usual ones.
func sign1(now int64, more string) string {
	return sign(corpHeader(""), fmt.Sprintf(`{"iss":"%s","sub":"raw-claim-bob","aud":"%s","iat":%d,"exp":%d%s}`, corpIss, ordersAud, now, now+600, more))
}

func TestShapes(t *testing.T) {
	f := newFixture(t, signing)
	now := time.Now().Unix()
	wso2 := sign1(now, `,"jti":"j","scope":"am_application_scope default","aut":"APPLICATION_USER","consumerKey":"ck","keytype":"PRODUCTION","preferred_username":"bob@carbon.super",`+
		`"application":{"owner":"admin","tier":"10PerMin","name":"TestApp","id":2,"uuid":null},"tierInfo":{"Unlimited":{}},"subscribedAPIs":[{"name":"PizzaShackAPI"}],"org_id":"10084"`)
	user := sign1(now, `,"jti":"j","scope":"read write","azp":"app","preferred_username":"bob","acr":"2","amr":["pwd","otp"],"auth_time":1700000000,"department":"sales","realm_access":{"roles":["x"]}`)
	machine := sign1(now, `,"scope":"read","azp":"raw-claim-bob"`)
	id := `"sub_id":{"format":"iss_sub","iss":"` + corpIss + `","sub":"raw-claim-bob"}`

	for _, row := range []struct{ name, profile, token, header, claims, payload string }{
		{
			"plain", "plain", user,
			`{"alg":"ES256","kid":"KID","typ":"introspectd-assertion+jwt"}`,
			`{"scope":"read write","client_id":"app","username":"bob","token_type":"Bearer","exp":EXP,"iat":NOW,"sub":"raw-claim-bob","aud":"` + ordersAud + `","iss":"` + corpIss + `","jti":"j",` +
				`"acr":"2","amr":["pwd","otp"],"auth_time":1700000000,"azp":"app","department":"sales","preferred_username":"bob","realm_access":{"roles":["x"]}}`,
			`{"iss":"` + ourIss + `","aud":"` + backend + `","iat":MADE,"exp":ENDS,"jti":"*","scope":"read write","client_id":"app","username":"bob","sub":"raw-claim-bob",` +
				`"acr":"2","amr":["pwd","otp"],"auth_time":1700000000,"azp":"app","department":"sales","preferred_username":"bob","realm_access":{"roles":["x"]},` + id + `}`,
		},
		{
			"WSO2's X-JWT-Assertion", "wso2", wso2,
			`{"alg":"ES256","kid":"KID","typ":"JWT"}`,
			`{"sub":"raw-claim-bob","http://wso2.org/claims/subscriber":"admin","http://wso2.org/claims/applicationid":"2","http://wso2.org/claims/applicationname":"TestApp",` +
				`"http://wso2.org/claims/applicationtier":"10PerMin","http://wso2.org/claims/keytype":"PRODUCTION","http://wso2.org/claims/usertype":"APPLICATION_USER","http://wso2.org/claims/enduser":"bob@carbon.super",` +
				`"scope":"am_application_scope default","client_id":"ck","username":"bob@carbon.super","aut":"APPLICATION_USER","consumerKey":"ck","keytype":"PRODUCTION","org_id":"10084","preferred_username":"bob@carbon.super"}`,
			`{"iss":"` + ourIss + `","aud":"` + backend + `","iat":MADE,"exp":ENDS,"jti":"*",CLAIMS,` + id + `}`,
		},
		{
			"WSO2's for a machine", "wso2", machine,
			`{"alg":"ES256","kid":"KID","typ":"JWT"}`,
			`{"sub":"raw-claim-bob","http://wso2.org/claims/enduser":"raw-claim-bob","scope":"read","client_id":"raw-claim-bob","azp":"raw-claim-bob"}`,
			`{"iss":"` + ourIss + `","aud":"` + backend + `","iat":MADE,"exp":ENDS,"jti":"*",CLAIMS,` + id + `}`,
		},
		{
			"ASN-06 the Transaction Token", "txn", user,
			`{"alg":"ES256","kid":"KID","typ":"txntoken+jwt"}`,
			`{"sub":"raw-claim-bob","scope":"read write","tctx":{"azp":"app","department":"sales","preferred_username":"bob","realm_access":{"roles":["x"]}},` +
				`"rctx":{"iss":"` + corpIss + `","client_id":"app","username":"bob","acr":"2","amr":["pwd","otp"],"auth_time":1700000000}}`,
			`{"iss":"` + ourIss + `","aud":"` + backend + `","iat":MADE,"exp":ENDS,"jti":"*",CLAIMS,"req_wl":"orders",` + id + `,"txn":"*"}`,
		},
		{
			"ASN-06 a txn that the token has, and contexts that it doesn't fake", "txn", sign1(now, `,"scope":"read","txn":"t-1","req_wl":"evil","sub_id":{"evil":1},"rctx":{"iss":"https://other.example","client_id":"evil"}`),
			`{"alg":"ES256","kid":"KID","typ":"txntoken+jwt"}`,
			`{"txn":"t-1","sub":"raw-claim-bob","scope":"read","tctx":{"sub_id":{"evil":1}},"rctx":{"iss":"` + corpIss + `"}}`,
			`{"iss":"` + ourIss + `","aud":"` + backend + `","iat":MADE,"exp":ENDS,"jti":"*",CLAIMS,"req_wl":"orders",` + id + `}`,
		},
		{
			"ASN-06 a context that the profile makes", "context", sign1(now, `,"scope":"read","txn":"t-1","context":{"ip":"10.0.0.1"},"rctx":{"iss":"https://other.example"}`),
			`{"alg":"ES256","kid":"KID","typ":"txntoken+jwt"}`,
			`{"txn":"t-1","sub":"raw-claim-bob","scope":"read","rctx":{"ip":"10.0.0.1"}}`,
			`{"iss":"` + ourIss + `","aud":"` + backend + `","iat":MADE,"exp":ENDS,"jti":"*",CLAIMS,"req_wl":"orders",` + id + `}`,
		},
	} {
		t.Run("ASN-02 "+row.name, func(t *testing.T) {
			got := f.post("/transform", form("token", row.token, "profile", row.profile, "output", "jwt"), as("orders")...).wantActive(t)
			text := assertionOf(t, got)
			header, payload := opened(t, text)
			var dates struct{ Iat, Exp int64 }
			_ = json.Unmarshal([]byte(payload), &dates)
			if dates.Iat < now || dates.Exp != dates.Iat+300 {
				t.Errorf("iat %d, exp %d: want now and 300 s", dates.Iat, dates.Exp)
			}
			var kid struct{ Kid string }
			_ = json.Unmarshal([]byte(header), &kid)
			claims := strings.NewReplacer("EXP", fmt.Sprint(now+600), "NOW", fmt.Sprint(now)).Replace(row.claims)
			want := strings.NewReplacer("KID", kid.Kid, "MADE", fmt.Sprint(dates.Iat), "ENDS", fmt.Sprint(dates.Exp), "CLAIMS", strings.TrimSuffix(strings.TrimPrefix(claims, "{"), "}"))
			if header != want.Replace(row.header) {
				t.Errorf("header:\ngot  %s\nwant %s", header, want.Replace(row.header))
			}
			if got, want := steady(payload), want.Replace(row.payload); got != want {
				t.Errorf("payload:\ngot  %s\nwant %s", got, want)
			}
			left := got.object(t)["expires_in"].(json.Number)
			whole := fmt.Sprintf(`{"active":true,"profile":"%s","iss":"%s","exp":%d,"claims":%s,"assertion":"%s","expires_in":%s}`, row.profile, corpIss, now+600, claims, text, left)
			if got.body != whole {
				t.Errorf("body:\ngot  %s\nwant %s", got.body, whole)
			}
			if n, _ := left.Int64(); n < 299 || n > 300 {
				t.Errorf("expires_in: got %s, want what is left of it", left)
			}
			for _, segment := range strings.Split(row.token, ".") {
				if strings.Contains(text, segment) || strings.Contains(payload, segment) {
					t.Error("ASN-03 a part of the token is in the assertion")
				}
			}
		})
	}
}

func TestAssertions(t *testing.T) {
	now := time.Now().Unix()
	q := func(token, profile string) string { return form("token", token, "profile", profile, "output", "jwt") }

	t.Run("ASN-02 an assertion is no access token", func(t *testing.T) {
		f := newFixture(t, signing)
		for _, profile := range []string{"plain", "wso2", "txn"} {
			ours := assertionOf(t, f.post("/transform", q(sign1(now, `,"scope":"read"`), profile), as("any")...))
			noted(ours)
			for _, path := range []string{"/introspect", "/transform"} {
				f.ask("any", path, ours).want(t, http.StatusOK, inactive)
			}
			f.wantReason(t, "unknown_issuer", "")
			f.get("/auth/lenient", ours).wantStatus(t, http.StatusUnauthorized)
		}
	})
	t.Run("ASN-02 JWT-13 nor by its typ, whoever signed it", func(t *testing.T) {
		f := newFixture(t, signing)
		for _, shape := range []introspect.Shape{introspect.Plain, introspect.TransactionToken} {
			f.ask("any", "/introspect", sign(corpHeader(shape.Type()), fmt.Sprintf(`{"iss":"%s","sub":"a","iat":%d,"exp":%d}`, corpIss, now, now+600))).want(t, http.StatusOK, inactive)
			f.wantReason(t, "wrong_type", "corp")
		}
	})
	t.Run("ASN-04 a token bound to a key gets none", func(t *testing.T) {
		f := newFixture(t, signing)
		bound := sign1(now, `,"cnf":{"jkt":"x"}`)
		f.post("/transform", q(bound, "plain"), as("orders")...).
			want(t, http.StatusBadRequest, `{"error":"invalid_request","error_description":"the token is bound to a key; an assertion of it would not be"}`)
		f.post("/transform", form("token", bound, "profile", "signed"), as("orders")...).wantError(t, http.StatusBadRequest, "invalid_request")
		f.post("/transform", form("token", bound, "profile", "signed", "output", "claims"), as("orders")...).wantActive(t)
		f.get("/auth/with-plain", bound).wantStatus(t, http.StatusUnauthorized).wantHeader(t, "X-Jwt-Assertion")
		// Who may not be told of the token is not told that it is bound either.
		f.post("/transform", q(mint(corp(), members{"aud": "x", "cnf": members{"jkt": "x"}}), "plain"), as("orders")...).want(t, http.StatusOK, inactive)
	})
	t.Run("ASN-02 sub_id is ours to say, also where there is no sub", func(t *testing.T) {
		f := newFixture(t, signing, func(s *setup) {
			for n := range s.issuers {
				s.issuers[n].Require = []string{"iat", "exp", "iss"} // as some presets have it
			}
		})
		token := noted(partner().Mint(members{"aud": ordersAud, "sub": nil, "client_id": "desk", "scope": "read", "sub_id": members{"format": "iss_sub", "iss": corpIss, "sub": "raw-claim-root"}}))
		for _, profile := range []string{"plain", "wso2"} {
			_, payload := opened(t, assertionOf(t, f.post("/transform", q(token, profile), as("any")...)))
			if strings.Contains(payload, "sub_id") {
				t.Errorf("%s: got %s, want no sub_id, since an issuer's own can name somebody of another", profile, payload)
			}
		}
	})
	t.Run("ASN-05 reused for the same token, and never for another", func(t *testing.T) {
		f := newFixture(t, signing)
		one, two := sign1(now, `,"jti":"1"`), sign1(now, `,"jti":"2"`)
		first := assertionOf(t, f.post("/transform", q(one, "plain"), as("orders")...))
		again := f.post("/transform", q(one, "plain"), as("any")...)
		if assertionOf(t, again) != first {
			t.Error("the same token, another caller: got a new assertion")
		}
		if assertionOf(t, f.post("/transform", q(two, "plain"), as("orders")...)) == first {
			t.Error("another token: got the assertion of the first")
		}
		if f.get("/auth/with-plain", one).wantStatus(t, http.StatusOK).header.Get("X-Jwt-Assertion") != first {
			t.Error("at the gateway: got a new assertion")
		}
		f.clock.advance(100 * time.Second)
		later := f.post("/transform", q(one, "plain"), as("orders")...)
		if left, _ := later.object(t)["expires_in"].(json.Number).Int64(); assertionOf(t, later) != first || left < 198 || left > 200 {
			t.Errorf("after 100 s: got another assertion, or %d s left of it", left)
		}
		f.clock.advance(51 * time.Second)
		if second := assertionOf(t, f.post("/transform", q(one, "plain"), as("orders")...)); second == first {
			t.Error("after half its life: got the same assertion")
		} else {
			noted(second)
		}
		noted(first)
	})
	t.Run("ASN-05 ASN-06 not for another requester of a transaction", func(t *testing.T) {
		f := newFixture(t, signing)
		token := sign1(now, `,"scope":"read"`)
		_, first := opened(t, assertionOf(t, f.post("/transform", q(token, "txn"), as("orders")...)))
		_, second := opened(t, assertionOf(t, f.post("/transform", q(token, "txn"), as("any")...)))
		_, third := opened(t, f.get("/auth/with-txn", token).wantStatus(t, http.StatusOK).header.Get("Txn-Token"))
		if !strings.Contains(first, `"req_wl":"orders"`) || !strings.Contains(second, `"req_wl":"any"`) || !strings.Contains(third, `"req_wl":"with-txn"`) {
			t.Errorf("got %s\n%s\n%s", first, second, third)
		}
	})
	t.Run("ASN-05 a revoked token has none left", func(t *testing.T) {
		f := newFixture(t, signing)
		token := mint(corp(), members{"jti": "to-be-revoked"})
		noted(assertionOf(t, f.post("/transform", q(token, "plain"), as("orders")...)))
		noted(f.get("/auth/with-plain", token).wantStatus(t, http.StatusOK).header.Get("X-Jwt-Assertion"))
		f.ask("revoke-any", "/revoke", token).wantStatus(t, http.StatusOK)
		f.post("/transform", q(token, "plain"), as("orders")...).want(t, http.StatusOK, inactive)
		f.get("/auth/with-plain", token).wantStatus(t, http.StatusUnauthorized).wantHeader(t, "X-Jwt-Assertion")
	})
	t.Run("ASN-02 leeway is not for assertions", func(t *testing.T) {
		f := newFixture(t, signing)
		token := sign(corpHeader(""), fmt.Sprintf(`{"iss":"%s","sub":"raw-claim-bob","aud":"%s","iat":%d,"exp":%d}`, corpIss, ordersAud, now-60, now-5))
		f.ask("orders", "/introspect", token).wantActive(t)
		f.post("/transform", form("token", token, "profile", "plain"), as("orders")...).wantActive(t)
		f.post("/transform", q(token, "plain"), as("orders")...).want(t, http.StatusOK, inactive)
		f.wantReason(t, "expired", "corp")
		f.get("/auth/lenient", token).wantStatus(t, http.StatusOK)
		f.get("/auth/with-plain", token).wantStatus(t, http.StatusUnauthorized).wantHeader(t, "X-Jwt-Assertion").wantHeader(t, "WWW-Authenticate", expiredChallenge)
	})
	t.Run("ASN-02 never beyond the token", func(t *testing.T) {
		f := newFixture(t, signing)
		_, payload := opened(t, assertionOf(t, f.post("/transform", q(mint(corp(), members{"exp": now + 60}), "plain"), as("orders")...)))
		if !strings.Contains(payload, fmt.Sprintf(`"exp":%d,`, now+60)) {
			t.Errorf("got %s, want the token's exp", payload)
		}
	})
	t.Run("a key that does not sign", func(t *testing.T) {
		f := newFixture(t, signing, func(s *setup) { s.keys = []ours.Key{{Signer: gone{ourKey()}}} })
		token := sign1(now, "")
		f.post("/transform", q(token, "plain"), as("orders")...).want(t, http.StatusServiceUnavailable, `{"error":"temporarily_unavailable"}`).wantHeader(t, "Retry-After", "5")
		f.wantReason(t, "signing_unavailable", "corp")
		for _, prefix := range []string{"/auth", "/ext-authz"} {
			f.get(prefix+"/with-plain", token).wantStatus(t, http.StatusServiceUnavailable).wantHeader(t, "X-Auth-Subject").wantHeader(t, "X-Jwt-Assertion")
			f.get(prefix+"/lenient", token).wantStatus(t, http.StatusOK)
		}
		f.post("/transform", form("token", token, "profile", "plain"), as("orders")...).wantActive(t)
	})
}

// gone is a key in a service that is away.
type gone struct{ crypto.Signer }

func (gone) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the key service is away")
}

func TestGatewayAssertions(t *testing.T) {
	f := newFixture(t, signing)
	now := time.Now().Unix()
	token := sign1(now, `,"scope":"read","azp":"app","department":"sales","preferred_username":"raw-claim-al"`)

	bothGateways(t, "ATH-01 GW-04 with the identity headers, which stay what they were", func(t *testing.T, prefix string, _ int) {
		for profile, header := range map[string]string{"plain": "X-Jwt-Assertion", "wso2": "X-Jwt-Assertion", "txn": "Txn-Token", "listed": "X-Jwt-Assertion"} {
			for range 2 {
				got := f.get(prefix+"/with-"+profile, token, header, "client's own").want(t, http.StatusOK, "")
				lines := got.header[http.CanonicalHeaderKey(header)]
				if len(lines) != 1 {
					t.Fatalf("%s: got %q, want one line", header, lines)
				}
				opened(t, lines[0])
				got.wantHeader(t, "X-Auth-Subject", "raw-claim-bob").wantHeader(t, "X-Auth-Issuer", corpIss).wantHeader(t, "X-Auth-Client-Id", "app").
					wantHeader(t, "X-Auth-Username", "raw-claim-al").wantHeader(t, "X-Auth-Scope", "read").wantHeader(t, "Cache-Control", "no-store")
			}
		}
	})
	bothGateways(t, "GW-03 no refusal carries one", func(t *testing.T, prefix string, malformed int) {
		f := newFixture(t, signing, func(s *setup) {
			p := anyPolicy("demanding")
			p.Scopes, p.Assertion = []string{"admin"}, httpapi.PolicyAssertion{Profile: "plain", Header: "X-Identity"}
			s.policies = append(s.policies, p)
		})
		for _, row := range []struct {
			token  string
			status int
		}{{token, http.StatusForbidden}, {altered(token), http.StatusUnauthorized}, {"a b", malformed}, {mint(dark(), nil), http.StatusServiceUnavailable}} {
			f.get(prefix+"/demanding", row.token).wantStatus(t, row.status).wantHeader(t, "X-Identity")
		}
	})
	t.Run("GW-05 all headers together stay small", func(t *testing.T) {
		f := newFixture(t, signing, func(s *setup) {
			for n := range s.policies {
				s.policies[n].Headers = map[string]string{"X-Auth-Subject": "sub", "X-Pad": "pad"}
			}
		})
		for _, row := range []struct {
			pad    int
			status int
			shown  bool
		}{{100, 200, true}, {1200, 200, false}, {3000, 503, false}} {
			pad := strings.Repeat("p", row.pad)
			got := f.get("/auth/with-plain", mint(corp(), members{"pad": pad})).wantStatus(t, row.status)
			size := 0
			for name, lines := range got.header {
				for _, line := range lines {
					size += len(name) + len(line) + 4
				}
			}
			if size > 3500 {
				t.Errorf("a claim of %d bytes: got %d bytes of headers", row.pad, size)
			}
			if row.status == http.StatusOK {
				noted(got.header.Get("X-Jwt-Assertion"))
				if got.header.Get("X-Jwt-Assertion") == "" || got.header.Get("X-Auth-Subject") != "raw-claim-alice" || (got.header.Get("X-Pad") == pad) != row.shown {
					t.Errorf("a claim of %d bytes: got %v", row.pad, got.header)
				}
			} else {
				got.wantHeader(t, "X-Auth-Subject").wantHeader(t, "X-Jwt-Assertion")
				f.wantReason(t, "signing_unavailable", "corp")
			}
		}
	})
}

func TestKeySet(t *testing.T) {
	get := func(f *fixture, headers ...string) response {
		return f.send(http.MethodGet, "/jwks.json", "", headers...)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	next := ours.Key{Signer: rsaKey, Algorithm: ours.PS256, ActiveFrom: time.Now().Add(10 * time.Minute)}
	f := newFixture(t, signing, func(s *setup) { s.keys = append(s.keys, next) })

	t.Run("MET-02 public, with the key that is yet to sign", func(t *testing.T) {
		got := get(f).wantStatus(t, http.StatusOK).wantHeader(t, "Content-Type", "application/jwk-set+json").wantHeader(t, "Cache-Control", "max-age=300")
		var set struct{ Keys []map[string]string }
		if err := json.Unmarshal([]byte(got.body), &set); err != nil || len(set.Keys) != 2 {
			t.Fatalf("got %s, want two keys", got.body)
		}
		for n, want := range []map[string]string{{"alg": "ES256", "kty": "EC", "use": "sig"}, {"alg": "PS256", "kty": "RSA", "use": "sig"}} {
			for name, value := range want {
				if set.Keys[n][name] != value {
					t.Errorf("key %d, %s: got %q, want %q", n, name, set.Keys[n][name], value)
				}
			}
			for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
				if _, ok := set.Keys[n][private]; ok {
					t.Errorf("key %d has the private member %s", n, private)
				}
			}
		}
		get(f, "If-None-Match", got.header.Get("Etag")).want(t, http.StatusNotModified, "")
		get(f, "If-None-Match", `"another"`).want(t, http.StatusOK, got.body)
	})
	t.Run("ASN-05 the next key signs from its time on", func(t *testing.T) {
		kid := func() string {
			text := assertionOf(t, f.post("/transform", form("token", mint(corp(), members{"exp": time.Now().Unix() + 7200}), "profile", "plain", "output", "jwt"), as("orders")...))
			noted(text)
			header, _ := base64.RawURLEncoding.DecodeString(text[:strings.IndexByte(text, '.')])
			return string(header)
		}
		if got := kid(); !strings.Contains(got, `"alg":"ES256"`) {
			t.Errorf("before its time: got %s", got)
		}
		f.clock.advance(10*time.Minute + time.Second)
		if got := kid(); !strings.Contains(got, `"alg":"PS256"`) {
			t.Errorf("after its time: got %s", got)
		}
	})
	t.Run("MET-01 the documents name it", func(t *testing.T) {
		for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
			if got := f.send(http.MethodGet, path, "").wantStatus(t, http.StatusOK).object(t)["jwks_uri"]; got != ourIss+"/jwks.json" {
				t.Errorf("%s: jwks_uri: got %v", path, got)
			}
		}
	})
	t.Run("MET-02 no keys, no set", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.public = ourIss })
		get(f).wantError(t, http.StatusNotFound, "not_found")
		if got := f.send(http.MethodGet, "/.well-known/openid-configuration", ""); strings.Contains(got.body, "jwks_uri") {
			t.Errorf("got %s, want no jwks_uri", got.body)
		}
	})
	f.send(http.MethodPost, "/jwks.json", "").wantError(t, http.StatusMethodNotAllowed, "invalid_request").wantHeader(t, "Allow", "GET")
}
