package devissuer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"math/big"

	"github.com/golang-jwt/jwt/v5"
)

// Key is one signing key. A test may make one by hand, with a kid or an
// algorithm that does not fit, to forge with it or to publish it.
type Key struct {
	// Kid is the RFC 7638 thumbprint where NewKey made the key.
	Kid string
	// Alg is an algorithm of RFC 7518 section 3.1 or EdDSA.
	Alg string
	// Signer is an *rsa.PrivateKey, *ecdsa.PrivateKey or ed25519.PrivateKey.
	Signer crypto.Signer
}

// NewKey makes an unpublished key for RS, PS or ES with 256, 384 or 512, or
// EdDSA; RSA keys have 2048 bits.
func NewKey(alg string) *Key {
	signer, err := generate(alg)
	if err != nil {
		panic("devissuer: " + err.Error())
	}
	thumbprint := sha256.Sum256([]byte(text(publicMembers(signer))))
	return &Key{Kid: b64(thumbprint[:]), Alg: alg, Signer: signer}
}

func generate(alg string) (crypto.Signer, error) {
	switch alg {
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA":
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return nil, fmt.Errorf("no such signing algorithm: %q", alg)
}

// Sign makes a compact JWS (RFC 7515 section 7.1) of two raw texts. They need
// not be JSON nor agree with the key: forged tokens are made here.
func (k *Key) Sign(header, payload string) string {
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	signature, err := jwt.GetSigningMethod(k.Alg).Sign(input, k.Signer)
	if err != nil {
		panic("devissuer: signing by " + k.Alg + ": " + err.Error())
	}
	return input + "." + b64(signature)
}

// JWK is the public key as a JWK (RFC 7517 section 4); a kid or alg that is
// empty is left out.
func (k *Key) JWK() map[string]any {
	jwk := publicMembers(k.Signer)
	jwk["use"] = "sig"
	jwk["kid"] = k.Kid
	jwk["alg"] = k.Alg
	maps.DeleteFunc(jwk, func(_ string, value any) bool { return value == "" })
	return jwk
}

// publicMembers are the members that a thumbprint is taken of (RFC 7638
// section 3.2, RFC 8037 section 2); encoding/json puts them in its order.
func publicMembers(signer crypto.Signer) map[string]any {
	switch public := signer.Public().(type) {
	case *rsa.PublicKey:
		e := big.NewInt(int64(public.E))
		return map[string]any{"kty": "RSA", "n": b64(public.N.Bytes()), "e": b64(e.Bytes())}
	case *ecdsa.PublicKey:
		point, err := public.Bytes() // 4, then x and y at full width
		if err != nil {
			panic("devissuer: " + err.Error())
		}
		half := len(point) / 2
		return map[string]any{
			"kty": "EC",
			"crv": public.Params().Name,
			"x":   b64(point[1 : 1+half]),
			"y":   b64(point[1+half:]),
		}
	case ed25519.PublicKey:
		return map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(public)}
	}
	panic(fmt.Sprintf("devissuer: no JWK for a %T", signer))
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
