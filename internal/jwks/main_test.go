package jwks_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"introspectd/internal/jwks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuer  = "https://idp.example/realms/corp"
	jwksURL = "https://idp.example/jwks"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521Key  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edKey    = sync.OnceValue(func() ed25519.PrivateKey {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return must(k, err)
	})
)

// members is a JWK on the way to being written.
type members map[string]any

// with returns a copy in which the given pairs are set; nil values are taken
// out.
func (m members) with(pairs ...any) members {
	c := maps.Clone(m)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == nil {
			delete(c, pairs[i].(string))
			continue
		}
		c[pairs[i].(string)] = pairs[i+1]
	}
	return c
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk writes a public key as RFC 7517 says, independently of the code tested.
func jwk(kid string, public crypto.PublicKey) members {
	m := members{}
	if kid != "" {
		m["kid"] = kid
	}
	switch k := public.(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		point := must(k.Bytes())[1:]
		m["kty"], m["crv"] = "EC", k.Params().Name
		m["x"], m["y"] = b64(point[:len(point)/2]), b64(point[len(point)/2:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(k)
	}
	return m
}

// keySet writes a JWK set; a string among keys stands as it is.
func keySet(keys ...any) string {
	raws := make([]string, len(keys))
	for i, k := range keys {
		if s, ok := k.(string); ok {
			raws[i] = s
			continue
		}
		raws[i] = string(must(json.Marshal(k)))
	}
	return `{"keys":[` + strings.Join(raws, ",") + `]}`
}

// source stands in for the network: it answers every request with what answer
// says at that moment.
type source struct {
	mu     sync.Mutex
	answer func(*http.Request) (*http.Response, error)
	asked  []string
	times  []time.Time
}

func (s *source) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.asked = append(s.asked, r.URL.String())
	s.times = append(s.times, time.Now())
	answer := s.answer
	s.mu.Unlock()
	return answer(r)
}

func (s *source) set(answer func(*http.Request) (*http.Response, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *source) fetches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func (s *source) instants() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.times...)
}

func reply(status int, body string, headers ...string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(headers); i += 2 {
			h.Set(headers[i], headers[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}, nil
	}
}

func ok(body string, headers ...string) func(*http.Request) (*http.Response, error) {
	return reply(http.StatusOK, body, headers...)
}

func down(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// slowly answers after d, as long as the request lives.
func slowly(d time.Duration, then func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return then(r)
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

// fromSource makes keys whose network is s.
func fromSource(t testing.TB, s *source, change ...func(*jwks.Config, *jwks.Options)) *jwks.Keys {
	t.Helper()
	cfg := jwks.Config{JWKSURL: jwksURL, Refresh: 5 * time.Minute, MaxStale: 24 * time.Hour}
	o := jwks.Options{Name: "corp", Issuer: issuer, Transport: s}
	for _, c := range change {
		c(&cfg, &o)
	}
	k, err := jwks.New(cfg, o)
	if err != nil {
		t.Fatalf("New: got %v, want no error", err)
	}
	return k
}

// holding makes keys that have read body.
func holding(t testing.TB, body string, change ...func(*jwks.Config, *jwks.Options)) *jwks.Keys {
	t.Helper()
	k := fromSource(t, &source{answer: ok(body)}, change...)
	if err := k.Refresh(context.Background()); err != nil {
		t.Fatalf("Refresh: got %v, want no error, set %s", err, body)
	}
	return k
}

// run starts Run and ends it with the test.
func run(t *testing.T, k *jwks.Keys) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// find asks without leave to fetch and wants an answer.
func find(t testing.TB, k *jwks.Keys, kid, alg string) *jwks.Key {
	t.Helper()
	return findAt(t, k, time.Now(), kid, alg)
}

func findAt(t testing.TB, k *jwks.Keys, at time.Time, kid, alg string) *jwks.Key {
	t.Helper()
	key, err := k.Find(context.Background(), kid, alg, at, false)
	if err != nil {
		t.Fatalf("Find(%q, %s): got error %v, want none", kid, alg, err)
	}
	if (key != nil || k.Refuses(kid, alg)) && k.Strange(kid) {
		t.Errorf("Strange(%q): got that no key has to do with it, where one does for %s", kid, alg)
	}
	return key
}

type equaler interface{ Equal(crypto.PublicKey) bool }

// wantKey wants Find to give exactly this public key; nil wants a refusal.
func wantKey(t testing.TB, k *jwks.Keys, kid, alg string, want crypto.PublicKey) {
	t.Helper()
	wantKeyAt(t, k, time.Now(), kid, alg, want)
}

func wantKeyAt(t testing.TB, k *jwks.Keys, at time.Time, kid, alg string, want crypto.PublicKey) {
	t.Helper()
	got := findAt(t, k, at, kid, alg)
	switch {
	case want == nil && got != nil:
		t.Errorf("Find(%q, %s): got key %s, want a refusal", kid, alg, got.Thumbprint)
	case want != nil && got == nil:
		t.Errorf("Find(%q, %s): got a refusal, want a key", kid, alg)
	case want != nil && !want.(equaler).Equal(got.Public):
		t.Errorf("Find(%q, %s): got another key than wanted: %s", kid, alg, got.Thumbprint)
	}
}

// openssl runs the tool; where CI runs it must be there.
func openssl(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("openssl is not installed, and CI must not go without it")
		}
		t.Skip("SKIPPED, NOT PASSED: openssl is not installed")
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
