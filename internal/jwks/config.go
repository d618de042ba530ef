package jwks

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Config says where one issuer's keys come from: exactly one of Discover,
// JWKSURL, Files and TrustStore.
type Config struct {
	// Discover asks <issuer>/.well-known/openid-configuration, then the
	// RFC 8414 form, for the jwks_uri.
	Discover bool `koanf:"discover"`
	// JWKSURL is the address of a JWK set (RFC 7517 section 5).
	JWKSURL string `koanf:"jwks_url"`
	// Files are certificates (PEM or DER), public keys (PEM) and JWK sets.
	Files []File `koanf:"files"`
	// TrustStore is a JKS, PKCS#12, PEM or DER file with certificates by alias.
	TrustStore TrustStore `koanf:"truststore"`
	// KidRequired refuses tokens without a kid, also where only one key fits.
	KidRequired bool `koanf:"kid_required" default:"false"`
	// AllowHTTP permits a plain http key address beyond loopback.
	AllowHTTP bool `koanf:"allow_http" default:"false"`
	// CA is a PEM file of roots for the key address; empty means the system's.
	CA string `koanf:"ca"`
	// Refresh is the longest time between two fetches.
	Refresh time.Duration `koanf:"refresh" default:"5m"`
	// MaxStale is how long the last good keys outlive their source.
	MaxStale time.Duration `koanf:"max_stale" default:"24h"`
	// AllowKnownPublicKeys lets keys verify whose private half is public.
	AllowKnownPublicKeys bool `koanf:"allow_known_public_keys" default:"false"`
}

// File is one entry of Config.Files: a path, or a path with the kid that the
// key in it answers to.
type File struct {
	Path string `koanf:"path"`
	Kid  string `koanf:"kid"`
}

// UnmarshalText takes the short form, which is the path alone.
func (f *File) UnmarshalText(text []byte) error {
	f.Path = string(text)
	return nil
}

// The names of the sources, as State shows them.
const (
	sourceURL      = "jwks_url"
	sourceDiscover = "discover"
	sourceFiles    = "files"
	sourceStore    = "truststore"
)

func (c Config) source() string {
	switch {
	case c.JWKSURL != "":
		return sourceURL
	case c.Discover:
		return sourceDiscover
	case !c.TrustStore.IsZero():
		return sourceStore
	default:
		return sourceFiles
	}
}

// local says whether the keys are configuration: in files, which are neither
// fetched nor ever too old.
func (c Config) local() bool { return len(c.Files) > 0 || !c.TrustStore.IsZero() }

// withTimes fills in the times that a Config made in code may leave out.
func (c Config) withTimes() Config {
	c.Refresh = cmp.Or(c.Refresh, 5*time.Minute)
	c.MaxStale = cmp.Or(c.MaxStale, 24*time.Hour)
	return c
}

// Check reports every fault of c to fault: the key's path below `keys`, and
// what was expected. issuer is the identifier that discovery starts from. The
// files of keys and roots are read, the network is not.
func (c Config) Check(issuer string, fault func(key, problem string)) {
	sources := 0
	for _, given := range []bool{c.Discover, c.JWKSURL != "", len(c.Files) > 0, !c.TrustStore.IsZero()} {
		if given {
			sources++
		}
	}
	if sources != 1 {
		fault(sourceURL, fmt.Sprintf("expected exactly one of discover, jwks_url, files and truststore, there are %d", sources))
	}
	if c.JWKSURL != "" {
		if _, err := parseURL(c.JWKSURL, c.AllowHTTP); err != nil {
			fault("jwks_url", err.Error())
		}
	}
	if c.Discover {
		if err := checkIssuer(issuer, c.AllowHTTP); err != nil {
			fault("discover", "the issuer can't be asked: "+err.Error())
		}
	}
	for i, f := range c.Files {
		if _, err := loadFile(f); err != nil {
			fault(fmt.Sprintf("files[%d]", i), err.Error())
		}
	}
	if !c.TrustStore.IsZero() {
		c.TrustStore.check(func(key, problem string) { fault("truststore."+key, problem) })
		if c.TrustStore.NoKidAlias != "" && c.KidRequired {
			fault("truststore.no_kid_alias", "expected none: with kid_required a token without a kid is refused")
		}
	}
	if _, _, err := c.roots(); err != nil {
		fault("ca", err.Error())
	}
	if c.Refresh < time.Second {
		fault("refresh", "expected at least 1s")
	}
	if c.MaxStale < c.Refresh {
		fault("max_stale", "expected at least as long as refresh")
	}
}

// checkIssuer wants an identifier that metadata can be found from (RFC 8414
// section 2): no query, no fragment.
func checkIssuer(issuer string, allowHTTP bool) error {
	u, err := parseURL(issuer, allowHTTP)
	if err != nil {
		return err
	}
	if u.RawQuery != "" || strings.Contains(issuer, "?") {
		return errors.New("expected a URL without a query")
	}
	return nil
}

// roots are the certificates of CA and the bytes they came in, or nil for the
// system's.
func (c Config) roots() (*x509.CertPool, []byte, error) {
	if c.CA == "" {
		return nil, nil, nil
	}
	if c.local() {
		return nil, nil, errors.New("expected none: keys from files are not fetched")
	}
	body, err := readFile(c.CA, maxBody)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(body) {
		return nil, nil, errors.New("expected certificates in PEM")
	}
	return pool, body, nil
}
