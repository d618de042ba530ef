package callers

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"time"
)

// longestPayload bounds what is decoded of a Basic credential, in bytes: an
// id and a secret of the greatest length, every character percent-encoded.
const longestPayload = 3*longestID + 1 + 3*longestSecret

// basic authenticates by HTTP Basic (RFC 7617, RFC 6749 section 2.3.1). What
// the form says beside it must be the same id and secret.
func (cs *Callers) basic(encoded string, f form, from origin, now time.Time) (Authenticated, *Refusal) {
	var space [512]byte
	payload := decodeBasic(space[:0], encoded)
	used := basicMethod
	if f.secret != "" {
		used |= postMethod
	}

	var tried [mostSplits]claim
	n, colon := 0, -1
	for range cs.splits {
		next := bytes.IndexByte(payload[colon+1:], ':')
		if next < 0 {
			break
		}
		colon += 1 + next
		id, secret := payload[:colon], payload[colon+1:]
		if !f.agrees(id, secret) {
			continue
		}
		who := claimed(id)
		r := cs.row(who)
		latest := &r.latest
		last, admitted := cs.limits.admits(latest, from, who, now)
		if !admitted {
			// The secret that was sent meets the digests of nobody: the
			// same work, so that the time doesn't tell which ids exist.
			r = cs.nobody
		}
		if r.opensSpelled(secret) && r.methods&used != 0 {
			cs.limits.succeeded(latest, from, who, now, last)
			return r.authenticated(used), nil
		}
		tried[n] = who
		n++
	}
	if n == 0 && (f.id != "" || f.secret != "") {
		return Authenticated{}, disagreeing()
	}
	if n == 0 {
		// Not base64, or no colon: a failure of the id that nobody has.
		tried[0], n = claimed(nil), 1
	}
	if !cs.limits.failed(from, tried[:n], now) {
		return Authenticated{}, tooMany()
	}
	return Authenticated{}, wrongBasic()
}

// decodeBasic appends the decoded credential to dst; what isn't base64, or is
// too long to be right, gives nothing.
func decodeBasic(dst []byte, encoded string) []byte {
	if base64.StdEncoding.DecodedLen(len(encoded)) > longestPayload+2 {
		return nil
	}
	payload, err := base64.StdEncoding.AppendDecode(dst, []byte(encoded))
	if err != nil {
		return nil
	}
	return payload
}

// agrees says whether the form repeats this id and secret; a member that the
// form lacks agrees with everything.
func (f form) agrees(id, secret []byte) bool {
	return (f.id == "" || spells(id, f.id)) && (f.secret == "" || spells(secret, f.secret))
}

// spells says whether received is a spelling of want that clients use in
// Basic: raw, form-encoded (RFC 6749 section 2.3.1), or percent-encoded with
// a literal plus.
func spells(received []byte, want string) bool {
	if string(received) == want {
		return true
	}
	if len(received) > 3*len(want) || !encodes(received) {
		return false
	}
	var space [256]byte
	for _, plus := range [...]byte{' ', '+'} {
		if decoded, ok := decodePercent(space[:0], received, plus); ok && string(decoded) == want {
			return true
		}
	}
	return false
}

// opensSpelled says whether any spelling of the received secret is one of the
// row's. How many are hashed depends on what was received alone.
func (r *row) opensSpelled(received []byte) bool {
	opened := r.opens(sha256.Sum256(received))
	if !encodes(received) {
		return opened
	}
	var space [512]byte
	for _, plus := range [...]byte{' ', '+'} {
		if decoded, ok := decodePercent(space[:0], received, plus); ok {
			opened = r.opens(sha256.Sum256(decoded)) || opened
		}
	}
	return opened
}

// encodes says whether s may be a percent-encoded or form-encoded spelling.
func encodes(s []byte) bool {
	return bytes.IndexByte(s, '%') >= 0 || bytes.IndexByte(s, '+') >= 0
}

// decodePercent appends s to dst with %XX decoded and each + written as plus;
// ok is false where a percent sign isn't followed by two hex digits.
func decodePercent(dst, s []byte, plus byte) (decoded []byte, ok bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '+':
			dst = append(dst, plus)
		case '%':
			v, ok := unhex(s[i+1:])
			if !ok {
				return nil, false
			}
			dst = append(dst, v)
			i += 2
		default:
			dst = append(dst, s[i])
		}
	}
	return dst, true
}

// claimed reduces every spelling of an id to one digest, whether or not a
// caller has that id: %XX is decoded until none is left and + becomes a
// space. Without it 2^n spellings of one id would have 2^n buckets, and were
// only the known ids reduced, the buckets would tell which are known.
//
// The two rewritings never overlap, so their order doesn't matter: whatever a
// spelling decodes to ends in the same form as the spelling itself.
func claimed(id []byte) claim {
	if len(id) > 3*longestID {
		id = nil // it can't name anybody
	}
	if !encodes(id) { // nothing to rewrite, as in most
		return sha256.Sum256(id)
	}
	var space [3 * longestID]byte
	s := space[:0]
	for _, c := range id {
		s = append(s, c)
		for len(s) >= 3 && s[len(s)-3] == '%' {
			v, ok := unhex(s[len(s)-2:])
			if !ok {
				break
			}
			s = append(s[:len(s)-3], v)
		}
		if s[len(s)-1] == '+' {
			s[len(s)-1] = ' '
		}
	}
	return sha256.Sum256(s)
}

// unhex reads the byte that the first two characters of s spell in hex.
func unhex(s []byte) (v byte, ok bool) {
	if len(s) < 2 {
		return 0, false
	}
	high, low := nibble(s[0]), nibble(s[1])
	return high<<4 | low, high < 16 && low < 16
}

// nibble is the value of a hex digit, and 16 for everything else.
func nibble(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}
