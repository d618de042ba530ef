package introspect

import (
	"crypto/sha256"
	"encoding/binary"

	"introspectd/internal/verify"
)

// entryVersion changes with the layout below, with the rendering of answers, and
// with what is refused: an entry of another version is a miss. Where the layout
// alone changes, the version before is still read, because replicas of that
// release go on writing it during a rollout.
const entryVersion = 2

// An entry is:
//
//	version, active, reason                          1 byte each
//	fingerprint, bound, input                        32 bytes each
//	until, expires, notBefore, issuedAt              8 bytes each
//	alg                                              1 byte of length, text
//	marks, of an active verdict only                 marksSize bytes
//	members                                          2 bytes of count
//	for each: end of its name, end of its value      2 bytes each, from the body's start
//	body                                             the JSON object; of a refused token, the note
const (
	digestsAt = 3
	timesAt   = digestsAt + 3*sha256.Size
	algAt     = timesAt + 4*8
	spanSize  = 4
)

// entry is a remembered verdict as it lies in stores. What reads it asks first
// whether it is sound.
type entry []byte

func (e entry) active() bool          { return e[1] == 1 }
func (e entry) reason() verify.Reason { return verify.Reason(e[2]) }

// fingerprint is that of the issuer's configuration.
func (e entry) fingerprint() [sha256.Size]byte { return [sha256.Size]byte(e[digestsAt:]) }

// bound is, of an active verdict, the thumbprint of the verifying key; else the
// digest of the key set.
func (e entry) bound() [sha256.Size]byte { return [sha256.Size]byte(e[digestsAt+sha256.Size:]) }

// input is the digest of header.payload.
func (e entry) input() []byte { return e[timesAt-sha256.Size : timesAt] }

// until is when it is to be forgotten; this and the dates of the token are
// seconds since 1970, by the wall clock.
func (e entry) until() int64     { return e.seconds(0) }
func (e entry) expires() int64   { return e.seconds(1) }
func (e entry) notBefore() int64 { return e.seconds(2) }
func (e entry) issuedAt() int64  { return e.seconds(3) }

func (e entry) seconds(n int) int64 { return int64(binary.BigEndian.Uint64(e[timesAt+8*n:])) }

func (e entry) alg() []byte { return e[algAt+1:][:e[algAt]] }

// marks are what revocations may know an active token by.
func (e entry) marks() []byte { return e[algAt+1+int(e[algAt]):][:marksSize] }

// spansAt is where the spans are counted.
func (e entry) spansAt() int {
	at := algAt + 1 + int(e[algAt])
	if e.active() {
		at += marksSize
	}
	return at
}

// document returns the ends of names and values in the body, and the body. Of a
// refused token it is the note.
func (e entry) document() (spans, body []byte) {
	rest := e[e.spansAt():]
	size := spanSize * int(binary.BigEndian.Uint16(rest))
	return rest[2:][:size], rest[2+size:]
}

// spanIn is the first of spans.
func spanIn(spans []byte) (nameEnd, valueEnd int) {
	return int(binary.BigEndian.Uint16(spans)), int(binary.BigEndian.Uint16(spans[2:]))
}

// sound says whether e is something that encode wrote, as far as a reader could
// be led astray: members lie in the body, in order.
func (e entry) sound() bool {
	if len(e) < algAt+1 || e[0] != entryVersion {
		return false
	}
	if at := e.spansAt(); len(e) < at+2 || len(e) < at+2+spanSize*int(binary.BigEndian.Uint16(e[at:])) {
		return false
	}
	spans, body := e.document()
	for end := 0; len(spans) > 0; spans = spans[spanSize:] {
		nameEnd, valueEnd := spanIn(spans)
		if nameEnd < end+2 || valueEnd < nameEnd+2 || valueEnd >= len(body) {
			return false
		}
		end = valueEnd
	}
	return !e.active() || len(body) > 0
}

// entryHead is what a remembered verdict says of itself.
type entryHead struct {
	active      bool
	reason      verify.Reason
	fingerprint [sha256.Size]byte // of the issuer's configuration
	bound       [sha256.Size]byte // active: thumbprint of the verifying key; else: digest of the key set
	input       [sha256.Size]byte // digest of header.payload
	until       int64             // seconds since 1970, by the wall clock
	expires     int64
	notBefore   int64
	issuedAt    int64
	marks       []byte // what revocations may know an active token by
	note        string // of a refused token: more of its reason
}

// encode writes the entry of a verdict by alg with doc.
func (e *entryHead) encode(alg string, doc document) entry {
	dst := make(entry, 0, algAt+1+len(alg)+len(e.marks)+2+spanSize*len(doc.spans)+len(doc.body))
	active := byte(0)
	if e.active {
		active = 1
	}
	dst = append(dst, entryVersion, active, byte(e.reason))
	dst = append(dst, e.fingerprint[:]...)
	dst = append(dst, e.bound[:]...)
	dst = append(dst, e.input[:]...)
	for _, t := range []int64{e.until, e.expires, e.notBefore, e.issuedAt} {
		dst = binary.BigEndian.AppendUint64(dst, uint64(t))
	}
	dst = append(append(dst, byte(len(alg))), alg...)
	dst = append(dst, e.marks...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(doc.spans)))
	for _, s := range doc.spans {
		dst = binary.BigEndian.AppendUint16(dst, s.name)
		dst = binary.BigEndian.AppendUint16(dst, s.value)
	}
	return append(append(dst, doc.body...), e.note...)
}
