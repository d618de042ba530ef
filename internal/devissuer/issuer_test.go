package devissuer_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"introspectd/internal/devissuer"
)

const issuerURL = "http://127.0.0.1:8080/dev"

func TestMintedTokenVerifiesAgainstThePublishedSet(t *testing.T) {
	for _, alg := range []string{"RS256", "PS384", "ES256", "ES384", "ES512", "EdDSA"} {
		t.Run(alg, func(t *testing.T) {
			i := devissuer.New(issuerURL, alg)
			claims, err := verified(i.JWKS(), i.Mint(nil))
			if err != nil {
				t.Fatalf("verifying a minted token: %v", err)
			}
			if claims["iss"] != issuerURL {
				t.Errorf("iss: got %v, want %s", claims["iss"], issuerURL)
			}
		})
	}
}

func TestStandardClaims(t *testing.T) {
	i := devissuer.New(issuerURL, "EdDSA")
	before := time.Now().Unix()
	header, claims := decoded(t, i.Mint(nil))

	wantHeader := map[string]any{"alg": "EdDSA", "typ": "at+jwt", "kid": i.Key("EdDSA").Kid}
	if diff := cmp.Diff(wantHeader, header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	iat := int64(claims["iat"].(float64))
	if iat < before || iat > time.Now().Unix() {
		t.Errorf("iat: got %d, want now (%d)", iat, before)
	}
	if jti, _ := claims["jti"].(string); len(jti) < 20 {
		t.Errorf("jti: got %v, want a long random text", claims["jti"])
	}
	want := map[string]any{
		"iss": issuerURL, "sub": "dev", "aud": "https://api.example/dev", "client_id": "dev", "jti": claims["jti"],
		"iat": float64(iat), "nbf": float64(iat), "exp": float64(iat + 3600),
	}
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	if _, again := decoded(t, i.Mint(nil)); again["jti"] == claims["jti"] {
		t.Errorf("two tokens share the jti %v", again["jti"])
	}
}

func TestMintMergesAndRemovesClaims(t *testing.T) {
	i := devissuer.New(issuerURL, "EdDSA")
	_, claims := decoded(t, i.Mint(map[string]any{"sub": "amy", "groups": []string{"a"}, "exp": 5, "nbf": nil}))
	if claims["sub"] != "amy" || claims["exp"] != 5.0 {
		t.Errorf("got sub %v exp %v, want amy and 5", claims["sub"], claims["exp"])
	}
	if diff := cmp.Diff([]any{"a"}, claims["groups"]); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
	if nbf, ok := claims["nbf"]; ok {
		t.Errorf("nbf: got %v, want it removed by nil", nbf)
	}
}

func TestRotateReplacesTheKey(t *testing.T) {
	i := devissuer.New(issuerURL, "ES256", "EdDSA")
	old, token := i.Key("ES256"), i.Mint(nil)
	fresh := i.Rotate("ES256")

	if i.Key("ES256") != fresh || fresh.Kid == old.Kid {
		t.Errorf("Key after Rotate: got %s, want the fresh key %s, not %s", i.Key("ES256").Kid, fresh.Kid, old.Kid)
	}
	if _, err := verified(i.JWKS(), token); err == nil {
		t.Error("a token of the removed key still verifies against the set")
	}
	if _, err := verified(i.JWKS(), i.Mint(nil)); err != nil {
		t.Errorf("a token of the fresh key: %v", err)
	}
	if got := len(published(t, i.JWKS())); got != 2 {
		t.Errorf("published keys: got %d, want 2 (the EdDSA key stays)", got)
	}
}

func TestAddedKeySignsAndRemovedKeyIsForgotten(t *testing.T) {
	i := devissuer.New(issuerURL, "ES256")
	old, token := i.Key("ES256"), i.Mint(nil)
	added := devissuer.NewKey("ES256")
	i.AddKey(added)

	if header, _ := decoded(t, i.Mint(nil)); header["kid"] != added.Kid {
		t.Errorf("kid after AddKey: got %v, want the newest key %s", header["kid"], added.Kid)
	}
	if _, err := verified(i.JWKS(), token); err != nil {
		t.Errorf("a token of the older key, still published: %v", err)
	}
	i.RemoveKey(old)
	if _, err := verified(i.JWKS(), token); err == nil {
		t.Error("a token of the removed key still verifies against the set")
	}
	if i.RemoveKey(added); i.Key("ES256") != nil {
		t.Errorf("Key after the last was removed: got %s, want nil", i.Key("ES256").Kid)
	}
}

func TestKidIsTheRFC7638Thumbprint(t *testing.T) {
	required := map[string][]string{"RS256": {"e", "kty", "n"}, "ES384": {"crv", "kty", "x", "y"}, "EdDSA": {"crv", "kty", "x"}}
	for alg, members := range required {
		t.Run(alg, func(t *testing.T) {
			key := devissuer.NewKey(alg)
			jwk := key.JWK()
			parts := make([]string, len(members))
			for n, name := range members { // section 3.3: in order, no white space
				parts[n] = fmt.Sprintf("%q:%q", name, jwk[name])
			}
			sum := sha256.Sum256([]byte("{" + strings.Join(parts, ",") + "}"))
			if want := base64.RawURLEncoding.EncodeToString(sum[:]); key.Kid != want || jwk["kid"] != want {
				t.Errorf("kid: got %q and %q in the JWK, want %q", key.Kid, jwk["kid"], want)
			}
			if jwk["use"] != "sig" || jwk["alg"] != alg {
				t.Errorf("use and alg: got %v and %v, want sig and %s", jwk["use"], jwk["alg"], alg)
			}
			if jwk["d"] != nil {
				t.Error("the JWK has a private member d")
			}
		})
	}
}

func TestSetHasNoPrivateMember(t *testing.T) {
	for _, jwk := range published(t, devissuer.New(issuerURL, "RS256", "ES512", "EdDSA").JWKS()) {
		for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
			if jwk[name] != nil {
				t.Errorf("the %v key publishes %s", jwk["kty"], name)
			}
		}
	}
}

func TestES512CoordinatesKeepTheirLeadingZeros(t *testing.T) {
	for range 8 { // the top byte of a P-521 coordinate is 0 or 1
		jwk := devissuer.NewKey("ES512").JWK()
		for _, name := range []string{"x", "y"} {
			if b := unbase64(jwk[name].(string)); len(b) != 66 {
				t.Errorf("%s: got %d bytes, want 66 (RFC 7518 section 6.2.1.2)", name, len(b))
			}
		}
	}
}

func TestSignTakesRawTexts(t *testing.T) {
	key := devissuer.NewKey("EdDSA")
	token := key.Sign(`{"alg":"EdDSA","alg":"none"}`, `{"exp":1}trailing`)
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("got %d segments, want 3: %s", len(parts), token)
	}
	if got := string(unbase64(parts[0])); got != `{"alg":"EdDSA","alg":"none"}` {
		t.Errorf("header: got %s, want the text as given", got)
	}
	if got := string(unbase64(parts[1])); got != `{"exp":1}trailing` {
		t.Errorf("payload: got %s, want the text as given", got)
	}
	public := key.Signer.Public().(ed25519.PublicKey)
	if !ed25519.Verify(public, []byte(parts[0]+"."+parts[1]), unbase64(parts[2])) {
		t.Error("the signature does not fit the key")
	}
}

func TestMintByAnUnpublishedKeyIsAForgery(t *testing.T) {
	i := devissuer.New(issuerURL, "ES256")
	forger := devissuer.NewKey("ES256")
	forger.Kid = i.Key("ES256").Kid
	if _, err := verified(i.JWKS(), i.MintBy(forger, nil)); err == nil {
		t.Error("a token of another key under the published kid verifies")
	}
}

func TestMisusePanics(t *testing.T) {
	for name, misuse := range map[string]func(){
		"unknown algorithm":   func() { devissuer.NewKey("HS256") },
		"issuer without host": func() { devissuer.New("idp") },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("got no panic")
				}
			}()
			misuse()
		})
	}
}

// verified checks token against set by golang-jwt and a JWK reader of this
// test's own, so that the package is not held against itself.
func verified(set []byte, token string) (jwt.MapClaims, error) {
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		var doc struct{ Keys []map[string]any }
		if err := json.Unmarshal(set, &doc); err != nil {
			return nil, err
		}
		for _, jwk := range doc.Keys {
			if jwk["kid"] == t.Header["kid"] && jwk["alg"] == t.Header["alg"] {
				return publicKey(jwk), nil
			}
		}
		return nil, fmt.Errorf("no key %v", t.Header["kid"])
	}, jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding())
	return claims, err
}

func publicKey(jwk map[string]any) crypto.PublicKey {
	number := func(name string) *big.Int { return new(big.Int).SetBytes(unbase64(jwk[name].(string))) }
	switch jwk["kty"] {
	case "RSA":
		return &rsa.PublicKey{N: number("n"), E: int(number("e").Int64())}
	case "EC":
		curves := map[any]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}
		point := append([]byte{4}, append(unbase64(jwk["x"].(string)), unbase64(jwk["y"].(string))...)...)
		key, err := ecdsa.ParseUncompressedPublicKey(curves[jwk["crv"]], point)
		if err != nil {
			return err
		}
		return key
	default:
		return ed25519.PublicKey(unbase64(jwk["x"].(string)))
	}
}

func published(t *testing.T, set []byte) []map[string]any {
	t.Helper()
	var doc struct{ Keys []map[string]any }
	if err := json.Unmarshal(set, &doc); err != nil {
		t.Fatalf("JWK set: %v in %s", err, set)
	}
	return doc.Keys
}

func decoded(t *testing.T, token string) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("got %d segments, want 3: %s", len(parts), token)
	}
	for n, into := range []*map[string]any{&header, &claims} {
		if err := json.Unmarshal(unbase64(parts[n]), into); err != nil {
			t.Fatalf("segment %d: %v", n, err)
		}
	}
	return header, claims
}

func unbase64(s string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}
