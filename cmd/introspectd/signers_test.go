package main

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Other people's signers: what they make must verify here, whoever wrote the
// code that made it.

// claimsFor are those of a token that a foreign signer signs.
func claimsFor(iss string) map[string]any {
	now := time.Now().Unix()
	return map[string]any{"iss": iss, "sub": "u-1", "aud": "https://api.example/orders", "iat": now, "exp": now + 600, "jti": "j-1", "scope": "read write"}
}

// checkSigned asks about a token and about the same with another sub under the
// old signature.
func checkSigned(t *testing.T, s *service, token, iss string) {
	t.Helper()
	got := s.introspect(token)
	for name, want := range map[string]any{"active": true, "iss": iss, "sub": "u-1", "aud": "https://api.example/orders", "scope": "read write", "jti": "j-1"} {
		if got[name] != want {
			t.Errorf("%s of a good token: got %v, want %v, in %v", name, got[name], want, got)
		}
	}
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Replace(payload, []byte(`u-1`), []byte(`u-2`), 1)
	if bytes.Equal(flipped, payload) {
		t.Fatalf("no sub in %s", payload)
	}
	parts[1] = base64.RawURLEncoding.EncodeToString(flipped)
	if got := s.introspect(strings.Join(parts, ".")); got["active"] != false || len(got) != 1 {
		t.Errorf("another payload under the same signature: got %v, want active:false alone", got)
	}
}

// openssl runs it in dir.
func openssl(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	command := exec.Command("openssl", args...)
	command.Dir = dir
	var said bytes.Buffer
	command.Stderr = &said
	out, err := command.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, &said)
	}
	return out
}

// rawSignature turns ECDSA's DER into the two numbers at full width that JWS
// wants (RFC 7518 section 3.4).
func rawSignature(t *testing.T, der []byte, size int) []byte {
	t.Helper()
	var signature struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &signature); err != nil || len(rest) > 0 {
		t.Fatalf("openssl's signature: %v, %d bytes left", err, len(rest))
	}
	raw := make([]byte, 2*size)
	signature.R.FillBytes(raw[:size])
	signature.S.FillBytes(raw[size:])
	return raw
}

func TestTokensSignedByOpenSSL(t *testing.T) {
	need(t, "openssl")
	dir := t.TempDir()
	rsa := []string{"genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"}
	ec := func(curve string) []string {
		return []string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:" + curve}
	}
	digest := func(name string, options ...string) []string {
		return append([]string{"dgst", "-" + name}, append(options, "-sign")...)
	}
	pss := []string{"-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}
	rows := []struct {
		alg, key string // kid and file name of the key
		make     []string
		sign     []string
		size     int    // of one number of an ECDSA signature
		form     string // of the public key: key, PEM or DER of a certificate
	}{
		{"RS256", "rsa-key", rsa, digest("sha256"), 0, "key"},
		{"RS256", "rsa-pem", rsa, digest("sha256"), 0, "PEM"},
		{"RS512", "rsa-pem", nil, digest("sha512"), 0, ""},
		{"PS256", "rsa-der", rsa, digest("sha256", pss...), 0, "DER"},
		{"ES256", "ec256", ec("P-256"), digest("sha256"), 32, "PEM"},
		{"ES384", "ec384", ec("P-384"), digest("sha384"), 48, "key"},
		{"ES512", "ec521", ec("P-521"), digest("sha512"), 66, "DER"},
		{"EdDSA", "ed25519", []string{"genpkey", "-algorithm", "ED25519"}, []string{"pkeyutl", "-sign", "-rawin", "-inkey"}, 0, "PEM"},
	}
	var files []string
	for _, r := range rows {
		if r.make == nil {
			continue
		}
		openssl(t, dir, append(r.make, "-out", r.key+".private")...)
		switch r.form {
		case "key":
			openssl(t, dir, "pkey", "-in", r.key+".private", "-pubout", "-out", r.key)
		default:
			openssl(t, dir, "req", "-x509", "-new", "-key", r.key+".private", "-subj", "/CN="+r.key, "-days", "2", "-outform", r.form, "-out", r.key)
		}
		files = append(files, fmt.Sprintf("{path: %s, kid: %s}", filepath.Join(dir, r.key), r.key))
	}
	const iss = "https://openssl.example"
	s := start(t, fmt.Sprintf("%s\nissuers:\n  - {name: openssl, issuer: %s, keys: {files: [%s]}}\n", callerAndPolicy, iss, strings.Join(files, ", ")))

	for _, r := range rows {
		t.Run(r.alg+" with "+r.key, func(t *testing.T) {
			header, _ := json.Marshal(map[string]any{"alg": r.alg, "kid": r.key, "typ": "at+jwt"})
			payload, _ := json.Marshal(claimsFor(iss))
			input := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
			writeFile(t, filepath.Join(dir, "input"), input)
			sign := append([]string{}, r.sign...)
			if sign = append(sign, r.key+".private"); r.alg == "EdDSA" {
				sign = append(sign, "-in")
			}
			signature := openssl(t, dir, append(sign, "input")...)
			if r.size > 0 {
				signature = rawSignature(t, signature, r.size)
			}
			checkSigned(t, s, input+"."+base64.RawURLEncoding.EncodeToString(signature), iss)
		})
	}
}

// joseScript signs a token for each algorithm with a key of its own.
const joseScript = `
import { webcrypto } from 'node:crypto';
globalThis.crypto ??= webcrypto;
const { SignJWT, generateKeyPair, exportJWK, calculateJwkThumbprint } = await import('jose');
const { algs, claims } = JSON.parse(process.env.WANTED);
const keys = [], tokens = {};
for (const alg of algs) {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  const jwk = await exportJWK(publicKey);
  const kid = await calculateJwkThumbprint(jwk);
  keys.push({ ...jwk, kid, alg, use: 'sig' });
  tokens[alg] = await new SignJWT(claims).setProtectedHeader({ alg, kid, typ: 'at+jwt' }).sign(privateKey);
}
console.log(JSON.stringify({ jwks: { keys }, tokens }));
`

func TestTokensSignedByJose(t *testing.T) {
	need(t, "node")
	if _, err := os.Stat("../../.ci/node_modules/jose"); err != nil {
		missing(t, "jose, a package of npm,")
	}
	var set []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(set)
	}))
	t.Cleanup(server.Close)

	algs := []string{"RS256", "PS384", "ES256", "ES512", "EdDSA", "Ed25519"}
	wanted, err := json.Marshal(map[string]any{"algs": algs, "claims": claimsFor(server.URL)})
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command("node", "--input-type=module", "-")
	command.Dir = "../../.ci" // where its packages are found
	command.Stdin = strings.NewReader(joseScript)
	command.Env = append(os.Environ(), "WANTED="+string(wanted))
	var said bytes.Buffer
	command.Stderr = &said
	out, err := command.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, &said)
	}
	var made struct {
		JWKS   json.RawMessage   `json:"jwks"`
		Tokens map[string]string `json:"tokens"`
	}
	if err := json.Unmarshal(out, &made); err != nil {
		t.Fatalf("node's output: %v in %s", err, out)
	}
	set = made.JWKS
	s := start(t, callerAndPolicy+"issuers:\n"+row("jose", server.URL))
	for _, alg := range algs {
		t.Run(alg, func(t *testing.T) { checkSigned(t, s, made.Tokens[alg], server.URL) })
	}
}
