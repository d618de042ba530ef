package wso2_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"introspectd/internal/config"
	"introspectd/internal/transform"
	"introspectd/internal/wso2"
)

const (
	material = "testdata/"
	resident = "https://localhost:9443/oauth2/token"
	idp3     = "https://idp3.example.test"
	// What no output may hold.
	password = "do-not-copy-me"
)

// now is when certificates are looked at.
var now = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)

// store is the trust store of the material, in one of its formats.
func store(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(material + name)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// source is one of a TOML in the material's folder, with its store.
func source(t testing.TB, toml string) wso2.Source {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"password": "wso2carbon", "wso2.secret": strings.Repeat("s", 26)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return wso2.Source{
		TOML: []byte(toml), Path: material + "deployment.toml", Store: store(t, "client-truststore.jks"), StorePath: material + "client-truststore.jks", Now: now,
		Password:     "wso2carbon",
		PasswordFile: filepath.Join(dir, "password"), SecretFile: filepath.Join(dir, "wso2.secret"), ReadFile: os.ReadFile,
	}
}

// imported is what a source comes to. Whatever it is, it passes a check, is the
// same each time, and holds no password.
func imported(t testing.TB, s wso2.Source) (wso2.Made, *config.Config) {
	t.Helper()
	made, err := wso2.Import(s)
	if err != nil {
		t.Fatalf("Import: %v", err)
	}
	again, _ := wso2.Import(s)
	if diff := cmp.Diff(made, again); diff != "" {
		t.Errorf("another time (-first +second):\n%s", diff)
	}
	if whole := string(made.Config) + notes(made); strings.Contains(whole, password) {
		t.Errorf("got a password in %s", whole)
	}
	for _, n := range made.Notes {
		if line := n.In("x"); strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("got %q, want a note without control characters", line)
		}
	}
	if (made.Issuers == 0) != (len(made.Config) == 0) {
		t.Errorf("got %d issuers and %d bytes", made.Issuers, len(made.Config))
	}
	if made.Issuers == 0 {
		return made, nil
	}
	file := filepath.Join(filepath.Dir(s.SecretFile), "made.yaml")
	if err := os.WriteFile(file, made.Config, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file, config.Options{})
	if err != nil {
		t.Fatalf("what was made is at fault: %v\n%s", err, made.Config)
	}
	if len(c.Issuers) != made.Issuers {
		t.Errorf("got %d issuers, %d are written", made.Issuers, len(c.Issuers))
	}
	return made, c
}

// notes are the lines of all notes.
func notes(m wso2.Made) string {
	var all strings.Builder
	for _, n := range m.Notes {
		all.WriteString(n.In("deployment.toml") + "\n")
	}
	return all.String()
}

const block = "[[apim.jwt.issuer]]\n"

func TestImportReadsEverySpelling(t *testing.T) {
	const address = "https://idp.example/jwks"
	for name, toml := range map[string]string{
		"a dotted key":       block + "name = 'a'\njwks.url = '" + address + "'",
		"a sub-table":        block + "name = 'a'\n[apim.jwt.issuer.jwks]\nurl = '" + address + "'",
		"an inline table":    block + "name = 'a'\njwks = { url = '" + address + "' }",
		"quoted keys":        "[[\"apim\".'jwt'.issuer]]\n\"name\" = 'a'\n\"jwks\".'url' = '" + address + "'",
		"one quoted key":     block + "name = 'a'\n\"jwks.url\" = '" + address + "'",
		"an inline list":     "[apim]\njwt.issuer = [ { name = 'a', jwks.url = '" + address + "' } ]",
		"a table above":      "[apim.jwt]\nissuer = [ { name = 'a', jwks = { url = '" + address + "' } } ]",
		"carriage returns":   "[[apim.jwt.issuer]]\r\nname = 'a'\r\njwks.url = '" + address + "'\r\n",
		"a byte order mark":  "\xef\xbb\xbf" + block + "name = 'a'\njwks.url = '" + address + "'",
		"spaces and remarks": "  [[ apim . jwt . issuer ]] # x\n  name='a' # y\n  jwks . url = '" + address + "'",
		"Choreo Connect":     "[[enforcer.security.tokenService]]\nissuer = 'a'\njwksURL = '" + address + "'",
	} {
		t.Run(name, func(t *testing.T) {
			_, c := imported(t, source(t, toml))
			if got := c.Issuers[0]; got.Issuer != "a" || got.Keys.JWKSURL != address || !got.Keys.KidRequired {
				t.Errorf("got %+v, want a with %s, and a kid required", got, address)
			}
		})
	}
}

func TestImportOfClaims(t *testing.T) {
	defaults := []string{"consumerKey", "azp", "client_id", "appid"}
	username := []string{"preferred_username", "username", "sub"}
	for _, row := range []struct {
		name, toml             string
		scope, clientID, users []string
		renames                string
		notes                  []string // each in some line of them
		silent                 string   // what is in none
	}{
		{name: "nothing is said", scope: []string{"scope"}},
		{
			name: "scopes_claim", toml: "scopes_claim = 'scp'", scope: []string{"scp", "scope"},
			notes: []string{`deployment.toml:4: weaker: scopes_claim "scp": the scopes of a token without "scp" are read from "scope"`},
		},
		{name: "scopes_claim that is the default", toml: "scopes_claim = 'scope'", scope: []string{"scope"}},
		{
			name: "scopes_claim that the mapping moves to scope", toml: "scopes_claim = 'scp'\nclaim_mapping = [{remote_claim = 'scp', local_claim = 'scope'}]",
			scope: []string{"scope"}, renames: "[{scp scope}]",
			notes: []string{`deployment.toml:4: changed: scopes_claim "scp" is moved to "scope" by this issuer's mapping: written as "scope"`},
		},
		{
			name: "scopes_claim that the mapping moves elsewhere", toml: "scopes_claim = 'scp'\nclaim_mapping = [{remote_claim = 'scp', local_claim = 'permissions'}]",
			scope: []string{"permissions", "scope"}, renames: "[{scp permissions}]",
			notes: []string{`written as "permissions"`, `weaker: scopes_claim "scp": the scopes of a token without "permissions" are read from "scope"`},
		},
		{
			name: "a claim is mapped to scope, and scopes_claim names another", toml: "scopes_claim = 'scp'\nclaim_mapping = [{remote_claim = 'perms', local_claim = 'scope'}]",
			scope: []string{"scp", "scope"}, renames: "[{perms scope}]",
		},
		{
			name: "scope is moved away", toml: "claim_mapping = [{remote_claim = 'scope', local_claim = 's'}]",
			scope: []string{"s"}, renames: "[{scope s}]",
		},
		{
			name: "scopes_claim is a target as well", toml: "scopes_claim = 'scp'\nclaim_mapping = [{remote_claim = 'roles', local_claim = 'scp'}]",
			scope: []string{"scp", "scope"}, renames: "[{roles scp}]", notes: []string{`deployment.toml:4: changed: scopes_claim "scp" is read after the mapping here, which puts "roles" there`},
		},
		{name: "consumer_key_claim has no fallback", toml: "consumer_key_claim = 'cid'", scope: []string{"scope"}, clientID: []string{"cid"}},
		{
			name: "consumer_key_claim that the mapping moves", toml: "consumer_key_claim = 'cid'\nclaim_mapping = [{remote_claim = 'cid', local_claim = 'http://wso2.org/claims/client'}]",
			scope: []string{"scope"}, clientID: []string{"http://wso2.org/claims/client"}, renames: "[{cid http://wso2.org/claims/client}]", notes: []string{"consumer_key_claim"},
		},
		{
			name: "a default source that the mapping moves", toml: "claim_mapping = [{remote_claim = 'azp', local_claim = 'client'}, {remote_claim = 'username', local_claim = 'login'}]",
			scope: []string{"scope"}, clientID: []string{"consumerKey", "client", "client_id", "appid"}, users: []string{"preferred_username", "login", "sub"}, renames: "[{azp client} {username login}]",
		},
		{
			name: "WSO2's sources of the client are targets", toml: "claim_mapping = [{remote_claim = 'department', local_claim = 'azp'}, {remote_claim = 'unit', local_claim = 'consumerKey'}]",
			scope: []string{"scope"}, renames: "[{department azp} {unit consumerKey}]",
			notes: []string{
				`deployment.toml:4: changed: the client is read from "azp" after the mapping here, which puts "department" there; in WSO2 the mapping has no part in it`,
				`deployment.toml:4: changed: the client is read from "consumerKey" after the mapping here, which puts "unit" there`,
			},
		},
		{
			name: "sources of ours are targets", toml: "claim_mapping = [{remote_claim = 'department', local_claim = 'client_id'}, {remote_claim = 'login', local_claim = 'username'}]",
			scope: []string{"scope"}, renames: "[{department client_id} {login username}]",
			notes: []string{
				`deployment.toml:4: changed: the client is read from "client_id" after the mapping here, which puts "department" there`,
				`deployment.toml:4: changed: the username is read from "username" after the mapping here, which puts "login" there`,
			},
		},
		{
			name: "a source takes the place of one that comes after it", toml: "claim_mapping = [{remote_claim = 'azp', local_claim = 'client_id'}]",
			scope: []string{"scope"}, clientID: []string{"consumerKey", "client_id", "appid"}, renames: "[{azp client_id}]", silent: "the client is read",
		},
		{
			name: "sub is copied, and stays what the user is called", toml: "claim_mapping = [{remote_claim = 'sub', local_claim = 'http://wso2.org/claims/enduser'}]",
			scope: []string{"scope"}, renames: "[{sub http://wso2.org/claims/enduser}]",
		},
		{
			name: "entries with an empty side", toml: "claim_mapping = [{remote_claim = '', local_claim = 'x'}, {remote_claim = 'y'}, {}]", scope: []string{"scope"},
			notes: []string{`deployment.toml:4: dropped: an entry of claim_mapping with an empty side, which WSO2 ignores as well: "" to "x"`, `"y" to ""`, `"" to ""`},
		},
		{name: "a claim to itself", toml: "claim_mapping = [{remote_claim = 'x', local_claim = 'x'}]", scope: []string{"scope"}, notes: []string{`maps "x" to itself`}},
		{
			name: "the last entry of a claim wins", toml: "claim_mapping = [\n{remote_claim = 'a', local_claim = 'b'},\n{remote_claim = 'a', local_claim = 'c'}]",
			scope: []string{"scope"}, renames: "[{a c}]", notes: []string{`deployment.toml:5: dropped: "a" is mapped again in line 6, which wins`},
		},
		{
			name: "reserved targets", toml: "claim_mapping = [{remote_claim = 'uid', local_claim = 'sub'}, {remote_claim = 'x', local_claim = 'exp'}, {remote_claim = 'y', local_claim = 'iss'}]",
			scope: []string{"scope"}, notes: []string{`deployment.toml:4: decide: "uid" is not mapped to "sub"`, `"x" is not mapped to "exp"`, `"y" is not mapped to "iss"`},
		},
		{
			name: "unknown keys", toml: "some_future_key = true\njwks.cache = 5\n\"a\\nb\" = '" + password + "'", scope: []string{"scope"},
			notes: []string{`deployment.toml:4: dropped: the key "some_future_key" of the issuer "a"`, `deployment.toml:5: dropped: the key "jwks.cache"`, `deployment.toml:6: dropped: the key "a\nb"`},
		},
		{
			name: "unknown keys of the mapping", toml: "claim_mapping = [{remote_claim = 'a', local_claim = 'b', regex = 'x'}]", scope: []string{"scope"}, renames: "[{a b}]",
			notes: []string{`deployment.toml:4: dropped: the key "regex" of claim_mapping`},
		},
		{name: "the default mapping", toml: "disable_default_claim_mapping = false", scope: []string{"scope"}, notes: []string{"deployment.toml:4: dropped: the default mapping"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			made, c := imported(t, source(t, block+"name = 'a'\njwks.url = 'http://127.0.0.1:1/jwks'\n"+row.toml))
			got := c.Issuers[0].Claims
			if row.clientID == nil {
				row.clientID = defaults
			}
			if row.users == nil {
				row.users = username
			}
			if row.renames == "" {
				row.renames = "[]"
			}
			for name, pair := range map[string][2]any{
				"scope": {row.scope, got.Scope}, "client_id": {row.clientID, got.ClientID}, "username": {row.users, got.Username}, "map": {row.renames, fmt.Sprint(got.Map)},
			} {
				if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			wantNotes(t, made, row.notes...)
			if row.silent != "" && strings.Contains(notes(made), row.silent) {
				t.Errorf("got the notes\n%swant none with %s", notes(made), row.silent)
			}
		})
	}
}

// wantNotes wants each text in a note.
func wantNotes(t *testing.T, m wso2.Made, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !slices.ContainsFunc(m.Notes, func(n wso2.Note) bool { return strings.Contains(n.In("deployment.toml"), text) }) {
			t.Errorf("got the notes\n%swant one with %s", notes(m), text)
		}
	}
}

func TestReservedClaimsAreThoseThatAMapCannotWrite(t *testing.T) {
	for _, name := range append([]string{"scope", "client_id", "username", "email"}, wso2.Reserved...) {
		var problem string
		transform.Config{Map: []transform.Rename{{RemoteClaim: "a claim", LocalClaim: name}}}.Check(func(_, p string) { problem = p })
		if (problem != "") != slices.Contains(wso2.Reserved, name) {
			t.Errorf("%s: a map that writes it is told %q", name, problem)
		}
	}
}

func TestImportLeavesOutWhatCannotBeTold(t *testing.T) {
	const good = block + "name = 'good'\njwks.url = 'https://idp.example/jwks'\n"
	for _, row := range []struct{ name, toml, note string }{
		{"no name", block + "jwks.url = 'https://a.example'", "deployment.toml:1: left out: an issuer without name"},
		{"an empty name", block + "name = ''", "deployment.toml:1: left out: an issuer without name"},
		{"a name that is no text", block + "name = 5", "deployment.toml:2: left out: an issuer: name is no text"},
		{"a property without [server]", block + "name = 'https://${carbon.host}'", "deployment.toml:2: left out: an issuer: name: ${carbon.host} can't be resolved: there is no server.hostname"},
		{"a property of a running WSO2", block + "name = 'https://${carbon.local.ip}'", "${carbon.local.ip} is known only to a running WSO2"},
		{"a port without [server]", block + "name = 'x:${mgt.transport.https.port}'", "${mgt.transport.https.port} can't be resolved: there is no section server"},
		{"a system property", block + "name = '$sys{carbon.home}'", "$sys{carbon.home} is known only to a running WSO2"},
		{"a variable that is not set", block + "name = '$env{NOBODY}'", "$env{NOBODY} is not set in the environment of this command"},
		{"a variable that is empty", block + "name = '$env{EMPTY}'", "left out: an issuer without name"},
		{"a secret", block + "name = '$secret{name}'", "$secret{name} is refused"},
		{"a secret by reference", block + "name = '$ref{super_admin.password}'\n[super_admin]\npassword = '" + password + "'", "$ref{super_admin.password} is refused"},
		{"a reference to nothing", block + "name = '$ref{a.b}'", "$ref{a.b} can't be resolved"},
		{"a secret as the address", block + "name = 'a'\njwks.url = '$secret{u}'", `left out: the issuer "a": jwks.url: $secret{u} is refused`},
		{"a secret as a claim", block + "name = 'a'\nscopes_claim = '$secret{u}'", `left out: the issuer "a": scopes_claim: $secret{u} is refused`},
		{"references that lead to each other", block + "name = '$ref{x.a}'\n[x]\na = '$ref{x.b}$ref{x.b}'\nb = '$ref{x.a}$ref{x.a}'", "lead to too many others"},
		{"an address of another scheme", block + "name = 'a'\njwks.url = 'ftp://a.example'", `left out: the issuer "a": jwks.url: expected an absolute https URL`},
		{"an address with a password", block + "name = 'a'\njwks.url = 'https://u:" + password + "@a.example'", `jwks.url: expected a URL without user and password`},
		{"an address that is no text", block + "name = 'a'\njwks.url = 1", `left out: the issuer "a": jwks.url is no text`},
		{"jwks that is no table", block + "name = 'a'\njwks = 'https://a.example'", `left out: the issuer "a": jwks is no table: expected jwks.url`},
		{"a mapping that is no list", block + "name = 'a'\nclaim_mapping = 'x'", `left out: the issuer "a": claim_mapping is no list of tables`},
		{"a list that is a table", "[apim.jwt.issuer]\nname = 'a'", "deployment.toml:1: left out: apim.jwt.issuer is no list of tables: expected [[apim.jwt.issuer]]"},
		{"a list of texts", "[apim.jwt]\nissuer = ['a']", "deployment.toml:2: left out: apim.jwt.issuer is no list of tables"},
		{
			"two claims for one target", block + "name = 'a'\nclaim_mapping = [\n{remote_claim = 'x', local_claim = 'z'},\n{remote_claim = 'y', local_claim = 'z'}]",
			`deployment.toml:1: left out: the issuer "a": lines 4 and 5 map two claims to "z"`,
		},
		{"a certificate that is not there", "[[enforcer.security.tokenService]]\nissuer = 'a'\ncertificateFilePath = 'none.pem'", `certificateFilePath: "none.pem" can't be read`},
		{"a certificate that is none", "[[enforcer.security.tokenService]]\nissuer = 'a'\ncertificateFilePath = 'bindings.json'", `certificateFilePath: "bindings.json": `},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := source(t, row.toml)
			s.Environ = []string{"EMPTY=", "HOME=/x"}
			made, _ := imported(t, s)
			if made.Issuers != 0 {
				t.Errorf("got %d issuers, want none:\n%s", made.Issuers, made.Config)
			}
			wantNotes(t, made, row.note)

			if strings.HasPrefix(row.toml, block) {
				s.TOML = []byte(good + row.toml)
				if made, c := imported(t, s); made.Issuers != 1 || c.Issuers[0].Issuer != "good" {
					t.Errorf("beside another: got %d issuers, want the other alone", made.Issuers)
				}
			}
		})
	}
}

func TestImportResolvesPlaceholders(t *testing.T) {
	for _, row := range []struct{ name, toml, iss string }{
		{"from [server]", "[server]\nhostname = 'am.example'\n" + block + "name = 'https://${carbon.host}:${mgt.transport.https.port}/oauth2/token'", "https://am.example:9443/oauth2/token"},
		{"with an offset", "[server]\nhostname = 'am.example'\noffset = 2\n" + block + "name = '${carbon.host}:${carbon.management.port}:${https.nio.port}:${http.nio.port}:${mgt.transport.http.port}'", "am.example:9445:8245:8282:9765"},
		{"with an offset as a text", "[server]\nhostname = '$env{HOST_NAME}'\noffset = \"$env{OFFSET}\"\n" + block + "name = '${carbon.host}:${mgt.transport.https.port}'", "from-env.example:9444"},
		{"[server] comes last", block + "name = '${carbon.host}'\n[server]\nhostname = 'h'", "h"},
		{"from the environment", block + "name = 'https://$env{HOST_NAME}/x'", "https://from-env.example/x"},
		{"a value of the environment is not looked into", block + "name = '$env{LITERAL}'", "${carbon.host}"},
		{"by reference", "[server]\nhostname = 'h'\noffset = 3\n" + block + "name = 'https://$ref{server.hostname}/$ref{server.offset}'", "https://h/3"},
		{"a dollar alone", block + "name = 'a$b$$ {c}'", "a$b$$ {c}"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := source(t, row.toml+"\njwks.url = 'http://127.0.0.1:1/jwks'")
			if strings.HasSuffix(row.toml, "hostname = 'h'") && strings.HasPrefix(row.toml, block) {
				s.TOML = []byte(strings.Replace(row.toml, "[server]", "jwks.url = 'http://127.0.0.1:1/jwks'\n[server]", 1))
			}
			s.Environ = []string{"HOST_NAME=from-env.example", "OFFSET=1", "LITERAL=${carbon.host}"}
			_, c := imported(t, s)
			if c == nil || c.Issuers[0].Issuer != row.iss {
				t.Errorf("got %+v, want %s", c, row.iss)
			}
		})
	}
	t.Run("an address from the environment", func(t *testing.T) {
		s := source(t, block+"name = 'a'\njwks = { url = '$env{IDP_JWKS_URL}' }")
		s.Environ = []string{"IDP_JWKS_URL=https://idp.example/jwks"}
		if _, c := imported(t, s); c.Issuers[0].Keys.JWKSURL != "https://idp.example/jwks" {
			t.Errorf("got %+v", c.Issuers[0].Keys)
		}
	})
}

func TestImportTakesTheLastOfTwoIssuers(t *testing.T) {
	made, c := imported(t, source(t, block+"name = 'a'\njwks.url = '$env{NOBODY}'\n"+block+"name = 'b'\njwks.url = 'https://b.example'\n"+block+"name = 'a'\njwks.url = 'https://second.example'"))
	if len(c.Issuers) != 2 || c.Issuers[1].Issuer != "a" || c.Issuers[1].Keys.JWKSURL != "https://second.example" {
		t.Errorf("got %+v, want b and the second a", c.Issuers)
	}
	wantNotes(t, made, `deployment.toml:1: dropped: the issuer "a" is there again in line 7, which wins, as in WSO2`)

	t.Run("also where it can't be used: WSO2 would not go back either", func(t *testing.T) {
		made, _ := imported(t, source(t, block+"name = 'a'\njwks.url = 'https://first.example'\n"+block+"name = 'a'\njwks.url = '$env{NOBODY}'"))
		if made.Issuers != 0 {
			t.Errorf("got %s", made.Config)
		}
	})
	t.Run("of both forms", func(t *testing.T) {
		made, c := imported(t, source(t, block+"name = 'a'\njwks.url = 'https://apim.example'\n[[enforcer.security.tokenService]]\nissuer = 'a'\njwksURL = 'https://choreo.example'"))
		if made.Issuers != 1 || c.Issuers[0].Keys.JWKSURL != "https://choreo.example" {
			t.Errorf("got %+v", c.Issuers)
		}
	})
}

func TestImportNamesIssuers(t *testing.T) {
	_, c := imported(t, source(t, block+"name = 'https://a.example:9443/x'\njwks.url = 'https://j.example'\n"+block+"name = 'https://a.example:9443/y'\njwks.url = 'https://j.example'\n"+
		block+"name = 'wso2is'\njwks.url = 'https://j.example'\n"+block+"name = '✓'\njwks.url = 'https://j.example'\n"+block+"name = 'unknown'\njwks.url = 'https://j.example'\n"+
		block+"name = '"+strings.Repeat("x", 100)+"'\njwks.url = 'https://j.example'\n"+
		"[[enforcer.security.tokenService]]\nname = 'Resident Key Manager'\nissuer = 'https://r.example'\njwksURL = 'https://j.example'\nvalidateSubscription = true"))
	var got []string
	for _, row := range c.Issuers {
		got = append(got, row.Name)
	}
	want := []string{"a.example-9443", "a.example-9443-2", "wso2is", "issuer", "issuer-2", strings.Repeat("x", 40), "Resident-Key-Manager"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, c.Callers[0].Issuers); diff != "" {
		t.Errorf("the caller's (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, c.Policies[0].Issuers); diff != "" {
		t.Errorf("the policy's (-want +got):\n%s", diff)
	}
}

func TestImportWritesOneCallerAndOnePolicy(t *testing.T) {
	s := source(t, block+"name = 'a'\njwks.url = 'https://j.example'")
	made, c := imported(t, s)
	if len(c.Callers) != 1 || c.Callers[0].ID != "wso2" || !c.Callers[0].AnyAudience.All || c.Callers[0].Secrets[0].File != s.SecretFile {
		t.Errorf("callers: got %+v", c.Callers)
	}
	if len(c.Policies) != 1 || c.Policies[0].Name != "default" || !c.Policies[0].AnyAudience {
		t.Errorf("policies: got %+v", c.Policies)
	}
	if c.Errors.Format != "wso2" {
		t.Errorf("errors.format: got %s, want wso2", c.Errors.Format)
	}
	wantNotes(t, made, "weaker: the caller wso2 and the policy default take tokens for any audience", "decide: transformers", `decide: the key endpoint of the issuer "a" is held against the system's roots`)
}

func TestImportNamesPlainHTTP(t *testing.T) {
	made, c := imported(t, source(t, block+"name = 'a'\njwks.url = 'http://keys.example/jwks'\n"+block+"name = 'b'\njwks.url = 'http://localhost:1/jwks'"))
	if !c.Issuers[0].Keys.AllowHTTP || c.Issuers[1].Keys.AllowHTTP {
		t.Errorf("allow_http: got %v and %v, want it for the first alone", c.Issuers[0].Keys.AllowHTTP, c.Issuers[1].Keys.AllowHTTP)
	}
	wantNotes(t, made, `deployment.toml:3: weaker: INSECURE: the keys of the issuer "a" come by plain http`)
}

func TestImportOfTheCache(t *testing.T) {
	const issuer = block + "name = 'a'\njwks.url = 'https://j.example'\n[apim.cache.gateway_token]\n"
	for _, row := range []struct {
		toml string
		ttl  time.Duration
		size int64
		note string
	}{
		{"enable = true", 5 * time.Minute, 128 << 20, ""},
		{"enable = true\nexpiry_time = 900", 15 * time.Minute, 128 << 20, ""},
		{"expiry_time = '900s'", 15 * time.Minute, 128 << 20, ""},
		{"expiry_time = '15m'", 15 * time.Minute, 128 << 20, ""},
		{"expiry_time = '60'", time.Minute, 128 << 20, ""},
		{"enable = false\nexpiry_time = 900", 5 * time.Minute, 0, ""},
		{"enable = 'false'", 5 * time.Minute, 0, ""},
		{"enable = '$env{OFF}'", 5 * time.Minute, 0, ""},
		{"enable = 'TRUE'\nexpiry_time = '1500ms'", 1500 * time.Millisecond, 128 << 20, ""},
		{"enable = 'maybe'", 5 * time.Minute, 128 << 20, "deployment.toml:5: dropped: apim.cache.gateway_token.enable is neither true nor false"},
		{"enable = 0", 5 * time.Minute, 128 << 20, "deployment.toml:5: dropped: apim.cache.gateway_token.enable is neither true nor false"},
		{"enable = '$env{NOBODY}'", 5 * time.Minute, 128 << 20, "deployment.toml:5: dropped: apim.cache.gateway_token.enable: $env{NOBODY} is not set"},
		{"enable = false\nsize = 5", 5 * time.Minute, 0, `deployment.toml:6: dropped: the key "size" of apim.cache.gateway_token is not one that is known`},
		{"expiry_time = 'soon'", 5 * time.Minute, 128 << 20, "deployment.toml:5: dropped: apim.cache.gateway_token.expiry_time"},
		{"expiry_time = -1", 5 * time.Minute, 128 << 20, "deployment.toml:5: dropped"},
		{"expiry_time = 9223372036854775807", (1 << 30) * time.Second, 128 << 20, ""},
	} {
		s := source(t, issuer+row.toml)
		s.Environ = []string{"OFF=false"}
		made, c := imported(t, s)
		if v := c.Cache.Verdicts; v.TTL != row.ttl || int64(v.Size) != row.size {
			t.Errorf("%s: got %s and %d bytes, want %s and %d", row.toml, v.TTL, v.Size, row.ttl, row.size)
		}
		if row.note != "" {
			wantNotes(t, made, row.note)
		}
	}
}

func TestImportNamesWhatItDrops(t *testing.T) {
	made, _ := imported(t, source(t, `[truststore]
type = "PKCS12"
file_name = "repository/resources/other.jks"
password = "`+password+`"
[keystore.tls]
password = "`+password+`"
[apim.jwt]
enable = true
header = "X-JWT-Assertion"
signing_algorithm = "NONE"
[apim.jwt.gateway_generator]
excluded_claims = ["`+password+`"]
[apim.jwt_authenitcation]
subscription_validation_via_km = true
[apim.oauth_config]
a = 1
["`+password[:2]+`\u001b[31m"]
`+block+"name = 'a'\njwks.url = 'https://j.example'"))
	wantNotes(t, made,
		`deployment.toml:2: changed: truststore.type is "PKCS12"; by its content the store is JKS`,
		`deployment.toml:3: changed: truststore.file_name is "repository/resources/other.jks"`,
		`deployment.toml:4: dropped: truststore.password`,
		`deployment.toml:8: decide: apim.jwt.enable`,
		`deployment.toml:9: dropped: apim.jwt.header`,
		`deployment.toml:10: dropped: apim.jwt.signing_algorithm`,
		`deployment.toml:12: dropped: apim.jwt.gateway_generator.excluded_claims`,
		`deployment.toml:14: dropped: subscriptions`,
		`deployment.toml: dropped: nothing was read of "do\x1b[31m", apim.oauth_config, keystore`,
	)
	t.Run("a JWT for backends that is off is not spoken of", func(t *testing.T) {
		made, _ := imported(t, source(t, "[apim.jwt]\nenable = false\nheader = 'X'\n"+block+"name = 'a'\njwks.url = 'https://j.example'"))
		if strings.Contains(notes(made), "backends") || strings.Contains(notes(made), "apim.jwt") {
			t.Errorf("got %s", notes(made))
		}
	})
	const issuer = "\n" + block + "name = 'a'\njwks.url = 'https://j.example'\n"
	for _, row := range []struct{ name, toml, note string }{
		{"a JWT for backends that a text switches on", "[apim.jwt]\nenable = 'true'\nheader = 'X'" + issuer, "deployment.toml:3: dropped: apim.jwt.header"},
		{"one that a text can't", "[apim.jwt]\nenable = 'on'" + issuer, "deployment.toml:2: dropped: apim.jwt.enable is neither true nor false"},
		{"an unknown key of a JWT that is off", "[apim.jwt]\nissuers_url = 'x'" + issuer, `deployment.toml:2: dropped: the key "issuers_url" of apim.jwt is not one that is known`},
		{"a list of issuers under another name", issuer + "[[apim.jwt.issuers]]\nname = 'b'", `deployment.toml:5: dropped: the key "issuers" of apim.jwt`},
		{"an unknown key of WSO2's spelling", "[apim.jwt_authenitcation]\na.b = true" + issuer, `deployment.toml:2: dropped: the key "a.b" of apim.jwt_authenitcation is not one that is known`},
		{"an unknown key of the right one", "[apim.jwt_authentication]\n\"a\\u001b\" = true" + issuer, `deployment.toml:2: dropped: the key "a\x1b" of apim.jwt_authentication`},
		{"subscriptions, as a text", "[apim.jwt_authentication]\nsubscription_validation_via_km = 'true'" + issuer, "deployment.toml:2: dropped: subscriptions are not validated here"},
		{"subscriptions, as no text either", "[apim.jwt_authentication]\nsubscription_validation_via_km = [true]" + issuer, "deployment.toml:2: dropped: apim.jwt_authentication.subscription_validation_via_km is neither true nor false"},
		{"the default mapping, as a text", issuer + "disable_default_claim_mapping = 'false'", "deployment.toml:5: dropped: the default mapping"},
		{"the default mapping, as neither", issuer + "disable_default_claim_mapping = 'no'", "deployment.toml:5: dropped: disable_default_claim_mapping is neither true nor false"},
		{"subscriptions of Choreo Connect", "[[enforcer.security.tokenService]]\nissuer = 'a'\njwksURL = 'https://j.example'\nvalidateSubscription = 'true'", "deployment.toml:4: dropped: subscriptions"},
		{"a label that is no text", "[[enforcer.security.tokenService]]\nissuer = 'a'\njwksURL = 'https://j.example'\nname = 5", `deployment.toml:4: dropped: name of the issuer "a" is no text`},
		{"sections that are none", "[apim]\ncache = 1\njwt_authentication = 'x'" + issuer, "deployment.toml: dropped: nothing was read of apim.cache, apim.jwt_authentication"},
		{"a placeholder with control characters", "[apim.jwt]\nenable = \"$env{\\u001b[31m}\"" + issuer, `deployment.toml:2: dropped: apim.jwt.enable: "$env{\x1b[31m}" is not set`},
	} {
		t.Run(row.name, func(t *testing.T) {
			made, _ := imported(t, source(t, row.toml))
			wantNotes(t, made, row.note)
		})
	}
}

func TestImportSaysWhereTOMLEnds(t *testing.T) {
	for toml, want := range map[string]string{
		"[[apim.jwt.issuer]\n":                                 "1:18: expected TOML",
		"a = 1\n[truststore]\npassword = " + password + "\n":   "3:12: expected TOML",
		"a = 1\na = 2\n":                                       "2:1: expected TOML",
		"[apim.jwt.issuer]\nname = 'a'\n[[apim.jwt.issuer]]\n": "3:3: expected TOML",
	} {
		_, err := wso2.Import(wso2.Source{TOML: []byte(toml), Path: "deployment.toml"})
		if want = "deployment.toml:" + want; err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", toml, err, want)
		}
	}
}

// aliases of the material's store that may sign.
const (
	wso2Kid = "YTgwYzYwYTY0MjliMWZlMzA1YTcwMjg5NGI1MTkyMDdiNjg1NTgyOTJiZDRhMzE5MmIwYjMzMzAyOTFjNzMzNQ_RS256"
	idp2Kid = "NjAzODJhNzE1OTQ3NGEwZjQ3MmQyN2JhNmIyMzc2NzA2YTQ4MDgzMzU3MGU4ODQ2OTAxZWMyNzllOTk3ZmM4Zg_RS256"
	gateway = "gateway_certificate_alias"
)

func TestImportBindsAliases(t *testing.T) {
	const one = block + "name = '" + resident + "'\n"
	const two = one + block + "name = '" + idp3 + "'\n"
	for _, row := range []struct {
		name, toml string
		bindings   map[string][]string
		aliases    [][]string // of each issuer
		notes      []string
	}{
		{
			name: "one issuer gets all that can sign", toml: one,
			aliases: [][]string{{"expiredcertkid", gateway, "idp1-signing-2026", "idp3-ec-p256", strings.ToLower(idp2Kid), "wso2carbon", strings.ToLower(wso2Kid)}},
			notes: []string{
				`deployment.toml: dropped: the alias "legacyrootca" of the trust store: a CA certificate`, `deployment.toml: dropped: the alias "weak-1024" of the trust store: RSA of 1024 bits`,
				`deployment.toml:1: changed: the certificate under "expiredcertkid" of the issuer "` + resident + `" expired on 2020-`,
				`deployment.toml:1: weaker: tokens of the issuer "` + resident + `" without a kid`,
			},
		},
		{
			name: "one beside those with JWKS as well", toml: one + block + "name = 'a'\njwks.url = 'https://j.example'",
			aliases: [][]string{{"expiredcertkid", gateway, "idp1-signing-2026", "idp3-ec-p256", strings.ToLower(idp2Kid), "wso2carbon", strings.ToLower(wso2Kid)}, {}},
		},
		{
			name: "of several none gets any that nobody bound", toml: two, aliases: [][]string{{}, {}},
			notes: []string{`deployment.toml:1: decide: which aliases may sign for the issuer "` + resident, `deployment.toml:3: decide: which aliases may sign for the issuer "` + idp3},
		},
		{
			name: "nor where the others are left out", toml: one + block + "name = '${carbon.local.ip}'", aliases: [][]string{{}},
			notes: []string{`deployment.toml:1: decide: which aliases may sign for the issuer "` + resident},
		},
		{name: "nor for what they map", toml: one + block + "name = 'a'\nclaim_mapping = 'x'", aliases: [][]string{{}}, notes: []string{"decide: which aliases may sign"}},
		{
			name: "one beside others with JWKS that are left out", toml: one + block + "name = '${carbon.local.ip}'\njwks.url = 'https://j.example'" + "\n" + block + "name = 'a'\njwks.url = '$sys{x}'",
			aliases: [][]string{{"expiredcertkid", gateway, "idp1-signing-2026", "idp3-ec-p256", strings.ToLower(idp2Kid), "wso2carbon", strings.ToLower(wso2Kid)}},
		},
		{
			name: "bindings", toml: two, bindings: map[string][]string{resident: {wso2Kid, "LegacyRootCA", "weak-1024", "nobody", wso2Kid}, idp3: {"IDP3-EC-P256"}, "https://elsewhere.example": {"x"}},
			aliases: [][]string{{wso2Kid}, {"IDP3-EC-P256"}},
			notes: []string{
				`deployment.toml:1: dropped: the alias "LegacyRootCA" of the issuer "` + resident + `": a CA`, `the alias "weak-1024" of the issuer`, `the alias "nobody" of the issuer "` + resident + `": the trust store has none of this name`,
				`deployment.toml: dropped: the binding of "https://elsewhere.example"`,
			},
		},
		{name: "a binding of nothing that can sign", toml: one, bindings: map[string][]string{resident: {"LegacyRootCA"}}, aliases: [][]string{{}}, notes: []string{"decide: which aliases may sign"}},
		{name: "one issuer that the bindings leave out", toml: one, bindings: map[string][]string{}, aliases: [][]string{{}}, notes: []string{"decide: which aliases may sign"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := source(t, row.toml)
			s.Bindings = row.bindings
			made, c := imported(t, s)
			for n, want := range row.aliases {
				got := c.Issuers[n].Keys.TrustStore
				slices.Sort(want)
				if have := slices.Sorted(slices.Values(got.Aliases)); !slices.Equal(have, want) {
					t.Errorf("aliases of %d: got %q, want %q", n, have, want)
				}
				if c.Issuers[n].Keys.JWKSURL == "" && (got.NoKidAlias != gateway || got.CertificateDates != "enforce" || got.Path != s.StorePath || got.Password.File != s.PasswordFile) {
					t.Errorf("%d: got %+v", n, got)
				}
			}
			wantNotes(t, made, row.notes...)
		})
	}
}

func TestImportOfChoreoConnect(t *testing.T) {
	const service = "[[enforcer.security.tokenService]]\nname = 'n'\nissuer = 'a'\n"
	for _, row := range []struct {
		name, toml, noKid, file string
		note                    string
	}{
		{name: "certificateAlias is for tokens without a kid", toml: "certificateAlias = 'wso2carbon'\njwksURL = ''", noKid: "wso2carbon"},
		{name: "without one it is the gateway's", toml: "", noKid: gateway},
		{name: "one that is not there", toml: "certificateAlias = 'nobody'", note: `deployment.toml:1: dropped: the alias "nobody" of the issuer "a": the trust store has none of this name`},
		{name: "one of a CA", toml: "certificateAlias = 'LegacyRootCA'", note: `the alias "LegacyRootCA" of the issuer "a": a CA certificate`},
		{name: "a certificate of its own", toml: "certificateAlias = 'x'\ncertificateFilePath = 'wso2.crt'", file: material + "wso2.crt", note: "deployment.toml:4: dropped: certificateAlias"},
		{name: "JWKS come first", toml: "certificateAlias = 'x'\ncertificateFilePath = 'wso2.crt'\njwksURL = 'https://j.example'", note: "deployment.toml:5: dropped: certificateFilePath"},
	} {
		t.Run(row.name, func(t *testing.T) {
			made, c := imported(t, source(t, service+row.toml))
			k := c.Issuers[0].Keys
			file := ""
			if len(k.Files) > 0 {
				file = k.Files[0].Path
			}
			if k.TrustStore.NoKidAlias != row.noKid || file != filepath.Clean(row.file) && row.file != "" {
				t.Errorf("got %+v", k)
			}
			if row.note != "" {
				wantNotes(t, made, row.note)
			}
		})
	}
	t.Run("claims", func(t *testing.T) {
		_, c := imported(t, source(t, service+"jwksURL = 'https://j.example'\nconsumerKeyClaim = 'cid'\n[[enforcer.security.tokenService.claimMapping]]\nremoteClaim = 'scp'\nlocalClaim = 'scope'"))
		if got := c.Issuers[0].Claims; fmt.Sprint(got.Map, got.ClientID, got.Scope) != "[{scp scope}] [cid] [scope]" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestImportOfJWKSWithoutAnAddress(t *testing.T) {
	for _, toml := range []string{"jwks = {}", "jwks.url = ''", "[apim.jwt.issuer.jwks]\nurl = ''"} {
		made, c := imported(t, source(t, block+"name = 'a'\n"+toml))
		if c.Issuers[0].Keys.TrustStore.Path == "" {
			t.Errorf("%s: got %+v, want the trust store", toml, c.Issuers[0].Keys)
		}
		wantNotes(t, made, `changed: jwks of the issuer "a" has no address: its keys are in the trust store`)
	}
}

func TestImportOpensEveryStore(t *testing.T) {
	for name, format := range map[string]string{"client-truststore.jks": "JKS", "client-truststore.p12": "PKCS12", "client-truststore-pkcs12-named.jks": "PKCS12", "wso2.crt": "DER"} {
		s := source(t, "[truststore]\ntype = 'JKS'\n"+block+"name = 'a'")
		s.Store, s.StorePath = store(t, name), material+name
		made, c := imported(t, s)
		want := map[string]int{"DER": 1}[format]
		if want == 0 {
			want = 7
		}
		if got := c.Issuers[0].Keys.TrustStore.Aliases; len(got) != want {
			t.Errorf("%s: got %q, want %d", name, got, want)
		}
		if format != "JKS" {
			wantNotes(t, made, `truststore.type is "JKS"; by its content the store is `+format)
		}
	}
}

func TestImportRefusesAStoreThatDoesNotOpen(t *testing.T) {
	s := source(t, block+"name = 'a'")
	s.Password = password
	if _, err := wso2.Import(s); err == nil || !strings.HasPrefix(err.Error(), s.StorePath+": wrong password") || strings.Contains(err.Error(), password) {
		t.Errorf("got %v, want the file, and that the password is wrong", err)
	}
	s.Password, s.PasswordFile = "", ""
	if _, err := wso2.Import(s); err == nil || !strings.Contains(err.Error(), "--password-file") {
		t.Errorf("got %v, want what to do about it", err)
	}
	s.Store = []byte("nothing")
	if _, err := wso2.Import(s); err == nil || !strings.HasPrefix(err.Error(), s.StorePath+": ") {
		t.Errorf("got %v, want the file", err)
	}
}

func TestBindings(t *testing.T) {
	got, err := wso2.ReadBindings([]byte(`{"a":["x","y"],"b":[]}`))
	if want := (map[string][]string{"a": {"x", "y"}, "b": {}}); err != nil || !cmp.Equal(want, got) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "[]", `{"a":"x"}`, `{"a":[1]}`, `{"a":["x"],"a":["y"]}`, `{"a":["x"]} x`, "{\"a\":[\"\xff\"]}"} {
		if got, err := wso2.ReadBindings([]byte(bad)); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func FuzzImport(f *testing.F) {
	files, err := filepath.Glob(material + "toml/*.toml")
	if err != nil || len(files) < 6 {
		f.Fatalf("got %v, %v, want the six samples", files, err)
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(body))
	}
	f.Add("[server]\nhostname = 'h'\n" + block + "name = '${carbon.host}$env{X}'\n\"jwks.url\" = 'http://a.example'\nclaim_mapping = [{remote_claim = 'a', local_claim = 'b'}]")
	f.Fuzz(func(t *testing.T, toml string) {
		s := source(t, toml)
		s.Environ = []string{"X=y"}
		if _, err := wso2.Import(s); err != nil {
			return
		}
		imported(t, s)
	})
}

// Whatever a text of the TOML is, it is the same text in ours.
func FuzzImportKeepsTexts(f *testing.F) {
	for _, text := range []string{"https://a.example", "a: b", "# x", "x\n- y", "true", "No", "~", "null", "1e3", ".5", ".inf", "0x1F", "2026-01-01", "é", "😀", "\u2028", "\x7f", "\u0085", "\\", `"`, "'", "{a}", "[a]", "*a", "&a", "!a", "%a", "@a", "`a", "a#b", "a #b", "-", "?", " a", "a ", "=", "<<", ".", "/", "://", "a://", "\x00"} {
		f.Add(text, "b")
	}
	f.Fuzz(func(t *testing.T, iss, claim string) {
		if strings.ContainsAny(iss+claim, "$") || !utf8.ValidString(iss) || !utf8.ValidString(claim) {
			return // placeholders, and what is no TOML
		}
		made, err := wso2.Import(source(t, block+"name = "+basic(iss)+"\njwks.url = 'https://j.example'\nscopes_claim = "+basic(claim)+"\nclaim_mapping = [{remote_claim = "+basic(claim)+", local_claim = 'x'}]"))
		if err != nil || made.Issuers == 0 {
			return
		}
		var got struct {
			Issuers []struct {
				Issuer any
				Claims struct {
					Map []map[string]any
				}
			}
		}
		if err := yaml.NewDecoder(bytes.NewReader(made.Config)).Decode(&got); err != nil {
			t.Fatalf("%v in\n%s", err, made.Config)
		}
		if got.Issuers[0].Issuer != iss {
			t.Errorf("issuer: got %#v, want %q", got.Issuers[0].Issuer, iss)
		}
		for _, row := range got.Issuers[0].Claims.Map {
			if row["remote_claim"] != claim {
				t.Errorf("remote_claim: got %#v, want %q", row["remote_claim"], claim)
			}
		}
	})
}

// basic is a basic string of TOML.
func basic(text string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range text {
		switch {
		case r < ' ' || r == 0x7f || r == '"' || r == '\\':
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			out.WriteRune(r)
		}
	}
	return out.String() + `"`
}
