// Package sign owns our own keys: it loads them, publishes their public halves
// and signs assertions, which are statements about one token for one audience.
// It never sees a token, and never decides whether something may be said.
//
// # Decisions
//
// Keys sign through crypto.Signer, not by golang-jwt. Context: the library's
// methods want the private key itself, which a key management service never
// gives away. Choice: we ask the Signer, and the library's methods verify each
// signature before it leaves. Cost: 25 to 60 µs for each, of the some hundred that
// RSA takes to sign.
//
// A key is published as soon as it is listed, and signs from its own time on.
// Context: backends keep the key set for minutes, and replicas are reloaded one
// after the other; a key that signs at once is unknown to some of them. Choice:
// active_from, read from the same configuration everywhere. Cost: the clocks of
// replicas have to agree about as well as those of issuers.
//
// An assertion ends no later than its token. Leeway is for clocks that differ
// over a token in hand, not for new statements about one that is over: what is
// past its exp gets none.
//
// Assertions are reused until half their life. Context: an RSA signature costs
// more than all else of a request. Choice: they are remembered under a digest
// of everything they are made of (the token, its issuer's configuration, the
// profile, our iss and key), by a memory that others could not write. Cost: a
// jti names an assertion, not a request.
//
// Nothing that an assertion is made of can name a member that is ours to say:
// what claims say of iss, aud, exp and their like stays behind.
package sign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/singleflight"
)

// Keys are our own keys. They are immutable and safe for concurrent use.
type Keys struct {
	rows []*key // by their times
	set  []byte
}

// Key is one of our keys, wherever its private half is.
type Key struct {
	Signer crypto.Signer
	// Algorithm is the one it signs by; empty means the key's own.
	Algorithm Algorithm
	// ActiveFrom is when it begins to sign.
	ActiveFrom time.Time
}

// Of returns keys of which each signs from its time on, until the next one does.
func Of(all ...Key) (*Keys, error) {
	var rows []*key
	for _, one := range all {
		k, _, err := newKey(one.Signer, one.Algorithm)
		if err != nil {
			return nil, err
		}
		k.from = one.ActiveFrom
		rows = append(rows, k)
	}
	return newKeys(rows)
}

// Load reads the keys of a checked configuration, which has to have some, and
// makes the one that is to be generated.
func Load(c Config) (*Keys, error) {
	if c.Generate != "" {
		if err := generate(c.Generate); err != nil {
			return nil, fmt.Errorf("making the signing key %s: %w", c.Generate, err)
		}
	}
	var rows []*key
	for _, row := range c.rows() {
		k, _, err := row.load()
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w", row.File, err)
		}
		rows = append(rows, k)
	}
	return newKeys(rows)
}

func newKeys(rows []*key) (*Keys, error) {
	slices.SortStableFunc(rows, func(a, b *key) int { return a.from.Compare(b.from) })
	type jwk struct {
		Alg Algorithm `json:"alg"`
		Kid string    `json:"kid"`
		Use string    `json:"use"`
		member
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{}
	for _, k := range rows {
		set.Keys = append(set.Keys, jwk{k.alg, k.kid, "sig", k.public})
	}
	text, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("writing the key set: %w", err)
	}
	return &Keys{rows, text}, nil
}

// JWKS is the set of all public keys (RFC 7517 section 5), those included that
// are yet to sign. It must not be changed.
func (k *Keys) JWKS() []byte { return k.set }

// IDs are the RFC 7638 thumbprints of all keys, which are their kids.
func (k *Keys) IDs() []string {
	var ids []string
	for _, row := range k.rows {
		ids = append(ids, row.kid)
	}
	return ids
}

// at is the key that signs at now: the last one whose time has come.
func (k *Keys) at(now time.Time) (*key, error) {
	for _, row := range slices.Backward(k.rows) {
		if !row.from.After(now) {
			return row, nil
		}
	}
	return nil, errors.New("no signing key's time has come")
}

// Cache keeps values for a time; it may forget them at any moment. Only this
// process may be able to write it.
type Cache interface {
	Get(ctx context.Context, key [sha256.Size]byte, room []byte) []byte
	Put(ctx context.Context, key [sha256.Size]byte, value []byte, lifetime time.Duration, refused bool)
}

// Options are what a Signer works with.
type Options struct {
	Keys *Keys
	// Issuer is our own iss.
	Issuer string
	// Cache remembers assertions; nil means that none are.
	Cache Cache
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Signer makes assertions. It is safe for concurrent use.
type Signer struct {
	keys    *Keys
	issuer  string
	cache   Cache
	flights singleflight.Group
	now     func() time.Time
}

// New returns a Signer.
func New(o Options) *Signer {
	s := &Signer{keys: o.Keys, issuer: o.Issuer, cache: o.Cache, now: o.Now}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// Keys are those that s signs with.
func (s *Signer) Keys() *Keys { return s.keys }

// KeyID is the kid of the key that signs now, empty where none does.
func (s *Signer) KeyID() string {
	k, err := s.keys.at(s.now())
	if err != nil {
		return ""
	}
	return k.kid
}

// Form is what all assertions of one profile have in common.
type Form struct {
	// Type is the header's typ.
	Type string
	// Audience are the values of aud, at least one.
	Audience []string
	// Lifetime bounds exp - iat.
	Lifetime time.Duration
	// Unique are members that get a value of their own in each assertion, where
	// the claims don't have them.
	Unique []string
	// Version is a digest of everything else that decides what the assertions of
	// this form say.
	Version [sha256.Size]byte
}

// Assertion is a signed statement: a compact JWS, and its exp.
type Assertion struct {
	Text    string
	Expires int64
}

// ExpiresIn is what is left of it in whole seconds.
func (s *Signer) ExpiresIn(a Assertion) int64 { return max(0, a.Expires-s.now().Unix()) }

// ErrOver says that the token an assertion was asked for has passed its exp, by
// our clock and without leeway.
var ErrOver = errors.New("the token is over")

// Recall returns the assertion that was made of the same and is in the first
// half of its life. about is everything that its claims are made of.
func (s *Signer) Recall(ctx context.Context, f *Form, about []byte) (Assertion, bool) {
	now := s.now()
	k, err := s.keys.at(now)
	if err != nil || s.cache == nil {
		return Assertion{}, false
	}
	return s.recall(ctx, s.name(k, f, about), now)
}

// Make signs the members said, each name once, about a token with this exp; it
// is remembered for Recall. Errors are ErrOver, and those of a key that does not
// sign.
func (s *Signer) Make(ctx context.Context, f *Form, about []byte, expires int64, said iter.Seq2[string, jsontext.Value]) (Assertion, error) {
	k, err := s.keys.at(s.now())
	if err != nil {
		return Assertion{}, err
	}
	name := s.name(k, f, about)
	made, err, _ := s.flights.Do(string(name[:]), func() (any, error) {
		now := s.now()
		if a, ok := s.recall(ctx, name, now); ok {
			return a, nil // another flight landed between the look of who asks and this one
		}
		a, err := s.make(k, f, now, expires, said)
		if err == nil {
			s.remember(context.WithoutCancel(ctx), name, a, now)
		}
		return a, err
	})
	if err != nil {
		return Assertion{}, err
	}
	return made.(Assertion), nil
}

// name digests everything that an assertion is made of.
func (s *Signer) name(k *key, f *Form, about []byte) [sha256.Size]byte {
	text := make([]byte, 0, 512)
	for _, part := range [][]byte{[]byte(k.kid), []byte(k.alg), []byte(s.issuer), f.Version[:]} {
		text = binary.BigEndian.AppendUint32(text, uint32(len(part)))
		text = append(text, part...)
	}
	return sha256.Sum256(append(text, about...))
}

// make writes and signs one: RFC 7519 section 7.1.
func (s *Signer) make(k *key, f *Form, now time.Time, expires int64, said iter.Seq2[string, jsontext.Value]) (Assertion, error) {
	expires = min(expires, now.Add(f.Lifetime).Unix())
	if expires <= now.Unix() {
		return Assertion{}, ErrOver
	}
	input := k.header(f.Type) + "." + base64.RawURLEncoding.EncodeToString(s.payload(f, now, expires, said))
	signature, err := k.sign(input)
	if err != nil {
		return Assertion{}, err
	}
	return Assertion{input + "." + base64.RawURLEncoding.EncodeToString(signature), expires}, nil
}

func (k *key) header(typ string) string {
	text, err := json.Marshal(struct {
		Alg Algorithm `json:"alg"`
		Kid string    `json:"kid"`
		Typ string    `json:"typ"`
	}{k.alg, k.kid, typ})
	if err != nil {
		panic("sign: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// ours are the members that say who states something, to whom and when. Others
// bind or describe the token that it is about, which an assertion is not.
var ours = []string{"iss", "aud", "iat", "exp", "jti", "nbf", "cnf", "active", "token_type"}

func (s *Signer) payload(f *Form, now time.Time, expires int64, said iter.Seq2[string, jsontext.Value]) []byte {
	id := rand.Text()
	var b bytes.Buffer
	b.WriteString(`{"iss":`)
	b.Write(quoted(s.issuer))
	b.WriteString(`,"aud":`)
	b.Write(audience(f.Audience))
	b.WriteString(`,"iat":` + strconv.FormatInt(now.Unix(), 10))
	b.WriteString(`,"exp":` + strconv.FormatInt(expires, 10))
	b.WriteString(`,"jti":"` + id + `"`)
	add := func(name string, value []byte) {
		b.WriteByte(',')
		b.Write(quoted(name))
		b.WriteByte(':')
		b.Write(value)
	}
	missing := slices.Clone(f.Unique)
	for name, value := range said {
		missing = slices.DeleteFunc(missing, func(unique string) bool { return unique == name })
		if !slices.Contains(ours, name) {
			add(name, value)
		}
	}
	for _, name := range missing {
		add(name, quoted(id))
	}
	b.WriteByte('}')
	return b.Bytes()
}

// audience is one text, or a list of several (RFC 7519 section 4.1.3).
func audience(values []string) []byte {
	if len(values) == 1 {
		return quoted(values[0])
	}
	var all []string
	for _, v := range values {
		all = append(all, string(quoted(v)))
	}
	return []byte("[" + strings.Join(all, ",") + "]")
}

// quoted is a JSON string; what is not UTF-8 in it is replaced.
func quoted(text string) []byte {
	out, _ := jsontext.AppendQuote(nil, text)
	return out
}

// What is remembered is when it was made and when it ends, in nanoseconds since
// 1970 and in seconds, and the assertion.
const entryHead = 16

func (s *Signer) remember(ctx context.Context, name [sha256.Size]byte, a Assertion, now time.Time) {
	if s.cache == nil {
		return
	}
	value := make([]byte, 0, entryHead+len(a.Text))
	value = binary.BigEndian.AppendUint64(value, uint64(now.UnixNano()))
	value = binary.BigEndian.AppendUint64(value, uint64(a.Expires))
	half := time.Unix(a.Expires, 0).Sub(now) / 2
	// A cache may count in whole seconds; recall looks at the instant.
	s.cache.Put(ctx, name, append(value, a.Text...), half+time.Second, false)
}

func (s *Signer) recall(ctx context.Context, name [sha256.Size]byte, now time.Time) (Assertion, bool) {
	if s.cache == nil {
		return Assertion{}, false
	}
	value := s.cache.Get(ctx, name, nil)
	if len(value) <= entryHead {
		return Assertion{}, false
	}
	made := time.Unix(0, int64(binary.BigEndian.Uint64(value)))
	expires := int64(binary.BigEndian.Uint64(value[8:]))
	if now.Before(made) || !now.Before(made.Add(time.Unix(expires, 0).Sub(made)/2)) {
		return Assertion{}, false
	}
	return Assertion{string(value[entryHead:]), expires}, true
}
