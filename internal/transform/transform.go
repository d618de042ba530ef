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
// Protected claims are copied, never moved or dropped: dates, identity and
// binding stay what was signed (RFC 7519 section 4.1, RFC 7800).
package transform

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"introspectd/internal/claims"
)

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
		if slices.Contains(protected, r.LocalClaim) && !slices.Contains(c.AllowReserved, r.LocalClaim) {
			fault(key+"local_claim", fmt.Sprintf("%s is reserved%s", r.LocalClaim, hint(r.LocalClaim)))
		}
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
}

func hint(name string) string {
	if slices.Contains(freeable, name) {
		return "; claims.allow_reserved can free it"
	}
	return ""
}

// New compiles a checked configuration.
func New(c Config) *Rules {
	r := &Rules{
		scope: c.Scope, clientID: c.ClientID, username: c.Username,
		targets: make(map[string]string, len(c.Map)), moved: make(map[string]bool, len(c.Map)),
	}
	for _, m := range c.Map {
		r.targets[m.LocalClaim] = m.RemoteClaim
		r.order = append(r.order, m.LocalClaim)
		r.moved[m.RemoteClaim] = !slices.Contains(protected, m.RemoteClaim)
	}
	return r
}

// Apply returns what the verified claims in set mean. A problem that is not
// empty says that no sound identity comes of them: a mapped sub, jti or aud is
// not of its type, and the token must be refused (a partial identity is never
// made).
func (r *Rules) Apply(set claims.Set) (out Result, problem string) {
	out.Claims = set
	if len(r.order) > 0 {
		if out.Claims, problem = r.rename(set); problem != "" {
			return Result{}, problem
		}
	}
	out.Scope, out.DroppedScopes = scopes(out.Claims, r.scope)
	out.ClientID = firstString(out.Claims, r.clientID)
	out.Username = firstString(out.Claims, r.username)
	if sub := firstString(out.Claims, []string{"sub"}); sub != "" && sub == out.ClientID || ofApplication(set) {
		out.Username = ""
	}
	return out, ""
}

// rename moves claims to their local names. A source that is absent leaves its
// target as it was.
func (r *Rules) rename(set claims.Set) (claims.Set, string) {
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
			return nil, "a mapped " + local + " is not of its type"
		}
		out = append(out, claims.Member{Name: local, Value: v})
	}
	return out, ""
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
