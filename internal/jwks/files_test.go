package jwks_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"introspectd/internal/jwks"
)

func silent() *log.Logger { return log.New(io.Discard, "", 0) }

// fromFiles makes keys out of files, judged at the given time.
func fromFiles(t *testing.T, now time.Time, files ...jwks.File) *jwks.Keys {
	t.Helper()
	k, err := jwks.New(jwks.Config{Files: files}, jwks.Options{Name: "corp", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatalf("New: got %v, want no error", err)
	}
	return k
}

func decode(t *testing.T, path string) []byte {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(body); block != nil {
		return block.Bytes
	}
	return body
}

// TestFilesOfOpenssl reads what the tool writes, in every form.
func TestFilesOfOpenssl(t *testing.T) {
	for _, row := range []struct {
		name, alg string
		genpkey   []string
		algs      []string
		bits      int
		curve     string
	}{
		{"RSA", "RS256", []string{"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"}, []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, 2048, ""},
		{"P-256", "ES256", []string{"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"}, []string{"ES256"}, 0, "P-256"},
		{"P-384", "ES384", []string{"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"}, []string{"ES384"}, 0, "P-384"},
		{"P-521", "ES512", []string{"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"}, []string{"ES512"}, 0, "P-521"},
		{"Ed25519", "EdDSA", []string{"-algorithm", "ED25519"}, []string{"EdDSA"}, 0, "Ed25519"},
	} {
		t.Run("JWT-17 "+row.name, func(t *testing.T) {
			dir := t.TempDir()
			private, public := filepath.Join(dir, "key.pem"), filepath.Join(dir, "public.pem")
			crt, der := filepath.Join(dir, "crt.pem"), filepath.Join(dir, "crt.der")
			openssl(t, append([]string{"genpkey", "-out", private}, row.genpkey...)...)
			openssl(t, "pkey", "-in", private, "-pubout", "-out", public)
			openssl(t, "req", "-x509", "-key", private, "-subj", "/CN=idp", "-days", "10", "-out", crt)
			openssl(t, "x509", "-in", crt, "-outform", "DER", "-out", der)
			want, err := x509.ParsePKIXPublicKey(decode(t, public))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{public, crt, der} {
				k := fromFiles(t, time.Now(), jwks.File{Path: path, Kid: "k1"})
				wantKey(t, k, "k1", row.alg, want)
				wantKey(t, k, "", row.alg, want)
				wantKey(t, k, "k2", row.alg, nil)
				key := k.State().Keys[0]
				if diff := cmp.Diff(row.algs, key.Algs); diff != "" || key.Bits != row.bits || key.Curve != row.curve {
					t.Errorf("key of %s: got %+v, want %+v", path, key, row)
				}
				if dated := !key.NotAfter.IsZero(); dated != (path != public) {
					t.Errorf("key of %s: got dates %t, want %t", path, dated, path != public)
				}
			}
			if _, err := jwks.New(jwks.Config{Files: []jwks.File{{Path: private}}}, jwks.Options{}); err == nil {
				t.Error("a private key: got no error, want one")
			}
		})
	}
}

func TestCertificateHoldsWithinItsDates(t *testing.T) {
	dir := t.TempDir()
	private, crt := filepath.Join(dir, "key.pem"), filepath.Join(dir, "crt.pem")
	openssl(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", private)
	openssl(t, "req", "-x509", "-key", private, "-subj", "/CN=idp", "-days", "10", "-out", crt)
	c, err := x509.ParseCertificate(decode(t, crt))
	if err != nil {
		t.Fatal(err)
	}
	now := c.NotBefore
	k, err := jwks.New(jwks.Config{Files: []jwks.File{{Path: crt}}}, jwks.Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	print := k.State().Keys[0].Thumbprint
	sum := sha256.Sum256(c.Raw)
	wso2 := base64.RawURLEncoding.EncodeToString([]byte(hex.EncodeToString(sum[:]))) + "_RS256"
	for _, row := range []struct {
		name string
		now  time.Time
		want crypto.PublicKey
	}{
		{"a second too early", c.NotBefore.Add(-time.Second), nil},
		{"at its start", c.NotBefore, c.PublicKey},
		{"at its end", c.NotAfter, c.PublicKey},
		{"a second too late", c.NotAfter.Add(time.Second), nil},
	} {
		t.Run("JWT-11 "+row.name, func(t *testing.T) {
			now = row.now
			for _, kid := range []string{"", "any", print.String(), wso2} {
				wantKeyAt(t, k, row.now, kid, "ES256", row.want)
			}
			if got := k.Holds(print, "ES256"); got != (row.want != nil) {
				t.Errorf("Holds: got %t, want %t", got, row.want != nil)
			}
		})
	}
}

// TestWSO2Kid takes the shapes of WSO2's products: a certificate by file
// answers to the kid that the product puts into tokens.
func TestWSO2Kid(t *testing.T) {
	dir := t.TempDir()
	var files []jwks.File
	for _, name := range []string{"a", "b"} {
		private, crt := filepath.Join(dir, name+".key"), filepath.Join(dir, name+".crt")
		openssl(t, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", private, "-subj", "/CN="+name, "-outform", "DER", "-out", crt)
		files = append(files, jwks.File{Path: crt})
	}
	k := fromFiles(t, time.Now(), files...)
	for _, f := range files {
		c, err := x509.ParseCertificate(decode(t, f.Path))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(c.Raw)
		kid := base64.RawURLEncoding.EncodeToString([]byte(hex.EncodeToString(sum[:]))) + "_RS256"
		t.Run("JWT-11 WSO2's kid", func(t *testing.T) {
			wantKey(t, k, kid, "RS256", c.PublicKey)
			wantKey(t, k, strings.TrimSuffix(kid, "_RS256"), "RS256", nil)
			wantKey(t, k, "", "RS256", nil)
		})
	}
}

func TestSetFromAFile(t *testing.T) {
	now := time.Now()
	two := write(t, "keys.json", " \n"+keySet(jwk("a", rsaKey().Public()), jwk("b", p256Key().Public()), jwk("c", rsaKey().Public()).with("use", "enc")))
	one := write(t, "one.json", keySet(jwk("a", rsaKey().Public())))
	t.Run("JWT-16 with its kids", func(t *testing.T) {
		k := fromFiles(t, now, jwks.File{Path: two})
		wantKey(t, k, "a", "RS256", rsaKey().Public())
		wantKey(t, k, "b", "ES256", p256Key().Public())
		s := k.State()
		if diff := cmp.Diff(map[string]int{"wrong_use": 1}, s.Skipped); diff != "" || s.Source != "files" || !s.Usable {
			t.Errorf("State: got %+v, want source files, usable, one skipped", s)
		}
	})
	t.Run("JWT-11 with the kid of the configuration", func(t *testing.T) {
		k := fromFiles(t, now, jwks.File{Path: one, Kid: "z"})
		wantKey(t, k, "z", "RS256", rsaKey().Public())
		wantKey(t, k, "a", "RS256", nil)
	})
	t.Run("JWT-20 nothing to fetch", func(t *testing.T) {
		k := fromFiles(t, now, jwks.File{Path: one})
		run(t, k)
		if err := k.Refresh(t.Context()); err != nil {
			t.Errorf("Refresh: got %v, want no error", err)
		}
		if key, err := k.Find(t.Context(), "unknown", "RS256", time.Now(), true); key != nil || err != nil {
			t.Errorf("Find: got %v, %v, want a refusal", key, err)
		}
	})
}

// TestCheckNamesEveryFault expects the key's path and a word of the sentence.
func TestCheckNamesEveryFault(t *testing.T) {
	times := jwks.Config{Refresh: 5 * time.Minute, MaxStale: 24 * time.Hour}
	files := func(paths ...string) jwks.Config {
		c := times
		for _, p := range paths {
			c.Files = append(c.Files, jwks.File{Path: p})
		}
		return c
	}
	rsa1024 := must(x509.MarshalPKIXPublicKey(must(x509.ParsePKIXPublicKey(mustHex(weakRSA)))))
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	good := block("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(p256Key().Public())))
	pkcs8 := must(x509.MarshalPKCS8PrivateKey(p256Key()))
	for _, row := range []struct {
		name   string
		cfg    jwks.Config
		issuer string
		want   []string // "key: part of the problem"
	}{
		{"in order", files(write(t, "a.pem", good)), issuer, nil},
		{"PKCS#1", files(write(t, "a.pem", block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey)))), issuer, nil},
		{"no source", times, issuer, []string{"jwks_url: exactly one"}},
		{"two sources", jwks.Config{Discover: true, JWKSURL: jwksURL, Refresh: time.Minute, MaxStale: time.Hour}, issuer, []string{"jwks_url: exactly one"}},
		{"no times", jwks.Config{JWKSURL: jwksURL}, issuer, []string{"refresh: 1s"}},
		{"stale before refreshed", jwks.Config{JWKSURL: jwksURL, Refresh: time.Hour, MaxStale: time.Minute}, issuer, []string{"max_stale: refresh"}},
		{"discovery of a name", jwks.Config{Discover: true, Refresh: time.Minute, MaxStale: time.Hour}, "corp", []string{"discover: https"}},
		{"discovery with a query", jwks.Config{Discover: true, Refresh: time.Minute, MaxStale: time.Hour}, "https://idp.example?a=b", []string{"discover: query"}},
		{"discovery over http", jwks.Config{Discover: true, Refresh: time.Minute, MaxStale: time.Hour}, "http://idp.example", []string{"discover: allow_http"}},
		{"a root file missing", jwks.Config{JWKSURL: jwksURL, CA: "/nonexistent.pem", Refresh: time.Minute, MaxStale: time.Hour}, issuer, []string{"ca: no such file"}},
		{"a root file without roots", jwks.Config{JWKSURL: jwksURL, CA: write(t, "ca.pem", good), Refresh: time.Minute, MaxStale: time.Hour}, issuer, []string{"ca: certificates in PEM"}},
		{"a missing file and an empty one", files("/nonexistent.pem", write(t, "a.pem", ""), ""), issuer, []string{"files[0]: no such file", "files[1]: expected a certificate", "files[2]: path"}},
		{"a private key", files(write(t, "a.pem", block("PRIVATE KEY", pkcs8))), issuer, []string{`files[0]: "PRIVATE KEY"`}},
		{"two blocks", files(write(t, "a.pem", good+good)), issuer, []string{"files[0]: one PEM block"}},
		{"RSA of 1024 bits", files(write(t, "a.pem", block("PUBLIC KEY", rsa1024))), issuer, []string{"files[0]: 1024 bits"}},
		{"a broken certificate", files(write(t, "a.pem", block("CERTIFICATE", []byte{0x30, 0}))), issuer, []string{"files[0]: expected a certificate"}},
		{"a broken key", files(write(t, "a.pem", block("PUBLIC KEY", []byte{0x30, 0}))), issuer, []string{"files[0]: reading the public key"}},
		{"a bare JWK", files(write(t, "a.json", string(must(json.Marshal(jwk("a", rsaKey().Public())))))), issuer, []string{"files[0]: not a JWK set"}},
		{"a set without usable keys", files(write(t, "a.json", `{"keys":[{"kty":"oct","k":"AA"}]}`)), issuer, []string{"files[0]: symmetric"}},
		{"too large", files(write(t, "a.json", strings.Repeat(" ", 1<<20+1))), issuer, []string{"files[0]: more than"}},
	} {
		t.Run("R15 "+row.name, func(t *testing.T) {
			var got []string
			row.cfg.Check(row.issuer, func(key, problem string) { got = append(got, key+": "+problem) })
			if len(got) != len(row.want) {
				t.Fatalf("faults: got %q, want %q", got, row.want)
			}
			for i, want := range row.want {
				key, part, _ := strings.Cut(want, ": ")
				if !strings.HasPrefix(got[i], key+": ") || !strings.Contains(got[i], part) {
					t.Errorf("fault %d: got %q, want %q with %q", i, got[i], key, part)
				}
			}
			_, err := jwks.New(row.cfg, jwks.Options{Issuer: row.issuer})
			if bad := len(row.want) > 0 && row.name != "no times"; (err != nil) != bad {
				t.Errorf("New: got %v, want an error %t", err, bad)
			}
		})
	}
	t.Run("R15 a kid for a set of two", func(t *testing.T) {
		path := write(t, "a.json", keySet(jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())))
		c := times
		c.Files = []jwks.File{{Path: path, Kid: "k"}}
		var got bytes.Buffer
		c.Check(issuer, func(key, problem string) { got.WriteString(key + ": " + problem) })
		if !strings.Contains(got.String(), "files[0]: a kid fits a file with one key") {
			t.Errorf("faults: got %q, want one of files[0]", got.String())
		}
	})
}

func mustHex(s string) []byte { return must(hex.DecodeString(s)) }

// weakRSA is a public key of 1024 bits, which Go itself no longer makes.
const weakRSA = "30819f300d06092a864886f70d010101050003818d0030818902818100ebc45101bc6b35a8241a37343bb7182ce2a136fa275bf47ef7e721074bd2e503d56b3d2af423adb3c9f3269e4223c7da0fdf79e98b3b5da03858a358102e44a1eab622207b5cee6342daa8974243ec75587b76f5ea6b47ec88803c03e3d72b0845f670c28e591130e7413c463d6a1e3d36357a6f41a3e27a51756623c586801b0203010001"
