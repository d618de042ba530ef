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
	alg         []byte
	marks       []byte // what revocations may know an active token by
	note        string // of a refused token: more of its reason
}

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

// encode writes the entry of a verdict by alg with doc.
func (e *entryHead) encode(alg string, doc document) []byte {
	dst := make([]byte, 0, algAt+1+len(alg)+len(e.marks)+2+spanSize*len(doc.spans)+len(doc.body))
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

// readEntry reads what encode wrote; ok is false for anything else. The answer
// lies in entry, which must not be changed afterwards.
func readEntry(entry []byte) (a Answer, e entryHead, ok bool) {
	if len(entry) < algAt+1 || entry[0] != entryVersion {
		return a, e, false
	}
	e.active, e.reason = entry[1] == 1, verify.Reason(entry[2])
	digests := entry[digestsAt:timesAt]
	copy(e.fingerprint[:], digests)
	copy(e.bound[:], digests[sha256.Size:])
	copy(e.input[:], digests[2*sha256.Size:])
	times := entry[timesAt:algAt]
	for n, t := range []*int64{&e.until, &e.expires, &e.notBefore, &e.issuedAt} {
		*t = int64(binary.BigEndian.Uint64(times[8*n:]))
	}
	rest, n, m := entry[algAt+1:], int(entry[algAt]), 0
	if e.active {
		m = marksSize
	}
	if len(rest) < n+m+2 {
		return a, e, false
	}
	e.alg, e.marks, rest = rest[:n], rest[n:n+m], rest[n+m:]
	spans := spanSize * int(binary.BigEndian.Uint16(rest))
	rest = rest[2:]
	if len(rest) < spans {
		return a, e, false
	}
	a = Answer{
		active: e.active, reason: e.reason, input: e.input, expires: e.expires, issuedAt: e.issuedAt,
		marks: e.marks, spans: rest[:spans], body: rest[spans:],
	}
	if !e.active {
		a.note, a.body = string(a.body), nil
	}
	return a, e, a.sound()
}
