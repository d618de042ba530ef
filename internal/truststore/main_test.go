package truststore_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"introspectd/internal/truststore"
)

const password = "wso2carbon"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	ecKey  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
)

// certificate makes one that could sign tokens, but for what change does to it.
func certificate(name string, change ...func(*x509.Certificate)) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	for _, c := range change {
		c(template)
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, template, ecKey().Public(), ecKey()))))
}

func aCA(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }

func inPEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t testing.TB, path string) []byte {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// tool runs a program in dir; where CI runs it must be there.
func tool(t testing.TB, dir, stdin, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed, and CI must not go without it", name)
		}
		t.Skipf("SKIPPED, NOT PASSED: %s is not installed; the stores that it makes were not tested", name)
	}
	c := exec.Command(path, args...)
	c.Dir, c.Stdin = dir, strings.NewReader(stdin)
	c.Env = append(os.Environ(), "JAVA_TOOL_OPTIONS=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC") // it starts sooner
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func keytool(t testing.TB, dir string, args ...string) string {
	t.Helper()
	return tool(t, dir, "", "keytool", args...)
}

func openssl(t testing.TB, args ...string) string {
	t.Helper()
	return tool(t, "", "", "openssl", args...)
}

// read wants a store out of body.
func read(t testing.TB, body []byte) *truststore.Store {
	t.Helper()
	s, err := truststore.Read(body, password)
	if err != nil {
		t.Fatalf("Read: got %v, want no error", err)
	}
	return s
}

// picture is a store in a few words, for comparison.
func picture(s *truststore.Store) []string {
	out := []string{string(s.Format)}
	for _, e := range s.Entries {
		out = append(out, e.Alias)
	}
	for _, e := range s.Skipped {
		out = append(out, "- "+e.Alias+" "+string(e.Reason))
	}
	return out
}
