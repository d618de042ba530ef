package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// What backends make of our assertions, by other people's libraries.

const (
	ourIss       = "https://introspect.example"
	pizzaBackend = "https://backend.example"
)

// signingWith is a configuration whose profiles sign with these rows of
// signing.keys.
func signingWith(iss, keys string) string {
	return strings.Replace(callerAndPolicy, "    any_audience: true\n", "    any_audience: true\n    profiles: [plain, wso2]\n", 1) + fmt.Sprintf(`
  - {name: pizzashack, any_audience: true, any_issuer: true, assertion: {profile: wso2}}
server: {public_url: %q}
profiles:
  - {name: plain, claims: [sub, scope], assertion: {audience: [%[2]q]}}
  - {name: wso2, shape: wso2, output: jwt, assertion: {audience: [%[2]q]}}
signing: {keys: [%[3]s]}
issuers:
`, ourIss, pizzaBackend, keys) + row("idp", iss)
}

// writeKey writes a private key into a file of its own and returns its name.
func writeKey(t *testing.T, key any, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	writeFile(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return path
}

func newRSA(t *testing.T) string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	return writeKey(t, key, err)
}

func newEC(t *testing.T) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return writeKey(t, key, err)
}

func newEd25519(t *testing.T) string {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return writeKey(t, key, err)
}

// assertion asks /transform for one of a token.
func (s *service) assertion(token, profile string) string {
	s.t.Helper()
	status, body := s.post("/transform", url.Values{"token": {token}, "profile": {profile}, "output": {"jwt"}})
	var answer struct {
		Assertion string
		ExpiresIn int `json:"expires_in"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || status != http.StatusOK || answer.Assertion == "" || answer.ExpiresIn < 290 {
		s.t.Fatalf("POST /transform: got %d %s, want an assertion", status, body)
	}
	return answer.Assertion
}

// assertionHeader asks /auth/pizzashack about a token.
func (s *service) assertionHeader(token string) string {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.URL+"/auth/pizzashack", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		s.t.Fatalf("/auth/pizzashack: got %d, want 200", answer.StatusCode)
	}
	return answer.Header.Get("X-JWT-Assertion")
}

func (s *service) jwks() string {
	s.t.Helper()
	answer, err := s.client.Get(s.URL + "/jwks.json")
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		s.t.Fatalf("/jwks.json: got %d, %v", answer.StatusCode, err)
	}
	return string(body)
}

// presented is what a backend is shown, and where it finds the keys: at a URL, or
// in a set that it has read before.
type presented struct {
	Alg       string `json:"alg"`
	Assertion string `json:"assertion"`
	Type      string `json:"typ"`
	URL       string `json:"url,omitempty"`
	Set       string `json:"set,omitempty"`
}

// seen is what it makes of that: the claims, and of each thing that is wrong the
// name of an error.
type seen struct {
	Claims   map[string]any `json:"claims"`
	Audience string         `json:"audience"`
	Issuer   string         `json:"issuer"`
	Expired  string         `json:"expired"`
	Payload  string         `json:"payload"`
	Cut      string         `json:"signature"`
	Alg      string         `json:"algorithm"`
}

const joseBackend = `
import { webcrypto } from 'node:crypto';
globalThis.crypto ??= webcrypto;
const { jwtVerify, createRemoteJWKSet, createLocalJWKSet } = await import('jose');
const { rows, issuer, audience } = JSON.parse(process.env.WANTED);
const fails = async (work) => { try { await work(); return 'accepted'; } catch (e) { return e.code ?? e.name; } };
const out = [];
for (const { alg, assertion, typ, url, set } of rows) {
  const keys = url ? createRemoteJWKSet(new URL(url)) : createLocalJWKSet(JSON.parse(set));
  const rules = { issuer, audience, typ, algorithms: [alg], requiredClaims: ['exp', 'iat', 'jti', 'sub'] };
  const [head, body, signature] = assertion.split('.');
  const payload = JSON.parse(Buffer.from(body, 'base64url'));
  const forged = Buffer.from(JSON.stringify({ ...payload, sub: 'admin' })).toString('base64url');
  out.push({
    claims: (await jwtVerify(assertion, keys, rules)).payload,
    audience: await fails(() => jwtVerify(assertion, keys, { ...rules, audience: 'https://another.example' })),
    issuer: await fails(() => jwtVerify(assertion, keys, { ...rules, issuer: 'https://another.example' })),
    expired: await fails(() => jwtVerify(assertion, keys, { ...rules, currentDate: new Date(1000 * (payload.exp + 1)) })),
    payload: await fails(() => jwtVerify([head, forged, signature].join('.'), keys, rules)),
    signature: await fails(() => jwtVerify([head, body, signature.slice(0, -4) + 'AAAA'].join('.'), keys, rules)),
    algorithm: await fails(() => jwtVerify(assertion, keys, { ...rules, algorithms: ['ES512'] })),
  });
}
console.log(JSON.stringify(out));
`

// Debian's PyJWT has no clock to set; its leeway may be negative.
const pyjwtBackend = `
import base64, json, os
import jwt
wanted = json.loads(os.environ["WANTED"])
def fails(work):
    try:
        work()
        return "accepted"
    except Exception as e:
        return type(e).__name__
out = []
for row in wanted["rows"]:
    token, alg = row["assertion"], row["alg"]
    if "url" in row:
        key = jwt.PyJWKClient(row["url"]).get_signing_key_from_jwt(token).key
    else:
        key = jwt.PyJWKSet.from_json(row["set"])[jwt.get_unverified_header(token)["kid"]].key
    assert jwt.get_unverified_header(token)["typ"] == row["typ"]
    rules = dict(algorithms=[alg], audience=wanted["audience"], issuer=wanted["issuer"], options={"require": ["exp", "iat", "jti", "sub"]})
    head, body, signature = token.split(".")
    claims = jwt.decode(token, key, **rules)
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "admin"}).encode()).rstrip(b"=").decode()
    out.append({
        "claims": claims,
        "audience": fails(lambda: jwt.decode(token, key, **{**rules, "audience": "https://another.example"})),
        "issuer": fails(lambda: jwt.decode(token, key, **{**rules, "issuer": "https://another.example"})),
        "expired": fails(lambda: jwt.decode(token, key, leeway=-301, **{**rules, "options": {"verify_iat": False}})),
        "payload": fails(lambda: jwt.decode(".".join([head, forged, signature]), key, **rules)),
        "signature": fails(lambda: jwt.decode(".".join([head, body, signature[:-4] + "AAAA"]), key, **rules)),
        "algorithm": fails(lambda: jwt.decode(token, key, **{**rules, "algorithms": ["ES512"]})),
    })
print(json.dumps(out))
`

// library is a way for a backend to verify an assertion.
type library struct {
	name    string
	command func(t *testing.T) *exec.Cmd
	script  string
	refuses seen // with these errors
}

var libraries = []library{
	{
		name: "jose", script: joseBackend,
		command: func(t *testing.T) *exec.Cmd {
			need(t, "node")
			if _, err := os.Stat("../../.ci/node_modules/jose"); err != nil {
				missing(t, "jose, a package of npm,")
			}
			command := exec.Command("node", "--input-type=module", "-")
			command.Dir = "../../.ci" // where its packages are found
			return command
		},
		refuses: seen{
			Audience: "ERR_JWT_CLAIM_VALIDATION_FAILED", Issuer: "ERR_JWT_CLAIM_VALIDATION_FAILED", Expired: "ERR_JWT_EXPIRED",
			Payload: "ERR_JWS_SIGNATURE_VERIFICATION_FAILED", Cut: "ERR_JWS_SIGNATURE_VERIFICATION_FAILED", Alg: "ERR_JOSE_ALG_NOT_ALLOWED",
		},
	},
	{
		name: "PyJWT", script: pyjwtBackend,
		command: func(t *testing.T) *exec.Cmd {
			// Debian's own, wherever another python is first on the PATH.
			for _, python := range []string{"/usr/bin/python3", "python3"} {
				if exec.Command(python, "-c", "import jwt, cryptography").Run() == nil {
					return exec.Command(python, "-")
				}
			}
			missing(t, "python3-jwt with python3-cryptography")
			return nil
		},
		refuses: seen{
			Audience: "InvalidAudienceError", Issuer: "InvalidIssuerError", Expired: "ExpiredSignatureError",
			Payload: "InvalidSignatureError", Cut: "InvalidSignatureError", Alg: "InvalidAlgorithmError",
		},
	},
}

// sees has a library look at assertions.
func (l library) sees(t *testing.T, rows []presented) []seen {
	t.Helper()
	wanted, err := json.Marshal(map[string]any{"rows": rows, "issuer": ourIss, "audience": pizzaBackend})
	if err != nil {
		t.Fatal(err)
	}
	command := l.command(t)
	command.Stdin = strings.NewReader(l.script)
	command.Env = append(os.Environ(), "WANTED="+string(wanted))
	var said bytes.Buffer
	command.Stderr = &said
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", l.name, err, &said)
	}
	var all []seen
	if err := json.Unmarshal(out, &all); err != nil || len(all) != len(rows) {
		t.Fatalf("%s: %v, got %s", l.name, err, out)
	}
	return all
}

func TestBackendsVerifyAssertions(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	token := issuer.Mint(map[string]any{"sub": "u-1", "scope": "menu:read"})
	rs, ec, ed := newRSA(t), newEC(t), newEd25519(t)
	var rows []presented
	for _, alg := range []string{"RS256", "PS256", "ES256", "EdDSA", "Ed25519"} {
		file := map[string]string{"RS256": rs, "PS256": rs, "ES256": ec}[alg]
		if file == "" {
			file = ed
		}
		s := start(t, signingWith(iss, fmt.Sprintf("{file: %s, algorithm: %s}", file, alg)))
		rows = append(rows,
			presented{Alg: alg, Assertion: s.assertion(token, "plain"), Type: "introspectd-assertion+jwt", URL: s.URL + "/jwks.json"},
			presented{Alg: alg, Assertion: s.assertionHeader(token), Type: "JWT", URL: s.URL + "/jwks.json"})
		if got := s.introspect(rows[len(rows)-1].Assertion); got["active"] != false || len(got) != 1 {
			t.Errorf("ASN-02 %s: an assertion as an access token: got %v, want active:false alone", alg, got)
		}
	}
	for _, l := range libraries {
		t.Run("ASN-01 MET-02 "+l.name, func(t *testing.T) {
			known := rows
			if l.name == "PyJWT" {
				known = rows[:8] // Debian's does not know the name Ed25519 yet: that is what EdDSA is for
			}
			for n, got := range l.sees(t, known) {
				name := known[n].Alg + " " + known[n].Type
				for claim, want := range map[string]any{"iss": ourIss, "aud": pizzaBackend, "sub": "u-1", "scope": "menu:read"} {
					if got.Claims[claim] != want {
						t.Errorf("%s: %s: got %v, want %v", name, claim, got.Claims[claim], want)
					}
				}
				got.Claims = nil
				if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", l.refuses) {
					t.Errorf("%s: got %+v\nwant %+v", name, got, l.refuses)
				}
			}
		})
	}
}

func TestASN05BackendsKnowAKeyBeforeItSigns(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	old, next := newEC(t), newRSA(t)
	keys := func(from time.Time) string {
		return fmt.Sprintf("{file: %s}, {file: %s, active_from: %q}", old, next, from.Format(time.RFC3339))
	}
	s := start(t, signingWith(iss, keys(time.Now().Add(time.Hour))))
	set := s.jwks() // what a backend has read before
	token := issuer.Mint(map[string]any{"sub": "u-1", "scope": "menu:read"})
	before := s.assertion(token, "wso2")
	s.hangup(signingWith(iss, keys(time.Now().Add(-time.Second))), reloaded)
	after := s.assertion(token, "wso2")
	if s.jwks() != set {
		t.Errorf("/jwks.json changed with the key that signs:\n%s\n%s", set, s.jwks())
	}
	rows := []presented{{Alg: "ES256", Assertion: before, Type: "JWT", Set: set}, {Alg: "RS256", Assertion: after, Type: "JWT", Set: set}}
	for _, l := range libraries {
		t.Run(l.name, func(t *testing.T) {
			for n, got := range l.sees(t, rows) {
				if got.Claims["sub"] != "u-1" {
					t.Errorf("%s: got %v", rows[n].Alg, got.Claims)
				}
			}
		})
	}
}

func TestSigningKeysAreReloaded(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	file := newEC(t)
	s := start(t, signingWith(iss, "{file: "+file+"}"))
	token := issuer.Mint(map[string]any{"sub": "u-1", "scope": "menu:read"})
	first, set := s.assertion(token, "plain"), s.jwks()

	t.Run("ASN-05 what is unchanged is reused", func(t *testing.T) {
		s.hangup(signingWith(iss, "{file: "+file+"}"), reloaded)
		if s.assertion(token, "plain") != first {
			t.Error("a reload that changed nothing: got a new assertion")
		}
	})
	t.Run("a file that holds no key keeps the one that is there", func(t *testing.T) {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, file, "nothing")
		s.hangup(signingWith(iss, "{file: "+file+"}"), refused)
		if s.jwks() != set || s.assertion(token, "plain") != first {
			t.Error("the old key does not go on")
		}
		writeFile(t, file, string(body))
	})
	t.Run("another key in the same file signs within moments", func(t *testing.T) {
		body, err := os.ReadFile(newRSA(t))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, file, string(body))
		s.eventually("the new key is published", func() bool { return s.jwks() != set })
		if s.assertion(token, "plain") == first {
			t.Error("got an assertion of the old key")
		}
		if got := s.wrote("the key that signed until now is not listed any more: backends that read /jwks.json again refuse what it signed", 1); len(got) != 1 {
			t.Errorf("got %d warnings of assertions that nobody can verify, want one", len(got))
		}
	})
	t.Run("MET-02 without keys there is no set", func(t *testing.T) {
		s.hangup(callerAndPolicy+fmt.Sprintf("server: {public_url: %q}\nissuers:\n", ourIss)+row("idp", iss), reloaded)
		if got := s.status(s.URL + "/jwks.json"); got != http.StatusNotFound {
			t.Errorf("got %d, want 404", got)
		}
	})
}

func TestAKeyOfAnIssuerIsNoneOfOurs(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	file := writeKey(t, key, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(t.TempDir(), "public.pem")
	writeFile(t, public, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	s := launch(t, fmt.Sprintf("server: {public_url: %q}\nsigning: {keys: [{file: %s}]}\nissuers: [{name: idp, issuer: 'https://idp.example', keys: {files: [%s]}}]\n", ourIss, file, public))
	if got := s.exit(); got != exitUsage || !strings.Contains(s.log.String(), "is a key of issuer idp as well") {
		t.Errorf("got status %d and %s, want %d and why", got, s.log, exitUsage)
	}
}

// Our public keys can be read by everyone, and so published by anyone.
func TestAKeyOfOursThatAnIssuerPublishesStopsNothing(t *testing.T) {
	good, goodISS := newIssuer(t, "ES256")
	other, _ := newIssuer(t, "ES256")
	var set atomic.Value
	set.Store(string(other.JWKS()))
	partner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, set.Load()) }))
	t.Cleanup(partner.Close)
	config := "state: {path: " + filepath.Join(t.TempDir(), "state") + "}\n" +
		strings.Replace(signingWith(goodISS, "{file: "+newEC(t)+"}"), "issuers:\n", "issuers:\n"+row("partner", partner.URL), 1)
	s := start(t, config)
	set.Store(s.jwks())
	s.hangup(config, reloaded)
	s.eventually("the partner's keys are saved", func() bool {
		return s.metric(`introspectd_jwks_state_total{issuer="partner",operation="save",result="done"}`) == "2"
	})

	s.hangup(config, reloaded)
	if got := s.wrote("an issuer publishes a key of ours as its own", 1); got[0]["issuer"] != "partner" {
		t.Errorf("got the warning %v, want it to name the issuer", got[0])
	}
	if got := s.introspect(good.Mint(nil)); got["active"] != true {
		t.Errorf("another issuer's token: got %v, want it active", got)
	}
	s.signal(syscall.SIGTERM)
	if got := s.exit(); got != exitOK {
		t.Fatalf("exit status: got %d, want 0", got)
	}
	start(t, config) // with the partner's keys out of the state
}

func TestAGeneratedKeySurvivesARestart(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	file := filepath.Join(t.TempDir(), "made.pem")
	config := strings.Replace(signingWith(iss, ""), "signing: {keys: []}", "signing: {generate: "+file+"}", 1)
	s := start(t, config)
	token := issuer.Mint(map[string]any{"sub": "u-1"})
	s.assertion(token, "plain")
	set := s.jwks()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: got %v, %v, want mode 0600", info, err)
	}
	s.kill()
	if again := start(t, config); again.jwks() != set {
		t.Error("another key after a restart")
	}
}
