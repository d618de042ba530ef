package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"introspectd/internal/config"
	"introspectd/internal/introspect"
	"introspectd/internal/memstore"
	"introspectd/internal/verify"
)

// wso2Material is the folder of WSO2's shapes: stores, tokens, TOML.
var wso2Material, _ = filepath.Abs("../../internal/wso2/testdata")

// wso2Stores are one trust store in the three ways that it is met.
var wso2Stores = []string{"client-truststore.jks", "client-truststore.p12", "client-truststore-pkcs12-named.jks"}

// wso2Case is a token with its verdict, as the material has them.
type wso2Case struct {
	File   string
	Config string
	Active bool
	Why    string
	Expect map[string]any
}

func wso2Cases(t *testing.T) (all []wso2Case) {
	t.Helper()
	if err := json.Unmarshal([]byte(material(t, "tokens/cases.json")), &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 55 {
		t.Fatalf("got %d tokens, want 55", len(all))
	}
	return all
}

// material is a file of it.
func material(t *testing.T, name string) string {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(wso2Material, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// migrated is what `wso2 import` made.
type migrated struct {
	file   string // the configuration
	config string
	secret string // of the caller wso2
	notes  string
}

// migrate runs `wso2 import`, and `check` over what it made.
func migrate(t *testing.T, toml, store, bindings string, env ...string) migrated {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	writeFile(t, in("deployment.toml"), toml)
	writeFile(t, in("password"), "wso2carbon\n")
	writeFile(t, in("bindings.json"), bindings)
	command := exec.Command("introspectd", "wso2", "import", "--toml", in("deployment.toml"), "--truststore", store,
		"--password-file", in("password"), "--bindings", in("bindings.json"), "-o", in("made.yaml"))
	command.Env = append(os.Environ(), env...)
	var said bytes.Buffer
	command.Stderr = &said
	if out, err := command.Output(); err != nil || len(out) > 0 {
		t.Fatalf("wso2 import: %v\n%s%s", err, &said, out)
	}
	check := exec.Command("introspectd", "check", "--config", in("made.yaml"))
	var warnings bytes.Buffer
	check.Stderr = &warnings
	if out, err := check.Output(); err != nil {
		t.Fatalf("check: %v\n%s%s", err, &warnings, out)
	}
	for line := range strings.Lines(warnings.String()) {
		if !strings.Contains(strings.ToLower(line), `the certificate of kid "expiredcertkid" ended on 2020-01-01`) &&
			!strings.Contains(line, "is refused: its private half is public") { // which is so of WSO2's own store
			t.Errorf("check: %s", line)
		}
	}
	read := func(name string) string {
		body, err := os.ReadFile(in(name))
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	return migrated{in("made.yaml"), read("made.yaml"), strings.TrimSpace(read("made-wso2.secret")), said.String()}
}

// wso2Keys serves the material's key sets, and returns what makes the TOML's
// address of them the real one.
func wso2Keys(t *testing.T) *strings.Replacer {
	t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(wso2Material, "jwks"))))
	t.Cleanup(server.Close)
	return strings.NewReplacer("127.0.0.1:18099", strings.TrimPrefix(server.URL, "http://"))
}

// askAs asks POST path about a token as the caller wso2.
func (s *service) askAs(secret, path, token string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodPost, s.URL+path, strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("wso2", secret)
	return s.answer(r)
}

// gate asks /auth about a token.
func (s *service) gate(token string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.URL+"/auth", http.NoBody)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return s.answer(r)
}

func (s *service) answer(r *http.Request) (int, string) {
	s.t.Helper()
	answer, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// hold compares the answer to a token with its case.
func (c wso2Case) hold(t *testing.T, body string) {
	t.Helper()
	if !c.Active {
		if body != introspect.Inactive {
			t.Errorf("got %s, want %s: %s", body, introspect.Inactive, c.Why)
		}
		return
	}
	var answer map[string]any
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer["active"] != true {
		t.Errorf("got %s, want it active: %s", body, c.Why)
		return
	}
	for name, want := range c.Expect {
		switch name {
		case "claims":
			for claim, want := range want.(map[string]any) {
				if diff := cmp.Diff(want, answer[claim]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", claim, diff)
				}
			}
		case "absent":
			for _, claim := range want.([]any) {
				if value, there := answer[claim.(string)]; there {
					t.Errorf("%s: got %v, want none", claim, value)
				}
			}
		default:
			if value, there := answer[name]; there != (want != nil) || !cmp.Equal(want, value) {
				t.Errorf("%s: got %v, want %v", name, value, want)
			}
		}
	}
}

// TestAllTokensOfWSO2 asks a service about each of the 55 tokens, under what
// `wso2 import` makes of the TOML that the token belongs to, with each of the
// trust stores; and about some of them under the other TOML shapes.
func TestAllTokensOfWSO2(t *testing.T) {
	cases := wso2Cases(t)
	address := wso2Keys(t)
	byFile := map[string]wso2Case{}
	worlds := map[string][]wso2Case{}
	for _, c := range cases {
		byFile[c.File[:2]] = c
		worlds[c.Config] = append(worlds[c.Config], c)
	}
	// The other shapes of TOML have no tokens of their own.
	borrowed := func(config string, active bool, files ...string) {
		for _, file := range files {
			c := byFile[file]
			c.Active, c.Expect, c.Why = active, nil, "under "+config
			worlds[config] = append(worlds[config], c)
		}
	}
	borrowed("04-odd-shapes.toml", false, "01", "28", "34") // of the three whose names can't be told
	borrowed("05-seed-acceptance.toml", true, "01", "02", "27")
	borrowed("05-seed-acceptance.toml", false, "03", "04", "09", "13", "23", "24", "25", "26", "28")
	borrowed("06-choreo-connect.toml", true, "01", "02", "06", "28")
	borrowed("06-choreo-connect.toml", false, "03", "09", "13", "21", "24", "25", "29", "30", "31", "32", "33")
	if len(worlds) != 6 {
		t.Fatalf("got %d TOML shapes, want 6", len(worlds))
	}
	for _, store := range wso2Stores {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			for config, cases := range worlds {
				t.Run(config, func(t *testing.T) {
					// The certificate of 06 lies beside the store.
					made := migrate(t, address.Replace(material(t, "toml/"+config)), filepath.Join(wso2Material, store), material(t, "bindings.json"), "IDP_JWKS_URL="+address.Replace("http://127.0.0.1:18099/idp1.json"))
					s := start(t, made.config)
					forged, real := material(t, "tokens/"+byFile["49"].File), material(t, "tokens/"+byFile["01"].File)
					for _, c := range cases {
						t.Run(c.File, func(t *testing.T) {
							token := material(t, "tokens/"+c.File)
							for range 2 {
								if config == "01-truststore-only.toml" {
									// The same jti, forged, before, between and after.
									if _, body := s.askAs(made.secret, "/introspect", forged); body != introspect.Inactive {
										t.Errorf("the forged one: got %s", body)
									}
								}
								status, body := s.askAs(made.secret, "/introspect", token)
								if status != http.StatusOK {
									t.Fatalf("got %d %s", status, body)
								}
								c.hold(t, body)
								if _, alias := s.askAs(made.secret, "/oauth2/introspect", token); alias != body {
									t.Errorf("/oauth2/introspect: got %s, want %s", alias, body)
								}
								want := map[bool]string{true: "200 ", false: "401 " + `{"code":"900901","message":"Invalid Credentials"`}[c.Active]
								if status, body := s.gate(token); !strings.HasPrefix(fmt.Sprint(status, " ", body), want) {
									t.Errorf("/auth: got %d %s, want %s", status, body, want)
								}
							}
						})
					}
					if config == "01-truststore-only.toml" {
						if _, body := s.askAs(made.secret, "/introspect", real); !strings.HasPrefix(body, `{"active":true,`) {
							t.Errorf("after its forgery: got %s", body)
						}
					}
				})
			}
		})
	}
}

// TestRevocationIsOfAnIssuerInAMigratedWorld revokes a token of WSO2's, whose
// jti another issuer's token has as well.
func TestRevocationIsOfAnIssuerInAMigratedWorld(t *testing.T) {
	made := migrate(t, wso2Keys(t).Replace(material(t, "toml/02-jwks.toml")), filepath.Join(wso2Material, wso2Stores[0]), material(t, "bindings.json"))
	text := strings.Replace(made.config, "may: [introspect, transform]", "may: [introspect, transform, revoke]", 1)
	s := start(t, text+"state: {path: "+filepath.Join(t.TempDir(), "state")+"}\n")
	one, other := material(t, "tokens/01-seed-shape-kid-alias.jwt"), material(t, "tokens/50-same-jti-other-issuer.jwt")
	for _, token := range []string{one, other} {
		if _, body := s.askAs(made.secret, "/introspect", token); !strings.HasPrefix(body, `{"active":true,`) {
			t.Fatalf("got %s, want it active", body)
		}
	}
	if status, body := s.askAs(made.secret, "/revoke", one); status != http.StatusOK {
		t.Fatalf("revoking: got %d %s", status, body)
	}
	if _, body := s.askAs(made.secret, "/introspect", one); body != introspect.Inactive {
		t.Errorf("revoked: got %s", body)
	}
	if _, body := s.askAs(made.secret, "/introspect", other); !strings.HasPrefix(body, `{"active":true,`) {
		t.Errorf("the other issuer's token of this jti: got %s, want it active", body)
	}
}

// wso2Public is the folder of WSO2's own token and certificates, which is no
// part of this project.
func wso2Public(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../../shared/wso2/public")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED, NOT PASSED: %v", err)
	}
	return dir
}

// TestTheSeedsOwnTokens judges the token of WSO2's documentation and the one
// before it at their own time. Both were signed with keys that are public.
func TestTheSeedsOwnTokens(t *testing.T) {
	public := wso2Public(t)
	token := func(name string) string {
		body, err := os.ReadFile(filepath.Join(public, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(body))
	}
	seed, older := token("seed-token.jwt"), token("docs30-token.jwt")
	kid := kidOf(t, seed)
	made := migrate(t, material(t, "toml/05-seed-acceptance.toml"), filepath.Join(public, "client-truststore.jks"),
		`{"https://localhost:9444/oauth2/token":["`+kid+`"],"https://localhost:9443/oauth2/token":["gateway_certificate_alias"]}`)
	for _, note := range []string{
		`deployment.toml:8: decide: the key of the certificate under "` + kid + `" of the issuer "https://localhost:9444/oauth2/token" came with WSO2's products`,
		`deployment.toml:11: decide: the key of the certificate under "gateway_certificate_alias" of the issuer "https://localhost:9443/oauth2/token" came with WSO2's products`,
	} {
		if !strings.Contains(made.notes, note) {
			t.Errorf("got the notes\n%swant one with %s", made.notes, note)
		}
	}

	t.Run("refused by default, as anyone can sign with these keys", func(t *testing.T) {
		if got := explained(t, made.file, "2020-10-13T09:30:00Z", seed); got.Active || got.Reason != "known_public_key" {
			t.Errorf("got active %v, reason %s, want known_public_key", got.Active, got.Reason)
		}
		if got := explained(t, made.file, "2019-10-24T10:30:00Z", older); got.Active || got.Reason != "known_public_key" {
			t.Errorf("the older one: got active %v, reason %s, want known_public_key", got.Active, got.Reason)
		}
		s := launch(t, made.config)
		s.listens() // and is never ready, as it has no key of use
		if _, body := s.askAs(made.secret, "/introspect", seed); body != introspect.Inactive {
			t.Errorf("the service: got %s", body)
		}
		s.eventually("the reason is logged", func() bool {
			lines := s.lines("request")
			return len(lines) == 1 && lines[0]["reason"] == "known_public_key"
		})
	})

	allowed := strings.ReplaceAll(made.config, "    keys:\n", "    leeway: 0s\n    keys:\n      allow_known_public_keys: true\n")
	file := filepath.Join(t.TempDir(), "allowed.yaml")
	writeFile(t, file, allowed)
	rows := []struct {
		name, token string
		at          time.Time
		reason      string // empty for active
	}{
		{"the seed's, as it is issued", seed, time.Unix(1602581290, 0), ""},
		{"the seed's, in between", seed, time.Date(2020, 10, 13, 9, 30, 0, 0, time.UTC), ""},
		{"the seed's, in its last second", seed, time.Unix(1602584889, 0), ""},
		{"the seed's, the day before", seed, time.Date(2020, 10, 12, 9, 56, 40, 0, time.UTC), "not_yet_valid"},
		{"the seed's, as it ends", seed, time.Unix(1602584890, 0), "expired"},
		{"the seed's, today, its certificate expired as well", seed, time.Now(), "expired"},
		{"the older, in its first second", older, time.Unix(1571911841, 0), ""},
		{"the older, in its last second", older, time.Unix(1571915440, 0), ""},
		{"the older, today", older, time.Now(), "expired"},
		{"the seed's, altered", altered(seed), time.Unix(1602581290, 0), "bad_signature"},
	}
	for _, row := range rows {
		t.Run("explain --at, "+row.name, func(t *testing.T) {
			got := explained(t, file, row.at.UTC().Format(time.RFC3339), row.token)
			if got.Active != (row.reason == "") || got.Reason != row.reason {
				t.Errorf("got active %v, reason %q, want the reason %q", got.Active, got.Reason, row.reason)
			}
		})
	}
	t.Run("explain, the seed's, today, the dates of certificates ignored", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "ignoring.yaml")
		writeFile(t, file, strings.ReplaceAll(allowed, "certificate_dates: enforce", "certificate_dates: ignore"))
		if got := explained(t, file, time.Now().UTC().Format(time.RFC3339), seed); got.Active || got.Reason != "expired" {
			t.Errorf("got active %v, reason %q, want expired", got.Active, got.Reason)
		}
	})
	t.Run("the seed's answer", func(t *testing.T) {
		got := explained(t, file, "2020-10-13T09:30:00Z", seed).Answer
		want := map[string]any{
			"active": true, "sub": "admin@carbon.super", "client_id": "FxJodiaOM5DrW9X1bP4zsA86M2Aa", "aud": "FxJodiaOM5DrW9X1bP4zsA86M2Aa", "azp": "FxJodiaOM5DrW9X1bP4zsA86M2Aa",
			"scope": "am_application_scope default", "iss": "https://localhost:9444/oauth2/token", "aut": "APPLICATION", "jti": "e4a386ed-3b98-4973-83e0-b956a466f828",
			"token_type": "Bearer", "iat": 1602581290.0, "nbf": 1602581290.0, "exp": 1602584890.0,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})

	t.Run("through the package with its clock", func(t *testing.T) {
		cfg, err := config.Load(file, config.Options{})
		if err != nil {
			t.Fatal(err)
		}
		keys, errs, err := fetchAll(t.Context(), terminal{err: io.Discard}, cfg)
		if err = errors.Join(append(errs, err)...); err != nil {
			t.Fatal(err)
		}
		var issuers []introspect.Issuer
		for n, row := range cfg.Issuers {
			issuers = append(issuers, introspect.Issuer{Config: row, Verifier: verify.NewIssuer(row.Config, keys[n])})
		}
		var now time.Time
		in, err := introspect.New(issuers, introspect.Options{Cache: cfg.Cache, Store: memstore.New(1 << 20), Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		// In this order a verdict that was remembered would show.
		for _, row := range rows {
			now = row.at
			answer, err := in.Introspect(t.Context(), []byte(row.token), nil)
			if got := answer.Reason().String(); err != nil || got != row.reason {
				t.Errorf("%s: got the reason %q and %v, want %q", row.name, got, err, row.reason)
			}
		}
	})
}

// altered is a token with another signature.
func altered(token string) string {
	end := strings.LastIndexByte(token, '.') + 1
	replacement := "A"
	if token[end] == 'A' {
		replacement = "B"
	}
	return token[:end] + replacement + token[end+1:]
}

// kidOf is the kid of a token.
func kidOf(t *testing.T, token string) string {
	t.Helper()
	head, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	var header struct{ Kid string }
	if err := json.Unmarshal(text, &header); err != nil {
		t.Fatal(err)
	}
	return header.Kid
}

// explanation is what `explain --json` prints.
type explanation struct {
	Active bool
	Reason string
	Answer map[string]any
}

// explained runs `explain --at`.
func explained(t *testing.T, config, at, token string) (x explanation) {
	t.Helper()
	command := exec.Command("introspectd", "explain", "--config", config, "--at", at, "--json", "-")
	command.Stdin = strings.NewReader(token + "\n")
	out, err := command.Output()
	if err := json.Unmarshal(out, &x); err != nil {
		t.Fatalf("explain: %v in %s", err, out)
	}
	var exit *exec.ExitError
	if status := errors.As(err, &exit) && exit.ExitCode() == exitInactive; status == x.Active {
		t.Errorf("explain: got %v with active %v", err, x.Active)
	}
	return x
}
