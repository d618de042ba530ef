package transform

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/claims"
)

// variable is claims as rules see it: a map that decodes a claim when it is
// asked for. It is for one token and one goroutine.
type variable struct {
	set     claims.Set
	decoded []ref.Val // beside set; nil for what nobody asked for
	shared  bool      // set is the caller's still
	all     *object   // set decoded as a whole; nil where nobody asked since it changed
}

func newVariable(set claims.Set) *variable {
	return &variable{set: set, decoded: make([]ref.Val, len(set)), shared: true}
}

func (v *variable) index(name string) int {
	return slices.IndexFunc(v.set, func(m claims.Member) bool { return m.Name == name })
}

// own makes set one that may be changed.
func (v *variable) own() {
	v.all = nil
	if v.shared {
		v.set, v.shared = slices.Clone(v.set), false
	}
}

func (v *variable) put(name string, value jsontext.Value) {
	v.own()
	i := v.index(name)
	if i < 0 {
		i = len(v.set)
		v.set, v.decoded = append(v.set, claims.Member{}), append(v.decoded, nil)
	}
	v.set[i], v.decoded[i] = claims.Member{Name: name, Value: value}, nil
}

func (v *variable) drop(name string) bool {
	i := v.index(name)
	if i < 0 {
		return false
	}
	v.own()
	v.set, v.decoded = slices.Delete(v.set, i, i+1), slices.Delete(v.decoded, i, i+1)
	return true
}

// ResolveName makes v the scope of an evaluation.
func (v *variable) ResolveName(name string) (any, bool) {
	if name == variableName {
		return v, true
	}
	return nil, false
}

// Parent says that there is no scope around it.
func (v *variable) Parent() interpreter.Activation { return nil }

// Find returns the claim called key.
func (v *variable) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	i := v.index(string(name))
	if i < 0 {
		return nil, false
	}
	if v.decoded[i] == nil {
		v.decoded[i] = decode(v.set[i].Value)
	}
	return v.decoded[i], true
}

// Get returns the claim called key, or an error value.
func (v *variable) Get(key ref.Val) ref.Val {
	if found, ok := v.Find(key); ok {
		return found
	}
	return types.NewErr("no such key: %v", key)
}

// Contains says whether there is a claim called key.
func (v *variable) Contains(key ref.Val) ref.Val {
	_, ok := v.Find(key)
	return types.Bool(ok)
}

// Size is the number of claims.
func (v *variable) Size() ref.Val { return types.Int(len(v.set)) }

// Iterator walks the names in order.
func (v *variable) Iterator() traits.Iterator { return v.whole().Iterator() }

// whole is all claims, decoded. It is kept, since walking the claims has no price.
func (v *variable) whole() *object {
	if v.all != nil {
		return v.all
	}
	o := newObject(len(v.set))
	for _, m := range v.set {
		name := types.String(m.Name)
		value, _ := v.Find(name)
		o.add(name, value)
	}
	v.all = o
	return o
}

// The rest makes it a value.

// ConvertToNative converts all claims.
func (v *variable) ConvertToNative(t reflect.Type) (any, error) { return v.whole().ConvertToNative(t) }

// ConvertToType converts all claims.
func (v *variable) ConvertToType(t ref.Type) ref.Val { return v.whole().ConvertToType(t) }

// Equal compares all claims.
func (v *variable) Equal(other ref.Val) ref.Val { return v.whole().Equal(other) }

// Type is that of maps.
func (v *variable) Type() ref.Type { return types.MapType }

// Value is all claims.
func (v *variable) Value() any { return v.whole().Value() }

// object is a map whose members have an order. CEL's own have that of Go's,
// which is another each time.
type object struct {
	traits.Mapper
	members map[ref.Val]ref.Val
	keys    []ref.Val
	text    jsontext.Value // what it was decoded from; nil for others
	unheld  ref.Val        // as unheld would find it, where text is not nil
}

func newObject(n int) *object {
	members := make(map[ref.Val]ref.Val, n)
	return &object{Mapper: types.NewRefValMap(types.DefaultTypeAdapter, members), members: members, keys: make([]ref.Val, 0, n)}
}

func (o *object) add(key, value ref.Val) {
	o.members[key] = value
	o.keys = append(o.keys, key)
}

// Iterator walks the keys in order.
func (o *object) Iterator() traits.Iterator {
	return types.NewRefValList(types.DefaultTypeAdapter, o.keys).Iterator()
}

// ordered gives a map that a rule made the order of its keys; anything else is
// returned as it is.
func ordered(v ref.Val) ref.Val {
	m, ok := v.(traits.Mapper)
	if !ok {
		return v
	}
	keys := keysOf(m)
	slices.SortFunc(keys, func(a, b ref.Val) int {
		if c, ok := a.(traits.Comparer); ok && a.Type() == b.Type() {
			if n, ok := c.Compare(b).(types.Int); ok {
				return int(n)
			}
		}
		return bytes.Compare([]byte(a.Type().TypeName()), []byte(b.Type().TypeName()))
	})
	return &object{Mapper: m, keys: keys}
}

func keysOf(m traits.Mapper) (keys []ref.Val) {
	for it := m.Iterator(); it.HasNext() == types.True; {
		keys = append(keys, it.Next())
	}
	return keys
}

// array is a list with the JSON that it was decoded from.
type array struct {
	traits.Lister
	text   jsontext.Value
	unheld ref.Val // as unheld would find it
}

// unheld returns an error value that is in v at any depth, nil where there is
// none, and how many values were looked at; beyond most it looks no further. CEL
// takes for equal what is not unequal, so that an error within a list or map is
// equal to everything there: [1e400] == ["admin"] would hold.
func unheld(v ref.Val, most int) (found ref.Val, seen int) {
	switch t := v.(type) {
	case *types.Err:
		return t, 1
	case *array:
		return t.unheld, 1
	case *variable:
		return unheld(t.whole(), most)
	case *types.Optional:
		if t.HasValue() {
			return unheld(t.GetValue(), most)
		}
	case traits.Mapper:
		if o, ok := t.(*object); ok && o.text != nil {
			return o.unheld, 1
		}
		return unheldAmong(t.Iterator(), func(key ref.Val) ref.Val { value, _ := t.Find(key); return value }, most)
	case traits.Lister:
		return unheldAmong(t.Iterator(), func(element ref.Val) ref.Val { return element }, most)
	}
	return nil, 1
}

func unheldAmong(all traits.Iterator, value func(ref.Val) ref.Val, most int) (found ref.Val, seen int) {
	for seen = 1; found == nil && seen <= most && all.HasNext() == types.True; {
		inner, more := unheld(value(all.Next()), most-seen)
		found, seen = inner, seen+more
	}
	return found, seen
}

// decode returns the value of valid JSON. Numbers that CEL has no type for are
// error values, which fail a rule that looks at them; see unheld for those that
// are within what it looks at.
func decode(text jsontext.Value) ref.Val {
	switch text.Kind() {
	case '{', '[':
		r := reader{
			text: text,
			// claims.Decode has refused duplicate names; looking again costs more than the rest.
			decoder: jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true)),
		}
		return r.value()
	}
	return scalar(text)
}

type reader struct {
	text    jsontext.Value
	decoder *jsontext.Decoder
}

func (r *reader) value() ref.Val {
	switch r.decoder.PeekKind() {
	case '{':
		return r.object()
	case '[':
		return r.array()
	}
	v, err := r.decoder.ReadValue()
	if err != nil {
		return types.WrapErr(err)
	}
	return scalar(v)
}

func (r *reader) object() ref.Val {
	start, err := r.bracket()
	o := newObject(4)
	for err == nil && r.decoder.PeekKind() != '}' {
		var name jsontext.Token
		if name, err = r.decoder.ReadToken(); err == nil {
			key := types.String(name.String()) // before the decoder goes on
			value := r.value()
			o.add(key, value)
			if o.unheld == nil {
				o.unheld, _ = unheld(value, 1)
			}
		}
	}
	end, err := r.bracket()
	if err != nil {
		return types.WrapErr(err)
	}
	o.text = r.text[start : end+1]
	return o
}

func (r *reader) array() ref.Val {
	start, err := r.bracket()
	a := &array{}
	var elements []ref.Val
	for err == nil && r.decoder.PeekKind() != ']' && r.decoder.PeekKind() != 0 {
		value := r.value()
		elements = append(elements, value)
		if a.unheld == nil {
			a.unheld, _ = unheld(value, 1)
		}
	}
	end, err := r.bracket()
	if err != nil {
		return types.WrapErr(err)
	}
	a.Lister, a.text = types.NewRefValList(types.DefaultTypeAdapter, elements), r.text[start:end+1]
	return a
}

// bracket reads one and returns where it stands.
func (r *reader) bracket() (int64, error) {
	_, err := r.decoder.ReadToken()
	return r.decoder.InputOffset() - 1, err
}

func scalar(text jsontext.Value) ref.Val {
	switch text.Kind() {
	case 'n':
		return types.NullValue
	case 't':
		return types.True
	case 'f':
		return types.False
	case '"':
		s, ok := claims.String(text)
		if !ok {
			return types.NewErr("not a string")
		}
		return types.String(s)
	}
	return number(string(text))
}

func number(text string) ref.Val {
	if !bytes.ContainsAny([]byte(text), ".eE") {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return types.Int(n)
		}
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			return types.Uint(n)
		}
		return types.NewErr("an integer beyond 64 bits")
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return types.NewErr("a number beyond a double's range")
	}
	return types.Double(f)
}

var (
	errLarge = fmt.Errorf("the value is larger than %d bytes", maxOutput)
	errDeep  = fmt.Errorf("the value is nested deeper than %d levels", claims.MaxDepth)
	errKey   = errors.New("a key of the map is not a string")
)

// appendJSON appends v as JSON, which stops at maxOutput bytes: lists that
// hold one another many times have no bound by what they cost to make. level
// is that of v's container, the claims being 1.
func appendJSON(dst []byte, v ref.Val, level int) ([]byte, error) {
	var err error
	switch t := v.(type) {
	case types.Null:
		dst = append(dst, "null"...)
	case types.Bool:
		dst = strconv.AppendBool(dst, bool(t))
	case types.Int:
		dst = strconv.AppendInt(dst, int64(t), 10)
	case types.Uint:
		dst = strconv.AppendUint(dst, uint64(t), 10)
	case types.Double:
		dst, err = appendDouble(dst, float64(t))
	case types.String:
		if len(t) > maxOutput {
			return nil, errLarge
		}
		dst, err = jsontext.AppendQuote(dst, string(t))
	case *types.Err:
		return nil, t
	case traits.Mapper:
		dst, err = appendObject(dst, t, level+1)
	case traits.Lister:
		dst, err = appendArray(dst, t, level+1)
	default:
		return nil, fmt.Errorf("a %s is not a JSON value", v.Type().TypeName())
	}
	if err == nil && len(dst) > maxOutput {
		return nil, errLarge
	}
	return dst, err
}

// appendDouble keeps a double one for every reader: 1 would be an integer.
func appendDouble(dst []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, errors.New("a number is not finite")
	}
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, format, -1, 64)
	if !bytes.ContainsAny(dst[start:], ".e") {
		dst = append(dst, ".0"...)
	}
	return dst, nil
}

func appendArray(dst []byte, l traits.Lister, level int) ([]byte, error) {
	if a, ok := l.(*array); ok {
		return appendText(dst, a.text, level)
	}
	if level > claims.MaxDepth {
		return nil, errDeep
	}
	dst = append(dst, '[')
	var err error
	for it, first := l.Iterator(), true; it.HasNext() == types.True; first = false {
		if !first {
			dst = append(dst, ',')
		}
		if dst, err = appendJSON(dst, it.Next(), level); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

func appendObject(dst []byte, m traits.Mapper, level int) ([]byte, error) {
	if o, ok := m.(*object); ok && o.text != nil {
		return appendText(dst, o.text, level)
	}
	if level > claims.MaxDepth {
		return nil, errDeep
	}
	dst = append(dst, '{')
	for n, key := range keysOf(m) {
		name, ok := key.(types.String)
		if !ok {
			return nil, errKey
		}
		if n > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = jsontext.AppendQuote(dst, string(name)); err != nil {
			return nil, err
		}
		dst = append(dst, ':')
		value, _ := m.Find(key)
		if dst, err = appendJSON(dst, value, level); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

// appendText appends JSON of the token as it stands there.
func appendText(dst []byte, text jsontext.Value, level int) ([]byte, error) {
	if level+claims.Depth(text)-1 > claims.MaxDepth {
		return nil, errDeep
	}
	if len(dst)+len(text) > maxOutput {
		return nil, errLarge
	}
	return append(dst, text...), nil
}
