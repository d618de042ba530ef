package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// example is one file of deploy/backends, or another client, ready to be run with
// a token as its argument.
type example struct {
	command []string
	dir     string
	// claims says that it asks /transform as well.
	claims bool
}

// run returns what an example prints; ok is false where it failed.
func (e example) run(t *testing.T, address, secret, token string) (out string, ok bool) {
	t.Helper()
	command := exec.CommandContext(t.Context(), e.command[0], append(e.command[1:], token)...)
	command.Dir = e.dir
	command.Env = append(os.Environ(), "INTROSPECTD="+address, "CLIENT_ID=app", "CLIENT_SECRET="+secret)
	var said bytes.Buffer
	command.Stderr = &said
	answer, err := command.Output()
	if err != nil {
		out = said.String()
	}
	return string(answer) + out, err == nil
}

// nodeExample is a copy of an .mjs beside the packages of .ci.
func nodeExample(t *testing.T, name string) example {
	t.Helper()
	packages, err := filepath.Abs("../../.ci/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(packages, strings.TrimSuffix(name, ".mjs"))); err != nil {
		missing(t, "the npm package "+strings.TrimSuffix(name, ".mjs"))
	}
	dir := t.TempDir()
	if err := os.Symlink(packages, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, name), deployed(t, "backends/"+name))
	return example{command: []string{need(t, "node"), name}, dir: dir}
}

// compiled runs a compiler in deploy/backends, and returns the example's command.
func compiled(t *testing.T, command []string, build ...string) example {
	t.Helper()
	run := exec.CommandContext(t.Context(), build[0], build[1:]...)
	run.Dir = "../../deploy/backends"
	if said, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, said)
	}
	return example{command: command, claims: true}
}

// TestBackendsInManyLanguages runs each example against introspectd, over
// plaintext on loopback, with a token that is good, one that is not, one that has
// expired, a wrong secret, and nobody there.
func TestBackendsInManyLanguages(t *testing.T) {
	issuer, iss := newIssuer(t)
	listen := freeAddress(t)
	address := "http://" + listen
	s := launch(t, oneCaller+"server: {public_url: \""+address+"\"}\nissuers:\n"+row("idp", iss), "--listen", listen)
	s.eventually("it is ready", func() bool { return s.status(s.Admin+"/readyz") == http.StatusOK })
	nobody := "http://" + freeAddress(t)
	good := issuer.Mint(map[string]any{"sub": "u-1"})
	refusals := map[string]string{
		"a bad token":      strings.Replace(good, ".", ".x", 1),
		"an expired token": issuer.Mint(map[string]any{"sub": "u-1", "exp": time.Now().Add(-time.Hour).Unix()}),
		"no token at all":  "x",
	}

	script := func(program, file string) func(*testing.T) example {
		return func(t *testing.T) example {
			return example{command: []string{need(t, program), file}, dir: "../../deploy/backends", claims: true}
		}
	}
	for name, prepare := range map[string]func(*testing.T) example{
		"curl": func(t *testing.T) example {
			need(t, "curl")
			return script("sh", "introspect.sh")(t)
		},
		"Go": func(t *testing.T) example {
			binary := filepath.Join(t.TempDir(), "introspect")
			return compiled(t, []string{binary}, need(t, "go"), "build", "-buildvcs=false", "-o", binary, "introspect.go")
		},
		"Python, Authlib": func(t *testing.T) example {
			if err := exec.Command("/usr/bin/python3", "-c", "import authlib, requests").Run(); err != nil {
				missing(t, "python3-authlib or python3-requests")
			}
			return example{command: []string{"/usr/bin/python3", "introspect.py"}, dir: "../../deploy/backends", claims: true}
		},
		"Node, openid-client": func(t *testing.T) example {
			e := nodeExample(t, "openid-client.mjs")
			e.claims = true
			return e
		},
		"Node, oauth4webapi": func(t *testing.T) example { return nodeExample(t, "oauth4webapi.mjs") },
		"Java": func(t *testing.T) example {
			dir := t.TempDir()
			return compiled(t, []string{need(t, "java"), "-cp", dir, "Introspect"}, need(t, "javac"), "-d", dir, "Introspect.java")
		},
		"PHP": func(t *testing.T) example {
			if err := exec.Command(need(t, "php"), "-r", "curl_init();").Run(); err != nil {
				missing(t, "php-curl")
			}
			return script("php", "introspect.php")(t)
		},
		"Ruby": script("ruby", "introspect.rb"),
		"C#": func(t *testing.T) example {
			binary := filepath.Join(t.TempDir(), "introspect.exe")
			return compiled(t, []string{need(t, "mono"), binary},
				need(t, "mcs"), "-r:System.Net.Http", "-r:System.Web.Extensions", "-out:"+binary, "Introspect.cs")
		},
		"zitadel's resource server": func(t *testing.T) example {
			return example{command: []string{clients.path(t)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := prepare(t)
			want := "active u-1\n"
			if e.claims {
				want += "claims u-1\n"
			}
			if got, ok := e.run(t, address, testSecret, good); !ok || got != want {
				t.Errorf("a good token: got %q, want %q", got, want)
			}
			for what, token := range refusals {
				if got, ok := e.run(t, address, testSecret, token); !ok || got != "refused\n" {
					t.Errorf("%s: got %q, want refused", what, got)
				}
			}
			// What is no answer ends it, and lets nobody in.
			if got, ok := e.run(t, address, "a-wrong-secret-of-22-chars", good); ok || strings.Contains(got, "active u-1") {
				t.Errorf("a wrong secret: got %q, want a failure", got)
			}
			if got, ok := e.run(t, nobody, testSecret, good); ok || strings.Contains(got, "active u-1") {
				t.Errorf("with nobody there: got %q, want a failure", got)
			}
		})
	}
}

// TestFrameworksExchangesReplayed sends what frameworks are documented to send,
// and holds the answer to what they are documented to read. None of them was run:
// neither Maven's nor NuGet's packages could be had.
func TestFrameworksExchangesReplayed(t *testing.T) {
	issuer, iss := newIssuer(t)
	s := start(t, callerAndPolicy+"issuers:\n"+row("idp", iss))
	token := issuer.Mint(map[string]any{"sub": "u-1", "scope": "read write", "aud": "https://api.example"})
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("app:"+testSecret))
	for _, tt := range []struct {
		name   string
		header http.Header
		form   url.Values
	}{
		{
			"Spring Security, opaquetoken",
			http.Header{"Authorization": {basic}, "Accept": {"application/json"}, "Content-Type": {"application/x-www-form-urlencoded;charset=UTF-8"}},
			url.Values{"token": {token}},
		},
		{
			"Quarkus OIDC",
			http.Header{"Authorization": {basic}, "Content-Type": {"application/x-www-form-urlencoded"}},
			url.Values{"token": {token}, "token_type_hint": {"access_token"}},
		},
		{
			"ASP.NET, OAuth2Introspection, credentials in the header",
			http.Header{"Authorization": {basic}, "Accept": {"application/json"}, "Content-Type": {"application/x-www-form-urlencoded"}},
			url.Values{"token": {token}, "token_type_hint": {"access_token"}},
		},
		{
			"ASP.NET, OAuth2Introspection, credentials in the body",
			http.Header{"Accept": {"application/json"}, "Content-Type": {"application/x-www-form-urlencoded"}},
			url.Values{"token": {token}, "token_type_hint": {"access_token"}, "client_id": {"app"}, "client_secret": {testSecret}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ask := func(token string) map[string]any {
				tt.form.Set("token", token)
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/introspect", strings.NewReader(tt.form.Encode()))
				if err != nil {
					t.Fatal(err)
				}
				r.Header = tt.header
				response, err := s.client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				if err != nil {
					t.Fatal(err)
				}
				// All of them take another status for their own failure, and Spring
				// another type.
				if got := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || !strings.HasPrefix(got, "application/json") {
					t.Fatalf("got %d %s %s, want 200 and JSON", response.StatusCode, got, body)
				}
				var answer map[string]any
				if err := json.Unmarshal(body, &answer); err != nil {
					t.Fatalf("%v in %s", err, body)
				}
				return answer
			}
			got := ask(token)
			// Spring: active a boolean, exp and iat numbers, iss a URL, scope a text
			// with spaces. Quarkus: sub or username for the principal.
			for claim, want := range map[string]any{"active": true, "sub": "u-1", "scope": "read write", "iss": iss, "aud": "https://api.example", "token_type": "Bearer"} {
				if got[claim] != want {
					t.Errorf("%s: got %v, want %v", claim, got[claim], want)
				}
			}
			for _, claim := range []string{"exp", "iat"} {
				if n, ok := got[claim].(float64); !ok || n != float64(int64(n)) {
					t.Errorf("%s: got %v, want whole seconds", claim, got[claim])
				}
			}
			if got := ask("nonsense"); len(got) != 1 || got["active"] != false {
				t.Errorf("a bad token: got %v, want active false alone", got)
			}
		})
	}
}
