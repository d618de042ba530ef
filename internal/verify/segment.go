package verify

import (
	"encoding/base64"

	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/claims"
)

var strict = base64.RawURLEncoding.Strict()

// appendSegment appends what canonical base64url stands for: the spare bits of
// the last character are zero, so that a segment has one spelling. The alphabet
// was checked by WellSpelled; the decoder would skip line feeds.
func appendSegment(dst []byte, segment string) ([]byte, bool) {
	b, err := strict.AppendDecode(dst, []byte(segment))
	return b, err == nil
}

// room is where a token is decoded.
type room struct {
	text []byte
	set  claims.Set // of the last segment that was an object, in what text was then
}

// mostKept is how many members a room is kept for.
const mostKept = 64

// clear leaves nothing in the room: each member would keep the text that it was in.
func (r *room) clear() {
	if cap(r.set) > mostKept {
		r.set = nil
	}
	clear(r.set[:cap(r.set)])
	r.text = r.text[:0]
}

// decode reads the object in segment, as far as claims.DecodeInto has it, which is
// good until the next is read. It is not ok if segment is not canonical base64url,
// and an error if it is no object.
func (r *room) decode(segment string, enough func(name []byte, value jsontext.Value) bool) (set claims.Set, ok bool, err error) {
	if r.text, ok = appendSegment(r.text[:0], segment); !ok {
		return nil, false, nil
	}
	set, err = claims.DecodeInto(r.set, r.text, enough)
	if err == nil {
		r.set = set
	}
	return set, true, err
}

// behind decodes segment into what is left of the room.
func (r *room) behind(segment string) ([]byte, bool) {
	end := len(r.text)
	both, ok := appendSegment(r.text, segment)
	r.text = both[:end]
	return both[end:], ok
}
