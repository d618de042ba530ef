package introspect

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/claims"
	"introspectd/internal/transform"
	"introspectd/internal/verify"
)

// maxBody bounds an answer; a map can answer one large claim under many names.
const maxBody = math.MaxUint16

// document is a rendered answer: one JSON object and where its members end.
type document struct {
	body    []byte
	spans   []span
	dropped []string // claims left out because they were not well-formed
}

type span struct{ name, value uint16 }

// computed are the members that RFC 7662 section 2.2 defines, in the order in
// which they are answered. The first five are ours whatever the token says.
var computed = []string{"active", "scope", "client_id", "username", "token_type", "exp", "iat", "nbf", "sub", "aud", "iss", "jti"}

// render writes the answer to a token that was found good, into room: active, the
// computed members, then the other claims by name.
func render(room []byte, m transform.Result, v verify.Verdict) document {
	d := document{body: append(room[:0], '{'), spans: make([]span, 0, len(m.Claims)+6)}
	d.add("active", jsontext.Value("true"))
	d.addString("scope", m.Scope)
	d.addString("client_id", m.ClientID)
	d.addString("username", m.Username)
	d.addString("token_type", tokenType(m.Claims))
	d.addSeconds("exp", v.Expires, true)
	d.addSeconds("iat", v.IssuedAt, m.Claims.Has("iat"))
	d.addSeconds("nbf", v.NotBefore, m.Claims.Has("nbf"))
	for _, name := range []string{"sub", "aud", "iss", "jti"} {
		if value, ok := m.Claims.Find(name); ok {
			d.add(name, value)
		}
	}
	var some [24]claims.Member // as many as most tokens have, so that nothing is allocated
	rest := some[:0]
	for _, c := range m.Claims {
		if !slices.Contains(computed, c.Name) {
			rest = append(rest, c)
		}
	}
	slices.SortFunc(rest, func(a, b claims.Member) int { return cmp.Compare(a.Name, b.Name) })
	for _, c := range rest {
		if value, ok := wellFormed(c); ok {
			d.add(c.Name, value)
		} else {
			d.dropped = append(d.dropped, strings.Clone(c.Name)) // it is a part of the token
		}
	}
	d.body = append(d.body, '}')
	return d
}

// tokenType is DPoP for a token bound to a DPoP key (RFC 9449 section 6.2).
func tokenType(set claims.Set) string {
	if cnf, ok := set.Find("cnf"); ok {
		if inner, err := claims.Decode(slices.Clone(cnf)); err == nil && inner.Has("jkt") {
			return "DPoP"
		}
	}
	return "Bearer"
}

// wellFormed checks the types of claims that standards define beyond RFC 7519
// and returns how they are answered; false where the value is not of its type
// and is left out. All other claims are answered as they were signed.
func wellFormed(c claims.Member) (jsontext.Value, bool) {
	kind := c.Value.Kind()
	switch c.Name {
	case "act", "may_act": // RFC 8693 sections 4.1 and 4.4
		return c.Value, kind == '{'
	case "acr", "txn": // OpenID Connect Core section 2; RFC 8417 section 2.2
		return c.Value, kind == '"'
	case "amr":
		_, ok := claims.Strings(c.Value)
		return c.Value, ok
	case "auth_time": // RFC 9470 section 6.2: an integer
		f, err := strconv.ParseFloat(string(c.Value), 64)
		if kind != '0' || err != nil || !(f >= 0 && f <= 1<<53) {
			return nil, false
		}
		return strconv.AppendInt(nil, int64(f), 10), true
	case "authorization_details": // RFC 9396 section 2: objects with a type
		all := true
		ok := claims.Elements(c.Value, func(e jsontext.Value) {
			item, err := claims.Decode(slices.Clone(e))
			typ, _ := item.Find("type")
			all = all && err == nil && typ.Kind() == '"'
		})
		return c.Value, ok && all
	}
	return c.Value, true
}

func (d *document) addString(name, value string) {
	if value == "" {
		return
	}
	d.begin(name)
	d.body, _ = jsontext.AppendQuote(d.body, value) // claims are valid UTF-8
	d.end()
}

func (d *document) addSeconds(name string, seconds int64, present bool) {
	if present {
		d.begin(name)
		d.body = strconv.AppendInt(d.body, seconds, 10)
		d.end()
	}
}

func (d *document) add(name string, value jsontext.Value) {
	d.begin(name)
	d.body = append(d.body, value...)
	d.end()
}

// begin appends a member's name; its value follows, and then end. Ends wrap
// around in a body beyond maxBody, which is never shown.
func (d *document) begin(name string) {
	if len(d.spans) > 0 {
		d.body = append(d.body, ',')
	}
	d.body, _ = jsontext.AppendQuote(d.body, name) // names are valid UTF-8
	d.spans = append(d.spans, span{name: uint16(len(d.body) - 1)})
	d.body = append(d.body, ':')
}

func (d *document) end() { d.spans[len(d.spans)-1].value = uint16(len(d.body)) }
