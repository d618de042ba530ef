// Package claims reads the JSON objects of a token, each exactly once and
// strictly: what it lets through has one meaning for every JSON reader. It
// never interprets a member; what exp or aud mean is for others to say.
//
// # Decisions
//
// Members keep their raw JSON text. Numbers beyond 2^53 survive, a claim that
// nobody maps is answered as it was signed, and nothing is decoded that is not
// asked for. Cost: a reader of a value decodes it itself, with String, Strings
// and their kin.
//
// A set is a slice in the token's order, not a map: tokens carry about fifteen
// claims, and a linear search is cheaper than building a map for one use.
package claims

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// MaxDepth is how deep objects and arrays may nest, the outermost counted.
	MaxDepth = 32
	// MaxMembers is how many members the object may have.
	MaxMembers = 512
)

// Member is one name and its value: valid, compact JSON whose objects have no
// duplicate names.
type Member struct {
	Name  string
	Value jsontext.Value
}

// Set is the members of one object in the order of its text, each name once.
// It is read-only once decoded.
type Set []Member

// Find returns the value of the member called exactly name, and whether there
// is one.
func (s Set) Find(name string) (jsontext.Value, bool) {
	for i := range s {
		if s[i].Name == name {
			return s[i].Value, true
		}
	}
	return nil, false
}

// Has says whether there is a member called exactly name.
func (s Set) Has(name string) bool {
	_, ok := s.Find(name)
	return ok
}

// All yields name and value of each member.
func (s Set) All() iter.Seq2[string, jsontext.Value] {
	return func(yield func(string, jsontext.Value) bool) {
		for _, m := range s {
			if !yield(m.Name, m.Value) {
				return
			}
		}
	}
}

// ErrEnough is that of a text that was not read to its end.
var ErrEnough = errors.New("read far enough")

var (
	errDepth   = fmt.Errorf("nested deeper than %d levels", MaxDepth)
	errMembers = fmt.Errorf("more than %d members", MaxMembers)
	errObject  = errors.New("not a JSON object")
	errTrail   = errors.New("data after the JSON object")
)

// Decode reads text, which must be one JSON object and nothing else: valid
// UTF-8, no duplicate names at any level (RFC 7519 section 4 and RFC 7515
// section 4 permit the refusal), at most MaxDepth levels and MaxMembers
// members. The set's values lie in text, which is compacted in place and must
// not be used afterwards.
func Decode(text []byte) (Set, error) { return DecodeInto(nil, text, nil) }

// DecodeInto is Decode for those who read many: the set lies in room where it
// fits, and is good until that or text is used again. What was in room is lost,
// also where there is an error. Where enough says so of a member's name and value,
// what follows it is not looked at, and the error is ErrEnough; nil never does.
func DecodeInto(room Set, text []byte, enough func(name []byte, value jsontext.Value) bool) (Set, error) {
	// Fewer brackets than that can't nest so deep. What is no JSON the parser refuses.
	if bytes.Count(text, []byte("{"))+bytes.Count(text, []byte("[")) > MaxDepth && Depth(text) > MaxDepth {
		return nil, errDepth
	}
	r := readers.Get().(*reader)
	defer readers.Put(r)
	return r.read(room, text, enough)
}

// usualMembers is how many members are made room for at most before they are seen.
const usualMembers = 16

// reader is a decoder with its memory of names, which is most of what one costs.
type reader struct {
	text    bytes.Buffer
	decoder jsontext.Decoder
	names   []byte // of the members, one after the other
	ends    []int  // of each of them
}

var readers = sync.Pool{New: func() any { return new(reader) }}

func (r *reader) read(set Set, text []byte, enough func([]byte, jsontext.Value) bool) (Set, error) {
	r.text, r.names, r.ends = *bytes.NewBuffer(text), r.names[:0], r.ends[:0]
	d := &r.decoder
	d.Reset(&r.text)
	if d.PeekKind() != '{' {
		return nil, errObject
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	if set = set[:0]; cap(set) == 0 {
		set = make(Set, 0, min(1+bytes.Count(text, []byte(",")), usualMembers))
	}
	for d.PeekKind() != '}' {
		quoted, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		name, _ := Text(quoted)
		begin := len(r.names)
		r.names = append(r.names, name...)
		r.ends = append(r.ends, len(r.names))
		value, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		end := d.InputOffset()
		value = text[end-int64(len(value)) : end : end]
		if len(set) == MaxMembers {
			return nil, errMembers
		}
		if enough != nil && enough(r.names[begin:], value) {
			return nil, ErrEnough
		}
		set = append(set, Member{Value: value})
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return nil, errTrail
	}
	names, begin := string(r.names), 0 // one object for all
	for i, end := range r.ends {
		set[i].Name, begin = names[begin:end], end
		if k := set[i].Value.Kind(); (k == '{' || k == '[') && bytes.ContainsAny(set[i].Value, " \t\n\r") {
			if err := set[i].Value.Compact(); err != nil {
				return nil, err
			}
		}
	}
	return set, nil
}

// Depth is how deep text nests, the outermost object or array counted. It counts
// brackets outside strings, before a parser spends memory on them. On text that
// is not JSON its answer means nothing.
func Depth(text []byte) (deepest int) {
	level, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			level++
			deepest = max(deepest, level)
		case c == '}' || c == ']':
			level--
		}
	}
	return deepest
}

// String returns the string that v is, and false where v is none.
func String(v jsontext.Value) (string, bool) {
	s, ok := Text(v)
	return string(s), ok
}

// Text is String for those who only look: what it returns may lie in v.
func Text(v jsontext.Value) ([]byte, bool) {
	if v.Kind() != '"' {
		return nil, false
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return v[1 : len(v)-1], true
	}
	s, err := jsontext.AppendUnquote(nil, v)
	return s, err == nil
}

// Strings returns the elements of the array that v is, and false where v is
// not an array of strings alone.
func Strings(v jsontext.Value) ([]string, bool) {
	all := true
	var out []string
	ok := Elements(v, func(e jsontext.Value) {
		s, isString := String(e)
		all = all && isString
		out = append(out, s)
	})
	return out, ok && all
}

// Elements calls each with every element of the array that v is, in order, and
// returns false where v is none. v is a member's value, or a part of one; the
// element must not be kept.
func Elements(v jsontext.Value, each func(jsontext.Value)) bool {
	if len(v) < 2 || v[0] != '[' {
		return false
	}
	for rest := v[1:]; rest[0] != ']'; {
		n := valueLength(rest)
		if n == 0 || n == len(rest) {
			return false
		}
		each(rest[:n:n])
		if rest = rest[n:]; rest[0] == ',' && len(rest) > 1 {
			rest = rest[1:]
		}
	}
	return true
}

// valueLength is the length of the value that text begins with, where text is
// the rest of compact JSON: what ends a value stands outside its strings and
// brackets.
func valueLength(text []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case depth == 0 && (c == ',' || c == ']' || c == '}'):
			return i
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		}
	}
	return len(text)
}
