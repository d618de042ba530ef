package sign

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Config is the section `signing`: our own keys. The zero value signs nothing.
type Config struct {
	// Keys are published as soon as they are listed, and each signs from its time
	// on, until the next one does.
	Keys []KeyFile `koanf:"keys"`
	// Generate is the file of one key that is made where there is none, in place
	// of Keys: for a service without replicas, which would each make their own.
	Generate string `koanf:"generate" default:""`
}

// KeyFile is one row of Keys.
type KeyFile struct {
	// File is a private key in PEM (PKCS#8, PKCS#1 or SEC 1), not encrypted.
	File string `koanf:"file"`
	// ActiveFrom is when it begins to sign; absent means at once.
	ActiveFrom Instant `koanf:"active_from"`
	// Algorithm is the one it signs by. Absent, the key decides: RS256, ES256 or
	// Ed25519.
	Algorithm Algorithm `koanf:"algorithm"`
}

// Algorithm is a JWS algorithm of ours: asymmetric ones alone.
type Algorithm string

const (
	RS256 Algorithm = "RS256"
	PS256 Algorithm = "PS256"
	ES256 Algorithm = "ES256"
	// Ed25519 is RFC 9864's name, EdDSA the older one (RFC 8037) that many
	// libraries know alone.
	Ed25519 Algorithm = "Ed25519"
	EdDSA   Algorithm = "EdDSA"
)

// Values lists the spellings a configuration may use.
func (Algorithm) Values() []string {
	return []string{string(RS256), string(PS256), string(ES256), string(Ed25519), string(EdDSA)}
}

// Instant is a point in time. The zero value is long ago.
type Instant struct{ time.Time }

// FromConfig takes a time of RFC 3339, as a text or as what YAML and TOML read
// it as.
func (i *Instant) FromConfig(value any) error {
	switch v := value.(type) {
	case time.Time:
		i.Time = v
		return nil
	case string:
		if t, err := time.Parse(time.RFC3339, v); err == nil {
			i.Time = t
			return nil
		}
		return fmt.Errorf("expected a time such as 2026-12-01T00:00:00Z, got %q", v)
	case map[string]any, []any: // what they hold can be a secret in the wrong place
		return errors.New("expected a time such as 2026-12-01T00:00:00Z, got no text")
	}
	return fmt.Errorf("expected a time such as 2026-12-01T00:00:00Z, got %v", value)
}

// Enabled says whether there is anything to sign with.
func (c Config) Enabled() bool { return len(c.Keys) > 0 || c.Generate != "" }

// Check reports every fault of the section as of now; it reads the files.
// What needs other sections, such as our own iss, is not looked at.
func (c Config) Check(now time.Time, fault func(key, problem string)) {
	if c.Generate != "" {
		c.checkGenerated(fault)
	}
	thumbprints, times := map[string]int{}, map[int64]int{}
	ready := len(c.Keys) == 0
	for n, row := range c.Keys {
		path := fmt.Sprintf("keys[%d].", n)
		if first, ok := times[row.ActiveFrom.Unix()]; ok {
			fault(path+"active_from", fmt.Sprintf("expected another time than that of keys[%d]: one key signs at a time", first))
		} else {
			times[row.ActiveFrom.Unix()] = n
		}
		ready = ready || !row.ActiveFrom.After(now)
		k, key, err := row.load()
		if err != nil {
			fault(path+key, err.Error())
			continue
		}
		if first, ok := thumbprints[k.kid]; ok {
			fault(path+"file", fmt.Sprintf("expected another key than that of keys[%d]", first))
		} else {
			thumbprints[k.kid] = n
		}
	}
	if !ready {
		fault("keys", "expected one whose active_from has passed, or that has none: nothing could be signed until then")
	}
}

func (c Config) checkGenerated(fault func(key, problem string)) {
	if len(c.Keys) > 0 {
		fault("generate", "expected either keys or generate, got both")
	}
	if _, err := os.Stat(c.Generate); err == nil {
		if _, _, err := (KeyFile{File: c.Generate}).load(); err != nil {
			fault("generate", err.Error())
		}
	} else if info, err := os.Stat(filepath.Dir(c.Generate)); err != nil || !info.IsDir() {
		fault("generate", fmt.Sprintf("expected a file in a directory that exists, got %q", c.Generate))
	}
}

// Files lists the files of the keys.
func (c Config) Files() []string {
	var files []string
	for _, row := range c.rows() {
		files = append(files, row.File)
	}
	return files
}

// CacheLifetime is how long /jwks.json may be kept by whoever reads it.
const CacheLifetime = 5 * time.Minute

// Warnings lists what works, but not for everybody at once, as of now.
func (c Config) Warnings(now time.Time) []string {
	var found []string
	for n, row := range c.Keys {
		if ahead := row.ActiveFrom.Sub(now); ahead > 0 && ahead < CacheLifetime {
			found = append(found, fmt.Sprintf("signing.keys[%d].active_from is %s ahead: backends keep /jwks.json for up to %s and will refuse what this key signs until they read it again",
				n, ahead.Round(time.Second), CacheLifetime))
		}
	}
	return found
}

// rows are all keys, the generated one among them.
func (c Config) rows() []KeyFile {
	rows := slices.Clone(c.Keys)
	if c.Generate != "" {
		rows = append(rows, KeyFile{File: c.Generate})
	}
	return rows
}
