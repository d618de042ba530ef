package httpapi

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"introspectd/internal/introspect"
)

// policy is a Policy compiled: what a route demands, and its answers made
// ready.
type policy struct {
	name    string
	demand  introspect.Demand
	headers []identityHeader
	// remove is the value of the header that makes Envoy remove request
	// headers, empty for none.
	remove      string
	removeValue []string // the same as a header's lines
	// size is what an answer's headers take in bytes without the identity.
	size  int
	realm string
	// profile makes the assertion that goes with a good answer, in the header of
	// that name; nil for none.
	profile *profile
	header  string
}

const removeHeader = "X-Envoy-Auth-Headers-To-Remove"

// PolicyDemand is what a policy asks of a token.
func PolicyDemand(row Policy) introspect.Demand {
	return introspect.Demand{
		Issuers: row.Issuers, AnyIssuer: row.AnyIssuer,
		Audiences: row.Audiences, AnyAudience: row.AnyAudience,
		Scopes: row.Scopes,
	}
}

func compilePolicy(row Policy, profiles map[string]*profile) *policy {
	p := &policy{
		name:    row.Name,
		demand:  PolicyDemand(row),
		headers: compileHeaders(row.Headers),
		remove:  strings.ToLower(strings.Join(row.RemoveHeaders, ",")),
		size:    ownHeaderBytes,
		realm:   row.Realm,
	}
	if p.profile = profiles[row.Assertion.Profile]; p.profile != nil {
		p.header = http.CanonicalHeaderKey(cmp.Or(row.Assertion.Header, p.profile.shape.Header()))
	}
	if p.remove != "" {
		p.removeValue = []string{p.remove}
		p.size += len(removeHeader) + len(": \r\n") + len(p.remove)
	}
	return p
}

// narrowed is a policy with what one request adds to it: it can only demand
// more.
type narrowed struct {
	*policy
	demand    *introspect.Demand // the policy's, with the request's scopes
	audiences []string           // each of them must be in aud
}

// narrow reads the demands in the query of /auth; false means that they can't
// be understood, and nothing may be allowed on a guess (GW-01).
func (p *policy) narrow(query string) (narrowed, bool) {
	n := narrowed{policy: p, demand: &p.demand}
	if query == "" {
		return n, true
	}
	own := p.demand
	n.demand, own.Scopes = &own, slices.Clone(own.Scopes)
	err := eachInQuery(query, func(name, value string) error {
		switch {
		case name == "scope" && strings.Trim(value, " ") != "":
			// Separated by spaces and nothing else (RFC 6749 section 3.3).
			for s := range strings.SplitSeq(value, " ") {
				if s != "" && !scopeToken.MatchString(s) {
					return errForm
				}
				if s != "" && !slices.Contains(own.Scopes, s) {
					own.Scopes = append(own.Scopes, s)
				}
			}
		case name == "audience" && p.takesAudience(value):
			n.audiences = append(n.audiences, value)
		default:
			return errForm
		}
		return nil
	})
	return n, err == nil
}

// mostChallenge bounds the scopes of a challenge, in bytes: a gateway keeps all
// headers of an answer in one buffer, and makes an error of what overflows it.
const mostChallenge = 2048

// scopeAttribute names the scopes that are needed, which a challenge may (RFC
// 6750 section 3.1); as many as don't fit are not named at all.
func (n *narrowed) scopeAttribute() string {
	scopes := strings.Join(n.demand.Scopes, " ")
	if len(scopes) > mostChallenge {
		return ""
	}
	return `, scope="` + scopes + `"`
}

func (p *policy) takesAudience(audience string) bool {
	return audience != "" && (p.demand.AnyAudience || slices.Contains(p.demand.Audiences, audience))
}
