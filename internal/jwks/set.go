package jwks

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"

	"introspectd/internal/truststore"
)

const (
	maxBody = 1 << 20
	maxKeys = 100
	maxKid  = 256
)

var errNoUsableKeys = errors.New("no usable key in the set")

// Thumbprint is a key's RFC 7638 thumbprint with SHA-256.
type Thumbprint [32]byte

// String is the thumbprint in base64url without padding.
func (t Thumbprint) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// MarshalText renders the thumbprint as String does.
func (t Thumbprint) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// set is an immutable snapshot of an issuer's usable keys.
type set struct {
	entries  []*entry
	byKid    map[string][]*entry
	byAlias  map[string][]*entry
	holdings []holding // in the order of their thumbprints
	slots    map[string]jwkset.JWK
	digest   [32]byte
	skipped  map[skipReason]int
	naming   naming
	nameless bool                // some of the keys, which may serve any kid
	folded   map[string][]*entry // by the folded kid, of a trust store
	// refused are keys whose private half is public, as a set that verifies
	// nothing; nil for none.
	refused *set
	// store is what the trust store holds, nil for other sources.
	store *StoreState
}

// holding is what each hit asks of an entry. It lies in one piece: with a thousand
// issuers nothing of a set is at hand, and each step to something else is dear.
type holding struct {
	thumbprint Thumbprint
	algs       algSet
	dated      bool // by a certificate
	entry      *entry
}

// naming is how the keys of a set are told apart: by alias alone in a trust
// store, where noKid is the alias that a token without a kid means.
type naming struct {
	byAlias bool
	noKid   string
}

// entry is one usable key with what it takes to ask keyfunc for it.
type entry struct {
	key       Key
	material  material
	aliases   []string // what it answers to while it has no kid
	known     string   // since when its private half is public; empty for others
	questions []*jwt.Token
	// from and until are the dates of its certificate, whether they are
	// enforced or not; zero without one.
	from, until time.Time
	jwks        []jwkset.JWK // one for each of key.Algs, pinned to it
}

// parseSet reads a JWK set (RFC 7517 section 5) key by key: an odd key is
// skipped and counted and does not touch the others. It fails when the
// document is not a set at all, and with errNoUsableKeys, the skipped counts
// still given, when none of its keys can be used.
func parseSet(body []byte) (*set, error) {
	raws, err := rawKeys(body)
	if err != nil {
		return nil, err
	}
	var entries []*entry
	skipped := map[skipReason]int{}
	for _, raw := range raws {
		e, err := parseKey(raw)
		if err != nil {
			skipped[reasonOf(err)]++
			continue
		}
		entries = append(entries, e)
	}
	s := newSet(entries, skipped, naming{})
	if len(s.entries) == 0 {
		return s, errNoUsableKeys
	}
	return s, nil
}

// rawKeys takes the set apart. Duplicate names and broken UTF-8 are let
// through here, because they may belong to one key, which is judged alone;
// but `keys` itself is matched by case and must be there exactly once.
func rawKeys(body []byte) ([]jsontext.Value, error) {
	if len(body) > maxBody {
		return nil, fmt.Errorf("more than %d bytes", maxBody)
	}
	dec := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if dec.PeekKind() != '{' {
		return nil, errors.New("not a JSON object")
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, fmt.Errorf("reading JSON: %w", err)
	}
	var keys []jsontext.Value
	seen := false
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, fmt.Errorf("reading JSON: %w", err)
		}
		if name.String() != "keys" {
			if err := dec.SkipValue(); err != nil {
				return nil, fmt.Errorf("reading JSON: %w", err)
			}
			continue
		}
		if seen {
			return nil, errors.New("the member keys is there twice")
		}
		seen = true
		if keys, err = rawElements(dec); err != nil {
			return nil, err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, fmt.Errorf("reading JSON: %w", err)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the set")
	}
	if !seen {
		return nil, errors.New("no member keys")
	}
	return keys, nil
}

func rawElements(dec *jsontext.Decoder) ([]jsontext.Value, error) {
	if dec.PeekKind() != '[' {
		return nil, errors.New("the member keys is not an array")
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, fmt.Errorf("reading JSON: %w", err)
	}
	var keys []jsontext.Value
	for dec.PeekKind() != ']' {
		raw, err := dec.ReadValue()
		if err != nil {
			return nil, fmt.Errorf("reading JSON: %w", err)
		}
		if len(keys) == maxKeys {
			return nil, fmt.Errorf("more than %d keys", maxKeys)
		}
		keys = append(keys, raw.Clone())
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, fmt.Errorf("reading JSON: %w", err)
	}
	return keys, nil
}

// newSet indexes entries; a key listed twice in the same words counts once.
func newSet(entries []*entry, skipped map[skipReason]int, n naming) *set {
	s := &set{
		byKid:   map[string][]*entry{},
		byAlias: map[string][]*entry{},
		slots:   map[string]jwkset.JWK{},
		skipped: skipped,
		naming:  n,
		folded:  map[string][]*entry{},
	}
	ids := map[string]*entry{}
	for _, e := range entries {
		id := string(e.identity())
		if ids[id] != nil {
			continue
		}
		ids[id] = e
		s.entries = append(s.entries, e)
		s.holdings = append(s.holdings, holding{e.key.Thumbprint, setOf(e.key.Algs...), !e.key.NotAfter.IsZero(), e})
		if e.key.Kid != "" {
			s.byKid[e.key.Kid] = append(s.byKid[e.key.Kid], e)
			if n.byAlias {
				folded := truststore.Fold(e.key.Kid)
				s.folded[folded] = append(s.folded[folded], e)
			}
		} else {
			s.nameless = true
			for _, a := range e.aliases {
				s.byAlias[a] = append(s.byAlias[a], e)
			}
		}
		for _, j := range e.jwks {
			s.slots[j.Marshal().KID] = j
		}
	}
	slices.SortStableFunc(s.holdings, func(a, b holding) int { return bytes.Compare(a.thumbprint[:], b.thumbprint[:]) })
	s.digest = digestOf(s.entries)
	return s
}

// without is s less the keys that are gone, and how many those are: they count
// as skipped. It is s itself when there are none.
func (s *set) without(gone func(Thumbprint) bool) (*set, int) {
	kept := slices.DeleteFunc(slices.Clone(s.entries), func(e *entry) bool { return gone(e.key.Thumbprint) })
	n := len(s.entries) - len(kept)
	if n == 0 {
		return s, 0
	}
	skipped := map[skipReason]int{skipWithdrawn: n}
	for reason, more := range s.skipped {
		skipped[reason] += more
	}
	pruned := newSet(kept, skipped, s.naming)
	pruned.setApart(s.refused)
	return pruned, n
}

// apart is s with the keys set apart whose private half is public, so that
// none of them verifies, and counted as skipped; with allow none is.
func (s *set) apart(allow bool) *set {
	all := s.entries
	if s.refused != nil {
		all = slices.Concat(all, s.refused.entries)
	}
	var kept, refused []*entry
	for _, e := range all {
		if e.known != "" && !allow {
			refused = append(refused, e)
		} else {
			kept = append(kept, e)
		}
	}
	if len(refused) == 0 && s.refused == nil {
		return s
	}
	skipped := maps.Clone(s.skipped)
	if skipped == nil {
		skipped = map[skipReason]int{}
	}
	delete(skipped, skipKnown)
	out := newSet(kept, skipped, s.naming)
	out.store = s.store
	if len(refused) > 0 {
		skipped[skipKnown] = len(refused)
		out.setApart(newSet(refused, nil, s.naming))
	}
	return out
}

// setApart gives s the keys that it refuses.
func (s *set) setApart(refused *set) {
	if refused == nil {
		return
	}
	s.refused = refused
	s.digest = sha256.Sum256(append(s.digest[:], refused.digest[:]...))
}

// identity spells out everything a verdict may depend on, so that two entries
// with the same identity are interchangeable.
func (e *entry) identity() []byte {
	var b []byte
	for _, field := range slices.Concat([]string{e.key.Kid}, e.key.Algs, e.aliases) {
		b = binary.AppendUvarint(b, uint64(len(field)))
		b = append(b, field...)
	}
	b = append(b, e.key.Thumbprint[:]...)
	for _, t := range []time.Time{e.key.NotBefore, e.key.NotAfter, e.from, e.until} {
		b = binary.BigEndian.AppendUint64(b, uint64(t.Unix()))
	}
	return b
}

// digestOf does not depend on the order in which the source lists its keys.
func digestOf(entries []*entry) [32]byte {
	ids := make([][]byte, len(entries))
	for i, e := range entries {
		ids[i] = e.identity()
	}
	slices.SortFunc(ids, bytes.Compare)
	h := sha256.New()
	for _, id := range ids {
		h.Write(binary.AppendUvarint(nil, uint64(len(id))))
		h.Write(id)
	}
	return [32]byte(h.Sum(nil))
}

// lookup is what a set, or the lack of one, says about a kid.
type lookup int

const (
	settled    lookup = iota // found, or refused and a fetch would not help
	unknownKid               // no key of the set has to do with this kid
	noSet                    // nothing to tell from
)

// choose picks the one key for kid and alg, and never one of several.
func (s *set) choose(kid, alg string, kidRequired bool, now time.Time) (*entry, lookup) {
	switch {
	case kid == "" && kidRequired, len(kid) > maxKid:
		return nil, settled
	case kid == "":
		return only(s.unnamed(), alg, now), settled
	}
	if named := s.named(kid); len(named) > 0 {
		return only(named, alg, now), settled
	}
	if s.refused != nil && len(s.refused.named(kid)) > 0 {
		return nil, settled
	}
	// A key that its issuer never named serves any kid, but only while there
	// is no doubt which key is meant (JWT-11).
	if e := only(s.entries, alg, now); e != nil && e.key.Kid == "" {
		return e, settled
	}
	return nil, unknownKid
}

// strange tells that choose finds no key for kid, whatever else it is asked.
func (s *set) strange(kid string) bool {
	return kid != "" && s.refused == nil && !s.nameless && len(s.named(kid)) == 0
}

// named are the keys that kid names. In a trust store letters of either case
// are the same where no alias is spelled like kid.
func (s *set) named(kid string) []*entry {
	if named := s.byKid[kid]; len(named) > 0 {
		return named
	}
	if s.naming.byAlias {
		return s.folded[truststore.Fold(kid)]
	}
	return s.byAlias[kid]
}

// unnamed are the keys that a token without a kid may mean.
func (s *set) unnamed() []*entry {
	if s.naming.byAlias {
		return s.byKid[s.naming.noKid]
	}
	return s.entries
}

// refuses tells whether kid names a key that is set apart, whatever the dates
// of its certificate, and no other one.
func (s *set) refuses(kid, alg string, kidRequired bool) bool {
	if s.refused == nil || slices.ContainsFunc(s.named(kid), func(e *entry) bool { return e.fits(alg) }) {
		return false
	}
	for _, e := range s.refused.entries {
		if e, _ := s.refused.choose(kid, alg, kidRequired, e.until); e != nil {
			return true
		}
	}
	return false
}

// only returns the entry that may verify alg now, or nil when there is none or
// when two different keys may: a signature is never tried on several.
func only(entries []*entry, alg string, now time.Time) *entry {
	var one *entry
	for _, e := range entries {
		if !e.fits(alg) || !e.current(now) {
			continue
		}
		if one != nil && one.key.Thumbprint != e.key.Thumbprint {
			return nil
		}
		// Of the same key under two names, the unnamed one is the weaker.
		if one == nil || one.key.Kid == "" {
			one = e
		}
	}
	return one
}

func (e *entry) fits(alg string) bool { return slices.Contains(e.key.Algs, alg) }

func (e *entry) current(now time.Time) bool {
	if e.key.NotAfter.IsZero() {
		return true
	}
	return !now.Before(e.key.NotBefore) && !now.After(e.key.NotAfter)
}

// question is the token, header and method alone, that asks keyfunc for this
// key. It is shared and only read.
func (e *entry) question(alg string) *jwt.Token {
	return e.questions[slices.Index(e.key.Algs, alg)]
}

func (s *set) holds(t Thumbprint, alg string, now func() time.Time) bool {
	one := setOf(alg)
	n, _ := slices.BinarySearchFunc(s.holdings, t, func(h holding, t Thumbprint) int { return bytes.Compare(h.thumbprint[:], t[:]) })
	for ; n < len(s.holdings) && s.holdings[n].thumbprint == t; n++ {
		if h := &s.holdings[n]; h.algs&one != 0 && (!h.dated || h.entry.current(now())) {
			return true
		}
	}
	return false
}

// compareKids orders entries for people.
func compareKids(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.key.Kid, b.key.Kid), bytes.Compare(a.key.Thumbprint[:], b.key.Thumbprint[:]))
}
