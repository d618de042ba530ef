package introspect

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"iter"

	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/verify"
)

// Answer is what we know of one token: nothing in it depends on who asks. The
// zero value is inactive. An Answer is immutable.
type Answer struct {
	active   bool
	reason   verify.Reason
	issuer   *issuer
	input    [sha256.Size]byte
	expires  int64
	issuedAt int64
	marks    []byte // see marksOf
	spans    []byte // ends of names and values in body, see entryHead
	body     []byte
	note     string // see Note
}

// Active says whether the token is good, to anyone who may be told at all.
func (a Answer) Active() bool { return a.active }

// Reason is why it is not, for logs and metrics alone.
func (a Answer) Reason() verify.Reason { return a.reason }

// Note tells the log more of Reason: which rule, and its author's own words. It
// holds nothing of the token, and is empty for most reasons.
func (a Answer) Note() string { return a.note }

// Issuer is the configured name of the issuer, empty when iss named none.
func (a Answer) Issuer() string {
	if a.issuer == nil {
		return ""
	}
	return a.issuer.verify.Name()
}

// Expires is the token's exp in seconds since 1970, 0 unless it is active.
func (a Answer) Expires() int64 { return a.expires }

// Ref names the token in log lines without showing it.
func (a Answer) Ref() Ref { return Ref(a.input[:]) }

// Ref is the first 8 bytes of SHA-256(header.payload). The zero Ref names
// nothing.
type Ref [8]byte

// String is the hex of r, empty for the zero Ref.
func (r Ref) String() string {
	if r == (Ref{}) {
		return ""
	}
	return hex.EncodeToString(r[:])
}

// Origin is what the answer was made of, as a digest each: the token's header and
// payload, and the configuration of its issuer. It is nothing unless the token is
// active.
func (a Answer) Origin() (origin [2 * sha256.Size]byte) {
	if a.active && a.issuer != nil {
		copy(origin[copy(origin[:], a.input[:]):], a.issuer.fingerprint[:])
	}
	return origin
}

// Body is the whole answer of RFC 7662 section 2.2 as one JSON object; nil
// unless the token is active. It must not be changed.
func (a Answer) Body() []byte { return a.body }

// Name is a member's name as it stands in a body, between its quotes.
type Name string

// NameOf spells a claim's name as answers do.
func NameOf(claim string) Name {
	quoted, err := jsontext.AppendQuote(nil, claim)
	if err != nil {
		return "" // not UTF-8: no member is called so
	}
	return Name(quoted[1 : len(quoted)-1])
}

// Find returns the value of a member as raw JSON, nil when there is none.
func (a Answer) Find(name Name) jsontext.Value {
	for member, value := range a.members() {
		if string(member) == string(name) {
			return value
		}
	}
	return nil
}

// members yields the body's members in order, names as they are spelled there.
func (a Answer) members() iter.Seq2[[]byte, jsontext.Value] {
	return func(yield func([]byte, jsontext.Value) bool) {
		end := 0
		for s := a.spans; len(s) > 0; s = s[spanSize:] {
			nameEnd, valueEnd := int(binary.BigEndian.Uint16(s)), int(binary.BigEndian.Uint16(s[2:]))
			// Between the members stand `{"` or `,"`, between name and value `":`.
			if !yield(a.body[end+2:nameEnd], jsontext.Value(a.body[nameEnd+2:valueEnd])) {
				return
			}
			end = valueEnd
		}
	}
}

// sound says whether the spans lie in the body in order, so that members can't
// reach beyond it.
func (a Answer) sound() bool {
	end := 0
	for s := a.spans; len(s) > 0; s = s[spanSize:] {
		nameEnd, valueEnd := int(binary.BigEndian.Uint16(s)), int(binary.BigEndian.Uint16(s[2:]))
		if nameEnd < end+2 || valueEnd < nameEnd+2 || valueEnd >= len(a.body) {
			return false
		}
		end = valueEnd
	}
	return a.active == (len(a.body) > 0)
}
