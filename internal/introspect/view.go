package introspect

import "strconv"

// Inactive is the whole answer for a token that is not active, for whatever
// reason: RFC 7662 section 2.2.
const Inactive = `{"active":false}`

// View is the part of an answer that one caller is shown. The zero value shows
// only what is never left out. It is immutable.
type View struct {
	all   bool
	names map[string]bool
}

// always are the members without which an answer can't be relied on.
var always = []string{"active", "iss", "exp", "token_type", "cnf"}

// minimal are RFC 7662 section 2.2's members and those that bind, delegate or
// narrow a token.
var minimal = append([]string{"act", "may_act", "acr", "auth_time", "authorization_details"}, computed...)

// Passthrough shows everything.
func Passthrough() View { return View{all: true} }

// Minimal shows the members that standards define.
func Minimal() View { return Only(minimal) }

// Only shows the named claims.
func Only(claims []string) View {
	v := View{names: make(map[string]bool)}
	for _, list := range [][]string{always, claims} {
		for _, name := range list {
			v.names[string(NameOf(name))] = true
		}
	}
	return v
}

// Append appends what v shows of an active answer, as POST /introspect
// answers it.
func (v View) Append(dst []byte, a Answer) []byte {
	if v.all {
		return append(dst, a.Body()...)
	}
	return v.appendMembers(dst, a, "")
}

// AppendTransformed appends what v shows of an active answer, as POST
// /transform answers it: the claims in an object of their own.
func (v View) AppendTransformed(dst []byte, a Answer) []byte {
	dst = append(dst, `{"active":true,"iss":`...)
	dst = append(dst, a.Find("iss")...)
	dst = append(dst, `,"exp":`...)
	dst = strconv.AppendInt(dst, a.Expires(), 10)
	dst = append(dst, `,"claims":`...)
	return append(v.appendMembers(dst, a, "active"), '}')
}

// appendMembers appends an object of the members that v shows, but for the one
// called except.
func (v View) appendMembers(dst []byte, a Answer, except string) []byte {
	opening := byte('{')
	for name, value := range a.Members() {
		if string(name) == except || !v.all && !v.names[string(name)] {
			continue
		}
		dst = append(append(append(dst, opening, '"'), name...), '"', ':')
		dst = append(dst, value...)
		opening = ','
	}
	if opening == '{' {
		dst = append(dst, '{')
	}
	return append(dst, '}')
}
