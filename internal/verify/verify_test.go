package verify_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
	"weak"

	"go.opentelemetry.io/otel/metric/noop"

	"introspectd/internal/claims"
	"introspectd/internal/devissuer"
	"introspectd/internal/jwks"
	"introspectd/internal/verify"
)

// The clock of these tests, and the issuer that most tokens come from.
var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

const (
	issA = "https://a.example"
	issB = "https://b.example"
)

// world is two issuers with keys of all kinds, made once.
type world struct {
	a, b     *devissuer.Issuer
	verifier *verify.Verifier
	reading  verify.Reading // of one token after another
}

var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func newWorld(t testing.TB, change func(*verify.Config)) *world {
	t.Helper()
	w := &world{a: sharedA(), b: sharedB()}
	configA := config("a", issA, keyFile(t, w.a.JWKS()))
	if change != nil {
		change(&configA)
	}
	var err error
	w.verifier, err = verify.New(turns(t), issuer(t, configA), issuer(t, config("b", issB, keyFile(t, w.b.JWKS()))))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// RSA keys take a while to make.
var cachedA, cachedB atomic.Pointer[devissuer.Issuer]

func sharedA() *devissuer.Issuer { return once(&cachedA, issA, algorithms...) }
func sharedB() *devissuer.Issuer { return once(&cachedB, issB, "RS256", "ES256") }

func once(p *atomic.Pointer[devissuer.Issuer], iss string, algs ...string) *devissuer.Issuer {
	if p.Load() == nil {
		p.CompareAndSwap(nil, devissuer.New(iss, algs...))
	}
	return p.Load()
}

func config(name, iss string, files ...string) verify.Config {
	c := verify.Config{
		Name: name, Issuer: iss, TokenTypes: verify.Compat,
		Require: []string{"sub", "iat", "exp", "iss"}, Leeway: 30 * time.Second,
	}
	for _, f := range files {
		c.Keys.Files = append(c.Keys.Files, jwks.File{Path: f})
	}
	return c
}

func issuer(t testing.TB, c verify.Config) *verify.Issuer {
	t.Helper()
	if c.Keys.Refresh == 0 {
		c.Keys.Refresh, c.Keys.MaxStale = 5*time.Minute, 24*time.Hour
	}
	keys, err := jwks.New(c.Keys, jwks.Options{Name: c.Name, Issuer: c.Issuer, Log: slog.New(slog.DiscardHandler), Meter: noop.Meter{}})
	if err != nil {
		t.Fatal(err)
	}
	return verify.NewIssuer(c, keys)
}

func keyFile(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.jwks.json")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// payload is a good token's claims with members changed: a text of JSON
// replaces or adds, an empty one removes.
func payload(changes ...string) string {
	order := []string{"iss", "sub", "aud", "iat", "nbf", "exp", "jti"}
	members := map[string]string{
		"iss": `"` + issA + `"`, "sub": `"alice"`, "aud": `"api"`, "jti": `"j1"`,
		"iat": fmt.Sprint(now.Unix()), "nbf": fmt.Sprint(now.Unix()), "exp": fmt.Sprint(now.Unix() + 3600),
	}
	for n := 0; n < len(changes); n += 2 {
		if _, known := members[changes[n]]; !known {
			order = append(order, changes[n])
		}
		members[changes[n]] = changes[n+1]
	}
	var parts []string
	for _, name := range order {
		if members[name] != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", name, members[name]))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func at(offset time.Duration) string { return fmt.Sprint(now.Add(offset).Unix()) }

func (w *world) header(alg string, more ...string) string {
	return header(alg, w.a.Key(alg).Kid, more...)
}

func header(alg, kid string, more ...string) string {
	h := fmt.Sprintf(`{"alg":%q,"kid":%q`, alg, kid)
	for n := 0; n < len(more); n += 2 {
		h += fmt.Sprintf(",%q:%s", more[n], more[n+1])
	}
	return h + "}"
}

func (w *world) verdict(t *testing.T, token string) verify.Verdict {
	t.Helper()
	v, err := w.verifier.Verify(context.Background(), token, now)
	if err != nil {
		t.Fatalf("could not tell: %v", err)
	}
	// Whoever reads a token first is told of all that needs no key. The spelling
	// of a signature is looked at last.
	w.verifier.Read(token, &w.reading)
	refused, early := w.reading.Refused(), v.Step < verify.KeyFound
	again, err := w.reading.Verify(context.Background(), now)
	if refused && again.Step == verify.KeyFound {
		// What follows the iss of a token by no key is not read, and may be wrong as well.
		if err != nil || again.Reason != verify.UnknownKey || v.Active || v.Step < verify.Payload || v.Step > verify.KeyFound || v.Step == verify.KeyFound && v.Reason != verify.UnknownKey {
			t.Errorf("read as far as its issuer: got %+v, %v, where a whole one is %+v, for %.200s", again, err, v, token)
		}
		return v
	}
	if refused && !early || early && !refused && v.Step != verify.Spelling {
		t.Errorf("refused without a key: %t, with one at step %d, for %.200s", refused, v.Step, token)
	}
	// Nor is there anything of what was read before it.
	if err != nil || !reflect.DeepEqual(again, v) {
		t.Errorf("read where others were read: got %+v, %v, want %+v, for %.200s", again, err, v, token)
	}
	return v
}

// refused wants one reason and nothing of the claims.
func (w *world) refused(t *testing.T, name, token string, want verify.Reason) {
	t.Helper()
	v := w.verdict(t, token)
	if v.Active || v.Reason != want || v.Claims != nil {
		t.Errorf("%s: got active %t, reason %q (%s), want %q, for %.200s", name, v.Active, v.Reason, v.Detail, want, token)
	}
}

func (w *world) active(t *testing.T, name, token string) {
	t.Helper()
	if v := w.verdict(t, token); !v.Active || v.Reason != verify.NoReason || v.Claims == nil {
		t.Errorf("%s: got %q (%s), want active, for %.200s", name, v.Reason, v.Detail, token)
	}
}

func TestEveryAlgorithmVerifies(t *testing.T) {
	w := newWorld(t, nil)
	for _, alg := range algorithms {
		w.active(t, alg, w.a.Key(alg).Sign(w.header(alg), payload()))
	}
	ed := w.a.Key("EdDSA")
	w.active(t, "RFC 9864 Ed25519", ed.Sign(header("Ed25519", ed.Kid), payload()))
}

func TestSpelling(t *testing.T) {
	w := newWorld(t, nil)
	good := w.a.Key("RS256").Sign(w.header("RS256"), payload())
	w.active(t, "control", good)
	parts := strings.Split(good, ".")
	head, body, sig := parts[0], parts[1], parts[2]
	for name, token := range map[string]string{
		"JWT-01 empty":                                "",
		"JWT-01 opaque":                               "0af7651916cd43dd8448eb211c80319c",
		"JWT-01 two segments":                         head + "." + body,
		"JWT-01 JWT-04 five segments":                 good + ".e30.e30",
		"JWT-01 four segments":                        good + ".",
		"JWT-01 empty header":                         "." + body + "." + sig,
		"JWT-01 empty payload":                        head + ".." + sig,
		"JWT-01 empty signature":                      head + "." + body + ".",
		"JWT-01 only dots":                            "..",
		"JWT-01 row 17 T5 newline behind":             good + "\n",
		"JWT-01 row 17 T5 newline inside signature":   head + "." + body + "." + sig[:20] + "\n" + sig[20:],
		"JWT-01 row 17 carriage return in the header": head[:4] + "\r" + head[4:] + "." + body + "." + sig,
		"JWT-01 row 17 100,000 line feeds":            good + strings.Repeat("\n", 100_000),
		"JWT-01 leading space":                        " " + good,
		"JWT-01 padding":                              good + "=",
		"JWT-01 plain base64 alphabet":                head + "." + body + "." + strings.NewReplacer("-", "+", "_", "/").Replace(sig) + "+",
		"JWT-01 a byte beyond ASCII":                  good + "é",
		"JWT-01 NUL":                                  good + "\x00",
		"JWT-18 row 21 1 MiB":                         head + "." + body + "." + strings.Repeat("A", 1<<20),
		"R1 one byte over the limit":                  head + "." + body + "." + strings.Repeat("A", verify.MaxToken),
		"JWT-04 a JWE of five parts":                  "eyJhbGciOiJSU0EtT0FFUCJ9.AAAA.AAAA.AAAA.AAAA",
	} {
		w.refused(t, name, token, verify.Malformed)
	}
}

// A signature's last character carries bits that nobody signed.
func TestOneTokenHasOneSpelling(t *testing.T) {
	w := newWorld(t, nil)
	ed := w.a.Key("EdDSA")
	good := ed.Sign(header("EdDSA", ed.Kid), payload())
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	accepted := 0
	for _, c := range alphabet {
		if w.verdict(t, good[:len(good)-1]+string(c)).Active {
			accepted++
		}
	}
	if accepted != 1 {
		t.Errorf("JWT-01 row 18: got %d accepted spellings of the last character, want 1", accepted)
	}
}

// A payload is read as far as an iss that is nobody's, and strictly if it may be ours.
func TestAStrangersTokenIsReadAsFarAsItsIssuer(t *testing.T) {
	w := newWorld(t, nil)
	good := payload()[1:] // less its bracket
	for _, row := range []struct {
		name, alg, payload string
		want               verify.Reason
		step               verify.Step
		iss                string
	}{
		{"JWT-07 no JSON behind an unknown iss", "ES256", `{"iss":"https://c.example",what`, verify.UnknownIssuer, verify.IssuerKnown, "https://c.example"},
		{"JWT-07 no JSON before it", "ES256", `{what,"iss":"https://c.example"}`, verify.Malformed, verify.Payload, ""},
		{"JWT-07 an unknown iss, spelled otherwise, at the end", "ES256", `{"sub":"alice","\u0069ss":"https:\/\/c.example"}`, verify.UnknownIssuer, verify.IssuerKnown, "https://c.example"},
		{"JWT-07 an unknown iss, then ours", "ES256", `{"iss":"https://c.example",` + good, verify.UnknownIssuer, verify.IssuerKnown, "https://c.example"},
		{"JWT-02 row 15 ours, then an unknown one", "ES256", `{"iss":"` + issA + `","iss":"https://c.example"}`, verify.Malformed, verify.Payload, ""},
		{"JWT-02 ours, then no JSON", "ES256", `{"iss":"` + issA + `",what`, verify.Malformed, verify.Payload, ""},
		{"JWT-02 ours, then something behind", "ES256", `{"iss":"` + issA + `"}{}`, verify.Malformed, verify.Payload, ""},
		{"JWT-03 alg none, ours, then no JSON", "none", `{"iss":"` + issA + `",what`, verify.AlgorithmNotAllowed, verify.Algorithm, issA},
		{"JWT-03 alg none, nobody's", "none", `{"sub":"alice"}`, verify.MissingClaim, verify.Payload, ""},
		{"JWT-07 no text, then ours", "ES256", `{"iss":1,` + good, verify.Malformed, verify.Payload, ""},
		{"JWT-07 no text", "ES256", `{"iss":1}`, verify.MissingClaim, verify.Payload, ""},
		{"JWT-07 nothing", "ES256", `{"iss":""}`, verify.MissingClaim, verify.Payload, ""},
	} {
		v := w.verdict(t, w.a.Key("ES256").Sign(header(row.alg, w.a.Key("ES256").Kid), row.payload))
		if v.Active || v.Reason != row.want || v.Step != row.step || v.ClaimedIssuer != row.iss || (v.Issuer != nil) != (row.iss == issA) {
			t.Errorf("%s: got %q at step %d of %q, want %q at %d of %q", row.name, v.Reason, v.Step, v.ClaimedIssuer, row.want, row.step, row.iss)
		}
	}
}

// A token by a key that nobody has is not read behind its iss, and one that may be
// by a key of ours is.
func TestATokenByNoKeyIsReadAsFarAsItsIssuer(t *testing.T) {
	w := newWorld(t, nil)
	key, stranger := w.a.Key("ES256"), devissuer.NewKey("ES256")
	past := payload("exp", "1", "iat", "1")
	for _, row := range []struct {
		name, kid, payload string
		read, whole        verify.Reason
	}{
		{"JWT-07 by nobody's key", stranger.Kid, payload(), verify.UnknownKey, verify.UnknownKey},
		{"JWT-20 and expired", stranger.Kid, past, verify.UnknownKey, verify.UnknownKey},
		{"JWT-02 and no JSON behind iss", stranger.Kid, `{"iss":"` + issA + `",what`, verify.UnknownKey, verify.Malformed},
		{"JWT-02 no JSON before iss", stranger.Kid, `{what,"iss":"` + issA + `"}`, verify.Malformed, verify.Malformed},
		{"JWT-02 without exp", stranger.Kid, `{"iss":"` + issA + `"}`, verify.UnknownKey, verify.MissingClaim},
		{"JWT-02 without iss", stranger.Kid, `{"sub":"alice"}`, verify.MissingClaim, verify.MissingClaim},
		{"JWT-02 ours without exp", key.Kid, `{"iss":"` + issA + `"}`, verify.MissingClaim, verify.MissingClaim},
		{"JWT-02 ours, no JSON behind iss", key.Kid, `{"iss":"` + issA + `",what`, verify.Malformed, verify.Malformed},
		{"JWT-20 ours, expired", key.Kid, past, verify.NoReason, verify.Expired},
		{"JWT-04 another issuer's kid", w.b.Key("ES256").Kid, payload(), verify.UnknownKey, verify.UnknownKey},
	} {
		token := key.Sign(header("ES256", row.kid), row.payload)
		w.refused(t, row.name, token, row.whole)
		w.verifier.Read(token, &w.reading)
		if refused := w.reading.Refused(); refused != (row.read != verify.NoReason) {
			t.Errorf("%s: refused as it is read: got %t", row.name, refused)
		} else if v, err := w.reading.Verify(t.Context(), now); refused && (err != nil || v.Reason != row.read) {
			t.Errorf("%s: as it is read: got %q, %v, want %q", row.name, v.Reason, err, row.read)
		}
	}
}

// Each segment alone in a second spelling, where others were read before.
func TestWhichSegmentIsNotCanonical(t *testing.T) {
	w := newWorld(t, nil)
	key := w.a.Key("ES256")
	for n, want := range []verify.Step{verify.Header, verify.Payload, verify.Spelling} {
		tried := 0
		for pad := range 3 { // until the segment has spare bits
			x := strconv.Quote(strings.Repeat("a", pad))
			good := key.Sign(w.header("ES256", "x", x), payload("x", x))
			w.active(t, "JWT-01 the first spelling", good)
			parts := strings.Split(good, ".")
			if len(parts[n])%4 == 0 {
				continue
			}
			tried++
			last := len(parts[n]) - 1
			parts[n] = parts[n][:last] + string(parts[n][last]+1) // in the spare bits: A becomes B, and so on
			if v := w.verdict(t, strings.Join(parts, ".")); v.Reason != verify.Malformed || v.Step != want {
				t.Errorf("JWT-01 segment %d: got %q at step %d, want malformed at %d", n, v.Reason, v.Step, want)
			}
		}
		if tried == 0 {
			t.Errorf("segment %d has no spare bits", n)
		}
	}
}

// Headers are known by their whole text, not by the place where they are kept.
func TestAKnownHeaderIsNoOther(t *testing.T) {
	w := newWorld(t, nil)
	key := w.a.Key("ES256")
	w.active(t, "the one that is known", key.Sign(header("ES256", key.Kid, "typ", `"JWT"`, "n", "1000"), payload()))
	for n := range 1500 { // more than there are places
		forged := base64.RawURLEncoding.EncodeToString([]byte(header("ES256", key.Kid, "typ", `"xyz"`, "n", fmt.Sprint(1000+n)))) +
			"." + base64.RawURLEncoding.EncodeToString([]byte(payload())) + ".AAAA"
		if v := w.verdict(t, forged); v.Reason != verify.WrongType || v.Typ != "xyz" {
			t.Fatalf("JWT-07 header %d: got %q, typ %q, want wrong_type by xyz", n, v.Reason, v.Typ)
		}
	}
}

func TestNothingIsLeftOfATokenThatIsForgotten(t *testing.T) {
	w := newWorld(t, nil)
	key := w.a.Key("ES256")
	var r verify.Reading
	var left []weak.Pointer[byte]
	for _, members := range []int{500, 50, 5} { // each lies in what the one before it used
		var more []string
		for n := range members {
			more = append(more, fmt.Sprintf("claim-%d", n), "0")
		}
		w.verifier.Read(key.Sign(header("ES256", key.Kid), payload(more...)), &r)
		v, err := r.Verify(t.Context(), now)
		if err != nil || !v.Active {
			t.Fatalf("%d members: %q, %v", members, v.Reason, err)
		}
		left = append(left, weak.Make(unsafe.StringData(v.Claims[len(v.Claims)-1].Name)))
		r.Forget()
	}
	var more []string
	for n := range 30 {
		more = append(more, fmt.Sprintf("x-%d", n), "0")
	}
	w.verifier.Read(key.Sign(header("ES256", key.Kid, more...), payload()), &r)
	if r.Left() < 30 {
		t.Errorf("of a header that is longer than its payload: got %d members, want 30", r.Left())
	}
	if r.Forget(); r.Left() != 0 {
		t.Errorf("%d members of a header are still there", r.Left())
	}
	runtime.GC()
	for n, name := range left {
		if name.Value() != nil {
			t.Errorf("token %d is still there", n)
		}
	}
	runtime.KeepAlive(&r)
}

// Signed by the right key, and still not JSON that everybody reads alike.
func TestStrictJSON(t *testing.T) {
	w := newWorld(t, nil)
	key := w.a.Key("ES256")
	kid := key.Kid
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for name, text := range map[string]string{
		"JWT-02 row 6 payload null":           "null",
		"JWT-02 payload array":                `["iss"]`,
		"JWT-02 row 15 iss twice":             payload("x", `1,"iss":"`+issB+`"`),
		"JWT-02 row 15 exp twice":             payload("x", `1,"exp":4102444800`),
		"JWT-02 row 10 T7 trailing object":    payload() + `{"a":1}`,
		"JWT-02 row 10 trailing garbage":      payload() + "zzz",
		"JWT-02 row 16 invalid UTF-8":         payload("name", "\"\xff\""),
		"JWT-02 row 21 nested over 32 levels": payload("deep", deep),
		"JWT-02 single quotes":                `{'iss':'` + issA + `'}`,
	} {
		w.refused(t, name, key.Sign(header("ES256", kid), text), verify.Malformed)
	}
	for name, head := range map[string]string{
		"JWT-02 header null":                        "null",
		"JWT-02 header array":                       "[]",
		"JWT-02 row 15 alg twice":                   `{"alg":"none","alg":"ES256","kid":"` + kid + `"}`,
		"JWT-02 row 15 alg twice, one coded":        `{"\u0061lg":"none","alg":"ES256","kid":"` + kid + `"}`,
		"JWT-02 row 16 header with invalid UTF-8":   "{\"alg\":\"ES256\",\"kid\":\"" + kid + "\",\"x\":\"\xc3\"}",
		"JWT-02 data after the header":              header("ES256", kid) + " {}",
		"JWT-04 row 1 crit of an unknown name":      header("ES256", kid, "crit", `["zzz"]`, "zzz", "1"),
		"JWT-04 row 1 crit empty":                   header("ES256", kid, "crit", `[]`),
		"JWT-04 row 1 crit null":                    header("ES256", kid, "crit", `null`),
		"JWT-04 row 1 crit a string":                header("ES256", kid, "crit", `"b64"`),
		"JWT-04 row 1 crit b64":                     header("ES256", kid, "crit", `["b64"]`, "b64", "false"),
		"JWT-04 row 2 b64 false alone":              header("ES256", kid, "b64", "false"),
		"JWT-04 row 2 zip":                          header("ES256", kid, "zip", `"DEF"`),
		"JWT-04 row 2 a nested token":               header("ES256", kid, "cty", `"JWT"`),
		"JWT-04 row 2 a nested token by media type": header("ES256", kid, "cty", `"application/JWT"`),
		"JWT-11 kid of 257 bytes":                   header("ES256", strings.Repeat("k", 257)),
		"JWT-11 kid a number":                       `{"alg":"ES256","kid":7}`,
		"JWT-11 kid null":                           `{"alg":"ES256","kid":null}`,
	} {
		w.refused(t, name, key.Sign(head, payload()), verify.Malformed)
	}
}

func TestAlgorithm(t *testing.T) {
	w := newWorld(t, nil)
	rsa := w.a.Key("RS256")
	body := payload()
	unsigned := func(alg string) string {
		return b64(header(alg, rsa.Kid)) + "." + b64(body) + ".AAAA"
	}
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "HS256", "HS384", "HS512", "rs256", "Rs256", "RS1", "RSA1_5", "ES256K", "ESP256", "", "XX", " RS256", "ed25519"} {
		w.refused(t, "JWT-03 T1 alg "+alg, unsigned(alg), verify.AlgorithmNotAllowed)
	}
	w.refused(t, "JWT-03 alg absent", rsa.Sign(`{"kid":"`+rsa.Kid+`"}`, body), verify.AlgorithmNotAllowed)
	w.refused(t, "JWT-03 alg a list", rsa.Sign(`{"alg":["RS256"],"kid":"`+rsa.Kid+`"}`, body), verify.AlgorithmNotAllowed)
	w.refused(t, "JWT-03 T6 ALG in upper case alone", rsa.Sign(`{"ALG":"RS256","kid":"`+rsa.Kid+`"}`, body), verify.AlgorithmNotAllowed)
	w.refused(t, "JWT-03 none without a signature is no token", b64(`{"alg":"none"}`)+"."+b64(body)+".", verify.Malformed)

	public, err := x509.MarshalPKIXPublicKey(rsa.Signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := json.Marshal(rsa.JWK())
	if err != nil {
		t.Fatal(err)
	}
	for form, secret := range map[string][]byte{
		"DER": public, "PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), "JWK": jwk,
	} {
		input := b64(header("HS256", rsa.Kid)) + "." + b64(body)
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		w.refused(t, "JWT-03 HMAC by the public key as "+form, input+"."+base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), verify.AlgorithmNotAllowed)
	}

	narrow := newWorld(t, func(c *verify.Config) { c.Algorithms = []string{"ES256", "Ed25519"} })
	narrow.refused(t, "JWT-03 not in the issuer's list", rsa.Sign(w.header("RS256"), body), verify.AlgorithmNotAllowed)
	narrow.active(t, "in the issuer's list", w.a.Key("ES256").Sign(w.header("ES256"), body))
	narrow.active(t, "in the list under its other name", w.a.Key("EdDSA").Sign(w.header("EdDSA"), body))
}

func TestKeysBelongToTheirIssuer(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.a.Key("RS256"), w.b.Key("RS256")
	toB := payload("iss", `"`+issB+`"`)
	w.active(t, "control", b.Sign(header("RS256", b.Kid), toB))
	w.refused(t, "JWT-06 T4 A's key and kid under B's name", a.Sign(header("RS256", a.Kid), toB), verify.UnknownKey)
	w.refused(t, "JWT-06 T4 A's key under B's kid and name", a.Sign(header("RS256", b.Kid), toB), verify.BadSignature)
	w.refused(t, "JWT-06 B's kid under A's name", b.Sign(header("RS256", b.Kid), payload()), verify.UnknownKey)
	for _, iss := range []string{issA + "/", "HTTPS://a.example", "https://A.example", issA + " ", "https://a.example\\u0000", "https://evil.example", "a"} {
		w.refused(t, "JWT-07 iss "+iss, a.Sign(header("RS256", a.Kid), payload("iss", `"`+iss+`"`)), verify.UnknownIssuer)
	}
	w.refused(t, "JWT-07 iss absent", a.Sign(header("RS256", a.Kid), payload("iss", "")), verify.MissingClaim)
	w.refused(t, "OUT-02 iss a list", a.Sign(header("RS256", a.Kid), payload("iss", `["`+issA+`"]`)), verify.MissingClaim)
	w.refused(t, "T6 row 4 ISS beside a foreign iss", b.Sign(header("RS256", b.Kid), payload("iss", `"https://evil.example"`, "ISS", `"`+issB+`"`)), verify.UnknownIssuer)
	w.active(t, "row 4 names of another case are other claims", a.Sign(header("RS256", a.Kid), payload("ISS", `"https://evil.example"`, "EXP", "1", "Nbf", "9999999999")))
}

func TestKeyIsBoundToItsAlgorithm(t *testing.T) {
	w := newWorld(t, nil)
	for _, c := range []struct{ name, alg, keyOf string }{
		{"JWT-17 row 19 ES384 on a P-256 key", "ES384", "ES256"},
		{"JWT-17 row 19 ES512 on a P-384 key", "ES512", "ES384"},
		{"JWT-17 row 19 ES256 on a P-384 key", "ES256", "ES384"},
		{"JWT-10 RS256 on an EC key", "RS256", "ES256"},
		{"JWT-10 EdDSA on an RSA key", "EdDSA", "RS256"},
		{"K4 PS512 on a key for RS256", "PS512", "RS256"},
	} {
		kid := w.a.Key(c.keyOf).Kid
		token := b64(header(c.alg, kid)) + "." + b64(payload()) + ".AAAA"
		w.refused(t, c.name, token, verify.UnknownKey)
	}
}

func TestTokenWithoutAKid(t *testing.T) {
	idp := devissuer.New(issA, "ES256")
	key := idp.Key("ES256")
	one, err := verify.New(turns(t), issuer(t, config("a", issA, keyFile(t, idp.JWKS()))))
	if err != nil {
		t.Fatal(err)
	}
	demanding := config("a", issA, keyFile(t, idp.JWKS()))
	demanding.Keys.KidRequired = true
	required, err := verify.New(turns(t), issuer(t, demanding))
	if err != nil {
		t.Fatal(err)
	}
	idp.AddKey(devissuer.NewKey("ES256"))
	two, err := verify.New(turns(t), issuer(t, config("a", issA, keyFile(t, idp.JWKS()))))
	if err != nil {
		t.Fatal(err)
	}
	for _, head := range []string{`{"alg":"ES256"}`, `{"alg":"ES256","kid":""}`} {
		token := key.Sign(head, payload())
		(&world{verifier: one}).active(t, "JWT-11 the single key that fits "+head, token)
		(&world{verifier: two}).refused(t, "JWT-11 several fit "+head, token, verify.UnknownKey)
		(&world{verifier: required}).refused(t, "JWT-11 kid_required "+head, token, verify.UnknownKey)
	}
}

func TestHeaderKeysAreNotKeys(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	w := newWorld(t, nil)
	evil := devissuer.NewKey("RS256")
	jwk, err := json.Marshal(evil.JWK())
	if err != nil {
		t.Fatal(err)
	}
	url := `"` + server.URL + `"`
	for name, more := range map[string][]string{
		"JWT-05 jwk": {"jwk", string(jwk)}, "JWT-05 jku": {"jku", url}, "JWT-05 x5u": {"x5u", url}, "JWT-05 x5c": {"x5c", `["AAAA"]`},
	} {
		w.refused(t, name+" of an unknown key", evil.Sign(header("RS256", evil.Kid, more...), payload()), verify.UnknownKey)
		w.refused(t, name+" under a known kid", evil.Sign(header("RS256", w.a.Key("RS256").Kid, more...), payload()), verify.BadSignature)
		w.active(t, name+" is only ignored", w.a.Key("RS256").Sign(w.header("RS256", more...), payload()))
	}
	if asked.Load() != 0 {
		t.Errorf("JWT-05: got %d connections to the header's address, want none", asked.Load())
	}
}

func TestTimes(t *testing.T) {
	none := newWorld(t, func(c *verify.Config) { c.Leeway = 0 })
	some := newWorld(t, nil) // 30 s
	short := newWorld(t, func(c *verify.Config) { c.MaxLifetime = time.Hour })
	key := some.a.Key("ES256")
	head := some.header("ES256")
	for _, row := range []struct {
		name  string
		w     *world
		claim []string
		want  verify.Reason
	}{
		{"JWT-08 exp == now", none, []string{"exp", at(0)}, verify.Expired},
		{"JWT-08 exp one second ahead", none, []string{"exp", at(time.Second)}, verify.NoReason},
		{"JWT-08 nbf == now", none, []string{"nbf", at(0)}, verify.NoReason},
		{"JWT-08 nbf one second ahead", none, []string{"nbf", at(time.Second)}, verify.NotYetValid},
		{"JWT-08 a fraction of nbf counts", none, []string{"nbf", at(0) + ".5"}, verify.NotYetValid},
		{"JWT-08 a fraction of exp doesn't", none, []string{"exp", at(0) + ".9"}, verify.Expired},
		{"JWT-09 exp within the leeway", some, []string{"exp", at(-29 * time.Second)}, verify.NoReason},
		{"JWT-09 exp beyond the leeway", some, []string{"exp", at(-30 * time.Second)}, verify.Expired},
		{"JWT-09 nbf within the leeway", some, []string{"nbf", at(30 * time.Second)}, verify.NoReason},
		{"JWT-09 nbf beyond the leeway", some, []string{"nbf", at(31 * time.Second)}, verify.NotYetValid},
		{"JWT-09 row 11 iat in the future", some, []string{"iat", at(31 * time.Second)}, verify.NotYetValid},
		{"JWT-09 iat within the leeway", some, []string{"iat", at(30 * time.Second)}, verify.NoReason},
		{"JWT-08 row 7 exp absent", some, []string{"exp", ""}, verify.MissingClaim},
		{"JWT-08 row 6 exp 0", some, []string{"exp", "0"}, verify.BadClaims},
		{"JWT-08 row 6 exp -0", some, []string{"exp", "-0"}, verify.BadClaims},
		{"JWT-08 row 6 exp null", some, []string{"exp", "null"}, verify.BadClaims},
		{"JWT-08 row 5 exp a string", some, []string{"exp", `"4102444800"`}, verify.BadClaims},
		{"JWT-08 exp negative", some, []string{"exp", "-1"}, verify.BadClaims},
		{"JWT-08 row 9 exp 1e400", some, []string{"exp", "1e400"}, verify.BadClaims},
		{"JWT-08 exp 1e300", some, []string{"exp", "1e300"}, verify.BadClaims},
		{"JWT-08 exp a list", some, []string{"exp", "[4102444800]"}, verify.BadClaims},
		{"JWT-08 exp with an exponent is a number", some, []string{"exp", "4.1024448e9"}, verify.NoReason},
		{"JWT-09 exp in the year 10000", some, []string{"exp", "253402300800"}, verify.BadClaims},
		{"JWT-09 exp in milliseconds", some, []string{"exp", at(time.Hour) + "000"}, verify.BadClaims},
		{"JWT-09 row 8 nbf 2^63-1", some, []string{"nbf", "9223372036854775807"}, verify.BadClaims},
		{"JWT-09 row 8 nbf 1e19", some, []string{"nbf", "1e19"}, verify.BadClaims},
		{"JWT-09 row 8 iat 2^63-1", some, []string{"iat", "9223372036854775807"}, verify.BadClaims},
		{"JWT-08 row 9 nbf 1e400", some, []string{"nbf", "1e400"}, verify.BadClaims},
		{"JWT-08 nbf a string", some, []string{"nbf", `"1"`}, verify.BadClaims},
		{"JWT-08 nbf null", some, []string{"nbf", "null"}, verify.BadClaims},
		{"JWT-08 row 12 iat a string", some, []string{"iat", `"1"`}, verify.BadClaims},
		{"JWT-08 row 12 iat true", some, []string{"iat", "true"}, verify.BadClaims},
		{"JWT-08 iat an object", some, []string{"iat", "{}"}, verify.BadClaims},
		{"nbf absent", some, []string{"nbf", ""}, verify.NoReason},
		{"JWT-09 max_lifetime kept", short, []string{"exp", at(time.Hour)}, verify.NoReason},
		{"JWT-09 max_lifetime exceeded", short, []string{"exp", at(time.Hour + time.Second)}, verify.BadClaims},
	} {
		token := key.Sign(head, payload(row.claim...))
		if row.want == verify.NoReason {
			row.w.active(t, row.name, token)
		} else {
			row.w.refused(t, row.name, token, row.want)
		}
	}
	v := some.verdict(t, key.Sign(head, payload("exp", at(time.Hour)+".9", "nbf", at(-time.Hour)+".1", "iat", at(-time.Minute)+".7")))
	if v.Expires != now.Add(time.Hour).Unix() || v.NotBefore != now.Add(-time.Hour).Unix()+1 || v.IssuedAt != now.Add(-time.Minute).Unix() {
		t.Errorf("OUT-03 row 25: got exp %d nbf %d iat %d, want exp and iat down, nbf up", v.Expires, v.NotBefore, v.IssuedAt)
	}
}

// members are n of them, as they follow another.
func members(n int) (text string) {
	for i := range n {
		text += fmt.Sprintf(`,"m%d":0`, i)
	}
	return text
}

func TestRegisteredClaims(t *testing.T) {
	w := newWorld(t, nil)
	key, head := w.a.Key("ES256"), w.header("ES256")
	for _, row := range []struct {
		name  string
		claim []string
		want  verify.Reason
	}{
		{"JWT required sub absent", []string{"sub", ""}, verify.MissingClaim},
		{"required iat absent", []string{"iat", ""}, verify.MissingClaim},
		{"OUT-02 row 13 sub a number", []string{"sub", "7"}, verify.BadClaims},
		{"OUT-02 row 13 sub true", []string{"sub", "true"}, verify.BadClaims},
		{"OUT-02 row 13 sub a list", []string{"sub", `["a"]`}, verify.BadClaims},
		{"OUT-02 row 13 sub an object", []string{"sub", `{}`}, verify.BadClaims},
		{"OUT-02 sub null", []string{"sub", "null"}, verify.BadClaims},
		{"R6 sub empty", []string{"sub", `""`}, verify.BadClaims},
		{"OUT-02 jti a number", []string{"jti", "1"}, verify.BadClaims},
		{"OUT-04 row 14 aud a number", []string{"aud", "5"}, verify.BadClaims},
		{"OUT-04 row 14 aud an object", []string{"aud", `{"a":"b"}`}, verify.BadClaims},
		{"OUT-04 aud with a number inside", []string{"aud", `["a",1]`}, verify.BadClaims},
		{"OUT-04 aud null", []string{"aud", "null"}, verify.BadClaims},
		{"aud a list", []string{"aud", `["a","b"]`}, verify.NoReason},
		{"aud absent", []string{"aud", ""}, verify.NoReason},
		{"OUT-04 cnf a string", []string{"cnf", `"x"`}, verify.BadClaims},
		{"OUT-04 cnf null", []string{"cnf", "null"}, verify.BadClaims},
		{"OUT-04 cnf empty", []string{"cnf", "{}"}, verify.BadClaims},
		{"OUT-04 cnf with more members than a token may have", []string{"cnf", `{"jkt":"x"` + members(claims.MaxMembers) + "}"}, verify.BadClaims},
		{"OUT-04 cnf a list", []string{"cnf", `[{"jkt":"x"}]`}, verify.BadClaims},
		{"cnf an object", []string{"cnf", `{"jkt":"x"}`}, verify.NoReason},
	} {
		token := key.Sign(head, payload(row.claim...))
		if row.want == verify.NoReason {
			w.active(t, row.name, token)
		} else {
			w.refused(t, row.name, token, row.want)
		}
	}
	strict := newWorld(t, func(c *verify.Config) {
		c.Require = []string{"iss", "exp", "aud", "sub", "client_id", "iat", "jti"}
		c.TokenTypes = verify.Strict
	})
	typed := w.header("ES256", "typ", `"at+jwt"`)
	strict.active(t, "RFC 9068 profile", key.Sign(typed, payload("client_id", `"c"`)))
	strict.refused(t, "RFC 9068 profile without client_id", key.Sign(typed, payload()), verify.MissingClaim)
	strict.refused(t, "RFC 9068 profile with client_id null", key.Sign(typed, payload("client_id", "null")), verify.MissingClaim)
	lax := newWorld(t, func(c *verify.Config) { c.Require = []string{"exp", "iss"} })
	lax.active(t, "sub and iat not required", key.Sign(head, payload("sub", "", "iat", "")))
	lax.refused(t, "a sub that is there is still typed", key.Sign(head, payload("sub", "7", "iat", "")), verify.BadClaims)
}

func TestType(t *testing.T) {
	compat := newWorld(t, nil)
	strict := newWorld(t, func(c *verify.Config) { c.TokenTypes = verify.Strict })
	key := compat.a.Key("ES256")
	sign := func(typ string, claims ...string) string {
		if typ == "" {
			return key.Sign(compat.header("ES256"), payload(claims...))
		}
		return key.Sign(compat.header("ES256", "typ", typ), payload(claims...))
	}
	for _, typ := range []string{`"at+jwt"`, `"at+JWT"`, `"AT+JWT"`, `"application/at+jwt"`, `"Application/At+Jwt"`} {
		strict.active(t, "JWT-13 strict "+typ, sign(typ))
		compat.active(t, "JWT-13 compat "+typ, sign(typ))
	}
	for _, typ := range []string{"", `"JWT"`, `"jwt"`, `"application/jwt"`} {
		strict.refused(t, "JWT-13 strict "+typ, sign(typ), verify.WrongType)
		compat.active(t, "JWT-13 compat "+typ, sign(typ))
	}
	for _, typ := range []string{
		"dpop+jwt", "logout+jwt", "secevent+jwt", "token-introspection+jwt", "statuslist+jwt", "txntoken+jwt", "client-authentication+jwt",
		"kb+jwt", "dc+sd-jwt", "entity-statement+jwt", "oauth-authz-req+jwt", "application/logout+jwt", "JOSE", "", " at+jwt", "at+jwt ", "text/at+jwt",
	} {
		for _, w := range []*world{compat, strict} {
			w.refused(t, "JWT-13 row 3 typ "+typ, sign(`"`+typ+`"`), verify.WrongType)
		}
	}
	for _, typ := range []string{"7", "{}", "null", `["at+jwt"]`} {
		compat.refused(t, "JWT-13 row 3 typ "+typ, sign(typ), verify.WrongType)
	}
	for name, claims := range map[string][]string{
		"at_hash": {"at_hash", `"x"`}, "c_hash": {"c_hash", `"x"`}, "nonce": {"nonce", `"x"`}, "token_use id": {"token_use", `"id"`},
		"payload typ ID": {"typ", `"ID"`}, "payload typ Refresh": {"typ", `"Refresh"`}, "payload typ Offline": {"typ", `"Offline"`},
		"payload typ Logout": {"typ", `"Logout"`}, "nonce of another payload typ": {"typ", `"X"`, "nonce", `"x"`}, "events": {"events", "{}"},
	} {
		compat.refused(t, "JWT-13 compat "+name, sign(`"JWT"`, claims...), verify.WrongType)
	}
	compat.active(t, "JWT-13 Keycloak's nonce", sign(`"JWT"`, "typ", `"Bearer"`, "nonce", `"x"`))
	compat.active(t, "JWT-13 Cognito's access token", sign("", "token_use", `"access"`))
}

func TestSignature(t *testing.T) {
	w := newWorld(t, nil)
	for _, alg := range algorithms {
		key := w.a.Key(alg)
		good := key.Sign(w.header(alg), payload())
		cut := strings.LastIndexByte(good, '.') + 1
		sig, err := base64.RawURLEncoding.DecodeString(good[cut:])
		if err != nil {
			t.Fatal(err)
		}
		forge := func(change func([]byte) []byte) string {
			return good[:cut] + base64.RawURLEncoding.EncodeToString(change(append([]byte(nil), sig...)))
		}
		for name, token := range map[string]string{
			"a flipped bit":           forge(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }),
			"one byte short":          forge(func(b []byte) []byte { return b[:len(b)-1] }),
			"one byte long":           forge(func(b []byte) []byte { return append(b, 0) }),
			"zeros":                   forge(func(b []byte) []byte { return make([]byte, len(b)) }),
			"one byte":                forge(func([]byte) []byte { return []byte{1} }),
			"of another payload":      strings.Replace(good, b64(payload()), b64(payload("sub", `"mallory"`)), 1),
			"by another key":          devissuer.NewKey(alg).Sign(w.header(alg), payload()),
			"8 KiB":                   forge(func(b []byte) []byte { return append(b, make([]byte, 8<<10)...) }),
			"of another header's alg": strings.Replace(good, b64(w.header(alg)), b64(w.header(alg, "x", "1")), 1),
		} {
			w.refused(t, alg+" "+name, token, verify.BadSignature)
		}
	}
}

// ECDSA's second signature verifies: what names a token must not hold it.
func TestTokenIsNamedWithoutItsSignature(t *testing.T) {
	w := newWorld(t, nil)
	key := w.a.Key("ES256")
	good := key.Sign(w.header("ES256"), payload())
	cut := strings.LastIndexByte(good, '.') + 1
	sig, err := base64.RawURLEncoding.DecodeString(good[cut:])
	if err != nil {
		t.Fatal(err)
	}
	order, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
	s := new(big.Int).SetBytes(sig[32:])
	s.Sub(order, s).FillBytes(sig[32:])
	twin := good[:cut] + base64.RawURLEncoding.EncodeToString(sig)
	w.active(t, "the twin", twin)
	if twin == good || verify.SigningInput(twin) != verify.SigningInput(good) {
		t.Error("the two spellings of one token have two names")
	}
}

func TestExpiredTokenIsOnlyCalledSoWhenGenuine(t *testing.T) {
	w := newWorld(t, nil)
	old := payload("exp", at(-time.Hour))
	w.refused(t, "genuine", w.a.Key("ES256").Sign(w.header("ES256"), old), verify.Expired)
	w.refused(t, "forged", devissuer.NewKey("ES256").Sign(w.header("ES256"), old), verify.BadSignature)
}

func TestNoFetchForATokenThatIsRefusedAnyway(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	c := config("a", issA)
	c.Keys.JWKSURL = server.URL
	verifier, err := verify.New(turns(t), issuer(t, c))
	if err != nil {
		t.Fatal(err)
	}
	a := sharedA()
	key := a.Key("ES256")
	for name, token := range map[string]string{
		"JWT-07 unknown issuer": key.Sign(header("ES256", "k"), payload("iss", `"https://evil.example"`)),
		"JWT-20 algorithm":      key.Sign(header("HS256", "k"), payload()),
		"JWT-20 expired":        key.Sign(header("ES256", "k"), payload("exp", at(-time.Minute))),
		"JWT-20 exp absent":     key.Sign(header("ES256", "k"), payload("exp", "")),
		"typ":                   key.Sign(header("ES256", "k", "typ", `"logout+jwt"`), payload()),
		"crit":                  key.Sign(header("ES256", "k", "crit", `["x"]`), payload()),
	} {
		v, err := verifier.Verify(context.Background(), token, now)
		if v.Active || err == nil && v.Reason == verify.NoReason || err != nil && !errors.Is(err, jwks.ErrUnavailable) {
			t.Errorf("%s: got active %t, reason %s, error %v", name, v.Active, v.Reason, err)
		}
	}
	if asked.Load() != 0 {
		t.Errorf("got %d fetches, want none", asked.Load())
	}
}

func TestNoKeysMeansWeCouldNotTell(t *testing.T) {
	c := config("a", issA)
	c.Keys.JWKSURL = "http://127.0.0.1:1/jwks.json"
	verifier, err := verify.New(turns(t), issuer(t, c))
	if err != nil {
		t.Fatal(err)
	}
	key := sharedA().Key("ES256")
	v, err := verifier.Verify(context.Background(), key.Sign(header("ES256", key.Kid), payload()), now)
	if !errors.Is(err, jwks.ErrUnavailable) || v.Active {
		t.Errorf("T1 T2 INT-19: got active %t, error %v, want jwks.ErrUnavailable", v.Active, err)
	}
	v, err = verifier.Verify(context.Background(), key.Sign(header("XX", key.Kid), payload()), now)
	if err != nil || v.Reason != verify.AlgorithmNotAllowed {
		t.Errorf("T1 an invented alg: got %v, %v, want a refusal", v.Reason, err)
	}
}

func TestZeroVerdictIsInactive(t *testing.T) {
	if (verify.Verdict{}).Active {
		t.Error("the zero verdict is active")
	}
	if verify.NoReason.String() != "" || verify.Expired.String() != "expired" || verify.Reason(200).String() != "unknown" {
		t.Error("reasons are misspelled")
	}
}

func TestCheck(t *testing.T) {
	faults := func(change func(*verify.Config)) (all []string) {
		c := config("a", issA, keyFile(t, sharedA().JWKS()))
		c.Keys.Refresh, c.Keys.MaxStale = 5*time.Minute, time.Hour
		change(&c)
		c.Check(func(key, problem string) { all = append(all, key+": "+problem) })
		return all
	}
	if got := faults(func(*verify.Config) {}); got != nil {
		t.Errorf("a sound configuration: got %q", got)
	}
	for name, row := range map[string]struct {
		change func(*verify.Config)
		key    string
	}{
		"row 14 no issuer":              {func(c *verify.Config) { c.Issuer = "" }, "issuer"},
		"row 14 an empty algorithm":     {func(c *verify.Config) { c.Algorithms = []string{""} }, "algorithms[0]"},
		"HS256":                         {func(c *verify.Config) { c.Algorithms = []string{"RS256", "HS256"} }, "algorithms[1]"},
		"none":                          {func(c *verify.Config) { c.Algorithms = []string{"none"} }, "algorithms[0]"},
		"JWT-09 leeway over 300 s":      {func(c *verify.Config) { c.Leeway = 301 * time.Second }, "leeway"},
		"negative leeway":               {func(c *verify.Config) { c.Leeway = -1 }, "leeway"},
		"exp left out":                  {func(c *verify.Config) { c.Require = []string{"iss"} }, "require"},
		"max_lifetime under a second":   {func(c *verify.Config) { c.MaxLifetime = 1 }, "max_lifetime"},
		"a typ rule that doesn't exist": {func(c *verify.Config) { c.TokenTypes = "lax" }, "token_types"},
		"a name for nobody":             {func(c *verify.Config) { c.Name = "unknown" }, "name"},
		"a name with spaces":            {func(c *verify.Config) { c.Name = "a b" }, "name"},
	} {
		got := faults(row.change)
		if len(got) != 1 || !strings.HasPrefix(got[0], row.key+":") {
			t.Errorf("%s: got %q, want one fault at %s", name, got, row.key)
		}
	}
	i := issuer(t, config("a", issA, keyFile(t, sharedA().JWKS())))
	if _, err := verify.New(turns(t), i, i); err == nil {
		t.Error("two issuers of one iss were taken")
	}
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func FuzzVerify(f *testing.F) {
	w := newWorld(f, nil)
	key := w.a.Key("ES256")
	good := key.Sign(w.header("ES256"), payload())
	f.Add(good)
	f.Add(good + "\n")
	f.Add(b64(`{"alg":"none"}`) + "." + b64(payload()) + ".AA")
	f.Fuzz(func(t *testing.T, token string) {
		v, err := w.verifier.Verify(context.Background(), token, now)
		if err != nil {
			t.Fatalf("could not tell with keys at hand: %v", err)
		}
		if v.Active && verify.SigningInput(token) != verify.SigningInput(good) {
			t.Fatalf("a token nobody signed is active: %q", token)
		}
		if v.Active == (v.Reason != verify.NoReason) {
			t.Fatalf("active %t with reason %q", v.Active, v.Reason)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b, nil)
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		token := w.a.Key(alg).Sign(w.header(alg), payload("scope", `"read write"`, "azp", `"app"`))
		b.Run(alg, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v, err := w.verifier.Verify(context.Background(), token, now); err != nil || !v.Active {
					b.Fatal(v.Reason, err)
				}
			}
		})
	}
	forged := b64(w.header("RS256")) + "." + b64(payload("iss", `"https://evil.example"`)) + ".AAAA"
	b.Run("unknown issuer", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = w.verifier.Verify(context.Background(), forged, now)
		}
	})
}

// Wherever it stands, in whatever segment.
func TestWellSpelledSeesEachCharacter(t *testing.T) {
	for length := range 12 {
		for segment := range 3 {
			parts := []string{"abcd", "efgh", "ijkl"}
			parts[segment] = strings.Repeat("a", length)
			if got := verify.WellSpelled(strings.Join(parts, ".")); got != (length > 0) {
				t.Errorf("JWT-01 %d characters in segment %d: got %t", length, segment, got)
			}
			for at := range length {
				for _, foreign := range []byte{'+', '=', '\n', ' ', 0, 0x80, 0xff} {
					text := []byte(strings.Repeat("a", length))
					text[at] = foreign
					parts[segment] = string(text)
					if verify.WellSpelled(strings.Join(parts, ".")) {
						t.Errorf("JWT-01 %q at %d of segment %d: got true", foreign, at, segment)
					}
				}
			}
		}
	}
}
