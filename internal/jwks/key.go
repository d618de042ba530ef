package jwks

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/MicahParks/jwkset"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"

	"introspectd/internal/truststore"
)

// skipReason says why a key of a set is not used. It is a metric label: the
// set is closed. The reasons of truststore are the others.
type skipReason string

const (
	skipMalformed   skipReason = "malformed"        // not an object, wrong types, duplicates, spelling
	skipSymmetric   skipReason = "symmetric"        // kty oct: a secret, not a public key
	skipPrivate     skipReason = "private"          // carries its private half: no longer a secret of its issuer
	skipType        skipReason = "unsupported_type" // kty or crv
	skipUse         skipReason = "wrong_use"        // use or key_ops
	skipAlg         skipReason = "unsupported_alg"  // alg that we don't verify, or not with such a key
	skipRSASize     skipReason = "rsa_size"
	skipRSAExponent skipReason = "rsa_exponent"
	skipOffCurve    skipReason = "off_curve"
	skipWithdrawn   skipReason = "withdrawn"        // by an operator, after the set was asked for
	skipKnown       skipReason = "known_public_key" // its private half is public
)

// A skip is the error of a key that is left out.
type skip struct {
	reason skipReason
	detail string
}

func (s skip) Error() string { return string(s.reason) + ": " + s.detail }

// reasonOf is the reason inside err, which parseKey or newEntry returned.
func reasonOf(err error) skipReason {
	var s skip
	if errors.As(err, &s) {
		return s.reason
	}
	return skipMalformed
}

// canonical is the one name that we use for an algorithm: Ed25519 (RFC 9864)
// is EdDSA with the only curve we take.
func canonical(alg string) string {
	if alg == "Ed25519" {
		return "EdDSA"
	}
	return alg
}

// algorithms are those that a key of this type and curve can verify. A curve
// binds its one algorithm (RFC 7518 section 3.4), which golang-jwt does not
// check.
func algorithms(kty, crv string) []string {
	switch kty + " " + crv {
	case "RSA ":
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case "EC P-256":
		return []string{"ES256"}
	case "EC P-384":
		return []string{"ES384"}
	case "EC P-521":
		return []string{"ES512"}
	case "OKP Ed25519":
		return []string{"EdDSA"}
	}
	return nil
}

// algSet is a set of algorithms.
type algSet uint16

var allAlgs = slices.Concat(algorithms("RSA", ""), algorithms("EC", "P-256"), algorithms("EC", "P-384"), algorithms("EC", "P-521"), algorithms("OKP", "Ed25519"))

// setOf is the set of those named that a key can verify.
func setOf(names ...string) (s algSet) {
	for _, name := range names {
		if n := slices.Index(allAlgs, name); n >= 0 {
			s |= 1 << n
		}
	}
	return s
}

// material is a public key as canonical JWK members and nothing else.
type material struct {
	Kty string `json:"kty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
}

// thumbprint is RFC 7638 section 3: the required members, in lexical order,
// without white space. base64url needs no escapes.
func (m material) thumbprint() Thumbprint {
	switch m.Kty {
	case "RSA":
		return sha256.Sum256(fmt.Appendf(nil, `{"e":"%s","kty":"RSA","n":"%s"}`, m.E, m.N))
	case "EC":
		return sha256.Sum256(fmt.Appendf(nil, `{"crv":"%s","kty":"EC","x":"%s","y":"%s"}`, m.Crv, m.X, m.Y))
	default:
		return sha256.Sum256(fmt.Appendf(nil, `{"crv":"%s","kty":"%s","x":"%s"}`, m.Crv, m.Kty, m.X))
	}
}

// parseKey judges one JWK (RFC 7517 section 4). The error is a skip.
//
// Only the members named here are read, by case and strictly. x5c, x5t and x5u
// are not among them: WSO2 and Auth0 publish an x5t that is the base64url of
// hexadecimal text, for which jwkset drops the whole set.
func parseKey(raw jsontext.Value) (*entry, error) {
	var members jwk
	if raw.Kind() != '{' {
		return nil, skip{skipMalformed, "not an object"}
	}
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, skip{skipMalformed, err.Error()}
	}
	kty, err := members.text("kty")
	if err != nil {
		return nil, err
	}
	if kty == "oct" {
		return nil, skip{skipSymmetric, "kty oct"}
	}
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, ok := members[name]; ok {
			return nil, skip{skipPrivate, "member " + name}
		}
	}
	if err := members.checkUse(); err != nil {
		return nil, err
	}
	m, err := members.material(kty)
	if err != nil {
		return nil, err
	}
	kid, err := members.text("kid")
	if err != nil {
		return nil, err
	}
	if len(kid) > maxKid {
		return nil, skip{skipMalformed, "kid too long"}
	}
	algs := algorithms(m.Kty, m.Crv)
	if members.has("alg") {
		alg, err := members.text("alg")
		if err != nil {
			return nil, err
		}
		if !slices.Contains(algs, canonical(alg)) {
			return nil, skip{skipAlg, "alg does not fit the key"}
		}
		algs = []string{canonical(alg)}
	}
	return newEntry(m, kid, algs)
}

// jwk is one key's members as they came.
type jwk map[string]jsontext.Value

// has tells whether a member is there; null is how some serializers say that
// it is not.
func (j jwk) has(name string) bool {
	v, ok := j[name]
	return ok && v.Kind() != 'n'
}

// text is a string member, empty when it is absent.
func (j jwk) text(name string) (string, error) {
	if !j.has(name) {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(j[name], &s); err != nil {
		return "", skip{skipMalformed, name + " is not a string"}
	}
	return s, nil
}

// octets is a base64url member (RFC 7515 section 2), strictly spelt.
func (j jwk) octets(name string) ([]byte, error) {
	s, err := j.text(name)
	if err != nil {
		return nil, err
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	// Go skips line breaks inside base64: the length tells.
	if err != nil || len(b) == 0 || base64.RawURLEncoding.EncodedLen(len(b)) != len(s) {
		return nil, skip{skipMalformed, name + " is not base64url"}
	}
	return b, nil
}

// checkUse wants use absent or sig and key_ops absent or with verify
// (RFC 7517 sections 4.2 and 4.3).
func (j jwk) checkUse() error {
	if j.has("use") {
		use, err := j.text("use")
		if err != nil {
			return err
		}
		if use != "sig" {
			return skip{skipUse, "use is not sig"}
		}
	}
	if j.has("key_ops") {
		var ops []string
		if err := json.Unmarshal(j["key_ops"], &ops); err != nil {
			return skip{skipMalformed, "key_ops is not an array of strings"}
		}
		if !slices.Contains(ops, "verify") {
			return skip{skipUse, "key_ops without verify"}
		}
	}
	return nil
}

// material reads the public half and writes it canonically.
func (j jwk) material(kty string) (material, error) {
	crv, err := j.text("crv")
	if err != nil {
		return material{}, err
	}
	switch {
	case kty == "RSA":
		return j.rsa()
	case kty == "EC" && crv == "P-256":
		return j.point(kty, crv, 32)
	case kty == "EC" && crv == "P-384":
		return j.point(kty, crv, 48)
	case kty == "EC" && crv == "P-521":
		return j.point(kty, crv, 66)
	case kty == "OKP" && crv == "Ed25519":
		return j.point(kty, crv, 32)
	default:
		return material{}, skip{skipType, "kty or crv"}
	}
}

// rsa reads n and e. Leading zero octets are put up with (RFC 7518 section
// 6.3.1.1 tells of encoders that write one) and dropped.
func (j jwk) rsa() (material, error) {
	n, err := j.octets("n")
	if err != nil {
		return material{}, err
	}
	e, err := j.octets("e")
	if err != nil {
		return material{}, err
	}
	m := material{Kty: "RSA", N: integer(n), E: integer(e)}
	return m, checkRSA(new(big.Int).SetBytes(n), new(big.Int).SetBytes(e))
}

// checkRSA bounds what one verification can cost and what it can prove: short
// moduli are forged, long ones and large exponents take milliseconds each.
func checkRSA(n, e *big.Int) error {
	if bits := n.BitLen(); bits < 2048 || bits > 8192 {
		return skip{skipRSASize, fmt.Sprintf("%d bits, expected 2048 to 8192", bits)}
	}
	if n.Bit(0) == 0 {
		return skip{skipMalformed, "even modulus"}
	}
	if e.BitLen() > 31 || e.Int64() < 65537 || e.Bit(0) == 0 {
		return skip{skipRSAExponent, "exponent, expected an odd number from 65537 to 2^31-1"}
	}
	return nil
}

func integer(b []byte) string {
	return base64.RawURLEncoding.EncodeToString(new(big.Int).SetBytes(b).Bytes())
}

// point reads coordinates of exactly size octets (RFC 7518 section 6.2.1.2,
// RFC 8037 section 2).
func (j jwk) point(kty, crv string, size int) (material, error) {
	x, err := j.octets("x")
	if err != nil {
		return material{}, err
	}
	m := material{Kty: kty, Crv: crv, X: base64.RawURLEncoding.EncodeToString(x)}
	if len(x) != size {
		return material{}, skip{skipMalformed, "x has the wrong length"}
	}
	if kty == "OKP" {
		return m, nil
	}
	y, err := j.octets("y")
	if err != nil {
		return material{}, err
	}
	if len(y) != size {
		return material{}, skip{skipMalformed, "y has the wrong length"}
	}
	m.Y = base64.RawURLEncoding.EncodeToString(y)
	return m, nil
}

// newEntry makes the key out of clean members: jwkset gets a JWK that holds
// the public half, one alg and our slot id, so that nothing else in the
// original can matter to it. The error is a skip.
func newEntry(m material, kid string, algs []string) (*entry, error) {
	e := &entry{material: m, key: Key{Kid: kid, Algs: algs, Thumbprint: m.thumbprint()}}
	e.aliases = []string{e.key.Thumbprint.String()}
	for _, alg := range algs {
		slot := e.key.Thumbprint.String() + " " + alg
		clean, err := json.Marshal(struct {
			material
			Alg string `json:"alg"`
			Kid string `json:"kid"`
		}{m, alg, slot})
		if err != nil {
			return nil, skip{skipMalformed, err.Error()}
		}
		j, err := jwkset.NewJWKFromRawJSON(clean, jwkset.JWKMarshalOptions{Private: false}, jwkset.JWKValidateOptions{})
		if err != nil && m.Kty == "EC" {
			return nil, skip{skipOffCurve, err.Error()}
		}
		if err != nil {
			return nil, skip{skipMalformed, err.Error()}
		}
		e.key.Public = j.Key()
		e.jwks = append(e.jwks, j)
		e.questions = append(e.questions, &jwt.Token{
			Header: map[string]any{"alg": alg, "kid": slot},
			Method: jwt.GetSigningMethod(alg),
		})
	}
	e.known, _ = truststore.Known(e.key.Public)
	return e, nil
}
