// Package callers decides who asks: it authenticates a caller by its
// credentials, and slows down those who guess. It never looks at the tokens
// that are asked about.
//
// # Decisions
//
// A credential is compared as a plain SHA-256 digest. A slow hash would let
// anybody who guesses burn our CPU, and buys nothing for what can't be
// guessed; so secrets of fewer than 22 characters are refused at start, and
// whoever configures a digest vouches for the entropy behind it.
//
// Clients disagree on how an id and a secret are written into HTTP Basic, so
// every spelling seen in the field is tried (INT-17). The cost: up to three
// hashes a secret, ids that one spelling could both mean are refused, and
// where some id holds colons a credential is split at as many of them. An id
// is no secret, so in Basic whatever decodes to it names it.
//
// A bucket belongs to what an id reduces to, known or not, and an unknown id
// is compared with digests that nothing matches: neither answers nor times
// tell which ids exist (ERR-10). What a colon count in the configuration
// shows is how many splits are tried, not for whom.
//
// A failure is counted after the comparison, not reserved before it. A herd
// of right secrets at start-up is then let in as a whole; the cost is that
// guesses compared at the same moment may overdraw a bucket by one a core.
package callers

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Callers is everybody who may ask, compiled. It is immutable and safe for
// concurrent use; nil and zero values are of no use, New makes one.
type Callers struct {
	rows    map[claim]*row
	bearers map[[sha256.Size]byte]*row
	nobody  *row
	bearing latest // of bearer tokens, which claim no id
	// splits is how many colons of a Basic credential may end the id.
	splits     int
	limits     *Limits
	enabled    methods // of any row
	challenges []string
}

// Caller is one who may ask; a pointer to it is its identity within one
// Callers.
type Caller struct {
	Config
	// Index is the row's place in the configuration.
	Index int

	may permissions
}

// permissions is a set of them.
type permissions uint8

var allPermissions = Permission("").Values()

// bit is the set of p alone, which is empty where p is none.
func (p Permission) bit() permissions {
	if n := slices.Index(allPermissions, string(p)); n >= 0 {
		return 1 << n
	}
	return 0
}

// May says whether the caller is permitted to do p; nil may nothing. One that
// has clients may revoke, if only their tokens: MayRevoke says which.
func (c *Caller) May(p Permission) bool {
	return c != nil && (c.may&p.bit() != 0 || p == Revoke && len(c.Clients) > 0)
}

// MayRevoke says whether the caller may revoke a token in hand, by the
// configured name of its issuer and its client, empty for none: the token of
// one of its clients, or any that it is told of where it has the permission.
func (c *Caller) MayRevoke(issuer, clientID string) bool {
	return slices.Contains(c.Clients, Client{issuer, clientID}) ||
		c.may&Revoke.bit() != 0 && c.ToldOf(issuer)
}

// ToldOf says whether an issuer, by its configured name, is one of the
// caller's.
func (c *Caller) ToldOf(issuer string) bool {
	return c.AnyIssuer || slices.Contains(c.Issuers, issuer)
}

// Authenticated is a caller and the method that proved it. The zero value has
// no caller and may nothing.
type Authenticated struct {
	*Caller
	Method Method
}

// Refusal is the answer to whoever isn't let in. Its zero value isn't one.
type Refusal struct {
	// Status is 400, 401, 403 or 429.
	Status int
	// Code is the member error: invalid_request, invalid_client,
	// invalid_token, insufficient_scope or access_denied.
	Code string
	// Challenges are the lines of WWW-Authenticate; a 401 has at least one.
	Challenges []string
	// RetryAfter is at least a second at 429, and zero elsewhere.
	RetryAfter time.Duration
}

// Credentials is what a request brought. An empty text counts as absent, as
// RFC 6749 section 3.2 has it for members of a form.
type Credentials struct {
	// Authorization holds every line of that header.
	Authorization []string
	// The members of the form, decoded; a JSON body has none.
	ClientID, ClientSecret, ClientAssertion          string
	HasClientID, HasClientSecret, HasClientAssertion bool
	// Peer is http.Request.RemoteAddr: ip:port, anything else for a unix
	// socket. Forwarded headers don't belong here: a guesser would write them.
	Peer string
}

const (
	basicChallenge  = `Basic realm="introspectd"`
	bearerChallenge = `Bearer realm="introspectd"`
)

// New reads the secrets of the rows and compiles them. The error names every
// id and every secret that can't be used; the rest of what Check reports is
// not looked at again. The rows must not be changed afterwards.
func New(rows []Config, l *Limits) (*Callers, error) {
	cs := &Callers{
		rows:    make(map[claim]*row, len(rows)),
		bearers: map[[sha256.Size]byte]*row{},
		nobody:  newRow(nil),
		splits:  1,
		limits:  l,
	}
	var faults []error
	fault := func(key, problem string) { faults = append(faults, fmt.Errorf("callers%s: %s", key, problem)) }
	CheckAll(rows, fault)
	var enabled methods
	for i, config := range rows {
		if err := checkID(config.ID); err != nil {
			fault(fmt.Sprintf("[%d].id", i), err.Error())
		}
		secrets, tokens := config.digests(func(key, problem string) { fault(fmt.Sprintf("[%d].%s", i, key), problem) })
		if len(faults) > 0 {
			continue
		}
		caller := &Caller{Config: config, Index: i}
		for _, p := range config.May {
			caller.may |= p.bit()
		}
		r := newRow(caller)
		copy(r.secrets[:], secrets)
		cs.rows[claimed([]byte(config.ID))] = r
		for _, d := range tokens {
			if other, taken := cs.bearers[d]; taken && other != r {
				fault(fmt.Sprintf("[%d].bearer_tokens", i), "expected tokens of its own") // changed since CheckAll
			}
			cs.bearers[d] = r
		}
		enabled |= r.methods
		cs.splits = max(cs.splits, 1+strings.Count(config.ID, ":"))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	cs.enabled, cs.challenges = enabled, challenges(enabled)
	return cs, nil
}

func challenges(enabled methods) []string {
	var lines []string
	if enabled&basicMethod != 0 {
		lines = append(lines, basicChallenge)
	}
	// A 401 must carry a challenge (RFC 9110 section 15.5.2), also where no
	// HTTP scheme is enabled.
	if enabled&bearerMethod != 0 || len(lines) == 0 {
		lines = append(lines, bearerChallenge)
	}
	return lines
}

// Challenges are the lines of WWW-Authenticate for a request without
// credentials, one per HTTP scheme that any caller may use.
func (cs *Callers) Challenges() []string { return slices.Clone(cs.challenges) }

// Methods are the ways in which some caller may authenticate.
func (cs *Callers) Methods() (some []Method) {
	for _, m := range []Method{ClientSecretBasic, ClientSecretPost, Bearer} {
		if cs.enabled&allowed([]Method{m}) != 0 {
			some = append(some, m)
		}
	}
	return some
}

// Authenticate says who asks: either the caller, or why not, exactly one of
// which has a value.
func (cs *Callers) Authenticate(c Credentials) (Authenticated, *Refusal) {
	var scheme, parameter string
	if len(c.Authorization) == 1 {
		scheme, parameter, _ = strings.Cut(c.Authorization[0], " ")
		parameter = strings.TrimLeft(parameter, " ")
	}
	basic, bearer := strings.EqualFold(scheme, "Basic"), strings.EqualFold(scheme, "Bearer")
	f := c.form()
	switch {
	case len(c.Authorization) > 1,
		f.assertion && (basic || bearer || f.secret != ""),
		bearer && f.secret != "":
		return Authenticated{}, disagreeing()
	case basic:
		return cs.basic(parameter, f, originOf(c.Peer), cs.limits.now())
	case bearer:
		return cs.bearer(parameter, originOf(c.Peer), cs.limits.now())
	case f.secret != "":
		return cs.post(f, originOf(c.Peer), cs.limits.now())
	}
	// Nothing, a client_id alone, or an assertion, which isn't built yet.
	return Authenticated{}, cs.unknown()
}

// form is what the body says of the caller.
type form struct {
	id, secret string
	assertion  bool
}

func (c Credentials) form() (f form) {
	if c.HasClientID {
		f.id = c.ClientID
	}
	if c.HasClientSecret {
		f.secret = c.ClientSecret
	}
	f.assertion = c.HasClientAssertion && c.ClientAssertion != ""
	return f
}

// post authenticates by client_secret_post, whose id and secret have one
// spelling: the form was decoded before.
func (cs *Callers) post(f form, from origin, now time.Time) (Authenticated, *Refusal) {
	who := claimed([]byte(f.id))
	r := cs.row(who)
	if r.caller != nil && r.caller.ID != f.id {
		r = cs.nobody
	}
	latest := &r.latest
	last, admitted := cs.limits.admits(latest, from, who, now)
	if !admitted {
		r = cs.nobody
	}
	if r.opens(sha256.Sum256([]byte(f.secret))) && r.methods&postMethod != 0 {
		cs.limits.succeeded(latest, from, who, now, last)
		return r.authenticated(postMethod), nil
	}
	if !cs.limits.failed(from, []claim{who}, now) {
		return Authenticated{}, tooMany()
	}
	return Authenticated{}, cs.unknown()
}

// bearer authenticates by a static bearer token (RFC 6750 section 2.1). The
// look-up is by digest: how far it gets tells nothing of the token.
func (cs *Callers) bearer(token string, from origin, now time.Time) (Authenticated, *Refusal) {
	r := cs.bearers[sha256.Sum256([]byte(token))]
	last, admitted := cs.limits.admits(&cs.bearing, from, claim{}, now)
	if admitted && r != nil && r.methods&bearerMethod != 0 {
		cs.limits.succeeded(&cs.bearing, from, claim{}, now, last)
		return r.authenticated(bearerMethod), nil
	}
	if !cs.limits.failed(from, []claim{{}}, now) {
		return Authenticated{}, tooMany()
	}
	return Authenticated{}, wrongBearer()
}

// disagreeing is INT-16 (RFC 6749 section 5.2).
func disagreeing() *Refusal { return &Refusal{Status: 400, Code: "invalid_request"} }

// unknown answers no credentials (INT-12) and what isn't right in a form.
func (cs *Callers) unknown() *Refusal {
	return &Refusal{Status: 401, Code: "invalid_client", Challenges: cs.Challenges()}
}

// wrongBasic is INT-13, for unknown ids and wrong secrets alike.
func wrongBasic() *Refusal {
	return &Refusal{Status: 401, Code: "invalid_client", Challenges: []string{basicChallenge}}
}

// wrongBearer is INT-14 (RFC 6750 section 3.1).
func wrongBearer() *Refusal {
	return &Refusal{Status: 401, Code: "invalid_token", Challenges: []string{bearerChallenge + `, error="invalid_token"`}}
}

// tooMany is INT-18.
func tooMany() *Refusal {
	return &Refusal{Status: 429, Code: "invalid_client", RetryAfter: retryAfter}
}

// Denied is the answer to a caller that isn't permitted to do p. A bearer
// gets 401 (RFC 7662 section 2.3 overrides the 403 of RFC 6750), any other
// caller 403.
func (*Callers) Denied(a Authenticated, p Permission) *Refusal {
	if a.Method != Bearer {
		return &Refusal{Status: 403, Code: "access_denied"}
	}
	return &Refusal{
		Status:     401,
		Code:       "insufficient_scope",
		Challenges: []string{fmt.Sprintf(`%s, error="insufficient_scope", scope="%s"`, bearerChallenge, p)},
	}
}

// row is one caller with what it takes to be it.
type row struct {
	caller *Caller
	// secrets is always this many, so that no comparison tells how many a
	// caller has, or whether there is one; the rest matches nothing.
	secrets [mostSecrets][sha256.Size]byte
	methods methods
	latest  latest
}

// methods is a set of ways to authenticate.
type methods uint8

const (
	basicMethod methods = 1 << iota
	postMethod
	bearerMethod
)

// newRow returns a row that nothing opens yet; a nil caller is nobody.
func newRow(c *Caller) *row {
	r := &row{caller: c}
	for i := range r.secrets {
		rand.Read(r.secrets[i][:]) // a digest of nothing that anybody knows; it never fails
	}
	if c == nil {
		return r
	}
	if len(c.Secrets) > 0 {
		r.methods |= (basicMethod | postMethod) & allowed(c.Methods)
	}
	if len(c.BearerTokens) > 0 {
		r.methods |= bearerMethod & allowed(c.Methods)
	}
	return r
}

// allowed is the set that a configuration names, where none means all.
func allowed(named []Method) methods {
	if len(named) == 0 {
		return basicMethod | postMethod | bearerMethod
	}
	var set methods
	for _, m := range named {
		switch m {
		case ClientSecretBasic:
			set |= basicMethod
		case ClientSecretPost:
			set |= postMethod
		case Bearer:
			set |= bearerMethod
		}
	}
	return set
}

// row is the row whose id a claim may spell, else nobody.
func (cs *Callers) row(who claim) *row {
	if r, ok := cs.rows[who]; ok {
		return r
	}
	return cs.nobody
}

// opens says whether a secret with this digest is one of the row's. It always
// compares with all of them.
func (r *row) opens(digest [sha256.Size]byte) bool {
	equal := 0
	for i := range r.secrets {
		equal |= subtle.ConstantTimeCompare(r.secrets[i][:], digest[:])
	}
	return equal == 1
}

// authenticated names the method of those used that the row allows.
func (r *row) authenticated(used methods) Authenticated {
	method := ClientSecretBasic
	switch r.methods & used {
	case postMethod:
		method = ClientSecretPost
	case bearerMethod:
		method = Bearer
	}
	return Authenticated{Caller: r.caller, Method: method}
}
