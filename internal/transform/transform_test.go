package transform_test

import (
	"fmt"
	"strings"
	"testing"

	"introspectd/internal/claims"
	"introspectd/internal/transform"
)

func decode(t *testing.T, text string) claims.Set {
	t.Helper()
	set, err := claims.Decode([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return set
}

func shown(set claims.Set) string {
	var b strings.Builder
	for _, m := range set {
		fmt.Fprintf(&b, "%s=%s ", m.Name, m.Value)
	}
	return strings.TrimSpace(b.String())
}

func config(renames ...string) transform.Config {
	c := transform.Config{
		Scope:    []string{"scope", "scp"},
		ClientID: []string{"client_id", "azp", "cid", "appid", "consumerKey"},
		Username: []string{"preferred_username", "username", "upn", "cognito:username"},
	}
	for _, r := range renames {
		remote, local, _ := strings.Cut(r, ">")
		c.Map = append(c.Map, transform.Rename{RemoteClaim: remote, LocalClaim: local})
	}
	return c
}

func TestMap(t *testing.T) {
	free := config("uid>sub")
	free.AllowReserved = []string{"sub", "aud"}
	freeAud := config("resource>aud")
	freeAud.AllowReserved = []string{"aud"}
	for _, row := range []struct {
		name   string
		config transform.Config
		claims string
		want   string
	}{
		{"TRN-04 moved, unmapped ones stay", config("roles>groups"), `{"sub":"a","roles":["x"],"t":1}`, `sub="a" t=1 groups=["x"]`},
		{"TRN-04 missing source, target absent", config("nope>groups"), `{"sub":"a"}`, `sub="a"`},
		{"TRN-04 missing source leaves the target's own claim", config("nope>groups"), `{"sub":"a","groups":1}`, `sub="a" groups=1`},
		{"TRN-05 literal names", config("http://idp2.org/claims/givenname>http://wso2.org/claims/givenname", "cognito:groups>a.b"), `{"http:\/\/idp2.org\/claims\/givenname":"G","cognito:groups":[]}`, `http://wso2.org/claims/givenname="G" a.b=[]`},
		{"TRN-06 protected names are copied", config("sub>user", "iss>origin"), `{"iss":"i","sub":"a"}`, `iss="i" sub="a" user="a" origin="i"`},
		{"TRN-08 the map wins over a claim in its way", config("role>groups"), `{"groups":["own"],"role":"r"}`, `groups="r"`},
		{"TRN-08 the order of the token means nothing", config("role>groups"), `{"role":"r","groups":["own"]}`, `groups="r"`},
		{"TRN-08 two claims change places", config("a>b", "b>a"), `{"a":1,"b":2}`, `b=1 a=2`},
		{"TRN-06 a freed sub", free, `{"sub":"a","uid":"b"}`, `sub="b"`},
		{"TRN-06 a freed aud", freeAud, `{"aud":"a","resource":["b"]}`, `aud=["b"]`},
	} {
		got, problem := transform.New(row.config).Apply(decode(t, row.claims))
		if problem != nil || shown(got.Claims) != row.want {
			t.Errorf("%s: got %s %v, want %s, of %s", row.name, shown(got.Claims), problem, row.want, row.claims)
		}
	}
	if _, problem := transform.New(free).Apply(decode(t, `{"uid":7}`)); problem == nil {
		t.Error("TRN-04 a mapped sub that is a number made an identity")
	}
	if _, problem := transform.New(freeAud).Apply(decode(t, `{"resource":{"a":1}}`)); problem == nil {
		t.Error("TRN-04 a mapped aud that is an object made an identity")
	}
}

func TestScope(t *testing.T) {
	for _, row := range []struct {
		name, claims, want string
		dropped            int
	}{
		{"OUT-05 string, white space and duplicates", `{"scope":" read  write\tread\n"}`, "read write", 0},
		{"OUT-05 array joined", `{"scp":["a","b","a"]}`, "a b", 0},
		{"OUT-05 an element with a space is not two scopes", `{"scp":["a b","c"]}`, "c", 1},
		{"OUT-05 illegal characters", `{"scope":"a \"b c\\d é ok"}`, "a ok", 3},
		{"OUT-05 a no-break space separates nothing", `{"scope":"a\u00a0admin"}`, "", 1},
		{"OUT-05 none", `{"sub":"a"}`, "", 0},
		{"OUT-05 empty", `{"scope":""}`, "", 0},
		{"OUT-05 elements that are no strings", `{"scp":["a",1,null]}`, "a", 2},
		{"OUT-06 first present wins", `{"scp":["b"],"scope":"a"}`, "a", 0},
		{"OUT-06 first present wins though it holds nothing", `{"scope":"","scp":["b"]}`, "", 0},
		{"OUT-06 a number is no scope", `{"scope":7,"scp":["b"]}`, "", 1},
		{"OUT-06 roles and permissions are not scopes", `{"roles":["admin"],"permissions":["x"],"realm_access":{"roles":["y"]}}`, "", 0},
	} {
		got, _ := transform.New(config()).Apply(decode(t, row.claims))
		if got.Scope != row.want || got.DroppedScopes != row.dropped {
			t.Errorf("%s: got %q with %d dropped, want %q with %d, of %s", row.name, got.Scope, got.DroppedScopes, row.want, row.dropped, row.claims)
		}
	}
	got, _ := transform.New(config("permissions>scope")).Apply(decode(t, `{"scope":"own","permissions":["p1","p2"]}`))
	if got.Scope != "p1 p2" {
		t.Errorf("TRN-07 OUT-06 mapping into scope: got %q, want the mapped value", got.Scope)
	}
}

func TestClientIDAndUsername(t *testing.T) {
	for _, row := range []struct{ name, claims, client, user string }{
		{"OUT-07 first string in the order given", `{"azp":"b","client_id":"a"}`, "a", ""},
		{"OUT-07 not a string, the next one", `{"client_id":7,"azp":"b"}`, "b", ""},
		{"OUT-07 Okta", `{"cid":"c","uid":"u"}`, "c", ""},
		{"OUT-07 Entra", `{"appid":"e","upn":"a@b"}`, "e", "a@b"},
		{"OUT-07 old WSO2", `{"consumerKey":"k"}`, "k", ""},
		{"OUT-07 never aud", `{"aud":"x"}`, "", ""},
		{"OUT-08 Keycloak", `{"azp":"b","sub":"s","preferred_username":"alice","email":"a@b"}`, "b", "alice"},
		{"OUT-08 not from email", `{"email":"a@b"}`, "", ""},
		{"OUT-08 Cognito", `{"cognito:username":"c"}`, "", "c"},
		{"OUT-08 sub is the client", `{"sub":"b","azp":"b","username":"svc"}`, "b", ""},
		{"OUT-08 WSO2 application token", `{"aut":"APPLICATION","azp":"b","sub":"s","username":"u"}`, "b", ""},
		{"OUT-08 Entra application token", `{"idtyp":"app","sub":"s","upn":"u"}`, "", ""},
	} {
		got, _ := transform.New(config()).Apply(decode(t, row.claims))
		if got.ClientID != row.client || got.Username != row.user {
			t.Errorf("%s: got client %q user %q, want %q %q, of %s", row.name, got.ClientID, got.Username, row.client, row.user, row.claims)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, name := range []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "cnf", "active"} {
		if got := faults(config("x>" + name)); len(got) != 1 || !strings.Contains(got[0], "reserved") {
			t.Errorf("TRN-06 target %s: got %q, want one fault", name, got)
		}
		c := config("x>" + name)
		c.AllowReserved = []string{name}
		freeable := name == "sub" || name == "jti" || name == "aud"
		if got := faults(c); (len(got) == 0) != freeable {
			t.Errorf("TRN-06 target %s freed: got %q", name, got)
		}
	}
	if got := faults(config("a>x", "b>x")); len(got) != 1 || !strings.Contains(got[0], "map[0]") {
		t.Errorf("TRN-06 two entries, one target: got %q", got)
	}
	if got := faults(config(">", "a>", ">b")); len(got) != 4 {
		t.Errorf("empty sides: got %q, want four faults", got)
	}
	if got := faults(config("scp>scope", "a>b")); got != nil {
		t.Errorf("a sound map: got %q", got)
	}
}

func benchmarkClaims(b *testing.B) claims.Set {
	b.Helper()
	set, err := claims.Decode([]byte(`{"iss":"https://idp.example","sub":"5f0c","aud":["a"],"exp":4102444800,"iat":1767225600,"azp":"orders","scp":["openid","read","write"],"preferred_username":"alice"}`))
	if err != nil {
		b.Fatal(err)
	}
	return set
}

func BenchmarkApply(b *testing.B) {
	set := benchmarkClaims(b)
	r := transform.New(config("scp>scope"))
	b.ReportAllocs()
	for b.Loop() {
		r.Apply(set)
	}
}
