package introspect

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/claims"
)

// Shape is a way to arrange claims that backends know.
type Shape string

const (
	// Plain leaves them as they are.
	Plain Shape = "plain"
	// WSO2 is that of WSO2 API Manager's backend token, X-JWT-Assertion, as far as
	// a token alone can fill it.
	WSO2 Shape = "wso2"
	// TransactionToken is that of draft-ietf-oauth-transaction-tokens.
	TransactionToken Shape = "transaction_token"
)

// Values lists the spellings a configuration may use.
func (Shape) Values() []string {
	return []string{string(Plain), string(WSO2), string(TransactionToken)}
}

// Type is the typ of assertions in this shape. None of them is one of an access
// token where token_types is strict, and where it isn't, JWT alone is.
func (s Shape) Type() string { return shapes[s].typ }

// Header is where gateways expect such an assertion.
func (s Shape) Header() string { return shapes[s].header }

// Unique are the members that have a value of their own in each assertion.
func (s Shape) Unique() []string { return shapes[s].unique }

// Requester is the member that names who asked for the assertion, empty for none.
func (s Shape) Requester() string { return shapes[s].requester }

// Requires are the claims without which nothing can be shown.
func (s Shape) Requires() []string {
	var names []string
	for _, f := range shapes[s].fields {
		if f.required {
			names = append(names, f.name)
		}
	}
	return names
}

// shape is a Shape as data.
type shape struct {
	typ, header string
	fields      []field
	// left are claims that are not shown under their own names.
	left []string
	// objects are claims that the shape makes of others, where neither map nor
	// rules have; rest is the one of them that all other claims go into, empty
	// where these stay beside the fields. What a token brings under the name of
	// another object is left out: it would stand for the fields, such as iss, that
	// only what was verified may fill.
	objects   []string
	rest      string
	unique    []string
	requester string
}

// field is a claim of a shape, and the claims it is read from: the first that is
// there. A source with slashes leads into objects. Where map or rules have made a
// claim of the field's own name, that is it.
type field struct {
	name     string
	from     []string
	into     string // the object it stands in, if any
	text     bool   // a number is shown as a text
	required bool
}

const dialect = "http://wso2.org/claims/"

var shapes = map[Shape]*shape{
	Plain: {typ: "introspectd-assertion+jwt", header: "X-JWT-Assertion"},

	// What needs the API or WSO2's own subscription store (apiname, apicontext,
	// version, the subscription's tier, tenant ids) is left out.
	WSO2: {
		typ: "JWT", header: "X-JWT-Assertion",
		fields: []field{
			{name: "sub", from: []string{"sub"}},
			{name: dialect + "subscriber", from: []string{"application/owner"}},
			{name: dialect + "applicationid", from: []string{"application/id"}, text: true},
			{name: dialect + "applicationname", from: []string{"application/name"}},
			{name: dialect + "applicationtier", from: []string{"application/tier"}},
			{name: dialect + "applicationUUId", from: []string{"application/uuid"}},
			{name: dialect + "keytype", from: []string{"keytype"}},
			{name: dialect + "usertype", from: []string{"aut"}},
			{name: dialect + "enduser", from: []string{"username", "sub"}},
		},
		left: []string{
			"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "application", "tierInfo", "subscribedAPIs",
			"token_type", "cnf",
		},
	},

	TransactionToken: {
		typ: "txntoken+jwt", header: "Txn-Token",
		fields: []field{
			{name: "txn", from: []string{"txn"}},
			{name: "sub", from: []string{"sub", "client_id"}, required: true},
			{name: "scope", from: []string{"scope"}, required: true},
			{name: "iss", from: []string{"iss"}, into: "rctx"},
			{name: "client_id", from: []string{"client_id"}, into: "rctx"},
			{name: "username", from: []string{"username"}, into: "rctx"},
			{name: "acr", from: []string{"acr"}, into: "rctx"},
			{name: "amr", from: []string{"amr"}, into: "rctx"},
			{name: "auth_time", from: []string{"auth_time"}, into: "rctx"},
		},
		left: []string{
			"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "token_type", "cnf",
			"txn", "scope", "client_id", "username", "acr", "amr", "auth_time", "req_wl",
		},
		objects: []string{"tctx", "rctx"}, rest: "tctx", unique: []string{"txn"}, requester: "req_wl",
	},
}

// apply arranges the claims in set, which map and rules have made of own. A
// problem that is not empty names what is required and not there.
func (s *shape) apply(set, own claims.Set) (out claims.Set, problem string) {
	out = make(claims.Set, 0, len(set)+len(s.fields))
	within := map[string]claims.Set{}
	place := func(object string, m claims.Member) {
		if object == "" {
			out = append(out, m)
		} else {
			within[object] = append(within[object], m)
		}
	}
	for _, f := range s.fields {
		if value := f.read(set); value != nil {
			place(f.into, claims.Member{Name: f.name, Value: value})
		} else if f.required {
			return nil, fmt.Sprintf("there is no %s, which the shape requires", f.name)
		}
	}
	for _, m := range set {
		if !slices.Contains(s.left, m.Name) && !slices.Contains(s.objects, m.Name) && !out.Has(m.Name) {
			place(s.rest, m)
		}
	}
	for _, object := range s.objects {
		brought, _ := own.Find(object)
		if made, ok := set.Find(object); ok && (object == s.rest || !bytes.Equal(made, brought)) { // by map or rules, as a whole
			place("", claims.Member{Name: object, Value: made})
		} else if len(within[object]) > 0 {
			place("", claims.Member{Name: object, Value: AppendClaims(nil, within[object])})
		}
	}
	return out, ""
}

// read returns the field's value, nil where there is none.
func (f field) read(set claims.Set) jsontext.Value {
	for _, path := range append([]string{f.name}, f.from...) {
		value := lookUp(set, path)
		switch value.Kind() {
		case jsontext.KindInvalid, 'n':
			continue
		case '0':
			if f.text {
				return jsontext.Value(`"` + string(value) + `"`)
			}
		}
		return value
	}
	return nil
}

// lookUp follows path, nil where it leads nowhere. Claims of fields may have
// slashes in their own names.
func lookUp(set claims.Set, path string) jsontext.Value {
	if value, ok := set.Find(path); ok {
		return value
	}
	object, name, inside := strings.Cut(path, "/")
	if !inside {
		return nil
	}
	value, _ := set.Find(object)
	members, err := claims.Decode(slices.Clone(value))
	if err != nil {
		return nil
	}
	value, _ = members.Find(name)
	return value
}
