package verify

import (
	"hash/maphash"
	"strings"
	"sync/atomic"

	"introspectd/internal/claims"
)

// maxKid is the longest key id in bytes.
const maxKid = 256

// header is what a JOSE header (RFC 7515 section 4.1) said.
type header struct {
	alg, kid, typ string
	hasTyp        bool
}

// headers knows the headers of genuine tokens by their whole segments, because an
// issuer's tokens have the same for as long as it signs by one key. It keeps one
// for each place, so that nothing makes it grow, and forged tokens add nothing.
// It is safe for concurrent use.
type headers struct {
	seed   maphash.Seed
	places [256]atomic.Pointer[knownHeader]
}

type knownHeader struct {
	segment string
	header  header
}

// maxKnownHeader is the length beyond which a segment is not kept.
const maxKnownHeader = 1 << 10

func (h *headers) place(segment string) *atomic.Pointer[knownHeader] {
	return &h.places[maphash.String(h.seed, segment)%uint64(len(h.places))]
}

// find returns the header in segment if it is known.
func (h *headers) find(segment string) (_ header, ok bool) {
	if known := h.place(segment).Load(); known != nil && known.segment == segment {
		return known.header, true
	}
	return header{}, false
}

// keep remembers the header of a genuine token.
func (h *headers) keep(segment string, is header) {
	if len(segment) > maxKnownHeader {
		return
	}
	place := h.place(segment)
	if known := place.Load(); known == nil || known.segment != segment {
		place.Store(&knownHeader{strings.Clone(segment), is}) // the token itself is not kept
	}
}

// readHeader reads the header segment and returns what is wrong with it, empty
// when nothing is.
func (r *room) readHeader(segment string) (h header, problem string) {
	set, ok, err := r.decode(segment, nil)
	if !ok {
		return h, "the header is not canonical base64url"
	}
	if err != nil {
		return h, "the header is not one strict JSON object"
	}
	for _, m := range set {
		switch m.Name {
		case "alg":
			// Absent and not a string are the same: not an algorithm.
			h.alg, _ = claims.String(m.Value)
		case "kid":
			if h.kid, ok = claims.String(m.Value); !ok || len(h.kid) > maxKid {
				return header{alg: h.alg}, "kid is not a string of at most 256 bytes"
			}
		case "typ":
			h.hasTyp = true
			h.typ, _ = claims.String(m.Value)
		case "crit", "zip", "b64":
			// RFC 7515 section 4.1.11: an extension that is not understood
			// makes the token invalid, and we understand none. zip inflates
			// and b64 changes what was signed.
			return h, "crit, zip and b64 are not supported"
		case "cty":
			if cty, ok := claims.String(m.Value); !ok || isMediaType(cty, "jwt") {
				return h, "nested tokens are not supported"
			}
		}
		// jwk, jku, x5c and x5u are the sender's own idea of a key.
	}
	return h, ""
}

// isMediaType says whether a typ or cty means application/sub: RFC 7515 section
// 4.1.9.
func isMediaType(s, sub string) bool {
	const prefix = "application/"
	if len(s) > len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
		s = s[len(prefix):]
	}
	return strings.EqualFold(s, sub)
}

// wrongType returns why this is not an access token, empty when it may be one
// (RFC 9068 section 4; RFC 8725 sections 3.11 and 3.12).
func (i *Issuer) wrongType(h header, set claims.Set) string {
	if h.hasTyp && isMediaType(h.typ, "at+jwt") {
		if i.config.TokenTypes == Strict {
			return ""
		}
	} else if i.config.TokenTypes == Strict || h.hasTyp && !isMediaType(h.typ, "jwt") {
		return "typ is not that of an access token"
	}
	payloadType := ""
	if v, ok := set.Find("typ"); ok {
		payloadType, _ = claims.String(v)
	}
	switch strings.ToLower(payloadType) {
	case "id", "refresh", "offline", "logout":
		return "the payload's typ is that of another kind of token"
	}
	if set.Has("at_hash") || set.Has("c_hash") || set.Has("nonce") && !strings.EqualFold(payloadType, "Bearer") {
		return "it has the claims of an ID token"
	}
	if v, ok := set.Find("token_use"); ok {
		if use, _ := claims.String(v); strings.EqualFold(use, "id") {
			return "token_use is id"
		}
	}
	if set.Has("events") {
		return "it has the claims of a security event"
	}
	return ""
}
