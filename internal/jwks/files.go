package jwks

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"

	"github.com/MicahParks/jwkset"

	"introspectd/internal/truststore"
)

// loadFiles reads all files into one set. The error is the first fault.
func loadFiles(files []File) (*set, error) {
	var entries []*entry
	skipped := map[skipReason]int{}
	for _, f := range files {
		s, err := loadFile(f)
		if err != nil {
			return nil, fmt.Errorf("key file %s: %w", f.Path, err)
		}
		entries = append(entries, s.entries...)
		for reason, n := range s.skipped {
			skipped[reason] += n
		}
	}
	return newSet(entries, skipped, naming{}), nil
}

// loadFile reads one file: a JWK set, or one certificate (PEM or DER) or
// public key (PEM). A chain is refused: which of its certificates may sign is
// not ours to guess.
func loadFile(f File) (*set, error) {
	if f.Path == "" {
		return nil, errors.New("expected a path")
	}
	body, err := readFile(f.Path, maxBody)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		return setFile(body, f.Kid)
	}
	e, err := parseFile(body)
	if err != nil {
		return nil, err
	}
	if len(f.Kid) > maxKid {
		return nil, fmt.Errorf("expected a kid of at most %d bytes", maxKid)
	}
	e.key.Kid = f.Kid
	return newSet([]*entry{e}, nil, naming{}), nil
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	body, err := io.ReadAll(io.LimitReader(file, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(body) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return body, nil
}

// setFile reads a JWK set; a kid from the configuration can only be meant for
// a set of one key.
func setFile(body []byte, kid string) (*set, error) {
	s, err := parseSet(body)
	if errors.Is(err, errNoUsableKeys) {
		return nil, fmt.Errorf("%w (skipped: %v)", err, s.skipped)
	}
	if err != nil {
		return nil, fmt.Errorf("not a JWK set: %w", err)
	}
	if kid == "" {
		return s, nil
	}
	if len(s.entries) != 1 {
		return nil, fmt.Errorf("a kid fits a file with one key, this set has %d", len(s.entries))
	}
	s.entries[0].key.Kid = kid
	return newSet(s.entries, s.skipped, naming{}), nil
}

func parseFile(body []byte) (*entry, error) {
	block, rest := pem.Decode(body)
	if block == nil {
		return certificate(body)
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, errors.New("expected one PEM block, there are more")
	}
	switch block.Type {
	case "CERTIFICATE":
		return certificate(block.Bytes)
	case "PUBLIC KEY":
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading the public key: %w", err)
		}
		return publicKey(public)
	case "RSA PUBLIC KEY":
		public, err := x509.ParsePKCS1PublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading the public key: %w", err)
		}
		return publicKey(public)
	default:
		return nil, fmt.Errorf("expected a certificate or a public key, the PEM block is a %q", block.Type)
	}
}

// certificate takes a certificate's key, for as long as the certificate lasts:
// who wants it for longer names its public key alone.
// Who issued it is not asked: the operator named this very file.
func certificate(der []byte) (*entry, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("expected a certificate (PEM or DER), a public key (PEM) or a JWK set")
	}
	e, err := publicKey(c.PublicKey)
	if err != nil {
		return nil, err
	}
	e.certified(c, true)
	e.aliases = append(e.aliases, truststore.Kid(der))
	return e, nil
}

// certified notes the certificate that the key came in, and whether the key
// may be used within its dates alone.
func (e *entry) certified(c *x509.Certificate, enforce bool) {
	e.from, e.until = c.NotBefore, c.NotAfter
	if enforce {
		e.key.NotBefore, e.key.NotAfter = c.NotBefore, c.NotAfter
	}
}

// publicKey holds a key from a file to the same rules as one from a set.
func publicKey(public crypto.PublicKey) (*entry, error) {
	if k, ok := public.(*rsa.PublicKey); ok {
		if err := checkRSA(k.N, big.NewInt(int64(k.E))); err != nil {
			return nil, err
		}
	}
	j, err := jwkset.NewJWKFromKey(public, jwkset.JWKOptions{})
	if err != nil {
		return nil, skip{skipType, "expected RSA, EC on P-256, P-384 or P-521, or Ed25519"}
	}
	w := j.Marshal()
	m := material{Kty: string(w.KTY), Crv: string(w.CRV), X: w.X, Y: w.Y, N: w.N, E: w.E}
	algs := algorithms(m.Kty, m.Crv)
	if algs == nil {
		return nil, skip{skipType, "expected RSA, EC on P-256, P-384 or P-521, or Ed25519"}
	}
	return newEntry(m, "", algs)
}
