// Package truststore reads certificates and their aliases out of JKS, PKCS#12,
// PEM and DER files, told apart by content, not by name. It reads no private
// key, and knows neither a clock nor a file system: bytes and a password come
// in, certificates go out.
//
// # Decisions
//
// What must never sign tokens is left out here. Context: such stores are full
// of roots that are there for TLS, and WSO2 lets any alias sign. Choice: CA
// certificates, private key entries, RSA keys below 2048 bits and what can't be
// read are not among the entries, and each is told of with its reason. Cost: a
// signer whose certificate is a CA one has to be named as a file of its own.
//
// An alias has one meaning. Context: keytool writes aliases of JKS in lower
// case and keeps those of PKCS#12, and looks both up without regard to case.
// Choice: exact first, then folded; two entries that fold alike are an error.
// An entry without an alias, as in PEM and DER files, answers to the kid that
// WSO2's products give to its key. Cost: such a store has to be repaired
// before it can be used.
//
// PKCS#12: go-pkcs12 checks the MAC, we read the bags. Context: it drops the
// aliases, refuses what is not marked for Java, and would read private keys.
// Choice: it is asked about the password alone, and the certificates are
// decrypted here once more, with what Java and openssl write by default since
// 2020; RC2 is refused with the command that converts it. Cost: some
// decryption of our own, and a store is decrypted twice.
//
// Everything is counted before it is done. Context: iteration counts, lengths
// and numbers of entries come from the file, and both libraries believe them.
// Choice: sizes are held against what is left of the file, and the sum of all
// iterations against a limit, before either library sees a byte. Cost: the
// frame of a JKS is walked twice.
package truststore

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// MaxSize is the size in bytes of the largest file that is read.
	MaxSize = 4 << 20
	// maxEntries bounds the entries of a file, those left out included.
	maxEntries = 2000
	// maxAlias is that of a token's kid, in bytes: a longer one is never met.
	maxAlias = 256
)

// ErrPassword says that the password does not open the store, or that the
// store was altered: the two can't be told apart.
var ErrPassword = errors.New("wrong password, or the file was altered")

// Format is how a store is written.
type Format string

// The formats that are read.
const (
	JKS    Format = "JKS"
	PKCS12 Format = "PKCS12"
	PEM    Format = "PEM"
	DER    Format = "DER"
)

// Store is what was read of one file, in the order of aliases.
type Store struct {
	Format Format
	// Entries are the certificates whose keys may sign.
	Entries []Entry
	// Skipped are the entries that were left out.
	Skipped []Skipped
}

// Entry is one certificate and what it is called.
type Entry struct {
	Alias       string
	Certificate *x509.Certificate
}

// Reason is why an entry is left out.
type Reason string

// The reasons. They are metric labels: the set is closed.
const (
	Malformed Reason = "malformed"
	Private   Reason = "private"
	CA        Reason = "ca"
	RSASize   Reason = "rsa_size"
	KeyType   Reason = "unsupported_type"
)

// Skipped is an entry that was left out; Alias is empty where there is none.
type Skipped struct {
	Alias  string
	Reason Reason
	Detail string
}

// Read reads the certificates of body. The password is that of a JKS or
// PKCS#12 store; other formats have none. The error is about the file as a
// whole, in words for whoever configured it, and holds nothing of the
// password; it is an ErrPassword when that does not fit.
func Read(body []byte, password string) (*Store, error) {
	if len(body) > MaxSize {
		return nil, fmt.Errorf("more than %d bytes", MaxSize)
	}
	s, err := read(body, password)
	if err != nil {
		return nil, err
	}
	return s, s.settle()
}

const (
	magicJKS   = 0xfeedfeed
	magicJCEKS = 0xcececece
)

func read(body []byte, password string) (*Store, error) {
	var magic uint32
	if len(body) >= 4 {
		magic = binary.BigEndian.Uint32(body)
	}
	switch {
	case magic == magicJKS:
		return readJKS(body, password)
	case magic == magicJCEKS:
		return nil, errors.New("a JCEKS store is not read; " + convert)
	case bytes.Contains(body, []byte("-----BEGIN ")):
		return readPEM(body)
	}
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(body, &outer); err == nil && outer.Tag == asn1.TagSequence && len(outer.Bytes) > 0 {
		switch outer.Bytes[0] {
		case asn1.TagInteger: // the version of a PFX
			return readPKCS12(body, password)
		case asn1.TagSequence | 0x20: // what a certificate signs
			s := &Store{Format: DER}
			return s, s.add("", body)
		}
	}
	return nil, errors.New("expected a JKS or PKCS#12 store in DER, or certificates in PEM or DER; " + convert)
}

// convert is how to make a readable store out of one that is not. Java's
// keytool writes PKCS#12 as we read it since versions 8u301, 11.0.12 and 17.
const convert = "convert it: keytool -importkeystore -srckeystore OLD -destkeystore NEW -deststoretype PKCS12"

// readPEM takes every certificate block; other blocks are left out.
func readPEM(body []byte) (*Store, error) {
	s := &Store{Format: PEM}
	for block := range blocks(body) {
		var err error
		switch {
		case block.Type == "CERTIFICATE":
			err = s.add("", block.Bytes)
		case strings.Contains(block.Type, "PRIVATE KEY"):
			err = s.skip("", Private, "a private key")
		default:
			err = s.skip("", Malformed, fmt.Sprintf("a PEM block %q", block.Type))
		}
		if err != nil {
			return nil, err
		}
	}
	if len(s.Entries)+len(s.Skipped) == 0 {
		return nil, errors.New("expected certificates in PEM, found no whole block")
	}
	return s, nil
}

// add judges one certificate. The error says that there are too many.
func (s *Store) add(alias string, der []byte) error {
	if !utf8.ValidString(alias) || len(alias) > maxAlias {
		return s.skip(strings.ToValidUTF8(alias[:min(len(alias), maxAlias)], ""), Malformed,
			fmt.Sprintf("expected an alias in UTF-8 of at most %d bytes", maxAlias))
	}
	alias = cmp.Or(alias, Kid(der))
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return s.skip(alias, Malformed, "not a readable X.509 certificate")
	}
	if reason, detail := refuse(c); reason != "" {
		return s.skip(alias, reason, detail)
	}
	if s.full() {
		return errTooMany
	}
	s.Entries = append(s.Entries, Entry{alias, c})
	return nil
}

// refuse says why a certificate must not sign tokens; empty when it may.
func refuse(c *x509.Certificate) (Reason, string) {
	if c.IsCA {
		return CA, "a CA certificate signs certificates, never tokens"
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 8192 {
			return RSASize, fmt.Sprintf("RSA of %d bits, expected 2048 to 8192", bits)
		}
		return "", ""
	case *ecdsa.PublicKey:
		if slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, k.Curve) {
			return "", ""
		}
	case ed25519.PublicKey:
		return "", ""
	}
	return KeyType, "expected RSA, EC on P-256, P-384 or P-521, or Ed25519"
}

var errTooMany = fmt.Errorf("more than %d entries", maxEntries)

func (s *Store) full() bool { return len(s.Entries)+len(s.Skipped) >= maxEntries }

func (s *Store) skip(alias string, reason Reason, detail string) error {
	if s.full() {
		return errTooMany
	}
	s.Skipped = append(s.Skipped, Skipped{alias, reason, detail})
	return nil
}

// settle brings the entries in order. An entry that stands there twice in the
// same words counts once; two that can't be told apart by alias are an error.
func (s *Store) settle() error {
	slices.SortStableFunc(s.Entries, func(a, b Entry) int { return cmp.Compare(a.Alias, b.Alias) })
	s.Entries = slices.CompactFunc(s.Entries, func(a, b Entry) bool {
		return a.Alias == b.Alias && a.Certificate.Equal(b.Certificate)
	})
	slices.SortStableFunc(s.Skipped, func(a, b Skipped) int { return cmp.Compare(a.Alias, b.Alias) })
	seen := map[string]string{}
	meet := func(alias string) error {
		if before, ok := seen[Fold(alias)]; ok {
			return fmt.Errorf("two entries have the aliases %q and %q, which are one alias to keytool and to us: rename one", before, alias)
		}
		seen[Fold(alias)] = alias
		return nil
	}
	for _, e := range s.Entries {
		if err := meet(e.Alias); err != nil {
			return err
		}
	}
	for i, e := range s.Skipped {
		// A private key and its certificates share a name, and a certificate
		// that can't sign may as well stand there twice.
		if e.Alias == "" || e.Reason == Private || i > 0 && e == s.Skipped[i-1] {
			continue
		}
		if err := meet(e.Alias); err != nil {
			return err
		}
	}
	return nil
}

// Aliases are those of the entries, in order.
func (s *Store) Aliases() []string {
	var all []string
	for _, e := range s.Entries {
		all = append(all, e.Alias)
	}
	return all
}

// Find returns the entry that alias means, or the one that was left out: of the
// same alias or, where there is none, of one that differs from it by upper and
// lower case alone. Both are nil where there is neither.
func (s *Store) Find(alias string) (*Entry, *Skipped) {
	for _, same := range []func(string) bool{
		func(a string) bool { return a == alias },
		func(a string) bool { return Fold(a) == Fold(alias) },
	} {
		if n := slices.IndexFunc(s.Entries, func(e Entry) bool { return same(e.Alias) }); n >= 0 {
			return &s.Entries[n], nil
		}
		if n := slices.IndexFunc(s.Skipped, func(e Skipped) bool { return e.Alias != "" && same(e.Alias) }); n >= 0 {
			return nil, &s.Skipped[n]
		}
	}
	return nil, nil
}

// Fold is alias without regard to upper and lower case.
func Fold(alias string) string { return strings.ToLower(alias) }

// Kid is the kid that WSO2's products give to tokens signed with the key of
// this certificate: the base64url of its SHA-256 in lower-case hex, and _RS256.
func Kid(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString([]byte(hex.EncodeToString(sum[:]))) + "_RS256"
}
