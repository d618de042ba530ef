package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"
)

// fill walks the tree beside the section t that it is to become: it reports
// keys that t does not have and writes in the defaults of those that the tree
// does not have.
func (l *loader) fill(t reflect.Type, tree map[string]any, path string) {
	known := fields(t)
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		if !slices.ContainsFunc(known, func(f field) bool { return f.key == name }) {
			l.fault(join(path, name), unknown(join(path, name), known))
		}
	}
	for _, f := range known {
		value, key := tree[f.key], join(path, f.key)
		if value == nil { // a key with nothing behind it counts as not written
			delete(tree, f.key)
			if f.hasDefault {
				tree[f.key] = l.defaultOf(f, key)
			} else if isSection(f.typ) && !isUnmarshaler(f.typ) {
				value = map[string]any{}
				tree[f.key] = value
			}
		}
		switch v := value.(type) {
		case map[string]any:
			if isSection(f.typ) {
				l.fill(f.typ, v, key)
			}
		case []any:
			if f.typ.Kind() == reflect.Slice {
				l.fillEntries(f.typ.Elem(), v, key)
			}
		}
	}
}

func (l *loader) fillEntries(t reflect.Type, entries []any, path string) {
	for i, value := range entries {
		section, ok := value.(map[string]any)
		switch {
		case value == nil:
			l.fault(entry(path, i), "expected "+wanted(t)+", got nothing")
		case ok && isSection(t):
			l.fill(t, section, entry(path, i))
		}
	}
}

// defaultOf reads the default of one key.
func (l *loader) defaultOf(f field, key string) any {
	if isText(f.typ) {
		return f.text
	}
	var value any
	if err := yaml.Unmarshal([]byte(f.text), &value); err != nil {
		l.faultAt(place{}, key, "the default is at fault: "+err.Error())
	}
	return value
}

// unknown says why the last word of key is not among the known fields.
func unknown(key string, known []field) string {
	if sentence, ok := later(shape(key)); ok {
		return sentence
	}
	words := make([]string, len(known))
	for i, f := range known {
		words[i] = f.key
	}
	if word := nearest(strings.TrimPrefix(key[len(parent(key)):], "."), words); word != "" {
		return fmt.Sprintf("unknown key; did you mean %s?", word)
	}
	return "unknown key; expected one of " + strings.Join(words, ", ")
}

// decode turns the filled tree into c.
func (l *loader) decode(tree map[string]any, c *Config) {
	k := koanf.New(delimiter)
	l.lay(k, tree)
	err := k.UnmarshalWithConf("", c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		DecodeHook:           mapstructure.DecodeHookFuncValue(strict),
		MatchName:            func(key, field string) bool { return key == field },
		TagName:              "koanf",
		IgnoreUntaggedFields: true,
		DisableUnmarshaler:   true,
	}})
	l.decodeFaults(err)
}

// decodeFaults takes the decoder's joined error apart.
func (l *loader) decodeFaults(err error) {
	if err == nil {
		return
	}
	if one, ok := err.(*mapstructure.DecodeError); ok {
		key, problem := mapKey.ReplaceAllString(one.Name(), ".$1"), one.Unwrap().Error()
		var word *wordError
		if errors.As(one, &word) {
			if sentence, ok := later(shape(key) + "=" + word.got); ok {
				problem = fmt.Sprintf("%s is %s", word.got, sentence)
			}
		}
		l.fault(key, problem)
		l.undecoded = append(l.undecoded, key)
		return
	}
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			l.decodeFaults(inner)
		}
	case interface{ Unwrap() error }:
		l.decodeFaults(e.Unwrap())
	default:
		l.faultAt(place{}, "", err.Error())
	}
}

// mapKey is how the decoder names the entry of a map: headers[X-Auth-Subject].
var mapKey = regexp.MustCompile(`\[([^\]]*[^\]0-9][^\]]*)\]`)

var durationType = reflect.TypeFor[time.Duration]()

// wordError is a text in place of one of a closed set.
type wordError struct {
	got    string
	values []string
}

func (e *wordError) Error() string {
	words := slices.DeleteFunc(slices.Clone(e.values), func(word string) bool { return word == "" })
	return fmt.Sprintf("expected one of %s, got %q", strings.Join(words, ", "), e.got)
}

// strict refuses a value that is not written in the way the setting's type
// asks for, before the decoder would convert or ignore it: 30 would become
// 30 ns, and 1 true.
func strict(from, to reflect.Value) (any, error) {
	value, target := from.Interface(), reflect.New(to.Type())
	if u, ok := target.Interface().(union); ok {
		err := u.FromConfig(value)
		return target.Elem().Interface(), err
	}
	if to.Type() == durationType {
		return duration(value)
	}
	if u, ok := target.Interface().(encoding.TextUnmarshaler); ok && (kind(value) != aMap || !isSection(to.Type())) {
		err := unmarshal(u, value)
		return target.Elem().Interface(), err
	}
	if s, ok := target.Elem().Interface().(spellings); ok {
		word, isText := value.(string)
		if isText && !slices.Contains(s.Values(), word) {
			return nil, &wordError{word, s.Values()}
		}
	}
	if !fits(value, to) {
		return nil, fmt.Errorf("expected %s, got %s", wanted(to.Type()), shown(value, to.Kind()))
	}
	return value, nil
}

// fits says whether value is written as the kind of to asks.
func fits(value any, to reflect.Value) bool {
	switch to.Kind() {
	case reflect.String:
		return kind(value) == aText
	case reflect.Bool:
		return kind(value) == aBool
	case reflect.Slice:
		return kind(value) == aList
	case reflect.Struct, reflect.Map:
		return kind(value) == aMap
	case reflect.Int:
		return isWhole(value)
	}
	return kind(value) == aNumber
}

// isWhole says whether value is a number without a fraction that an int holds
// exactly; JSON's are all floating.
func isWhole(value any) bool {
	const most = 1 << 53
	switch v := value.(type) {
	case int:
		return true
	case int64:
		return int64(int(v)) == v
	case float64:
		return v == math.Trunc(v) && math.Abs(v) <= most
	}
	return false // a uint64 is one that no int64 holds
}

// duration reads 1h30m or 30s, not 30 and not -30s.
func duration(value any) (any, error) {
	text, _ := value.(string)
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || text == "0" {
		return nil, fmt.Errorf("expected a duration with a unit such as 30s, got %s", shown(value, reflect.Int64))
	}
	return d, nil
}

// unmarshal gives u a text. Another scalar is tried too, for the sake of u's
// words for what it expects, and then refused.
func unmarshal(u encoding.TextUnmarshaler, value any) error {
	text, ok := value.(string)
	if ok {
		return u.UnmarshalText([]byte(text))
	}
	if kind(value) == aNumber || kind(value) == aBool {
		if err := u.UnmarshalText(fmt.Append(nil, value)); err != nil {
			return err
		}
	}
	return fmt.Errorf("expected %s, got %s", wanted(reflect.TypeOf(u).Elem()), kind(value))
}

const (
	aText   = "a text"
	aBool   = "true or false"
	aNumber = "a number"
	aWhole  = "a whole number"
	aList   = "a list"
	aMap    = "keys with values"
)

// kind is how value is written.
func kind(value any) string {
	switch value.(type) {
	case nil:
		return "nothing"
	case string:
		return aText
	case bool:
		return aBool
	case []any:
		return aList
	case map[string]any:
		return aMap
	case int, int64, uint64, float64:
		return aNumber
	}
	return "a date" // of which TOML has four types
}

// wanted is how a value of type t is written.
func wanted(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration with a unit such as 30s"
	case isUnmarshaler(t) && isSection(t):
		return aText + " or " + aMap
	case isText(t):
		return aText
	}
	switch t.Kind() {
	case reflect.Bool:
		return aBool
	case reflect.Slice:
		return aList
	case reflect.Struct, reflect.Map:
		return aMap
	case reflect.Int:
		return aWhole
	}
	return aNumber
}

// shown is value as a fault may print it. What should have been a text, a list
// or keys can be a secret that someone wrote into the wrong place.
func shown(value any, wanted reflect.Kind) string {
	if wanted == reflect.String || wanted == reflect.Slice || wanted == reflect.Struct || wanted == reflect.Map {
		return kind(value)
	}
	switch kind(value) {
	case aText:
		return fmt.Sprintf("%q", value)
	case aNumber, aBool:
		return fmt.Sprint(value)
	}
	return kind(value)
}
