package callers_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"introspectd/internal/callers"
)

func TestCheck(t *testing.T) {
	t.Setenv("SHORT_SECRET", "only-21-characters-xx")
	t.Setenv("RIGHT_SECRET", "22-characters-it-is-xx")
	missing := callers.Secret{File: filepath.Join(t.TempDir(), "absent")}
	nothing := sha256.Sum256(nil)
	edit := func(change func(*callers.Config)) callers.Config {
		row := caller("orders-backend", secrets(rightSecret))
		change(&row)
		return row
	}
	secret := func(s callers.Secret) callers.Config {
		return edit(func(c *callers.Config) { c.Secrets = []callers.Secret{s} })
	}
	token := func(s callers.Secret) callers.Config {
		return edit(func(c *callers.Config) { c.BearerTokens = []callers.Secret{s} })
	}
	for _, c := range []struct {
		name string
		row  callers.Config
		want []string // the key, and a part of the sentence after it; none for accepted
	}{
		{name: "AUT-05 a whole row", row: edit(func(*callers.Config) {})},
		{"AUT-05 no id", edit(func(c *callers.Config) { c.ID = "" }), []string{"id: expected the id"}},
		{"AUT-05 id beyond ASCII", edit(func(c *callers.Config) { c.ID = "bäckend" }), []string{"id: expected visible ASCII"}},
		{"AUT-05 id with a control character", edit(func(c *callers.Config) { c.ID = "a\nb" }), []string{"id: expected visible ASCII"}},
		{"AUT-05 id with a space at its end", edit(func(c *callers.Config) { c.ID = "a " }), []string{"id: expected no space at either end"}},
		{name: "INT-17 id of everything allowed", row: edit(func(c *callers.Config) { c.ID = "https://a b/%20+-?" })},
		{name: "AUT-05 id of 256", row: edit(func(c *callers.Config) { c.ID = strings.Repeat("x", 256) })},
		{"AUT-05 id of 257", edit(func(c *callers.Config) { c.ID = strings.Repeat("x", 257) }), []string{"id: expected at most 256"}},
		{name: "INT-17 15 colons", row: edit(func(c *callers.Config) { c.ID = "x" + strings.Repeat(":", 15) })},
		{"INT-17 16 colons", edit(func(c *callers.Config) { c.ID = "x" + strings.Repeat(":", 16) }), []string{"id: expected at most 15 colons"}},

		{"AUT-04 no secret at all", edit(func(c *callers.Config) { c.Secrets = nil }), []string{"secrets: expected at least one"}},
		{"AUT-04 three secrets", edit(func(c *callers.Config) { c.Secrets = digests([]string{"a", "b", "c"}) }), []string{"secrets: expected at most 2"}},
		{"AUT-04 three bearer tokens", edit(func(c *callers.Config) { c.BearerTokens = digests([]string{"a", "b", "c"}) }), []string{"bearer_tokens: expected at most 2"}},
		{"AUT-04 empty entry", secret(callers.Secret{}), []string{"secrets[0]: expected exactly one of file, env and sha256"}},
		{"AUT-04 file and env", secret(callers.Secret{File: "a", Env: "B"}), []string{"secrets[0]: expected exactly one"}},
		{"AUT-04 unreadable file", secret(missing), []string{"secrets[0].file: expected a readable file"}},
		{"AUT-04 a directory", secret(callers.Secret{File: t.TempDir()}), []string{"secrets[0].file: expected a readable file"}},
		{"AUT-04 unset variable", secret(callers.Secret{Env: "NO_SUCH_SECRET"}), []string{"secrets[0].env: expected the environment variable NO_SUCH_SECRET"}},
		{"AUT-04 short secret", secret(callers.Secret{Env: "SHORT_SECRET"}), []string{"secrets[0].env: expected a secret of at least 22 characters, got 21"}},
		{name: "AUT-04 secret of 22", row: secret(callers.Secret{Env: "RIGHT_SECRET"})},
		{"AUT-04 a newline isn't a character of it", secret(inFile(t, "only-21-characters-xx\n")), []string{"secrets[0].file: expected a secret of at least 22"}},
		{"AUT-04 empty file", secret(inFile(t, "")), []string{"secrets[0].file: expected a secret of at least 22"}},
		{"AUT-04 characters, not bytes", secret(inFile(t, strings.Repeat("ü", 21))), []string{"secrets[0].file: expected a secret of at least 22 characters, got 21"}},
		{name: "AUT-04 secret of 1 KiB", row: secret(inFile(t, strings.Repeat("x", 1024)+"\r\n"))},
		{"AUT-04 secret of more", secret(inFile(t, strings.Repeat("x", 1025))), []string{"secrets[0].file: expected a secret of at most 1024"}},
		{"AUT-04 short digest", secret(callers.Secret{SHA256: "abcd"}), []string{"secrets[0].sha256: expected the SHA-256 of the secret as 64 hex digits"}},
		{"AUT-04 digest that isn't hex", secret(callers.Secret{SHA256: strings.Repeat("z", 64)}), []string{"secrets[0].sha256: expected the SHA-256"}},
		{"AUT-04 digest of nothing", secret(callers.Secret{SHA256: hex.EncodeToString(nothing[:])}), []string{"secrets[0].sha256: expected the digest of a secret"}},
		{"AUT-04 short bearer", token(inFile(t, "short")), []string{"bearer_tokens[0].file: expected a secret of at least 22"}},
		{"AUT-04 bearer with a space", token(inFile(t, "no header carries this one")), []string{"bearer_tokens[0].file: expected a bearer token of visible ASCII"}},

		{"AUT-01 unknown method", edit(func(c *callers.Config) { c.Methods = []callers.Method{callers.ClientSecretBasic, "digest"} }), []string{`methods[1]: expected one of client_secret_basic, client_secret_post, bearer, got "digest"`}},
		{"AUT-01 private_key_jwt", edit(func(c *callers.Config) { c.Methods = []callers.Method{"private_key_jwt", callers.ClientSecretPost} }), []string{"methods[0]: private_key_jwt is not built yet"}},
		{"AUT-01 tls_client_auth", edit(func(c *callers.Config) { c.Methods = []callers.Method{"tls_client_auth", callers.ClientSecretPost} }), []string{"methods[0]: tls_client_auth is not built yet"}},
		{"AUT-01 bearer without tokens", edit(func(c *callers.Config) { c.Methods = []callers.Method{callers.Bearer, callers.ClientSecretPost} }), []string{"methods[0]: bearer needs an entry of bearer_tokens"}},
		{"AUT-01 Basic without secrets", edit(func(c *callers.Config) {
			c.BearerTokens, c.Secrets, c.Methods = c.Secrets, nil, []callers.Method{callers.ClientSecretBasic, callers.Bearer}
		}), []string{"methods[0]: client_secret_basic needs an entry of secrets"}},
		{"AUT-01 secrets that no method uses", edit(func(c *callers.Config) {
			c.BearerTokens, c.Methods = c.Secrets, []callers.Method{callers.Bearer}
		}), []string{"methods: no method uses the secrets"}},
		{"AUT-01 tokens that no method uses", edit(func(c *callers.Config) {
			c.BearerTokens, c.Methods = c.Secrets, []callers.Method{callers.ClientSecretPost}
		}), []string{"methods: no method uses the bearer_tokens"}},

		{"AUT-05 no permission", edit(func(c *callers.Config) { c.May = nil }), []string{"may: expected at least one of introspect"}},
		{"AUT-05 unknown permission", edit(func(c *callers.Config) { c.May = []callers.Permission{"admin"} }), []string{`may[0]: expected one of introspect, transform, auth, revoke, revoke_broad, operate, explain, got "admin"`}},
		{name: "AUT-05 REV-01 REV-07 both ways to revoke", row: edit(func(c *callers.Config) { c.May = []callers.Permission{callers.Revoke, callers.RevokeBroad} })},
		{name: "REV-01 clients alone are enough", row: edit(func(c *callers.Config) {
			c.May, c.Clients = nil, []callers.Client{{Issuer: "corp", ClientID: "app"}, {Issuer: "partner", ClientID: "app"}, {Issuer: "corp", ClientID: "another"}}
		})},
		{"REV-01 a client without an id, or an issuer", edit(func(c *callers.Config) {
			c.Clients = []callers.Client{{Issuer: "corp"}, {ClientID: "app"}, {}}
		}), []string{"clients[0].client_id: expected the id", "clients[1].issuer: expected the name", "clients[2].issuer: ", "clients[2].client_id: "}},
		{"REV-01 a client twice", edit(func(c *callers.Config) {
			c.Clients = []callers.Client{{Issuer: "corp", ClientID: "app"}, {Issuer: "corp", ClientID: "app"}}
		}), []string{"clients[1]: expected each client once, got the one of [0]"}},

		{"AUT-05 issuers and any_issuer", edit(func(c *callers.Config) { c.Issuers = []string{"corp"} }), []string{"any_issuer: expected either"}},
		{name: "AUT-05 issuers alone", row: edit(func(c *callers.Config) { c.Issuers, c.AnyIssuer = []string{"corp"}, false })},
		{"AUT-05 empty issuer", edit(func(c *callers.Config) { c.Issuers, c.AnyIssuer = []string{""}, false }), []string{"issuers[0]: expected the name"}},
		{"AUT-05 no audiences", edit(func(c *callers.Config) { c.AnyAudience = callers.AnyAudience{} }), []string{"audiences: expected the audiences"}},
		{"AUT-05 audiences and any_audience", edit(func(c *callers.Config) { c.Audiences = []string{"a"} }), []string{"any_audience: expected either"}},
		{"AUT-05 empty audience", edit(func(c *callers.Config) { c.Audiences, c.AnyAudience = []string{""}, callers.AnyAudience{} }), []string{"audiences[0]: expected an audience"}},
		{name: "AUT-05 audiences beside any_audience of issuers", row: edit(func(c *callers.Config) {
			c.Audiences, c.AnyAudience = []string{"a"}, callers.AnyAudience{Issuers: []string{"corp"}}
		})},
		{"AUT-05 any_audience of an issuer it isn't told of", edit(func(c *callers.Config) {
			c.AnyIssuer, c.Issuers, c.AnyAudience = false, []string{"corp"}, callers.AnyAudience{Issuers: []string{"partner"}}
		}), []string{`any_audience[0]: expected one of this caller's issuers, got "partner"`}},
		{"AUT-05 unknown claims", edit(func(c *callers.Config) { c.Claims = callers.Claims{Mode: "all"} }), []string{"claims: expected passthrough, minimal"}},

		{"AUT-05 every fault at once", callers.Config{Secrets: []callers.Secret{missing, {}}, Methods: []callers.Method{"x"}}, []string{
			"id: ", "secrets[0].file: ", "secrets[1]: ", "methods[0]: ", "methods: no method uses the secrets", "may: ", "audiences: ", "claims: ",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			expectFaults(t, c.want, c.row.Check)
		})
	}
}

func TestCheckAll(t *testing.T) {
	two := func(a, b string) []callers.Config {
		return []callers.Config{caller(a, secrets(rightSecret)), caller(b, secrets(rightSecret))}
	}
	for _, c := range []struct {
		name string
		rows []callers.Config
		want []string
	}{
		{"AUT-04 two ids", two("a", "b"), nil},
		{"AUT-04 ids that differ in case", two("a", "A"), nil},
		{"AUT-04 the same secret twice", two("a", "b"), nil},
		{"AUT-04 the same id", two("a", "a"), []string{"[1].id: expected an id of its own"}},
		{"AUT-04 form-encoded", two("a b", "a+b"), []string{"[1].id: "}},
		{"AUT-04 percent-encoded", two("a%2Db", "a-b"), []string{"[1].id: "}},
		{"AUT-04 percent-encoded with a literal plus", two("a+b", "a%2Bb"), []string{"[1].id: "}},
		{"AUT-04 one spelling of both, neither of the other", two("50% b", "50%+b"), []string{"[1].id: "}},
		{"AUT-04 hex of either case", two("a%2db", "a%2Db"), []string{"[1].id: "}},
		{"AUT-04 a malformed percent is itself", two("a%zz", "azz"), nil},
		{"AUT-04 one bearer of two callers", []callers.Config{caller("a", bearerTokens("x", rightToken)), caller("b", bearerTokens(rightToken))}, []string{`[1].bearer_tokens[0]: expected a token of its own, got the one of "a"`}},
		{"AUT-04 one bearer by file and digest", []callers.Config{caller("a", bearerTokens(rightToken)), caller("b", callers.Config{BearerTokens: []callers.Secret{inFile(t, rightToken+"\n")}})}, []string{"[1].bearer_tokens[0]: "}},
		{"AUT-04 one bearer twice at one caller", []callers.Config{caller("a", bearerTokens(rightToken, rightToken))}, nil},
		{"AUT-04 what can't be read is left to Check", []callers.Config{caller("a", callers.Config{BearerTokens: []callers.Secret{{}}}), caller("b", callers.Config{BearerTokens: []callers.Secret{{}}})}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			expectFaults(t, c.want, func(fault func(key, problem string)) { callers.CheckAll(c.rows, fault) })
		})
	}
}

func TestFaultsHoldNoSecret(t *testing.T) {
	row := caller("a", callers.Config{
		Secrets:      []callers.Secret{inFile(t, "hunter2"), inFile(t, strings.Repeat("hunter2", 200))},
		BearerTokens: []callers.Secret{inFile(t, "hunter2 and more than 22 characters")},
	})
	var faults []string
	row.Check(func(key, problem string) { faults = append(faults, key+": "+problem) })
	if len(faults) != 3 || strings.Contains(fmt.Sprint(faults), "hunter2") {
		t.Errorf("AUT-04 faults = %q, want three without the secret", faults)
	}
}

func TestFromConfig(t *testing.T) {
	for _, c := range []struct {
		name  string
		value any
		want  callers.AnyAudience
		fault string
	}{
		{"AUT-05 true", true, callers.AnyAudience{All: true}, ""},
		{"AUT-05 false", false, callers.AnyAudience{}, ""},
		{"AUT-05 issuers", []any{"corp", "partner"}, callers.AnyAudience{Issuers: []string{"corp", "partner"}}, ""},
		{"AUT-05 no issuers", []any{}, callers.AnyAudience{}, ""},
		{"AUT-05 a text", "corp", callers.AnyAudience{All: true}, "expected true, false or a list of issuer names, got corp"},
		{"AUT-05 a number within", []any{"corp", 1}, callers.AnyAudience{All: true}, "got 1 as its entry 1"},
		{"AUT-05 nothing", nil, callers.AnyAudience{All: true}, "expected true, false or a list"},
	} {
		t.Run(c.name+" for any_audience", func(t *testing.T) {
			got := callers.AnyAudience{All: true} // what a fault must leave alone
			expectDecoded(t, c.value, got.FromConfig(c.value), c.fault)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("of %v (-want +got):\n%s", c.value, diff)
			}
		})
	}
	for _, c := range []struct {
		name  string
		value any
		want  callers.Claims
		fault string
	}{
		{"AUT-05 passthrough", "passthrough", callers.Claims{Mode: callers.Passthrough}, ""},
		{"AUT-05 minimal", "minimal", callers.Claims{Mode: callers.Minimal}, ""},
		{"AUT-05 names", []any{"email", "groups"}, callers.Claims{Mode: callers.List, Names: []string{"email", "groups"}}, ""},
		{"AUT-05 no names", []any{}, callers.Claims{Mode: callers.List}, ""},
		{"AUT-05 another word", "list", callers.Claims{}, `expected passthrough, minimal or a list of claim names, got "list"`},
		{"AUT-05 true", true, callers.Claims{}, "expected passthrough, minimal or a list"},
		{"AUT-05 an empty name", []any{""}, callers.Claims{}, `got "" as its entry 0`},
	} {
		t.Run(c.name+" for claims", func(t *testing.T) {
			var got callers.Claims
			expectDecoded(t, c.value, got.FromConfig(c.value), c.fault)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("of %v (-want +got):\n%s", c.value, diff)
			}
		})
	}
}

func expectDecoded(t *testing.T, value any, err error, fault string) {
	t.Helper()
	if (err == nil) != (fault == "") || err != nil && !strings.Contains(err.Error(), fault) {
		t.Errorf("FromConfig(%v) = %v, want %q", value, err, fault)
	}
}

// expectFaults wants a fault that begins with each of want, and no other.
func expectFaults(t *testing.T, want []string, check func(fault func(key, problem string))) {
	t.Helper()
	var got []string
	check(func(key, problem string) { got = append(got, key+": "+problem) })
	for _, w := range want {
		if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, w) }) {
			t.Errorf("no fault %q in %q", w, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d faults, want %d: %q", len(got), len(want), got)
	}
}
