package verify

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"

	"introspectd/internal/claims"
	"introspectd/internal/jwks"
)

// methods are the supported algorithms: asymmetric ones alone. EdDSA is the
// old polymorphic name (RFC 8037) of what RFC 9864 calls Ed25519.
var methods = map[string]jwt.SigningMethod{
	"RS256": jwt.SigningMethodRS256, "RS384": jwt.SigningMethodRS384, "RS512": jwt.SigningMethodRS512,
	"PS256": jwt.SigningMethodPS256, "PS384": jwt.SigningMethodPS384, "PS512": jwt.SigningMethodPS512,
	"ES256": jwt.SigningMethodES256, "ES384": jwt.SigningMethodES384, "ES512": jwt.SigningMethodES512,
	"EdDSA": jwt.SigningMethodEdDSA, "Ed25519": jwt.SigningMethodEdDSA,
}

const maxLeeway = 300 * time.Second

// lastDate is the end of the year 9999. Dates beyond it wrap around in some
// readers, so that "not before 2^63" comes to mean "long ago".
const lastDate = 253402300799

// Issuer is one trusted issuer, its rules compiled. It is immutable but for
// its keys, and safe for concurrent use.
type Issuer struct {
	config     Config
	keys       *jwks.Keys
	algorithms map[string]jwt.SigningMethod
	require    []string
}

// NewIssuer compiles a checked configuration.
func NewIssuer(config Config, keys *jwks.Keys) *Issuer {
	i := &Issuer{config: config, keys: keys, algorithms: methods}
	if len(config.Algorithms) > 0 {
		i.algorithms = make(map[string]jwt.SigningMethod)
		for _, name := range config.Algorithms {
			if m := methods[name]; m != nil {
				i.algorithms[name] = m
			}
			if name == "EdDSA" || name == "Ed25519" {
				i.algorithms["EdDSA"], i.algorithms["Ed25519"] = jwt.SigningMethodEdDSA, jwt.SigningMethodEdDSA
			}
		}
	}
	i.require = slices.DeleteFunc(slices.Clone(config.Require), func(name string) bool {
		return name == "iss" || name == "exp" // always required, by name
	})
	return i
}

// Check reports every fault of c.
func (c Config) Check(fault func(key, problem string)) {
	if c.Name == "" || strings.Trim(c.Name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		fault("name", fmt.Sprintf("expected a word of letters, digits, '.', '_' and '-' for logs and metrics, got %q", c.Name))
	} else if c.Name == "unknown" {
		fault("name", `"unknown" is the word for issuers that are not configured`)
	}
	if c.Issuer == "" {
		fault("issuer", "expected the exact value of the tokens' iss")
	}
	for n, name := range c.Algorithms {
		if methods[name] == nil {
			fault(fmt.Sprintf("algorithms[%d]", n), fmt.Sprintf("expected one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519, got %q", name))
		}
	}
	if !slices.Contains(c.TokenTypes.Values(), string(c.TokenTypes)) {
		fault("token_types", fmt.Sprintf("expected one of %s, got %q", strings.Join(c.TokenTypes.Values(), ", "), c.TokenTypes))
	}
	for _, name := range []string{"exp", "iss"} {
		if !slices.Contains(c.Require, name) {
			fault("require", name+" can't be left out")
		}
	}
	if slices.Contains(c.Require, "") {
		fault("require", "expected claim names, got an empty one")
	}
	if c.Leeway < 0 || c.Leeway > maxLeeway {
		fault("leeway", fmt.Sprintf("expected 0s to 300s, got %s", c.Leeway))
	}
	if c.MaxLifetime != 0 && c.MaxLifetime < time.Second {
		fault("max_lifetime", fmt.Sprintf("expected 0s (no limit) or at least 1s, got %s", c.MaxLifetime))
	}
	c.Keys.Check(c.Issuer, func(key, problem string) { fault("keys."+key, problem) })
}

// Name is the issuer's word in logs and metric labels.
func (i *Issuer) Name() string { return i.config.Name }

// Keys returns the issuer's keys.
func (i *Issuer) Keys() *jwks.Keys { return i.keys }

// past and future are the seconds beyond which exp, and up to which nbf and
// iat, are good at now.
func (i *Issuer) past(now time.Time) int64   { return now.Add(-i.config.Leeway).Unix() }
func (i *Issuer) future(now time.Time) int64 { return now.Add(i.config.Leeway).Unix() }

// Ends is the instant from which a token with this exp is refused.
func (i *Issuer) Ends(expires int64) time.Time {
	return time.Unix(expires, 0).Add(i.config.Leeway)
}

// Begins is the instant from which a token with these nbf and iat is good.
func (i *Issuer) Begins(notBefore, issuedAt int64) time.Time {
	return time.Unix(max(notBefore, issuedAt), 0).Add(-i.config.Leeway)
}

// Current says whether a token that was once found good is still within its
// dates at now.
func (i *Issuer) Current(expires, notBefore, issuedAt int64, now time.Time) (Reason, bool) {
	r, _ := i.judgeTimes(expires, notBefore, issuedAt, now)
	return r, r == NoReason
}

// judgeTimes compares dates with the clock: RFC 7519 sections 4.1.4 to 4.1.6.
// exp must lie after now, nbf may equal it, each by the leeway.
func (i *Issuer) judgeTimes(expires, notBefore, issuedAt int64, now time.Time) (Reason, string) {
	switch {
	case expires <= i.past(now):
		return Expired, "exp has passed"
	case notBefore > i.future(now):
		return NotYetValid, "nbf lies ahead"
	case issuedAt > i.future(now):
		return NotYetValid, "iat lies ahead"
	}
	return NoReason, ""
}

// readRegistered checks the types of the registered claims (RFC 7519 section
// 4.1 and RFC 7800 section 3.1), that the required ones are there, and puts
// the dates into out.
func (i *Issuer) readRegistered(set claims.Set, out *Verdict) (Reason, string) {
	for n := range set {
		v, ok := set[n].Value, true
		switch set[n].Name {
		case "exp":
			out.Expires, ok = date(v, math.Floor)
			ok = ok && out.Expires > 0
		case "nbf":
			out.NotBefore, ok = date(v, math.Ceil)
		case "iat":
			out.IssuedAt, ok = date(v, math.Floor)
		case "sub":
			ok = v.Kind() == '"' && len(v) > len(`""`)
		case "jti":
			ok = v.Kind() == '"'
		case "aud":
			ok = audience(v)
		case "cnf":
			// An unusable confirmation must not turn a bound token into a
			// plain bearer.
			confirmation, err := claims.Decode(slices.Clone(v))
			ok = err == nil && len(confirmation) > 0
		}
		if !ok {
			return BadClaims, set[n].Name + " is not of its type"
		}
	}
	if out.Expires == 0 {
		return MissingClaim, "exp is absent"
	}
	for _, name := range i.require {
		if v, ok := set.Find(name); !ok || v.Kind() == 'n' {
			return MissingClaim, "a required claim is absent"
		}
	}
	if limit := int64(i.config.MaxLifetime / time.Second); limit > 0 {
		if !set.Has("iat") || out.Expires-out.IssuedAt > limit {
			return BadClaims, "it lives longer than max_lifetime"
		}
	}
	return NoReason, ""
}

// date reads a NumericDate between 1970 and 9999, rounded to seconds.
func date(v jsontext.Value, round func(float64) float64) (int64, bool) {
	if v.Kind() != '0' {
		return 0, false
	}
	if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
		return n, n >= 0 && n <= lastDate
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || !(f >= 0 && f <= lastDate) {
		return 0, false
	}
	return int64(round(f)), true
}

func audience(v jsontext.Value) bool {
	if v.Kind() == '"' {
		return true
	}
	texts := true
	list := claims.Elements(v, func(e jsontext.Value) { texts = texts && e.Kind() == '"' })
	return list && texts
}
