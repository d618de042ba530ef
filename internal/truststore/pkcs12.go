package truststore

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf16"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// What PKCS#12 (RFC 7292) is made of.
type (
	pfx struct {
		Version  int
		AuthSafe contentInfo
		MacData  macData `asn1:"optional"`
	}
	contentInfo struct {
		ContentType asn1.ObjectIdentifier
		Content     asn1.RawValue `asn1:"tag:0,explicit,optional"`
	}
	macData struct {
		Mac struct {
			Algorithm pkix.AlgorithmIdentifier
			Digest    []byte
		}
		MacSalt    []byte
		Iterations int `asn1:"optional,default:1"`
	}
	encryptedData struct {
		Version              int
		EncryptedContentInfo struct {
			ContentType asn1.ObjectIdentifier
			Algorithm   pkix.AlgorithmIdentifier
			Content     []byte `asn1:"tag:0,optional"`
		}
	}
	safeBag struct {
		ID         asn1.ObjectIdentifier
		Value      asn1.RawValue `asn1:"tag:0,explicit"`
		Attributes []attribute   `asn1:"set,optional"`
	}
	attribute struct {
		ID     asn1.ObjectIdentifier
		Values asn1.RawValue `asn1:"set"`
	}
	certBag struct {
		ID   asn1.ObjectIdentifier
		Data []byte `asn1:"tag:0,explicit"`
	}
)

// The object identifiers that matter, as text.
const (
	oidData      = "1.2.840.113549.1.7.1"
	oidEncrypted = "1.2.840.113549.1.7.6"

	oidKeyBag         = "1.2.840.113549.1.12.10.1.1"
	oidShroudedKeyBag = "1.2.840.113549.1.12.10.1.2"
	oidCertBag        = "1.2.840.113549.1.12.10.1.3"
	oidX509           = "1.2.840.113549.1.9.22.1"

	oidFriendlyName = "1.2.840.113549.1.9.20"
	oidLocalKeyID   = "1.2.840.113549.1.9.21"
	oidJavaTrusted  = "2.16.840.1.113894.746875.1.1"

	oidPBMAC1 = "1.2.840.113549.1.5.14"
)

// maxContents bounds the parts of a store, which Java and openssl write one or
// two of.
const maxContents = 16

// readPKCS12 reads a PFX. Nothing is derived or decrypted before all that it
// asks for was counted, and nothing is decrypted before the MAC was verified.
func readPKCS12(body []byte, password string) (*Store, error) {
	p, err := parsePFX(body)
	if err != nil {
		return nil, err
	}
	if err := p.affordable(); err != nil {
		return nil, err
	}
	if err := p.verify(body, password); err != nil {
		return nil, err
	}
	var bags []safeBag
	s := &Store{Format: PKCS12}
	for _, c := range p.contents {
		plain := c.plain
		if c.scheme != nil {
			if plain, err = c.scheme.decrypt(c.sealed, password); err != nil {
				return nil, fmt.Errorf("decrypting it: %w", err)
			}
		}
		more, err := s.bags(plain)
		if err != nil {
			return nil, err
		}
		bags = append(bags, more...)
	}
	return s, s.addBags(bags)
}

// parsed is a PFX taken apart.
type parsed struct {
	pfx
	contents []content
	macs     int // iterations of its MAC; 0 without one
}

// content is a part of the store, as it stands or encrypted.
type content struct {
	plain  []byte
	scheme *scheme // nil for what is not encrypted
	sealed []byte
}

// errShape is for what has the beginning of a PKCS#12 store and not the rest,
// or is in BER.
var errShape = errors.New("not a PKCS#12 store in DER, protected by a password; " + convert)

func parsePFX(body []byte) (*parsed, error) {
	p := &parsed{}
	var safe []byte
	var infos []contentInfo
	if whole(body, &p.pfx) != nil || p.Version != 3 || p.AuthSafe.ContentType.String() != oidData ||
		whole(p.AuthSafe.Content.Bytes, &safe) != nil || whole(safe, &infos) != nil || len(infos) > maxContents {
		return nil, errShape
	}
	for _, info := range infos {
		c, err := parseContent(info)
		if err != nil {
			return nil, err
		}
		p.contents = append(p.contents, c)
	}
	var err error
	p.macs, err = p.MacData.iterations()
	return p, err
}

func parseContent(info contentInfo) (c content, err error) {
	switch info.ContentType.String() {
	case oidData:
		if whole(info.Content.Bytes, &c.plain) != nil {
			return c, errShape
		}
		return c, nil
	case oidEncrypted:
		var e encryptedData
		if whole(info.Content.Bytes, &e) != nil {
			return c, errShape
		}
		c.sealed = e.EncryptedContentInfo.Content
		c.scheme, err = parseScheme(e.EncryptedContentInfo.Algorithm)
		return c, err
	}
	return c, errShape
}

// whole reads der into value, and wants nothing to be left.
func whole(der []byte, value any) error {
	rest, err := asn1.Unmarshal(der, value)
	if err == nil && len(rest) > 0 {
		err = errors.New("data after its end")
	}
	return err
}

// iterations are those of the MAC's key, 0 when there is no MAC.
func (m macData) iterations() (int, error) {
	switch {
	case len(m.Mac.Algorithm.Algorithm) == 0:
		return 0, nil
	case m.Mac.Algorithm.Algorithm.String() != oidPBMAC1:
		return max(m.Iterations, 1), nil
	}
	// RFC 9579: the parameters of PBMAC1 stand in its algorithm.
	var params struct{ KDF, MAC pkix.AlgorithmIdentifier }
	var kdf pbkdf2Params
	if whole(m.Mac.Algorithm.Parameters.FullBytes, &params) != nil || whole(params.KDF.Parameters.FullBytes, &kdf) != nil {
		return 0, errShape
	}
	return max(kdf.Iterations, 1), nil
}

// maxIterations bounds the sum of a store's iteration counts: about a second of
// a start. Java writes 10,000 each and openssl 2,048.
const maxIterations = 1_000_000

func (p *parsed) affordable() error {
	sum := uint64(p.macs)
	for _, c := range p.contents {
		if c.scheme != nil {
			sum += uint64(c.scheme.iterations)
		}
		// Sums of a few such numbers don't wrap around.
		if sum > maxIterations {
			return fmt.Errorf("more than %d iterations to derive its keys: this would hold up the start", maxIterations)
		}
	}
	return nil
}

// verify checks the MAC. Without one there is nothing that a password could
// protect: then none is expected, and nothing encrypted.
func (p *parsed) verify(body []byte, password string) error {
	if p.macs == 0 {
		for _, c := range p.contents {
			if c.scheme != nil || password != "" {
				return errors.New("it has no MAC, so that its password could not be checked; " + convert)
			}
		}
		return nil
	}
	for _, r := range password {
		if r > math.MaxUint16 {
			return errors.New("the password of a PKCS#12 store is read up to U+FFFF; " + convert)
		}
	}
	// The library has no other word for a MAC that fits than none. That it is
	// a MAC it can check shows by what it says of a password that is surely
	// another one.
	if !badMAC(body, password+"\x01") {
		return errors.New("its MAC is of a kind that is not read; " + convert)
	}
	if badMAC(body, password) {
		return ErrPassword
	}
	return nil
}

func badMAC(body []byte, password string) bool {
	_, err := pkcs12.DecodeTrustStore(body, password)
	return errors.Is(err, pkcs12.ErrIncorrectPassword)
}

// bags reads one part's bags; a bag that can't be read is left out.
func (s *Store) bags(plain []byte) (bags []safeBag, err error) {
	var raws []asn1.RawValue
	if whole(plain, &raws) != nil {
		return nil, errShape
	}
	for _, raw := range raws {
		var bag safeBag
		if whole(raw.FullBytes, &bag) != nil {
			err = s.skip("", Malformed, "not a readable entry")
		} else if len(bags) == maxEntries {
			err = errTooMany
		}
		if err != nil {
			return nil, err
		}
		bags = append(bags, bag)
	}
	return bags, nil
}

// addBags judges the bags. A certificate beside a private key is part of that
// key's entry: unless Java marked it as trusted, nobody said that it is.
func (s *Store) addBags(bags []safeBag) error {
	var private [][]byte // the ids of private keys
	hasKeys := false
	for _, bag := range bags {
		if id := bag.ID.String(); id != oidKeyBag && id != oidShroudedKeyBag {
			continue
		}
		hasKeys = true
		private = append(private, bag.attribute(oidLocalKeyID))
		alias, _ := bag.alias()
		if err := s.skip(alias, Private, "a private key entry: export its certificate"); err != nil {
			return err
		}
	}
	for _, bag := range bags {
		if err := s.addBag(bag, hasKeys, private); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) addBag(bag safeBag, hasKeys bool, private [][]byte) error {
	switch bag.ID.String() {
	case oidKeyBag, oidShroudedKeyBag:
		return nil
	case oidCertBag:
	default:
		return s.skip("", Malformed, "an entry that is no certificate")
	}
	alias, ok := bag.alias()
	if !ok {
		return s.skip("", Malformed, "its friendlyName is not one readable text")
	}
	trusted := bag.attribute(oidJavaTrusted) != nil
	if id := bag.attribute(oidLocalKeyID); id != nil && !trusted && slices.ContainsFunc(private, func(key []byte) bool { return bytes.Equal(key, id) }) {
		return nil // counted with its key
	}
	if hasKeys && !trusted {
		return s.skip(alias, Private, "stands beside a private key and is not marked as trusted")
	}
	var c certBag
	if whole(bag.Value.Bytes, &c) != nil || c.ID.String() != oidX509 {
		return s.skip(alias, Malformed, "not an X.509 certificate")
	}
	return s.add(alias, c.Data)
}

// attribute is the set of values of an attribute, nil when it is not there.
func (b safeBag) attribute(id string) []byte {
	for _, a := range b.Attributes {
		if a.ID.String() == id {
			return a.Values.Bytes
		}
	}
	return nil
}

// alias is the friendlyName, empty when there is none: one attribute with one
// BMPString. Of two names one would be hidden from whoever looks at the store
// with another tool.
func (b safeBag) alias() (string, bool) {
	alias, found := "", false
	for _, a := range b.Attributes {
		if a.ID.String() != oidFriendlyName {
			continue
		}
		var text asn1.RawValue
		if found || whole(a.Values.Bytes, &text) != nil || text.Class != asn1.ClassUniversal || text.Tag != asn1.TagBMPString || text.IsCompound {
			return "", false
		}
		if alias, found = bmp(text.Bytes); !found {
			return "", false
		}
	}
	return alias, true
}

// bmp reads UTF-16 without unpaired surrogates and of a sane length.
func bmp(b []byte) (string, bool) {
	if len(b)%2 != 0 || len(b) > 2*maxAlias {
		return "", false
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = uint16(b[2*i])<<8 | uint16(b[2*i+1])
	}
	runes := utf16.Decode(units)
	if !slices.Equal(utf16.Encode(runes), units) {
		return "", false
	}
	return string(runes), true
}
