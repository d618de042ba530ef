package jwks_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"introspectd/internal/jwks"
)

// TestOddKeyIsSkippedAlone puts one key beside a good one: the good one must
// be usable whatever the other is (JWT-16), and the other is used or counted
// under its reason.
func TestOddKeyIsSkippedAlone(t *testing.T) {
	r, ec, ed := jwk("odd", rsaKey().Public()), jwk("odd", p256Key().Public()), jwk("odd", edKey().Public())
	bits := func(n uint) string {
		v := new(big.Int).Lsh(big.NewInt(1), n-1)
		return b64(v.SetBit(v, 0, 1).Bytes())
	}
	short := b64(must(p256Key().PublicKey.Bytes())[2:33])
	for _, row := range []struct {
		name    string
		key     any
		skipped string // reason; empty = the key is used
	}{
		{"K1 key_ops nobody knows", r.with("key_ops", []string{"frobnicate"}), "wrong_use"},
		{"K1 key_ops nobody knows beside verify", r.with("key_ops", []string{"frobnicate", "verify"}), ""},
		{"K1 key_ops of a wrong type", r.with("key_ops", "verify"), "malformed"},
		{"K1 use nobody knows", r.with("use", "tls"), "wrong_use"},
		{"K1 use of a wrong type", r.with("use", 7), "malformed"},
		{"K1 RSA without e", r.with("e", nil), "malformed"},
		{"K1 RSA without n", r.with("n", nil), "malformed"},
		{"K1 bad base64", r.with("n", "!!"+r["n"].(string)), "malformed"},
		{"K1 padded base64", r.with("e", "AQAB=="), "malformed"},
		{"K1 line break inside base64", r.with("e", "AQ\nAB"), "malformed"},
		{"K1 spare bits in base64", ed.with("x", ed["x"].(string)[:42]+"_"), "malformed"},
		{"K1 e is 1", r.with("e", "AQ"), "rsa_exponent"},
		{"K1 e over 31 bits", r.with("e", b64([]byte{1, 0, 0, 0, 1})), "rsa_exponent"},
		{"K1 e of exactly 2^31+1", r.with("e", b64([]byte{0x80, 0, 0, 1})), "rsa_exponent"},
		{"K1 e of exactly 2^31-1", r.with("e", b64([]byte{0x7f, 0xff, 0xff, 0xff})), ""},
		{"K1 EC off curve", ec.with("y", ec["x"]), "off_curve"},
		{"K1 EC coordinate stripped of a leading octet", ec.with("x", short), "malformed"},
		{"K1 EC without y", ec.with("y", nil), "malformed"},
		{"K1 Ed25519 of 31 octets", ed.with("x", b64(make([]byte, 31))), "malformed"},
		{"K1 bad x5c", r.with("x5c", []string{"%%%"}), ""},
		{"K1 x5t of another kind (WSO2, Auth0)", r.with("x5t", "MzYxMmFkOGYwMWI0ZWNmNDcxNGYwYmM4", "x5c", []string{"MIIB"}), ""},
		{"K1 http x5u", r.with("x5u", "http://127.0.0.1:1/cert"), ""},
		{"K1 kid is a number", r.with("kid", 7), "malformed"},
		{"K1 kid longer than 256 bytes", r.with("kid", strings.Repeat("k", 257)), "malformed"},
		{"K1 a string in place of a key", `"x"`, "malformed"},
		{"K1 null in place of a key", `null`, "malformed"},
		{"K1 kty nobody knows", members{"kty": "AKP", "kid": "odd", "alg": "ML-DSA-44", "pub": "AA"}, "unsupported_type"},
		{"K1 Ed448", ed.with("crv", "Ed448"), "unsupported_type"},
		{"K1 X25519", ed.with("crv", "X25519"), "unsupported_type"},
		{"K1 secp256k1", ec.with("crv", "secp256k1"), "unsupported_type"},
		{"K1 kty missing", r.with("kty", nil), "unsupported_type"},
		{"K1 a member twice", `{"kty":"RSA","kid":"odd","kid":"good","n":"` + r["n"].(string) + `","e":"AQAB"}`, "malformed"},
		{"K1 broken UTF-8", `{"kty":"RSA","kid":"odd` + "\xff" + `","n":"` + r["n"].(string) + `","e":"AQAB"}`, "malformed"},
		{"K1 names in another case", `{"KTY":"RSA","kid":"odd","n":"` + r["n"].(string) + `","e":"AQAB"}`, "unsupported_type"},
		{"K1 optional members null", `{"kty":"RSA","kid":"odd","use":null,"key_ops":null,"alg":null,"n":"` + r["n"].(string) + `","e":"AQAB"}`, ""},
		{"K1 modulus with a leading zero octet", r.with("n", b64(append([]byte{0}, rsaKey().N.Bytes()...))), ""},
		{"K5 use enc", r.with("use", "enc"), "wrong_use"},
		{"K5 use sig", r.with("use", "sig"), ""},
		{"K5 use empty", r.with("use", ""), "wrong_use"},
		{"K5 key_ops without verify", r.with("key_ops", []string{"encrypt", "sign"}), "wrong_use"},
		{"K5 key_ops empty", r.with("key_ops", []string{}), "wrong_use"},
		{"K5 alg of an encryption", r.with("alg", "RSA-OAEP"), "unsupported_alg"},
		{"K6 oct", members{"kty": "oct", "kid": "odd", "k": "c2VjcmV0", "alg": "HS256"}, "symmetric"},
		{"K6 HS256 on an RSA key", r.with("alg", "HS256"), "unsupported_alg"},
		{"K6 alg none", r.with("alg", "none"), "unsupported_alg"},
		{"K8 RSA of 1024 bits", r.with("n", bits(1024)), "rsa_size"},
		{"K8 RSA of 2047 bits", r.with("n", bits(2047)), "rsa_size"},
		{"K8 RSA of 8192 bits", r.with("n", bits(8192)), ""},
		{"K8 RSA of 8193 bits", r.with("n", bits(8193)), "rsa_size"},
		{"K8 RSA of 16384 bits", r.with("n", bits(16384)), "rsa_size"},
		{"K8 even e", r.with("e", b64([]byte{1, 0, 2})), "rsa_exponent"},
		{"K8 e is 3", r.with("e", "Aw"), "rsa_exponent"},
		{"K8 even modulus", r.with("n", b64(new(big.Int).Lsh(big.NewInt(1), 2047).Bytes())), "malformed"},
		{"K14 e beyond 64 bits is not cut", r.with("e", b64([]byte{1, 0, 0, 0, 0, 0, 1, 0, 1})), "rsa_exponent"},
		{"K16 RSA with private parts", r.with("d", b64(rsaKey().D.Bytes())), "private"},
		{"K16 RSA with one prime only", r.with("p", "AQ"), "private"},
		{"K16 EC with private part", ec.with("d", "AQ"), "private"},
		{"K16 private part null is still a slip", r.with("d", json.RawMessage("null")), "private"},
		{"JWT-10 alg that its curve can't have", ec.with("alg", "ES384"), "unsupported_alg"},
		{"JWT-10 alg of another type", ec.with("alg", "RS256"), "unsupported_alg"},
		{"JWT-10 alg in lower case", r.with("alg", "rs256"), "unsupported_alg"},
		{"JWT-10 EdDSA under its new name", ed.with("alg", "Ed25519"), ""},
	} {
		t.Run("JWT-16 "+row.name, func(t *testing.T) {
			k := holding(t, keySet(row.key, jwk("good", p384Key().Public())))
			wantKey(t, k, "good", "ES384", p384Key().Public())
			s := k.State()
			var want map[string]int
			if row.skipped != "" {
				want = map[string]int{row.skipped: 1}
			}
			if diff := cmp.Diff(want, s.Skipped); diff != "" {
				t.Errorf("skipped (-want +got):\n%s", diff)
			}
			used := 0
			for _, key := range s.Keys {
				if key.Kid == "odd" {
					used++
				}
			}
			if want := 1 - len(want); used != want {
				t.Errorf("odd key in use: got %d, want %d", used, want)
			}
		})
	}
}

// TestBrokenSetKeepsTheLastGoodOne answers 200 with something that must not
// replace a set.
func TestBrokenSetKeepsTheLastGoodOne(t *testing.T) {
	good := must(json.Marshal(jwk("new", p384Key().Public())))
	many := make([]any, 101)
	for i := range many {
		many[i] = jwk(fmt.Sprint(i), edKey().Public())
	}
	for _, row := range []struct{ name, body string }{
		{"K2 empty object", `{}`},
		{"K2 null", `null`},
		{"K2 keys null", `{"keys":null}`},
		{"K2 keys an object", `{"keys":{}}`},
		{"K2 an error document", `{"error":"x"}`},
		{"K2 a bare JWK", string(good)},
		{"K2 an array", `[` + string(good) + `]`},
		{"K2 HTML", `<html>502</html>`},
		{"K2 nothing", ``},
		{"K2 truncated", keySet(string(good))[:80]},
		{"K2 truncated after the key", strings.TrimSuffix(keySet(string(good)), "]}")},
		{"K2 truncated before the end", strings.TrimSuffix(keySet(string(good)), "}")},
		{"T9 no keys at all", `{"keys":[]}`},
		{"T9 no usable key", keySet(jwk("x", rsaKey().Public()).with("use", "enc"))},
		{"K3 garbage after the set", keySet(string(good)) + `x`},
		{"K3 a second set after the set", keySet(string(good)) + `{}`},
		{"K3 KEYS", strings.Replace(keySet(string(good)), "keys", "KEYS", 1)},
		{"K3 keys twice", `{"keys":[],` + keySet(string(good))[1:]},
		{"K7 101 keys", keySet(many...)},
		{"K7 more than 1 MiB", keySet(string(good)) + strings.Repeat(" ", 1<<20)},
		{"K7 nested beyond what a parser takes", `{"x":` + strings.Repeat("[", 20000)},
	} {
		t.Run("JWT-14 "+row.name, func(t *testing.T) {
			s := &source{answer: ok(keySet(jwk("old", rsaKey().Public())))}
			k := fromSource(t, s)
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			digest := k.Digest()
			s.set(ok(row.body))
			if err := k.Refresh(t.Context()); err == nil || strings.Contains(err.Error(), "panic") {
				t.Errorf("Refresh: got %v, want an error that is no panic, body %.60q", err, row.body)
			}
			wantKey(t, k, "old", "RS256", rsaKey().Public())
			wantKey(t, k, "new", "ES384", nil)
			if k.Digest() != digest || !k.Ready() {
				t.Errorf("set: got a changed digest or not ready, want the old one in use")
			}
			if k.State().LastError == "" {
				t.Errorf("State: got no LastError, want the reason")
			}
		})
	}
	t.Run("K7 100 keys", func(t *testing.T) {
		if got := len(holding(t, keySet(many[:100]...)).State().Keys); got != 100 {
			t.Errorf("keys: got %d, want 100", got)
		}
	})
	t.Run("K3 other members beside keys, even twice", func(t *testing.T) {
		k := holding(t, `{"a":1,"a":2,"b":"`+"\xff"+`",`+keySet(string(good))[1:]+" \n")
		wantKey(t, k, "new", "ES384", p384Key().Public())
	})
}

// TestAlgorithmBelongsToTheKey asks every kind of key for every algorithm.
func TestAlgorithmBelongsToTheKey(t *testing.T) {
	all := []string{
		"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
		"none", "HS256", "rs256", "ES256K", "",
	}
	for _, row := range []struct {
		name   string
		key    members
		public crypto.PublicKey
		algs   string
	}{
		{"RSA", jwk("k", rsaKey().Public()), rsaKey().Public(), "RS256 RS384 RS512 PS256 PS384 PS512"},
		{"K4 RSA pinned", jwk("k", rsaKey().Public()).with("alg", "RS256"), rsaKey().Public(), "RS256"},
		{"P-256", jwk("k", p256Key().Public()), p256Key().Public(), "ES256"},
		{"P-384", jwk("k", p384Key().Public()), p384Key().Public(), "ES384"},
		{"P-521", jwk("k", p521Key().Public()), p521Key().Public(), "ES512"},
		{"Ed25519", jwk("k", edKey().Public()), edKey().Public(), "EdDSA Ed25519"},
		{"Ed25519 pinned", jwk("k", edKey().Public()).with("alg", "EdDSA"), edKey().Public(), "EdDSA Ed25519"},
	} {
		t.Run("JWT-17 "+row.name, func(t *testing.T) {
			k := holding(t, keySet(row.key))
			for _, alg := range all {
				var want crypto.PublicKey
				for _, a := range strings.Fields(row.algs) {
					if a == alg {
						want = row.public
					}
				}
				for _, kid := range []string{"k", ""} { // K4: a missing kid skips no check
					wantKey(t, k, kid, alg, want)
				}
				print := k.State().Keys[0].Thumbprint
				if got := k.Holds(print, alg); got != (want != nil) {
					t.Errorf("Holds(%s): got %t, want %t", alg, got, want != nil)
				}
			}
		})
	}
}

func TestKidChoosesTheKey(t *testing.T) {
	a, b := rsaKey().Public(), otherRSA().Public()
	thumb := jwks.Thumbprint(sha256.Sum256([]byte(`{"e":"AQAB","kty":"RSA","n":"` + b64(rsaKey().N.Bytes()) + `"}`))).String()
	for _, row := range []struct {
		name     string
		keys     []any
		kid, alg string
		want     crypto.PublicKey
	}{
		{"JWT-11 no kid, one key", []any{jwk("a", a)}, "", "RS256", a},
		{"JWT-11 no kid, two keys", []any{jwk("a", a), jwk("b", b)}, "", "RS256", nil},
		{"JWT-11 no kid, two keys of which one fits", []any{jwk("a", a), jwk("b", p256Key().Public())}, "", "ES256", p256Key().Public()},
		{"JWT-11 no kid, two keys of which one is pinned to the alg, one free", []any{jwk("a", a), jwk("b", b).with("alg", "PS256")}, "", "PS256", nil},
		{"JWT-11 no kid, one key under two names", []any{jwk("a", a), jwk("b", a)}, "", "RS256", a},
		{"JWT-11 no kid, two keys of which one is for encryption", []any{jwk("a", a), jwk("b", b).with("use", "enc")}, "", "RS256", a},
		{"JWT-11 unnamed single key serves any kid", []any{jwk("", a)}, "anything", "RS256", a},
		{"JWT-11 empty kid in the set is no kid", []any{jwk("", a).with("kid", "")}, "anything", "RS256", a},
		{"JWT-11 unnamed key beside another that fits", []any{jwk("", a), jwk("b", b)}, "anything", "RS256", nil},
		{"JWT-11 unnamed key beside another that does not fit", []any{jwk("", a), jwk("b", p256Key().Public())}, "anything", "RS256", a},
		{"JWT-11 unnamed key that is also there by name", []any{jwk("", a), jwk("b", a)}, "anything", "RS256", nil},
		{"JWT-11 unnamed key answers to its thumbprint", []any{jwk("", a), jwk("", b)}, thumb, "RS256", a},
		{"JWT-11 a named key does not answer to its thumbprint", []any{jwk("a", a), jwk("b", b)}, thumb, "RS256", nil},
		{"JWT-11 a kid given by name goes before a thumbprint", []any{jwk("", a), jwk(thumb, b)}, thumb, "RS256", b},
		{"JWT-11 a named single key serves no other kid", []any{jwk("a", a)}, "b", "RS256", nil},
		{"JWT-11 kid is compared by case", []any{jwk("a", a)}, "A", "RS256", nil},
		{"JWT-11 kid of 257 bytes", []any{jwk("", a)}, strings.Repeat("k", 257), "RS256", nil},
		{"JWT-17 one kid, two types", []any{jwk("k", p256Key().Public()), jwk("k", a)}, "k", "RS256", a},
		{"JWT-17 one kid, two types, the other way", []any{jwk("k", p256Key().Public()), jwk("k", a)}, "k", "ES256", p256Key().Public()},
		{"JWT-17 one kid, two pinned algs", []any{jwk("k", a).with("alg", "RS256"), jwk("k", b).with("alg", "RS512")}, "k", "RS512", b},
		{"JWT-17 one kid, first for encryption", []any{jwk("k", b).with("use", "enc"), jwk("k", a)}, "k", "RS256", a},
		{"K13 one kid, two keys that fit", []any{jwk("k", a), jwk("k", b)}, "k", "RS256", nil},
		{"K13 one key twice", []any{jwk("k", a), jwk("k", a)}, "k", "RS256", a},
		{"K4 no kid does not skip the alg", []any{jwk("k", a).with("alg", "RS256")}, "", "PS512", nil},
		{"JWT-17 a known kid with an unfit alg is not served by an unnamed key", []any{jwk("k", p256Key().Public()), jwk("", a)}, "k", "RS256", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			wantKey(t, holding(t, keySet(row.keys...)), row.kid, row.alg, row.want)
		})
	}
	t.Run("JWT-11 kid_required", func(t *testing.T) {
		k := holding(t, keySet(jwk("a", a)), func(c *jwks.Config, _ *jwks.Options) { c.KidRequired = true })
		wantKey(t, k, "", "RS256", nil)
		wantKey(t, k, "a", "RS256", a)
	})
}

// What is strange is told without a look at alg and time, and so only where neither
// makes a difference.
func TestStrangeKids(t *testing.T) {
	a, b := rsaKey().Public(), p256Key().Public()
	public, _ := known(t)
	for name, row := range map[string]struct {
		keys    []any
		kid     string
		strange bool
	}{
		"JWT-11 a kid that nobody has":                 {[]any{jwk("a", a), jwk("b", b)}, "c", true},
		"JWT-11 one that differs by case":              {[]any{jwk("a", a)}, "A", true},
		"JWT-11 one of the kids":                       {[]any{jwk("a", a), jwk("b", b)}, "b", false},
		"JWT-11 none":                                  {[]any{jwk("a", a), jwk("b", b)}, "", false},
		"JWT-11 any, where a key has no name":          {[]any{jwk("a", a), jwk("", b)}, "c", false},
		"any, where there is a key that anyone has":    {[]any{jwk("a", a), jwk("bad", public.PublicKey)}, "c", false},
		"the kid of a key for encryption, beside ours": {[]any{jwk("a", a), jwk("b", b).with("use", "enc")}, "b", true},
	} {
		k := fromFiles(t, time.Now(), jwks.File{Path: write(t, "set.json", keySet(row.keys...))})
		if got := k.Strange(row.kid); got != row.strange {
			t.Errorf("%s: got %t, want %t", name, got, row.strange)
		}
		for _, alg := range []string{"RS256", "PS512", "ES256"} {
			find(t, k, row.kid, alg)
		}
	}
}

func TestKeyCarriesWhatItIs(t *testing.T) {
	k := holding(t, keySet(jwk("a", rsaKey().Public()).with("alg", "PS384")))
	want := jwks.Key{
		Kid: "a", Algs: []string{"PS384"}, Public: rsaKey().Public(),
		Thumbprint: sha256.Sum256([]byte(`{"e":"AQAB","kty":"RSA","n":"` + b64(rsaKey().N.Bytes()) + `"}`)),
		Set:        k.Digest(),
	}
	if diff := cmp.Diff(&want, find(t, k, "a", "PS384")); diff != "" {
		t.Errorf("Key (-want +got):\n%s", diff)
	}
}

// TestThumbprintOfRFC7638 uses the example of its section 3.1.
func TestThumbprintOfRFC7638(t *testing.T) {
	k := holding(t, keySet(`{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`))
	got := find(t, k, "2011-04-29", "RS256").Thumbprint.String()
	if want := "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"; got != want {
		t.Errorf("thumbprint: got %s, want %s", got, want)
	}
}

// TestIssuersDoNotShareKeys: one kid, two issuers, two keys.
func TestIssuersDoNotShareKeys(t *testing.T) {
	a := holding(t, keySet(jwk("k", rsaKey().Public()), jwk("only-a", p256Key().Public())))
	b := holding(t, keySet(jwk("k", otherRSA().Public())))
	t.Run("JWT-06 K12 T4 same kid", func(t *testing.T) {
		for range 40 {
			wantKey(t, a, "k", "RS256", rsaKey().Public())
			wantKey(t, b, "k", "RS256", otherRSA().Public())
		}
	})
	t.Run("JWT-06 K12 kid of the other issuer", func(t *testing.T) {
		wantKey(t, b, "only-a", "ES256", nil)
		if b.Holds(find(t, a, "only-a", "ES256").Thumbprint, "ES256") {
			t.Error("Holds: got true for the other issuer's key, want false")
		}
	})
}

func TestDigestFollowsTheSet(t *testing.T) {
	a, b := jwk("a", rsaKey().Public()), jwk("b", p256Key().Public())
	digest := func(keys ...any) [32]byte { return holding(t, keySet(keys...)).Digest() }
	base := digest(a, b)
	for _, row := range []struct {
		name string
		keys []any
		same bool
	}{
		{"JWT-15 in another order", []any{b, a}, true},
		{"JWT-15 with members that don't matter", []any{a.with("x5t", "x", "use", "sig"), b}, true},
		{"JWT-15 a key less", []any{a}, false},
		{"JWT-15 a key more", []any{a, b, jwk("c", edKey().Public())}, false},
		{"JWT-15 a key renamed", []any{a.with("kid", "z"), b}, false},
		{"JWT-15 a key pinned", []any{a.with("alg", "RS256"), b}, false},
		{"JWT-15 a key exchanged", []any{jwk("a", otherRSA().Public()), b}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := digest(row.keys...) == base; got != row.same {
				t.Errorf("same digest: got %t, want %t", got, row.same)
			}
		})
	}
	if got := fromSource(t, &source{}).Digest(); got != [32]byte{} {
		t.Errorf("Digest before the first fetch: got %x, want zero", got)
	}
}

// FuzzKeySet feeds the parser through the same door as the network does.
func FuzzKeySet(f *testing.F) {
	f.Add([]byte(keySet(jwk("a", rsaKey().Public()), jwk("b", p256Key().Public()), jwk("", edKey().Public()))))
	f.Add([]byte(keySet(jwk("a", p521Key().Public()).with("alg", "ES512", "use", "sig", "key_ops", []string{"verify"}))))
	f.Add([]byte(`{"keys":[null,1,"x",{},{"kty":"RSA","n":"AQ","e":"AQ"}]}`))
	f.Add([]byte(`{"keys":[],"keys":[]} x`))
	good := keySet(jwk("good", p384Key().Public()))
	f.Fuzz(func(t *testing.T, body []byte) {
		s := &source{answer: ok(good)}
		k := fromSource(t, s)
		if err := k.Refresh(context.Background()); err != nil {
			t.Fatal(err)
		}
		s.set(ok(string(body)))
		err := k.Refresh(context.Background())
		if err != nil {
			if strings.Contains(err.Error(), "panic") {
				t.Fatalf("Refresh: %v, body %q", err, body)
			}
			wantKey(t, k, "good", "ES384", p384Key().Public())
			return
		}
		st := k.State()
		if len(st.Keys) == 0 || len(st.Keys) > 100 {
			t.Fatalf("keys: got %d, want 1 to 100, body %q", len(st.Keys), body)
		}
		for _, key := range st.Keys {
			if key.Kty == "RSA" && (key.Bits < 2048 || key.Bits > 8192) {
				t.Errorf("RSA size: got %d, body %q", key.Bits, body)
			}
			if len(key.Algs) == 0 || len(key.Kid) > 256 {
				t.Errorf("key: got %+v, want algs and a short kid, body %q", key, body)
			}
			for _, alg := range key.Algs {
				if !k.Holds(key.Thumbprint, alg) {
					t.Errorf("Holds(%s, %s): got false, want true, body %q", key.Thumbprint, alg, body)
				}
				if got := find(t, k, key.Kid, alg); got != nil && got.Public == nil {
					t.Errorf("Find(%q): got a key without a public half, body %q", key.Kid, body)
				}
			}
		}
	})
}

func benchmarkKeys(b *testing.B) (*jwks.Keys, *jwks.Key) {
	b.Helper()
	keys := []any{jwk("rsa", rsaKey().Public()), jwk("ec", p256Key().Public()), jwk("ed", edKey().Public())}
	k := holding(b, keySet(keys...), func(_ *jwks.Config, o *jwks.Options) { o.Now = time.Now })
	return k, find(b, k, "rsa", "RS256")
}

func BenchmarkFind(b *testing.B) {
	k, _ := benchmarkKeys(b)
	b.ReportAllocs()
	for b.Loop() {
		if key, err := k.Find(b.Context(), "rsa", "RS256", time.Now(), true); key == nil || err != nil {
			b.Fatal(key, err)
		}
	}
}

func BenchmarkHolds(b *testing.B) {
	k, key := benchmarkKeys(b)
	b.ReportAllocs()
	for b.Loop() {
		if !k.Holds(key.Thumbprint, "RS256") {
			b.Fatal("not held")
		}
	}
}

func TestHoldsEachOfManyKeys(t *testing.T) {
	var keys []any
	for n := range 60 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, jwk(fmt.Sprint(n), key.Public()))
	}
	k := holding(t, keySet(keys[1:]...))
	for n := range keys[1:] {
		print := find(t, k, fmt.Sprint(n+1), "ES256").Thumbprint
		if !k.Holds(print, "ES256") || k.Holds(print, "RS256") {
			t.Errorf("JWT-15 key %d: by ES256 %t, by RS256 %t, want true, false", n+1, k.Holds(print, "ES256"), k.Holds(print, "RS256"))
		}
	}
	if gone := find(t, holding(t, keySet(keys[0])), "0", "ES256").Thumbprint; k.Holds(gone, "ES256") {
		t.Error("JWT-15 a key of another set is held")
	}
}

func TestHoldsAllocatesNothing(t *testing.T) {
	k := holding(t, keySet(jwk("rsa", rsaKey().Public())))
	print := find(t, k, "rsa", "RS256").Thumbprint
	if got := testing.AllocsPerRun(100, func() { k.Holds(print, "RS256") }); got != 0 {
		t.Errorf("allocations: got %v, want 0", got)
	}
}
