package introspect

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"introspectd/internal/transform"
	"introspectd/internal/verify"
)

// IssuerConfig is one row of `issuers`: how its tokens are verified and what
// its claims mean.
type IssuerConfig struct {
	verify.Config `koanf:",squash"`
	Claims        transform.Config `koanf:"claims"`
}

// CacheConfig is the section `cache`.
type CacheConfig struct {
	Verdicts   VerdictsConfig   `koanf:"verdicts"`
	Assertions AssertionsConfig `koanf:"assertions"`
}

// AssertionsConfig bounds the remembered assertions of this process.
type AssertionsConfig struct {
	// Size is the memory for them, in bytes.
	Size Size `koanf:"size" default:"32MiB"`
}

// VerdictsConfig bounds the remembered verdicts of this process, and says which
// it shares.
type VerdictsConfig struct {
	// Size is the memory for remembered verdicts, in bytes.
	Size Size `koanf:"size" default:"128MiB"`
	// TTL bounds how long an active verdict is remembered.
	TTL time.Duration `koanf:"ttl" default:"5m"`
	// InactiveTTL bounds how long a refused one is.
	InactiveTTL time.Duration `koanf:"inactive_ttl" default:"10s"`
	// Shared says when those of other replicas are asked for.
	Shared Sharing `koanf:"shared" default:"auto"`
}

// Sharing says when a replica asks the others' store for a verdict before it
// verifies a token. Without such a store it means nothing.
type Sharing string

const (
	// Auto asks where that is measured to be the cheaper way.
	Auto Sharing = "auto"
	// Always asks for every token.
	Always Sharing = "always"
	// Never neither asks nor tells.
	Never Sharing = "never"
)

// Values lists the spellings a configuration may use.
func (Sharing) Values() []string { return []string{string(Auto), string(Always), string(Never)} }

// Size is a number of bytes, written with a unit: 512KiB, 128MiB, 2GiB.
type Size int64

// UnmarshalText parses a size; a bare number is an error.
func (s *Size) UnmarshalText(text []byte) error {
	for unit, factor := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		number, ok := strings.CutSuffix(string(text), unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 32)
		if err == nil && n >= 0 {
			*s = Size(n * factor)
			return nil
		}
	}
	return fmt.Errorf("expected a size with a unit such as 128MiB, got %q", text)
}

// Check reports every fault of c.
func (c IssuerConfig) Check(fault func(key, problem string)) {
	c.Config.Check(fault)
	c.Claims.Check(func(key, problem string) { fault("claims."+key, problem) })
}

// WithPreset is c with what its claims' preset says about keys that were not
// written, and tells what that changed, line by line.
func (c IssuerConfig) WithPreset(written func(key string) bool) (IssuerConfig, []string) {
	var changed []string
	require := transform.Presets()[c.Claims.Preset].Require
	if require != nil && !written("require") {
		c.Require = require
		changed = append(changed, fmt.Sprintf("require: [%s]", strings.Join(require, ", ")))
	}
	claims, more := c.Claims.WithPreset(func(key string) bool { return written("claims." + key) })
	for _, line := range more {
		changed = append(changed, "claims."+line)
	}
	c.Claims = claims
	return c, changed
}

// leastSize is the store in which the largest possible verdict still fits.
const leastSize = 64 << 20

// leastAssertions is the store in which the largest assertion still fits.
const leastAssertions = 32 << 20

// Check reports every fault of c.
func (c CacheConfig) Check(fault func(key, problem string)) {
	v := c.Verdicts
	if v.Size != 0 && v.Size < leastSize {
		fault("verdicts.size", fmt.Sprintf("expected 0KiB (nothing is remembered) or at least 64MiB, got %d bytes", v.Size))
	}
	if size := c.Assertions.Size; size < leastAssertions {
		fault("assertions.size", fmt.Sprintf("expected at least 32MiB, got %d bytes", size))
	}
	if v.TTL < time.Second {
		fault("verdicts.ttl", fmt.Sprintf("expected at least 1s, got %s", v.TTL))
	}
	if v.InactiveTTL < 0 {
		fault("verdicts.inactive_ttl", fmt.Sprintf("expected 0s or more, got %s", v.InactiveTTL))
	}
	if !slices.Contains(v.Shared.Values(), string(v.Shared)) {
		fault("verdicts.shared", fmt.Sprintf("expected one of %s, got %q", strings.Join(v.Shared.Values(), ", "), v.Shared))
	}
}
