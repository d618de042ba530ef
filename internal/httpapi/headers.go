package httpapi

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/claims"
	"introspectd/internal/introspect"
)

const (
	// maxHeaders bounds all headers of a gateway's answer: nginx keeps them in
	// one 4 KiB buffer and turns a larger answer into an error.
	maxHeaders = 3500
	// ownHeaderBytes is what the status line and the headers of every answer
	// take of it.
	ownHeaderBytes = 200
	// maxSubject is the longest rendered sub in bytes.
	maxSubject = 1 << 10
)

// identityHeader is one header of a policy's answer and the claim it shows.
type identityHeader struct {
	header string // in canonical spelling
	claim  introspect.Name
	// essential ones name the user: without them there is no identity to
	// answer with.
	essential bool
}

func compileHeaders(headers map[string]string) []identityHeader {
	var out []identityHeader
	for _, header := range slices.Sorted(maps.Keys(headers)) {
		claim := headers[header]
		out = append(out, identityHeader{
			header:    http.CanonicalHeaderKey(header),
			claim:     introspect.NameOf(claim),
			essential: claim == "sub" || claim == "iss",
		})
	}
	return out
}

// identity renders the headers of a policy's answer: every one of them, empty
// where the claim is absent or can't be shown, so that a gateway that
// overwrites also clears what a client sent. left counts those that could not
// be shown. ok is false where the user can't be named: an answer with a
// half-written identity is none.
//
// Beyond maxHeaders the longest value is left empty first, of equal ones the
// last by name; sub and iss never are. size is what other headers take of it.
func identity(headers []identityHeader, size int, a introspect.Answer) (values []string, left int, ok bool) {
	var room [512]byte
	var marks [16]int
	var space [16]jsontext.Value
	text, ends, found := room[:0], marks[:0], space[:]
	if len(headers) > len(found) {
		found = make([]jsontext.Value, len(headers))
	}
	missing := len(headers)
	for name, value := range a.Members() {
		for n := range headers {
			if string(name) == string(headers[n].claim) {
				found[n] = value
				missing--
			}
		}
		if missing == 0 {
			break
		}
	}
	for n, h := range headers {
		before := len(text)
		var shown bool
		text, shown = appendHeader(text, found[n])
		if !shown || h.claim == "sub" && len(text)-before > maxSubject {
			if h.essential {
				return nil, 0, false
			}
			text, left = text[:before], left+1
		}
		ends = append(ends, len(text))
	}
	whole, begin := string(text), 0 // all values are parts of one text
	values = make([]string, len(headers))
	for n, h := range headers {
		values[n], begin = whole[begin:ends[n]], ends[n]
		size += len(h.header) + len(": \r\n") + len(values[n])
	}
	for size > maxHeaders {
		longest := -1
		for n, h := range headers {
			if !h.essential && values[n] != "" && (longest < 0 || cmp.Compare(len(values[n]), len(values[longest])) >= 0) {
				longest = n
			}
		}
		if longest < 0 {
			return nil, 0, false
		}
		size -= len(values[longest])
		values[longest], left = "", left+1
	}
	return values, left, true
}

// appendHeader renders a claim for a header. An absent claim and null are empty
// and shown; ok is false for what has no faithful form: objects, control
// characters, lists of anything but words.
func appendHeader(dst []byte, raw jsontext.Value) (rendered []byte, ok bool) {
	switch raw.Kind() {
	case jsontext.KindInvalid, 'n':
		return dst, true
	case 't', 'f', '0':
		return append(dst, raw...), true
	case '"':
		text, _ := claims.Text(raw)
		return appendText(dst, text)
	case '[':
		words, ok := claims.Strings(raw)
		for n, word := range words {
			// A space inside a word would make two of it.
			if word == "" || strings.IndexByte(word, ' ') >= 0 {
				return dst, false
			}
			if n > 0 {
				dst = append(dst, ' ')
			}
			if dst, ok = appendText(dst, []byte(word)); !ok {
				return dst, false
			}
		}
		return dst, ok
	}
	return dst, false
}

// appendText spells s in visible ASCII so that no two texts are spelled alike:
// bytes beyond ASCII, percent signs, and spaces at either end (which a
// recipient trims) are percent-encoded. A text with control characters has no
// spelling.
func appendText(dst, s []byte) (spelled []byte, ok bool) {
	const hex = "0123456789ABCDEF"
	for i, c := range s {
		switch {
		case c < ' ' || c == 0x7f:
			return dst, false
		case c > '~' || c == '%' || c == ' ' && (i == 0 || i == len(s)-1):
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return dst, true
}
