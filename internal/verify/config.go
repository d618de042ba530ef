package verify

import (
	"time"

	"introspectd/internal/jwks"
)

// Config is one trusted issuer: who it is, where its keys are and what its
// tokens must look like.
type Config struct {
	// Name is the word for this issuer in logs and metric labels.
	Name string `koanf:"name"`
	// Issuer is compared byte for byte with a token's iss.
	Issuer string      `koanf:"issuer"`
	Keys   jwks.Config `koanf:"keys"`
	// Algorithms that may sign; empty means every supported one.
	Algorithms []string `koanf:"algorithms"`
	// TokenTypes is the rule for the header's typ.
	TokenTypes TokenTypes `koanf:"token_types" default:"compat"`
	// Require lists the claims that must be present; exp and iss always are.
	Require []string `koanf:"require" default:"[sub, iat, exp, iss]"`
	// Leeway is the clock difference granted on exp, nbf and iat, 300 s at most.
	Leeway time.Duration `koanf:"leeway" default:"30s"`
	// MaxLifetime bounds exp - iat; 0 means no bound.
	MaxLifetime time.Duration `koanf:"max_lifetime" default:"0s"`
}

// TokenTypes is the rule for a token's typ (RFC 9068 section 4, RFC 8725
// section 3.11).
type TokenTypes string

const (
	// Strict takes at+jwt and nothing else.
	Strict TokenTypes = "strict"
	// Compat also takes JWT and an absent typ, and then refuses what looks
	// like an ID, refresh or logout token.
	Compat TokenTypes = "compat"
)

// Values lists the spellings a configuration may use.
func (TokenTypes) Values() []string { return []string{string(Compat), string(Strict)} }
