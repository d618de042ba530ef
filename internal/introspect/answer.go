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
// zero value is inactive. An Answer is small enough to be handed from function to
// function, and doesn't change; one that was recalled into somebody's room, and all
// that it returns as bytes, is good until that is used again.
type Answer struct {
	issuer *issuer
	entry  entry // sound; nil of what is not remembered, which is inactive
	// Where there is no entry:
	ref    Ref
	reason verify.Reason
}

// Active says whether the token is good, to anyone who may be told at all.
func (a Answer) Active() bool { return a.entry != nil && a.entry.active() }

// Reason is why it is not, for logs and metrics alone.
func (a Answer) Reason() verify.Reason {
	if a.entry == nil {
		return a.reason
	}
	return a.entry.reason()
}

// Note tells the log more of Reason: which rule, and its author's own words. It
// holds nothing of the token, and is empty for most reasons.
func (a Answer) Note() string {
	if a.entry == nil || a.entry.active() {
		return ""
	}
	_, note := a.entry.document()
	return string(note)
}

// Issuer is the configured name of the issuer, empty when iss named none.
func (a Answer) Issuer() string {
	if a.issuer == nil {
		return ""
	}
	return a.issuer.verify.Name()
}

// Expires is the token's exp in seconds since 1970, 0 unless it is active.
func (a Answer) Expires() int64 {
	if !a.Active() {
		return 0
	}
	return a.entry.expires()
}

// Ref names the token in log lines.
func (a Answer) Ref() Ref {
	if a.entry == nil {
		return a.ref
	}
	return Ref{digest: binary.BigEndian.Uint64(a.entry.input())}
}

// Ref names a token in log lines without showing it. The zero Ref names nothing.
type Ref struct {
	token  string // digested when somebody writes it: not every line is written
	digest uint64 // else
}

// String is the hex of the first 8 bytes of SHA-256(header.payload), empty for
// the zero Ref.
func (r Ref) String() string {
	switch {
	case r.token != "":
		input := verify.SigningInput(r.token)
		return hex.EncodeToString(input[:8])
	case r.digest != 0:
		return hex.EncodeToString(binary.BigEndian.AppendUint64(nil, r.digest))
	}
	return ""
}

// Origin is what the answer was made of, as a digest each: the token's header and
// payload, and the configuration of its issuer. It is nothing unless the token is
// active.
func (a Answer) Origin() (origin [2 * sha256.Size]byte) {
	if a.Active() {
		copy(origin[copy(origin[:], a.entry.input()):], a.issuer.fingerprint[:])
	}
	return origin
}

// Body is the whole answer of RFC 7662 section 2.2 as one JSON object; nil
// unless the token is active. It must not be changed.
func (a Answer) Body() []byte {
	if !a.Active() {
		return nil
	}
	_, body := a.entry.document()
	return body
}

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
	for member, value := range a.Members() {
		if string(member) == string(name) {
			return value
		}
	}
	return nil
}

// Members yields the body's members in order, names as they are spelled there
// (see Name). There are none unless the token is active. Neither must be changed.
func (a Answer) Members() iter.Seq2[[]byte, jsontext.Value] {
	return func(yield func([]byte, jsontext.Value) bool) {
		if !a.Active() {
			return
		}
		spans, body := a.entry.document()
		for end := 0; len(spans) > 0; spans = spans[spanSize:] {
			nameEnd, valueEnd := spanIn(spans)
			// Between the members stand `{"` or `,"`, between name and value `":`.
			if !yield(body[end+2:nameEnd], jsontext.Value(body[nameEnd+2:valueEnd])) {
				return
			}
			end = valueEnd
		}
	}
}
