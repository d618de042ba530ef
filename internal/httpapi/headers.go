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
	values = make([]string, len(headers))
	for n, h := range headers {
		raw := a.Find(h.claim)
		value, shown := headerValue(raw)
		if !shown || h.claim == "sub" && len(value) > maxSubject {
			if h.essential {
				return nil, 0, false
			}
			value, left = "", left+1
		}
		values[n] = value
		size += len(h.header) + len(": \r\n") + len(value)
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

// headerValue renders a claim for a header. An absent claim and null are empty
// and shown; ok is false for what has no faithful form: objects, control
// characters, lists of anything but words.
func headerValue(raw jsontext.Value) (value string, ok bool) {
	switch raw.Kind() {
	case jsontext.KindInvalid, 'n':
		return "", true
	case 't', 'f', '0':
		return string(raw), true
	case '"':
		s, _ := claims.String(raw)
		return headerText(s)
	case '[':
		words, ok := claims.Strings(raw)
		for n, word := range words {
			// A space inside a word would make two of it.
			if word == "" || strings.IndexByte(word, ' ') >= 0 {
				return "", false
			}
			if words[n], ok = headerText(word); !ok {
				return "", false
			}
		}
		return strings.Join(words, " "), ok
	}
	return "", false
}

// headerText spells s in visible ASCII so that no two texts are spelled alike:
// bytes beyond ASCII, percent signs, and spaces at either end (which a
// recipient trims) are percent-encoded. A text with control characters has no
// spelling.
func headerText(s string) (string, bool) {
	plain := true
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < ' ' || c == 0x7f {
			return "", false
		}
		if mustEncode(s, i) {
			plain = false
		}
	}
	if plain {
		return s, true
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if mustEncode(s, i) {
			b.WriteByte('%')
			b.WriteByte(hex[s[i]>>4])
			b.WriteByte(hex[s[i]&15])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String(), true
}

func mustEncode(s string, i int) bool {
	c := s[i]
	return c > '~' || c == '%' || c == ' ' && (i == 0 || i == len(s)-1)
}
