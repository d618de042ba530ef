package httpapi

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"introspectd/internal/callers"
	"introspectd/internal/introspect"
	"introspectd/internal/sign"
	"introspectd/internal/verify"
)

// auth answers /auth and /auth/{policy}: 200, 401, 403, and 503 where we could
// not tell, because nginx makes a 500 of anything else.
func (a *API) auth(w http.ResponseWriter, r *http.Request) outcome {
	path, query := rawTarget(r)
	policy, named := strings.CutPrefix(path, authPrefix)
	if !named {
		policy = "default"
	}
	return a.gateway(w, r, policy, query, http.StatusUnauthorized)
}

// extAuthz answers /ext-authz/{policy}/…: RFC 6750 in full. What follows the
// policy, query included, is the client's own and never read.
func (a *API) extAuthz(w http.ResponseWriter, r *http.Request) outcome {
	path, _ := rawTarget(r)
	policy, _, _ := strings.Cut(strings.TrimPrefix(path, extAuthzPrefix), "/")
	return a.gateway(w, r, policy, "", http.StatusBadRequest)
}

// gateway answers a gateway that asks over HTTP. malformed is the status for an
// Authorization that is not well-formed.
func (a *API) gateway(w http.ResponseWriter, r *http.Request, name, query string, malformed int) outcome {
	leaveBody(w, r) // it stays with the gateway
	room := buffers.Get().(*[]byte)
	defer buffers.Put(room)
	f := Forwarded{
		Peer: r.RemoteAddr, Caller: r.Header["X-Introspectd-Caller"],
		Policy: name, repeated: r.Header["X-Introspectd-Policy"], query: query,
		Authorization: r.Header["Authorization"], malformed: malformed, room: (*room)[:0],
	}
	var out outcome
	ruling := a.rule(r.Context(), &f, &out)
	ruling.bodies = a.refusals
	ruling.lifetime = a.lifetime(&ruling)
	ruling.write(w)
	return out
}

// lifetime is for how many seconds a gateway may keep a ruling: none of a
// refusal, and of one that allows no longer than a revocation may be late, nor
// than the token or the assertion that goes with it has left. Part of a second
// is none, and so is what leeway gives.
func (a *API) lifetime(r *Ruling) int64 {
	if a.keep == 0 || r.Status != http.StatusOK {
		return 0
	}
	now := a.now()
	left := func(until int64) time.Duration { return time.Unix(until, 0).Sub(now) }
	keep := min(a.keep, left(r.answer.Expires()))
	if r.assertion.Text != "" {
		keep = min(keep, left(r.assertion.Expires))
	}
	return max(0, int64(keep/time.Second))
}

// rule judges the token of a forwarded request by a policy, whatever protocol
// the gateway speaks, and notes in out what happened.
func (a *API) rule(ctx context.Context, f *Forwarded, out *outcome) (allowed Ruling) {
	if !a.admit(f, out) {
		return out.refusedEntry()
	}
	p := a.policies[f.Policy]
	if f.Misread != "" || p == nil || !sameOrAbsent(f.repeated, f.Policy) {
		return out.misconfigured(cmp.Or(f.Misread, "there is no such policy, or X-Introspectd-Policy names another"))
	}
	out.policy = p.name
	demands, ok := p.narrow(f.query)
	if !ok {
		return out.misconfigured("the query of /auth takes scope and audience, each with a value, and audiences of the policy alone; a gateway that forwards the client's query has to use /ext-authz")
	}

	token, state := bearerToken(f.Authorization)
	switch state {
	case noToken:
		return out.denied(http.StatusUnauthorized, "unauthorized", p.challenge(""))
	case malformedToken:
		return out.denied(f.malformed, "invalid_request", p.challenge(`error="invalid_request"`))
	}
	answer, err := a.introspector.Introspect(ctx, []byte(token), f.room)
	if err != nil {
		out.failed(&answer, err)
		return untold()
	}
	// Asked last, and of those alone: what was judged good has passed a stricter
	// grammar, and a look at each character is dear.
	if answer.Reason() == verify.Malformed && !b64token(token) {
		return out.denied(f.malformed, "invalid_request", p.challenge(`error="invalid_request"`))
	}
	reason := demands.decide(answer, f.Thumbprint)
	allowed.policy, allowed.answer = p, answer
	if reason == verify.NoReason && p.profile != nil {
		out.profile = p.profile.name
		allowed.assertion, reason, out.note, err = p.assertion(ctx, answer, cmp.Or(out.caller, p.name))
		if err != nil {
			out.unsigned(&answer, err)
			return untold()
		}
	}
	if reason == verify.NoReason {
		if reason, allowed.values, ok = p.identity(answer, allowed.assertion, a.observer); !ok {
			out.unsigned(&answer, errNoRoom)
			return untold()
		}
	}
	out.judged(&answer, reason, reason == verify.NoReason)
	switch reason {
	case verify.NoReason:
		out.status, allowed.Status = http.StatusOK, http.StatusOK
		return allowed
	case verify.InsufficientScope:
		return out.denied(http.StatusForbidden, "insufficient_scope", p.challenge(`error="insufficient_scope"`+demands.scopeAttribute()))
	case verify.Expired:
		return out.denied(http.StatusUnauthorized, "invalid_token", p.challenge(`error="invalid_token", error_description="The access token expired"`))
	}
	return out.denied(http.StatusUnauthorized, "invalid_token", p.challenge(`error="invalid_token", error_description="The access token is invalid"`))
}

// decide holds an answer against the demands.
func (n *narrowed) decide(answer introspect.Answer, thumbprint string) verify.Reason {
	reason, refused := n.demand.Refuses(answer)
	switch {
	case refused && reason != verify.InsufficientScope:
		return reason
	case slices.ContainsFunc(n.audiences, func(audience string) bool { return !answer.IsFor(audience) }):
		return verify.WrongAudience
	case answer.HasConfirmation() && !answer.ConfirmedBy(thumbprint):
		// A token bound to a key is no bearer token (RFC 9449 section 7.2, RFC
		// 8705 section 3). Possession is shown by a certificate that the gateway
		// vouches for, and not yet in another way.
		return verify.ProofFailed
	case refused:
		return reason
	}
	return verify.NoReason
}

// assertion returns the signed statement of a good answer that goes with it. An
// error means that there is none to be had, and then nothing may pass.
func (p *policy) assertion(ctx context.Context, answer introspect.Answer, requester string) (made sign.Assertion, reason verify.Reason, problem string, err error) {
	if made, ok := p.profile.recall(ctx, answer, requester); ok {
		return made, verify.NoReason, "", nil
	}
	shown, problem := p.profile.shown.Claims(answer)
	if problem != "" {
		return made, verify.RuleFailed, problem, nil
	}
	made, err = p.profile.assertion(ctx, answer, requester, shown)
	if errors.Is(err, sign.ErrOver) {
		return made, verify.Expired, "", nil
	}
	return made, verify.NoReason, "", err
}

// identity renders who a good answer is about. ok is false where the assertion
// alone leaves no room for it.
func (p *policy) identity(answer introspect.Answer, assertion sign.Assertion, o *Observer) (reason verify.Reason, values []string, ok bool) {
	size := p.size
	if assertion.Text != "" {
		size += len(p.header) + len(": \r\n") + len(assertion.Text)
	}
	values, left, fits := identity(p.headers, size, answer)
	o.headersLeft(p.name, left)
	if fits {
		return verify.NoReason, values, true
	}
	if size > p.size {
		if _, _, fits = identity(p.headers, p.size, answer); fits {
			return verify.NoReason, nil, false
		}
	}
	return verify.BadClaims, nil, true
}

var errNoRoom = errors.New("the assertion leaves no room for the headers that name the user: its profile has to show less")

// challenge is a WWW-Authenticate line of RFC 6750 section 3.
func (p *policy) challenge(parameters string) string {
	line := `Bearer realm="` + p.realm + `"`
	if parameters != "" {
		line += ", " + parameters
	}
	return line
}

// denied is a refusal that the client is told.
func (o *outcome) denied(status int, code, challenge string) Ruling {
	o.status, o.code = status, code
	return Ruling{Status: status, Code: code, Challenge: challenge}
}

// misconfigured is the answer to a gateway that is not set up as it should be:
// nothing may be allowed on a guess.
func (o *outcome) misconfigured(why string) Ruling {
	o.status, o.note = http.StatusServiceUnavailable, why
	return untold()
}

// refusedEntry is the answer to a stranger, who learns nothing of policies and
// tokens.
func (o *outcome) refusedEntry() Ruling {
	return o.denied(http.StatusForbidden, "access_denied", "")
}

// admit lets in the peers of auth.allow_from, and callers that may auth. The
// credential of the latter has a header of its own: Authorization is the
// client's.
func (a *API) admit(f *Forwarded, out *outcome) bool {
	for _, peer := range a.allowFrom {
		if peer.Contains(f.Peer) {
			return true
		}
	}
	if len(f.Caller) == 0 {
		a.observer.refusedGateway(f.Peer)
		return false
	}
	who, refusal := a.callers.Authenticate(callers.Credentials{Authorization: f.Caller, Peer: f.Peer})
	if refusal != nil || !who.May(callers.Auth) {
		return false
	}
	out.caller = who.ID
	return true
}

func sameOrAbsent(lines []string, want string) bool {
	return len(lines) == 0 || len(lines) == 1 && lines[0] == want
}

type tokenState uint8

const (
	noToken tokenState = iota
	malformedToken
	oneToken
)

// bearerToken reads the token of a request: RFC 6750 section 2.1, one method,
// one header line, the scheme in any case. Whether it is spelled as a token is
// left to b64token.
func bearerToken(lines []string) (string, tokenState) {
	if len(lines) > 1 {
		return "", malformedToken
	}
	if len(lines) == 0 {
		return "", noToken
	}
	scheme, rest, spaced := strings.Cut(lines[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", noToken
	}
	token := strings.TrimLeft(rest, " ")
	if !spaced || token == "" {
		return "", malformedToken
	}
	return token, oneToken
}

// b64token is the grammar of RFC 6750 section 2.1.
func b64token(s string) bool {
	body := strings.TrimRight(s, "=")
	for i := 0; i < len(body); i++ {
		if !b64characters[body[i]] {
			return false
		}
	}
	return body != ""
}

var b64characters = func() (t [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/") {
		t[c] = true
	}
	return t
}()
