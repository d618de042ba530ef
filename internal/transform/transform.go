// Package transform renames and derives claims: pure functions over verified
// claims, compiled once for each issuer. It never sees an unverified claim and
// never asks who wants to know.
//
// # Decisions
//
// All of a map's sources are read before any target is written, so that the
// order of its rows means nothing and two claims can change places. Where a
// target's name is taken by a claim that nobody moves, the map wins.
//
// Rules are the opposite: ordered, and each sees what the ones before it made.
// They are CEL, compiled when the configuration is loaded. What a rule makes is
// written as JSON before the next one reads it, so that every rule sees exactly
// what would be answered. A map without rules never comes near CEL.
//
// Protected claims are copied, never moved or dropped: dates, identity and
// binding stay what was signed (RFC 7519 section 4.1, RFC 7800).
//
// null is a value like any other, and a rule may write it. A rule that has
// nothing to write says so with an optional without a value, as claims.?a.?b is
// where there is no b; its claim then stays as it was, like the target of a map
// whose source is absent.
//
// Objects and arrays that a rule only hands on keep their JSON text; strings and
// numbers are written anew. Integers are 64 bits wide and other numbers doubles,
// written as such: 1.0 stays 1.0. A number beyond both can be handed on as part
// of an object or array, and fails a rule that asks for it, or compares a value
// that it is in: such a comparison is never false either, so that no ! in front
// of it makes a refusal a pass.
//
// Everything is deterministic: an object's members are walked in the order of
// the token, those of a map that a rule makes in the order of their names.
//
// A bound stands before each operation whose cost is not that of its operands,
// not only after it. CEL's own tracker counts what a call has cost once it is
// done: one replace on a hostile claim would have made its 36 MB by then, and
// one distinct compared its 20 million pairs. Patterns of regular expressions
// are texts in the rule, never claims: a token must not choose its own pattern.
package transform

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/claims"
)

// maxOutput bounds the claims that a map or rules make, in bytes of JSON: one
// claim can be answered under many names.
const maxOutput = 16 << 10

// protected names are never moved or dropped, and written only where
// AllowReserved frees them.
var protected = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "cnf", "active"}

// freeable are the protected names that AllowReserved may free.
var freeable = []string{"sub", "jti", "aud"}

// Rules is one issuer's compiled configuration. It is immutable and safe for
// concurrent use.
type Rules struct {
	scope, clientID, username []string
	targets                   map[string]string // remote claim by local claim
	order                     []string          // local claims, in the order written
	moved                     map[string]bool
	rules                     []rule
}

// Result is what a token's claims mean.
type Result struct {
	// Claims are the mapped claims. The computed members below are not among
	// them but as far as the token carries claims of these names.
	Claims claims.Set
	// Scope is the scopes, each once, joined by one space (RFC 6749 section
	// 3.3); empty when there are none.
	Scope string
	// DroppedScopes counts values that are not a scope-token.
	DroppedScopes int
	// ClientID and Username are empty when no source has them.
	ClientID, Username string
}

// Problem says that no sound identity comes of a token's claims, so that it
// must be refused (a partial identity is never made). It is nil for none.
type Problem struct {
	// ByRule tells a rule that failed from a map that did.
	ByRule bool
	// Note is for the log: which rule, and the operator's own words. It holds
	// nothing of the token.
	Note string
	// Detail is for explanations alone: it may show claims.
	Detail string
}

// Check reports every fault of c.
func (c Config) Check(fault func(key, problem string)) {
	for n, name := range c.AllowReserved {
		if !slices.Contains(freeable, name) {
			fault(fmt.Sprintf("allow_reserved[%d]", n), fmt.Sprintf("expected one of %s, got %q", strings.Join(freeable, ", "), name))
		}
	}
	taken := map[string]int{}
	for n, r := range c.Map {
		key := fmt.Sprintf("map[%d].", n)
		if r.RemoteClaim == "" {
			fault(key+"remote_claim", "expected the claim's name in the token")
		}
		if r.LocalClaim == "" {
			fault(key+"local_claim", "expected the name it is answered under")
			continue
		}
		c.checkTarget(r.LocalClaim, func(problem string) { fault(key+"local_claim", problem) })
		if first, ok := taken[r.LocalClaim]; ok {
			fault(key+"local_claim", fmt.Sprintf("%q is already the target of map[%d]", r.LocalClaim, first))
		}
		taken[r.LocalClaim] = n
	}
	for key, sources := range map[string][]string{"scope": c.Scope, "client_id": c.ClientID, "username": c.Username} {
		if slices.Contains(sources, "") {
			fault(key, "expected claim names, got an empty one")
		}
	}
	c.checkRules(fault)
}

// checkTarget reports a name that neither map nor rules may write.
func (c Config) checkTarget(name string, fault func(problem string)) {
	if !slices.Contains(protected, name) || slices.Contains(c.AllowReserved, name) {
		return
	}
	if slices.Contains(freeable, name) {
		fault(name + " is reserved; only an issuer's claims.allow_reserved can free it")
		return
	}
	fault(name + " is reserved")
}

// New compiles a checked configuration. A rule that can't be compiled fails
// every token.
func New(c Config) *Rules {
	r := &Rules{
		scope: c.Scope, clientID: c.ClientID, username: c.Username,
		targets: make(map[string]string, len(c.Map)), moved: make(map[string]bool, len(c.Map)),
		rules: compile(c),
	}
	for _, m := range c.Map {
		r.targets[m.LocalClaim] = m.RemoteClaim
		r.order = append(r.order, m.LocalClaim)
		r.moved[m.RemoteClaim] = !slices.Contains(protected, m.RemoteClaim)
	}
	return r
}

// Apply returns what the verified claims in set mean.
func (r *Rules) Apply(set claims.Set) (out Result, problem *Problem) {
	if out.Claims, problem = r.Claims(set); problem != nil {
		return Result{}, problem
	}
	out.Scope, out.DroppedScopes = scopes(out.Claims, r.scope)
	out.ClientID = firstString(out.Claims, r.clientID)
	out.Username = firstString(out.Claims, r.username)
	if sub := firstString(out.Claims, []string{"sub"}); sub != "" && sub == out.ClientID || ofApplication(set) {
		out.Username = ""
	}
	return out, nil
}

// Claims is the part of Apply that makes claims out of claims, the map and the
// rules alone.
func (r *Rules) Claims(set claims.Set) (claims.Set, *Problem) {
	return r.claims(set, func(string) {})
}

// Explain applies the rules as Claims does, and returns a line for each that
// was reached, with what it did.
func (r *Rules) Explain(set claims.Set) (lines []string) {
	_, _ = r.claims(set, func(line string) { lines = append(lines, line) })
	return lines
}

func (r *Rules) claims(set claims.Set, told func(line string)) (claims.Set, *Problem) {
	if len(r.order) == 0 && len(r.rules) == 0 {
		return set, nil
	}
	var problem *Problem
	if len(r.order) > 0 {
		if set, problem = r.rename(set); problem != nil {
			return nil, problem
		}
	}
	if len(r.rules) > 0 {
		if set, problem = r.follow(set, told); problem != nil {
			return nil, problem
		}
	}
	if size(set) > maxOutput {
		text := fmt.Sprintf("the claims are larger than %d bytes", maxOutput)
		return nil, &Problem{ByRule: len(r.rules) > 0, Note: text, Detail: text}
	}
	return set, nil
}

// size is the length of set as a JSON object, but for names that need escaping.
func size(set claims.Set) int {
	n := len("{}")
	for _, m := range set {
		n += len(`"":,`) + len(m.Name) + len(m.Value)
	}
	return n
}

// rename moves claims to their local names. A source that is absent leaves its
// target as it was.
func (r *Rules) rename(set claims.Set) (claims.Set, *Problem) {
	out := make(claims.Set, 0, len(set)+len(r.order))
	for _, m := range set {
		source, mapped := r.targets[m.Name]
		if r.moved[m.Name] || mapped && set.Has(source) {
			continue
		}
		out = append(out, m)
	}
	for _, local := range r.order {
		v, ok := set.Find(r.targets[local])
		if !ok {
			continue
		}
		if slices.Contains(freeable, local) && !wellTyped(local, v) {
			text := "a mapped " + local + " is not of its type"
			return nil, &Problem{Note: text, Detail: text}
		}
		out = append(out, claims.Member{Name: local, Value: v})
	}
	return out, nil
}

func wellTyped(name string, v jsontext.Value) bool {
	s, ok := claims.String(v)
	switch name {
	case "sub":
		return ok && s != ""
	case "aud":
		_, list := claims.Strings(v)
		return ok || list
	}
	return ok
}

// SignedClientID is who the verified claims in set say the client is before
// Map, empty when no source of client_id has it: what an issuer calls it.
func (r *Rules) SignedClientID(set claims.Set) string { return firstString(set, r.clientID) }

func firstString(set claims.Set, sources []string) string {
	for _, name := range sources {
		if v, ok := set.Find(name); ok {
			if s, ok := claims.String(v); ok && s != "" {
				return s
			}
		}
	}
	return ""
}

// ofApplication says whether the issuer marks the token as one that no user
// stands behind: WSO2's aut, Entra's idtyp.
func ofApplication(set claims.Set) bool {
	return strings.EqualFold(firstString(set, []string{"aut"}), "APPLICATION") ||
		strings.EqualFold(firstString(set, []string{"idtyp"}), "app")
}

// scopes reads the first present source: a string of scopes between white
// space, or an array of scopes. What is not a scope-token is dropped and
// counted; an array's "read write" is one such value, not two scopes.
func scopes(set claims.Set, sources []string) (joined string, dropped int) {
	var list []string
	for _, name := range sources {
		v, ok := set.Find(name)
		if !ok {
			continue
		}
		if s, ok := claims.String(v); ok {
			list = strings.FieldsFunc(s, asciiSpace)
		} else if !claims.Elements(v, func(e jsontext.Value) {
			s, _ := claims.String(e)
			list = append(list, s)
		}) {
			dropped++
		}
		break
	}
	kept := list[:0]
	for _, s := range list {
		switch {
		case !ScopeToken(s):
			dropped++
		case !slices.Contains(kept, s):
			kept = append(kept, s)
		}
	}
	return strings.Join(kept, " "), dropped
}

func asciiSpace(r rune) bool { return r == ' ' || r >= '\t' && r <= '\r' }

// ScopeToken says whether s is a scope-token: RFC 6749 section 3.3.
func ScopeToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c == '"' || c == '\\' || c > '~' {
			return false
		}
	}
	return s != ""
}
