package httpapi

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"introspectd/internal/callers"
)

// AuthConfig is the section `auth`.
type AuthConfig struct {
	// AllowFrom are the peers that may use /auth and /ext-authz without a
	// caller's credentials.
	AllowFrom []callers.Peer `koanf:"allow_from" default:"[127.0.0.0/8, \"::1/128\", unix]"`
	// Cacheable lets gateways keep the answer that a request may pass, for as
	// long as a revocation may be late.
	Cacheable bool `koanf:"cacheable" default:"false"`
}

// ErrorsConfig is the section `errors`.
type ErrorsConfig struct {
	// Format is the form of the bodies with which /auth and /ext-authz refuse.
	Format ErrorFormat `koanf:"format" default:"oauth"`
}

// ErrorFormat is the form of an error's body.
type ErrorFormat string

const (
	// OAuth is that of RFC 6749 section 5.2.
	OAuth ErrorFormat = "oauth"
	// WSO2 is that of WSO2 API Manager 4, for clients that parse it.
	WSO2 ErrorFormat = "wso2"
)

// Values lists the spellings a configuration may use.
func (ErrorFormat) Values() []string { return []string{string(OAuth), string(WSO2)} }

// Check reports every fault of c.
func (c ErrorsConfig) Check(fault func(key, problem string)) {
	if !slices.Contains(c.Format.Values(), string(c.Format)) {
		fault("format", fmt.Sprintf("expected one of %s, got %q", strings.Join(c.Format.Values(), ", "), c.Format))
	}
}

// Policy is one row of `policies`: what a gateway route demands of a token and
// what it is told about it.
type Policy struct {
	// Name is the last part of /auth/{policy}; /auth alone means the policy
	// named default.
	Name string `koanf:"name"`
	// Audiences lists the aud values of which a token must carry one.
	Audiences   []string `koanf:"audiences"`
	AnyAudience bool     `koanf:"any_audience" default:"false"`
	// Issuers names the issuers whose tokens this route takes.
	Issuers   []string `koanf:"issuers"`
	AnyIssuer bool     `koanf:"any_issuer" default:"false"`
	// Scopes must all be present.
	Scopes []string `koanf:"scopes"`
	// Realm stands in the challenges of this route.
	Realm string `koanf:"realm" default:"introspectd"`
	// Headers maps a header of the answer to the claim it carries.
	Headers map[string]string `koanf:"headers" default:"{X-Auth-Subject: sub, X-Auth-Issuer: iss, X-Auth-Client-Id: client_id, X-Auth-Username: username, X-Auth-Scope: scope}"`
	// RemoveHeaders are request headers that Envoy is told to remove, so that the
	// token stops at the gateway.
	RemoveHeaders []string `koanf:"remove_headers"`
	// Assertion is a signed statement that goes with a good answer.
	Assertion PolicyAssertion `koanf:"assertion"`
}

// PolicyAssertion says which assertion a policy answers, and where.
type PolicyAssertion struct {
	// Profile makes it; empty means none.
	Profile string `koanf:"profile" default:""`
	// Header carries it; empty means the one that the profile's shape has.
	Header string `koanf:"header" default:""`
}

// Check reports every fault of one policy; whether the issuers it names exist
// is for the owner of all rows to say.
func (p Policy) Check(fault func(key, problem string)) {
	if !nameSyntax.MatchString(p.Name) {
		fault("name", fmt.Sprintf("expected letters, digits, - and _, as it stands in the path /auth/{policy}, got %q", p.Name))
	}
	switch {
	case len(p.Audiences) > 0 && p.AnyAudience:
		fault("any_audience", "expected either audiences or any_audience, got both")
	case len(p.Audiences) == 0 && !p.AnyAudience:
		fault("audiences", "expected the audiences this policy takes; any_audience: true takes a token for anyone")
	}
	if len(p.Issuers) > 0 && p.AnyIssuer {
		fault("any_issuer", "expected either issuers or any_issuer, got both")
	}
	for i, audience := range p.Audiences {
		if audience == "" {
			fault(fmt.Sprintf("audiences[%d]", i), "expected an audience, got an empty text")
		}
	}
	for i, scope := range p.Scopes {
		if !scopeToken.MatchString(scope) {
			fault(fmt.Sprintf("scopes[%d]", i), fmt.Sprintf("expected one scope of printable ASCII without space, quote or backslash, got %q", scope))
		}
	}
	for i, header := range p.RemoveHeaders {
		if !headerToken.MatchString(header) {
			fault(fmt.Sprintf("remove_headers[%d]", i), fmt.Sprintf("expected the name of a header (RFC 9110 section 5.6.2), got %q", header))
		}
	}
	if !realmSyntax.MatchString(p.Realm) {
		fault("realm", fmt.Sprintf("expected printable ASCII without quote or backslash, got %q", p.Realm))
	}
	p.checkHeaders(fault)
	p.checkAssertion(fault)
}

// checkAssertion keeps an assertion out of the headers that carry something else.
func (p Policy) checkAssertion(fault func(key, problem string)) {
	header := p.Assertion.Header
	switch {
	case header == "":
	case p.Assertion.Profile == "":
		fault("assertion.profile", "expected the profile that makes the assertion")
	case !headerToken.MatchString(header):
		fault("assertion.header", fmt.Sprintf("expected the name of a header (RFC 9110 section 5.6.2), got %q", header))
	case p.TakesHeader(header):
		fault("assertion.header", "this header already carries a claim, by headers")
	case acts(header):
		fault("assertion.header", belongs+" and can't carry an assertion")
	}
}

const belongs = "this header belongs to the connection, to the answer itself, to access tokens or to a gateway"

// acts says whether somebody acts on a header by its name: the peers of the
// connection, a client, a backend that takes Authorization for its caller's, or
// a gateway that serves another file or waits longer because of it.
func acts(header string) bool {
	folded := strings.ToLower(header)
	return slices.Contains(ownHeaders, folded) ||
		slices.ContainsFunc(ownPrefixes, func(prefix string) bool { return strings.HasPrefix(folded, prefix) })
}

// TakesHeader says whether a claim is already answered in that header.
func (p Policy) TakesHeader(header string) bool {
	for name := range p.Headers {
		if strings.EqualFold(name, header) {
			return true
		}
	}
	return false
}

// checkHeaders keeps a policy from naming a header that somebody acts on: what a
// token says would be done.
func (p Policy) checkHeaders(fault func(key, problem string)) {
	first := map[string]string{}
	for _, header := range slices.Sorted(maps.Keys(p.Headers)) {
		key, folded := "headers."+header, strings.ToLower(header)
		switch {
		case !headerToken.MatchString(header):
			fault(key, fmt.Sprintf("expected the name of a header (RFC 9110 section 5.6.2), got %q", header))
		case acts(header):
			fault(key, belongs+" and can't carry a claim")
		case first[folded] != "":
			fault(key, fmt.Sprintf("%s and %s are one header", first[folded], header))
		case p.Headers[header] == "":
			fault(key, "expected the name of a claim, got an empty text")
		}
		first[folded] = header
	}
}

var (
	nameSyntax = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	// scopeToken is scope-token of RFC 6749 section 3.3.
	scopeToken = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]+$`)
	// realmSyntax is what can stand between quotes without escapes (RFC 6750
	// section 3 keeps scope to the same characters).
	realmSyntax = regexp.MustCompile(`^[\x20\x21\x23-\x5B\x5D-\x7E]+$`)
	headerToken = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	// ownHeaders are hop-by-hop (RFC 9110 section 7.6.1), frame the message,
	// are credentials, or are ours to set.
	ownHeaders = []string{
		"age", "allow", "alt-svc", "authorization", "cache-control", "clear-site-data", "connection", "content-encoding", "content-length",
		"content-location", "content-range", "content-security-policy", "content-type", "cookie", "date", "dpop", "etag", "expires",
		"host", "keep-alive", "last-modified", "location", "pragma", "proxy-authenticate", "proxy-authorization",
		"proxy-connection", "refresh", "retry-after", "server", "set-cookie", "set-cookie2", "strict-transport-security",
		"te", "trailer", "transfer-encoding", "upgrade", "vary", "via", "www-authenticate", "x-sendfile",
	}
	// ownPrefixes begin the headers by which a client's browser, nginx and Envoy
	// are told what to do.
	ownPrefixes = []string{"access-control-", "x-accel-", "x-envoy-"}
)
