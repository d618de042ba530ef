package httpapi_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/peer"

	"introspectd/internal/devissuer"
	"introspectd/internal/extauthz"
	"introspectd/internal/httpapi"
)

// overGRPC asks as Envoy does over gRPC, and returns what its client or its
// backend gets: headers in canonical spelling, those that are empty left out.
func (f *fixture) overGRPC(policy, token string) response {
	f.Helper()
	server := extauthz.New(extauthz.Options{API: func() *httpapi.API { return f.api.(*httpapi.API) }, Log: slog.New(slog.DiscardHandler)})
	ctx := peer.NewContext(context.Background(), &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(loopback))})
	told, err := server.Check(ctx, &auth.CheckRequest{Attributes: &auth.AttributeContext{
		ContextExtensions: map[string]string{"policy": policy},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{
			Method: "GET", Headers: map[string]string{"authorization": "Bearer " + token},
		}},
	}})
	f.must(err)
	got := response{status: http.StatusOK, header: http.Header{}}
	lines := told.GetOkResponse().GetHeaders()
	if denied := told.GetDeniedResponse(); denied != nil {
		got.status, got.body, lines = int(denied.GetStatus().GetCode()), denied.GetBody(), denied.GetHeaders()
	}
	for _, line := range lines {
		got.header.Add(line.GetHeader().GetKey(), line.GetHeader().GetValue())
	}
	return got
}

// asEnvoyHas leaves out of an answer over HTTP what Envoy doesn't pass on.
func asEnvoyHas(got response) response {
	got.header = got.header.Clone()
	got.header.Del("Content-Length")
	if got.status == http.StatusOK {
		got.header.Del("Cache-Control")
	}
	for name, lines := range got.header {
		if lines[0] == "" {
			delete(got.header, name)
		}
	}
	return got
}

// TestParity feeds good and bad tokens to every endpoint, cold and remembered:
// there is one verdict.
func TestParity(t *testing.T) {
	now := time.Now().Unix()
	good := mint(corp(), nil)
	es256, rs256 := corp().Key("ES256"), corp().Key("RS256")
	claims := func(more string) string {
		return fmt.Sprintf(`{"iss":"%s","sub":"raw-claim-a","aud":"%s","iat":%d,"exp":%d%s}`, corpIss, ordersAud, now, now+600, more)
	}
	head := func(more string) string { return `{"alg":"ES256","kid":"` + es256.Kid + `"` + more + `}` }
	segments := strings.Split(good, ".")
	forged := *devissuer.NewKey("ES256")
	forged.Kid = es256.Kid
	foreign := *partner().Key("EdDSA")
	rsaAsES := *rs256
	rsaAsES.Kid = es256.Kid

	rows := []struct {
		name, token string
		active      bool
	}{
		{"ES256", good, true},
		{"RS256", noted(corp().MintBy(rs256, members{"sub": "raw-claim-a"})), true},
		{"EdDSA of the other issuer", mint(partner(), nil), true},
		{"no typ", sign(head(""), claims("")), true},
		{"typ JWT", sign(head(`,"typ":"jwt"`), claims("")), true},
		{"typ with application/", sign(head(`,"typ":"application/AT+JWT"`), claims("")), true},
		{"unknown header members", sign(head(`,"x5t":"x","jku":"https://evil.example","jwk":{},"x5u":"u","x5c":[]`), claims("")), true},
		{"escaped iss", sign(head(""), strings.Replace(claims(""), corpIss, strings.ReplaceAll(corpIss, "/", `\/`), 1)), true},
		{"other white space", sign(head(""), " \n"+claims("")+"\t"), true},

		{"expired", mint(corp(), members{"exp": now - 100}), false},
		{"exp absent", mint(corp(), members{"exp": nil}), false},
		{"exp a text", mint(corp(), members{"exp": fmt.Sprint(now + 600)}), false},
		{"exp zero", mint(corp(), members{"exp": 0}), false},
		{"nbf ahead", mint(corp(), members{"nbf": now + 1000}), false},
		{"nbf beyond all years", sign(head(""), claims(`,"nbf":9223372036854775807`)), false},
		{"iat ahead", mint(corp(), members{"iat": now + 1000}), false},
		{"sub a number", mint(corp(), members{"sub": 7}), false},
		{"aud a number", mint(corp(), members{"aud": 7}), false},
		{"cnf empty", mint(corp(), members{"cnf": members{}}), false},
		{"upper-case EXP over an expired exp", mint(corp(), members{"exp": now - 100, "EXP": now + 1000}), false},
		{"a duplicate claim", sign(head(""), claims(`,"sub":"raw-claim-b"`)), false},
		{"a duplicate claim, escaped", sign(head(""), claims(`,"s\u0075b":"raw-claim-b"`)), false},
		{"a duplicate in the header", sign(head(`,"alg":"none"`), claims("")), false},
		{"data after the claims", sign(head(""), claims("")+"{}"), false},
		{"claims null", sign(head(""), "null"), false},
		{"claims nested too deep", sign(head(""), claims(`,"d":`+strings.Repeat("[", 40)+strings.Repeat("]", 40))), false},
		{"invalid UTF-8", sign(head(""), claims(",\"x\":\"\xff\"")), false},
		{"crit", sign(head(`,"crit":["exp"]`), claims("")), false},
		{"b64", sign(head(`,"b64":false`), claims("")), false},
		{"zip", sign(head(`,"zip":"DEF"`), claims("")), false},
		{"typ of a DPoP proof", sign(head(`,"typ":"dpop+jwt"`), claims("")), false},
		{"typ of a logout token", sign(head(`,"typ":"logout+jwt"`), claims("")), false},
		{"an ID token", sign(head(""), claims(`,"nonce":"n"`)), false},
		{"a refresh token", sign(head(""), claims(`,"typ":"Refresh"`)), false},
		{"alg none", segments64(`{"alg":"none"}`, claims(""), "x"), false},
		{"alg none without a signature", segments64(`{"alg":"none"}`, claims(""), ""), false},
		{"alg HS256", segments64(`{"alg":"HS256","kid":"`+es256.Kid+`"}`, claims(""), "x"), false},
		{"alg in lower case", sign(`{"alg":"es256","kid":"`+es256.Kid+`"}`, claims("")), false},
		{"alg of another key", noted(es256.Sign(`{"alg":"RS256","kid":"`+rs256.Kid+`"}`, claims(""))), false},
		{"kid of a key of another type", noted(rsaAsES.Sign(head(""), claims(""))), false},
		{"unknown issuer", sign(head(""), strings.Replace(claims(""), corpIss, "https://evil.example", 1)), false},
		{"iss with a slash more", sign(head(""), strings.Replace(claims(""), corpIss, corpIss+"/", 1)), false},
		{"key of the other issuer", noted(foreign.Sign(`{"alg":"EdDSA","kid":"`+foreign.Kid+`"}`, claims(""))), false},
		{"unknown kid", noted(corp().MintBy(devissuer.NewKey("ES256"), nil)), false},
		{"a known kid, another key", noted(corp().MintBy(&forged, nil)), false},
		{"no kid where two keys are", sign(`{"alg":"ES256","kid":7}`, claims("")), false},
		{"altered signature", altered(good), false},
		{"altered payload", segments[0] + "." + segments[1][:20] + other(segments[1][20]) + segments[1][21:] + "." + segments[2], false},
		{"no signature", segments[0] + "." + segments[1] + ".", false},
		{"no dots", strings.Join(segments, ""), false},
		{"four segments", good + ".x", false},
		{"five segments", good + ".x.y", false},
		{"padded", good + "==", false},
		{"too long", good + strings.Repeat("A", 16<<10), false},
		{"garbage", "x", false},
	}
	f := newFixture(t, signing)
	for _, row := range rows {
		t.Run("JWT-19 "+row.name, func(t *testing.T) {
			var first string
			for _, memory := range []string{"cold", "remembered"} {
				reasons := map[string]bool{}
				note := func() {
					last := f.last()
					reasons[fmt.Sprint(last["reason"], last["issuer"], last["active"], last["token_ref"])] = true
				}
				for _, path := range []string{"/introspect", "/oauth2/introspect"} {
					got := f.ask("any", path, row.token)
					note()
					if first == "" {
						first = got.body
					}
					if got.status != 200 || got.body != first || row.active == (got.body == inactive) {
						t.Errorf("%s, %s: got %d %s, want active %t as %s", path, memory, got.status, got.body, row.active, first)
					}
				}
				got := f.ask("any", "/transform", row.token)
				note()
				if got.status != 200 || row.active == (got.body == inactive) {
					t.Errorf("/transform, %s: got %d %s, want active %t", memory, got.status, got.body, row.active)
				}
				got = f.post("/transform", form("token", row.token, "profile", "plain", "output", "jwt"), as("any")...)
				note()
				if got.status != 200 || row.active != strings.Contains(got.body, `"assertion":"`) || row.active == (got.body == inactive) {
					t.Errorf("/transform with a profile, %s: got %d, want active %t", memory, got.status, row.active)
				}
				for _, path := range []string{"/auth", "/auth/with-plain", "/auth/lenient", "/ext-authz/lenient", "/ext-authz/lenient/a?b"} {
					got := f.get(path, row.token)
					note()
					want := http.StatusOK
					if !row.active {
						want = http.StatusUnauthorized
					}
					if got.status != want {
						t.Errorf("%s, %s: got %d, want %d", path, memory, got.status, want)
					}
				}
				over := f.overGRPC("lenient", row.token)
				note()
				if diff := cmp.Diff(asEnvoyHas(f.get("/ext-authz/lenient", row.token)), over, cmp.AllowUnexported(response{})); diff != "" {
					t.Errorf("gRPC, %s (-/ext-authz +gRPC):\n%s", memory, diff)
				}
				if len(reasons) != 1 {
					t.Errorf("%s: logged %v, want one verdict", memory, reasons)
				}
			}
		})
	}
	t.Run("JWT-19 the same when a gateway asks first", func(t *testing.T) {
		f := newFixture(t)
		for _, row := range rows {
			want := http.StatusOK
			if !row.active {
				want = http.StatusUnauthorized
			}
			if got := f.get("/ext-authz/lenient/first", row.token); got.status != want {
				t.Errorf("%s: got %d, want %d", row.name, got.status, want)
			}
			if got := f.ask("any", "/introspect", row.token); row.active == (got.body == inactive) {
				t.Errorf("%s: got %s, want active %t", row.name, got.body, row.active)
			}
		}
	})
	t.Run("JWT-19 no other spelling of a good token is good, cold or remembered", func(t *testing.T) {
		spellings := map[string]string{
			"line feed": good + "\n", "carriage return": good + "\r", "padding": good + "=", "NUL": good + "\x00",
			"line feed inside": segments[0] + "." + segments[1] + "." + segments[2][:5] + "\n" + segments[2][5:],
			"standard base64":  strings.ReplaceAll(strings.ReplaceAll(good, "-", "+"), "_", "/") + "+", "upper case": strings.ToUpper(good),
			"percent": strings.Replace(good, ".", "%2E", 1), "with its scheme": "Bearer " + good, "quoted": `"` + good + `"`,
		}
		for range 2 {
			for name, token := range spellings {
				if got := f.ask("any", "/introspect", token); got.body != inactive {
					t.Errorf("%s: got %s, want %s", name, got.body, inactive)
				}
				if got := f.get("/auth/lenient", token); got.status != http.StatusUnauthorized {
					t.Errorf("%s: got %d, want 401", name, got.status)
				}
			}
			f.ask("any", "/introspect", good).wantActive(t)
		}
	})
}
