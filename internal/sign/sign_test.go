package sign_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"introspectd/internal/claims"
	"introspectd/internal/memstore"
	"introspectd/internal/sign"
)

const issuer = "https://introspect.example"

// Key pairs take time to make and are the same for all tests.
var (
	rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return made(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey  = sync.OnceValue(func() *ecdsa.PrivateKey { return made(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	edKey  = sync.OnceValue(func() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, 32)) })
)

func made[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// world is a signer with a clock that stands still.
type world struct {
	*sign.Signer
	now  time.Time
	form sign.Form
}

func newWorld(t *testing.T, keys ...sign.Key) *world {
	t.Helper()
	set, err := sign.Of(keys...)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		now:  time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC),
		form: sign.Form{Type: "introspectd-assertion+jwt", Audience: []string{"https://backend.example"}, Lifetime: 5 * time.Minute},
	}
	w.Signer = sign.New(sign.Options{Keys: set, Issuer: issuer, Cache: memstore.New(32 << 20), Now: func() time.Time { return w.now }})
	return w
}

// make signs claims about a token with an hour left.
func (w *world) make(t *testing.T, about, text string) sign.Assertion {
	t.Helper()
	a, err := w.Make(t.Context(), &w.form, []byte(about), w.now.Add(time.Hour).Unix(), decode(t, text).All())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func decode(t *testing.T, text string) claims.Set {
	t.Helper()
	set, err := claims.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// opened is an assertion taken apart.
func opened(t *testing.T, a sign.Assertion) (header, payload map[string]any) {
	t.Helper()
	parts := strings.Split(a.Text, ".")
	if len(parts) != 3 {
		t.Fatalf("got %d segments, want a compact JWS", len(parts))
	}
	for n, into := range []*map[string]any{&header, &payload} {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(parts[n])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := claims.Decode(slices.Clone(raw)); err != nil {
			t.Fatalf("not one strict JSON object: %v in %s", err, raw)
		}
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatal(err)
		}
	}
	return header, payload
}

func TestASN01EveryAlgorithmVerifies(t *testing.T) {
	for _, row := range []struct {
		alg    sign.Algorithm
		want   string
		signer crypto.Signer
	}{
		{"", "RS256", rsaKey()},
		{sign.RS256, "RS256", rsaKey()},
		{sign.PS256, "PS256", rsaKey()},
		{"", "ES256", ecKey()},
		{"", "Ed25519", edKey()},
		{sign.EdDSA, "EdDSA", edKey()},
	} {
		t.Run(string(row.alg)+" "+row.want, func(t *testing.T) {
			w := newWorld(t, sign.Key{Signer: row.signer, Algorithm: row.alg})
			a := w.make(t, "x", `{"sub":"alice"}`)
			header, _ := opened(t, a)
			if len(header) != 3 || header["alg"] != row.want || header["typ"] != "introspectd-assertion+jwt" || header["kid"] != w.Keys().IDs()[0] {
				t.Errorf("header: got %v, want alg %s, kid, typ and nothing else", header, row.want)
			}
			method := jwt.GetSigningMethod(strings.Replace(row.want, "Ed25519", "EdDSA", 1))
			cut := strings.LastIndexByte(a.Text, '.')
			signature, err := base64.RawURLEncoding.DecodeString(a.Text[cut+1:])
			if err != nil {
				t.Fatal(err)
			}
			if err := method.Verify(a.Text[:cut], signature, row.signer.Public()); err != nil {
				t.Errorf("the signature does not verify: %v", err)
			}
			if err := method.Verify(a.Text[:cut]+"A", signature, row.signer.Public()); err == nil {
				t.Error("the signature verifies another payload as well")
			}
		})
	}
}

func TestASN02Members(t *testing.T) {
	w := newWorld(t, sign.Key{Signer: ecKey()})
	forged := `{"iss":"https://evil.example","aud":"evil","exp":1,"iat":1,"nbf":9,"jti":"evil","cnf":{"jkt":"x"},"active":false,"token_type":"DPoP",
		"sub":"alice","big":9007199254740993,"o":{"a":[1,"<&>"]}}`
	first, second := w.make(t, "x", forged), w.make(t, "y", forged)
	_, payload := opened(t, first)
	now := float64(w.now.Unix())
	for name, want := range map[string]any{
		"iss": issuer, "aud": "https://backend.example", "iat": now, "exp": now + 300, "sub": "alice",
	} {
		if payload[name] != want {
			t.Errorf("%s: got %v, want %v", name, payload[name], want)
		}
	}
	for _, name := range []string{"nbf", "cnf", "active", "token_type"} {
		if v, ok := payload[name]; ok {
			t.Errorf("%s: got %v, want it left out: it is about the token, not about the assertion", name, v)
		}
	}
	_, other := opened(t, second)
	if payload["jti"] == "evil" || payload["jti"] == other["jti"] || len(payload["jti"].(string)) < 22 {
		t.Errorf("jti: got %v and %v, want a new one each", payload["jti"], other["jti"])
	}
	raw, _ := base64.RawURLEncoding.DecodeString(strings.Split(first.Text, ".")[1])
	if !strings.Contains(string(raw), `"big":9007199254740993,"o":{"a":[1,"<&>"]}`) {
		t.Errorf("got %s, want claims as they were", raw)
	}
	w.form.Audience = []string{"a", "b"}
	_, payload = opened(t, w.make(t, "z", `{}`))
	if fmt.Sprint(payload["aud"]) != "[a b]" {
		t.Errorf("aud of several: got %v, want a list", payload["aud"])
	}
}

func TestASN02NoAssertionOutlivesItsToken(t *testing.T) {
	w := newWorld(t, sign.Key{Signer: ecKey()})
	for left, want := range map[time.Duration]int64{time.Hour: 300, 301 * time.Second: 300, 299 * time.Second: 299, time.Second: 1} {
		a, err := w.Make(t.Context(), &w.form, []byte(left.String()), w.now.Add(left).Unix(), claims.Set{}.All())
		if err != nil || a.Expires-w.now.Unix() != want || w.ExpiresIn(a) != want {
			t.Errorf("a token with %s left: got %d s, %v, want %d", left, a.Expires-w.now.Unix(), err, want)
		}
	}
	for _, left := range []time.Duration{0, -time.Second, -time.Hour} {
		if a, err := w.Make(t.Context(), &w.form, []byte(left.String()), w.now.Add(left).Unix(), claims.Set{}.All()); !errors.Is(err, sign.ErrOver) || a.Text != "" {
			t.Errorf("a token with %s left: got %v, %v, want ErrOver", left, a, err)
		}
	}
}

func TestASN05ReusedUntilHalfItsLife(t *testing.T) {
	w := newWorld(t, sign.Key{Signer: ecKey()})
	first := w.make(t, "x", `{"sub":"a"}`)
	for _, passed := range []time.Duration{0, time.Second, 149 * time.Second, 150*time.Second - 1} {
		w.now = w.now.Add(passed)
		if again, ok := w.Recall(t.Context(), &w.form, []byte("x")); !ok || again != first {
			t.Errorf("after %s: got another assertion or none (%v), want the same", passed, ok)
		}
		if again := w.make(t, "x", `{"sub":"a"}`); again != first {
			t.Errorf("after %s: got a new assertion, want the same", passed)
		}
		w.now = w.now.Add(-passed)
	}
	w.now = w.now.Add(150 * time.Second)
	if _, ok := w.Recall(t.Context(), &w.form, []byte("x")); ok {
		t.Error("half its life is over, and it is still reused")
	}
	if again := w.make(t, "x", `{"sub":"a"}`); again == first || again.Expires != first.Expires+150 {
		t.Error("half its life is over: want a new one")
	}
	w.now = w.now.Add(-time.Hour)
	if _, ok := w.Recall(t.Context(), &w.form, []byte("x")); ok {
		t.Error("one from the future was reused after the clock was put back")
	}
}

func TestASN05BoundToWhatItIsMadeOf(t *testing.T) {
	keys := made(sign.Of(sign.Key{Signer: ecKey()}, sign.Key{Signer: rsaKey(), ActiveFrom: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}))
	store := memstore.New(32 << 20)
	at := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { return at }
	one := sign.New(sign.Options{Keys: keys, Issuer: issuer, Cache: store, Now: clock})
	form := sign.Form{Type: "a+jwt", Audience: []string{"b"}, Lifetime: time.Minute, Version: sha256.Sum256([]byte("1"))}
	if _, err := one.Make(t.Context(), &form, []byte("x"), at.Unix()+600, claims.Set{}.All()); err != nil {
		t.Fatal(err)
	}
	edited := form
	edited.Version = sha256.Sum256([]byte("2"))
	next := made(sign.Of(sign.Key{Signer: rsaKey()}))
	for name, recalled := range map[string]func() (sign.Assertion, bool){
		"another token":   func() (sign.Assertion, bool) { return one.Recall(t.Context(), &form, []byte("y")) },
		"another profile": func() (sign.Assertion, bool) { return one.Recall(t.Context(), &edited, []byte("x")) },
		"another iss": func() (sign.Assertion, bool) {
			return sign.New(sign.Options{Keys: keys, Issuer: issuer + "/b", Cache: store, Now: clock}).Recall(t.Context(), &form, []byte("x"))
		},
		"another key": func() (sign.Assertion, bool) {
			return sign.New(sign.Options{Keys: next, Issuer: issuer, Cache: store, Now: clock}).Recall(t.Context(), &form, []byte("x"))
		},
	} {
		if a, ok := recalled(); ok {
			t.Errorf("%s: got %v, want none", name, a)
		}
	}
	if _, ok := sign.New(sign.Options{Keys: keys, Issuer: issuer, Cache: store, Now: clock}).Recall(t.Context(), &form, []byte("x")); !ok {
		t.Error("the same after a reload: want it reused")
	}
}

// counting is a key elsewhere, which tells how often it was asked.
type counting struct {
	crypto.Signer
	asked atomic.Int64
	wait  chan struct{}
}

func (c *counting) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	c.asked.Add(1)
	<-c.wait
	return c.Signer.Sign(r, digest, opts)
}

func TestASN05AHerdSignsOnce(t *testing.T) {
	far := &counting{Signer: rsaKey(), wait: make(chan struct{})}
	w := newWorld(t, sign.Key{Signer: far})
	var herd sync.WaitGroup
	got := make([]sign.Assertion, 64)
	for n := range got {
		herd.Go(func() {
			got[n], _ = w.Make(context.Background(), &w.form, []byte("x"), w.now.Add(time.Hour).Unix(), claims.Set{}.All())
		})
	}
	close(far.wait)
	herd.Wait()
	if far.asked.Load() != 1 || slices.ContainsFunc(got, func(a sign.Assertion) bool { return a != got[0] || a.Text == "" }) {
		t.Errorf("%d signatures for one token at once, want one that all get", far.asked.Load())
	}
}

// broken is a key elsewhere that signs with another key, or not at all.
type broken struct {
	crypto.Signer
	public crypto.PublicKey
	err    error
	cut    int
}

func (b broken) Public() crypto.PublicKey { return b.public }

func (b broken) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if b.err != nil {
		return nil, b.err
	}
	signature, err := b.Signer.Sign(r, digest, opts)
	return signature[:len(signature)-b.cut], err
}

func TestNothingLeavesThatItsPublicKeyDoesNotVerify(t *testing.T) {
	away := errors.New("the key service is away")
	others := made(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for name, signer := range map[string]crypto.Signer{
		"another RSA key":     broken{Signer: made(rsa.GenerateKey(rand.Reader, 2048)), public: rsaKey().Public()},
		"another EC key":      broken{Signer: others, public: ecKey().Public()},
		"another Ed25519 key": broken{Signer: made2(ed25519.GenerateKey(rand.Reader)), public: edKey().Public()},
		"half a signature":    broken{Signer: ecKey(), public: ecKey().Public(), cut: 3},
		"no signature":        broken{Signer: ecKey(), public: ecKey().Public(), err: away},
	} {
		w := newWorld(t, sign.Key{Signer: signer})
		a, err := w.Make(t.Context(), &w.form, []byte("x"), w.now.Add(time.Hour).Unix(), claims.Set{}.All())
		if err == nil || a.Text != "" {
			t.Errorf("%s: got %v, want an error", name, a)
		}
		if _, ok := w.Recall(t.Context(), &w.form, []byte("x")); ok {
			t.Errorf("%s: a failure is remembered", name)
		}
	}
}

func made2(_ ed25519.PublicKey, private ed25519.PrivateKey, err error) ed25519.PrivateKey {
	return made(private, err)
}

func TestASN05KeysArePublishedAheadOfTheirTime(t *testing.T) {
	begins := time.Date(2026, 12, 1, 0, 10, 0, 0, time.UTC)
	w := newWorld(t, sign.Key{Signer: rsaKey(), ActiveFrom: begins}, sign.Key{Signer: ecKey()})
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(w.Keys().JWKS(), &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("got %s, %v, want both keys before the second one's time", w.Keys().JWKS(), err)
	}
	kid := func() any {
		header, _ := opened(t, w.make(t, w.now.String(), `{}`))
		return header["kid"]
	}
	old, next := set.Keys[0]["kid"], set.Keys[1]["kid"]
	if set.Keys[0]["kty"] != "EC" || set.Keys[1]["kty"] != "RSA" {
		t.Errorf("got %v, want the one that signs first", set.Keys)
	}
	w.now = begins.Add(-1)
	if got := kid(); got != old {
		t.Errorf("before its time: got %v, want %s", got, old)
	}
	w.now = begins
	if got := kid(); got != next {
		t.Errorf("at its time: got %v, want %s", got, next)
	}
	w.now = begins.Add(24 * time.Hour)
	if got := kid(); got != next {
		t.Errorf("after its time: got %v, want %s", got, next)
	}
}

func TestNothingIsSignedBeforeAnyKeysTime(t *testing.T) {
	w := newWorld(t, sign.Key{Signer: ecKey(), ActiveFrom: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)})
	if a, err := w.Make(t.Context(), &w.form, nil, w.now.Add(time.Hour).Unix(), claims.Set{}.All()); err == nil || a.Text != "" {
		t.Errorf("got %v, %v, want an error", a, err)
	}
}

// The key of RFC 8037 appendix A, and its thumbprint.
func TestMET02KidIsTheThumbprint(t *testing.T) {
	seed := made(base64.RawURLEncoding.DecodeString("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"))
	keys := made(sign.Of(sign.Key{Signer: ed25519.NewKeyFromSeed(seed)}))
	want := `{"keys":[{"alg":"Ed25519","kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k","use":"sig","crv":"Ed25519","kty":"OKP","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	if got := string(keys.JWKS()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMET02NoPrivateMemberIsPublished(t *testing.T) {
	keys := made(sign.Of(sign.Key{Signer: rsaKey()}, sign.Key{Signer: ecKey(), ActiveFrom: time.Unix(1, 0)}, sign.Key{Signer: edKey(), ActiveFrom: time.Unix(2, 0)}))
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(keys.JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	allowed := map[string][]string{"RSA": {"n", "e"}, "EC": {"crv", "x", "y"}, "OKP": {"crv", "x"}}
	for _, k := range set.Keys {
		for name := range k {
			if !slices.Contains(append(allowed[k["kty"].(string)], "kty", "use", "alg", "kid"), name) {
				t.Errorf("member %s of %v", name, k["kty"])
			}
		}
	}
	text := string(keys.JWKS())
	for name, secret := range map[string][]byte{
		"d of RSA": rsaKey().D.Bytes(), "p": rsaKey().Primes[0].Bytes(), "q": rsaKey().Primes[1].Bytes(),
		"d of EC": made(ecKey().Bytes()), "d of Ed25519": edKey().Seed(),
	} {
		if strings.Contains(text, base64.RawURLEncoding.EncodeToString(secret)) {
			t.Errorf("%s is in the set", name)
		}
	}
}

// Coordinates with leading zeros keep their width, as RFC 7518 section 6.2.1.2
// asks; a thumbprint without them would be another.
func TestMET02CoordinatesKeepTheirWidth(t *testing.T) {
	for {
		key := made(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		point := made(key.PublicKey.Bytes())
		if point[1] != 0 && point[33] != 0 {
			continue
		}
		keys := made(sign.Of(sign.Key{Signer: key}))
		var set struct{ Keys []struct{ X, Y string } }
		if err := json.Unmarshal(keys.JWKS(), &set); err != nil {
			t.Fatal(err)
		}
		if len(set.Keys[0].X) != 43 || len(set.Keys[0].Y) != 43 {
			t.Errorf("got x %s, y %s, want 43 characters each", set.Keys[0].X, set.Keys[0].Y)
		}
		return
	}
}

func TestKeysThatAreNotOnesToSignWith(t *testing.T) {
	small := made(rsa.GenerateKey(rand.Reader, 1024))
	for name, row := range map[string]struct {
		key  sign.Key
		want string
	}{
		"RSA 1024":            {sign.Key{Signer: small}, "2048 to 8192 bits"},
		"RSA exponent 3":      {sign.Key{Signer: broken{public: &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2047), E: 3}}}, "exponent"},
		"P-384":               {sign.Key{Signer: made(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))}, "P-256, got P-384"},
		"ES256 by RSA":        {sign.Key{Signer: rsaKey(), Algorithm: sign.ES256}, "fits the key: RS256, PS256"},
		"RS256 by EC":         {sign.Key{Signer: ecKey(), Algorithm: sign.RS256}, "fits the key: ES256"},
		"none":                {sign.Key{Signer: ecKey(), Algorithm: "none"}, "fits the key"},
		"HS256":               {sign.Key{Signer: rsaKey(), Algorithm: "HS256"}, "fits the key"},
		"a key of no kind":    {sign.Key{Signer: broken{public: "x"}}, "expected an RSA key, an EC key"},
		"a symmetric key":     {sign.Key{Signer: broken{public: []byte("secret")}}, "expected an RSA key, an EC key"},
		"RS512 by an RSA key": {sign.Key{Signer: rsaKey(), Algorithm: "RS512"}, "fits the key"},
	} {
		if _, err := sign.Of(row.key); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", name, err, row.want)
		}
	}
}

func BenchmarkRecall(b *testing.B) {
	keys := made(sign.Of(sign.Key{Signer: rsaKey()}))
	s := sign.New(sign.Options{Keys: keys, Issuer: issuer, Cache: memstore.New(32 << 20)})
	form := sign.Form{Type: "JWT", Audience: []string{"b"}, Lifetime: 5 * time.Minute}
	about := make([]byte, 64)
	if _, err := s.Make(b.Context(), &form, about, time.Now().Unix()+3600, claims.Set{}.All()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := s.Recall(b.Context(), &form, about); !ok {
			b.Fatal("not remembered")
		}
	}
}

func BenchmarkMake(b *testing.B) {
	for name, key := range map[string]crypto.Signer{"RS256": rsaKey(), "ES256": ecKey(), "Ed25519": edKey()} {
		b.Run(name, func(b *testing.B) {
			s := sign.New(sign.Options{Keys: made(sign.Of(sign.Key{Signer: key})), Issuer: issuer})
			form := sign.Form{Type: "JWT", Audience: []string{"b"}, Lifetime: 5 * time.Minute}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Make(b.Context(), &form, nil, time.Now().Unix()+3600, claims.Set{}.All()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestAKeyThatAnyoneHasSignsNothing tries one that came with WSO2's products,
// by its certificate: its private half is not needed to be told.
func TestAKeyThatAnyoneHasSignsNothing(t *testing.T) {
	const file = "../../../shared/wso2/public/wso2carbon-2019-10.crt.pem"
	text, err := os.ReadFile(file)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("%s is not there, and where CI=true it has to be", file)
	} else if err != nil {
		t.Skipf("SKIPPED, NOT PASSED: %s is not there", file)
	}
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sign.Of(sign.Key{Signer: broken{public: c.PublicKey}})
	if err == nil || !strings.Contains(err.Error(), "anyone can sign with it") {
		t.Errorf("got %v, want a refusal", err)
	}
}
