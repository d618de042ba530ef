package config

import (
	"encoding"
	"reflect"
	"strings"
	"unicode/utf8"
)

// field is one key of a section.
type field struct {
	key   string
	typ   reflect.Type
	index []int // of the field in the section's struct
	// text is the default in YAML; hasDefault tells none from an empty one.
	text       string
	hasDefault bool
}

// fields lists the keys of the section t in the order of its struct.
func fields(t reflect.Type) []field {
	var found []field
	for i := range t.NumField() {
		f := t.Field(i)
		key, option, _ := strings.Cut(f.Tag.Get("koanf"), ",")
		if option == "squash" {
			for _, inner := range fields(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				found = append(found, inner)
			}
			continue
		}
		if key == "" {
			continue
		}
		text, hasDefault := f.Tag.Lookup("default")
		found = append(found, field{key, f.Type, []int{i}, text, hasDefault})
	}
	return found
}

// isSection says whether a value of type t is written as keys with values.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && len(fields(t)) > 0
}

// union is a type that can be written in several forms: as true or false, as a
// text, or as a list of texts.
type union interface {
	// FromConfig takes a bool, a string, or a []any of strings; its error says
	// what was expected.
	FromConfig(value any) error
}

// spellings is a type of which only some texts are values.
type spellings interface{ Values() []string }

// isText says whether a setting of type t is a text as it stands, which an
// environment variable holds without quotes.
func isText(t reflect.Type) bool {
	return t.Kind() == reflect.String || t == durationType || isUnmarshaler(t)
}

func isUnmarshaler(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// later maps keys whose names are fixed but whose capability is not built to
// what they are for: ignoring one would leave an operator with less than what
// was written.
func later(key string) (string, bool) {
	purpose, ok := map[string]string{
		"server.forwarded":                                "believing forwarded headers",
		"callers[].methods[]=private_key_jwt":             "authentication by a signed assertion",
		"callers[].methods[]=tls_client_auth":             "authentication by a client certificate",
		"callers[].methods[]=self_signed_tls_client_auth": "authentication by a client certificate",
	}[key]
	return "not built yet: " + purpose, ok
}

// shape is a key without the numbers of its list entries.
func shape(key string) string {
	var b strings.Builder
	for {
		head, rest, ok := strings.Cut(key, "[")
		b.WriteString(head)
		if !ok {
			return b.String()
		}
		b.WriteString("[]")
		_, key, _ = strings.Cut(rest, "]")
	}
}

// nearest is the word within two slips of the pen of key, or "".
func nearest(key string, words []string) string {
	best, least := "", 3
	for _, word := range words {
		// Two changes make any word out of one of two letters.
		if d := distance(key, word); d < least && d < utf8.RuneCountInString(word) {
			best, least = word, d
		}
	}
	return best
}

// distance counts the letters to insert, delete or replace (Levenshtein).
func distance(a, b string) int {
	long := []rune(b)
	row := make([]int, len(long)+1)
	for j := range row {
		row[j] = j
	}
	for i, x := range []rune(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j, y := range long {
			cost := diagonal
			if x != y {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(long)]
}
