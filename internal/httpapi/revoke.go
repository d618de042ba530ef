package httpapi

import (
	"net/http"

	"introspectd/internal/callers"
	"introspectd/internal/introspect"
)

// revoke answers POST /revoke: RFC 7009 section 2. The token is judged as
// /introspect judges it, so that what is answered tells a caller nothing that it
// could not ask there.
func (a *API) revoke(w http.ResponseWriter, r *http.Request) (out outcome) {
	p, bad := readForm(w, r, new([]byte), false) // too seldom for shared memory
	if bad != nil {
		return refuse(w, bad)
	}
	caller := a.authenticate(w, p.credentials(r), callers.Revoke, &out)
	if caller == nil {
		return out
	}
	if bad := p.check(); bad != nil {
		return out.refused(w, bad)
	}
	c, err := a.introspector.Candidate(r.Context(), string(p.token.value))
	out.issuer, out.ref = c.Answer.Issuer(), c.Answer.Ref()
	switch {
	case err != nil:
		return out.unanswered(w, introspect.Unavailable(err), err)
	case !c.Revocable():
		out.reason = c.Answer.Reason().String()
		return out.done(w, "nothing to revoke")
	case !caller.MayRevoke(c.Answer.Issuer(), c.ClientID):
		return a.revokeOthers(w, caller, c, out)
	}
	if _, err := a.introspector.Revoke(r.Context(), c, caller.ID); err != nil {
		return out.unanswered(w, revocationUnavailable, err)
	}
	return out.done(w, "revoked")
}

// revokeOthers answers a caller that may not revoke the token (contract
// REV-04): with an error only where /introspect would show it the token active.
func (a *API) revokeOthers(w http.ResponseWriter, caller *callers.Caller, c introspect.Candidate, out outcome) outcome {
	const note = "not this caller's to revoke"
	if c.Doubt != nil {
		return out.unanswered(w, introspect.Unavailable(c.Doubt), c.Doubt)
	}
	if _, refused := a.views[caller.Index].demand.Refuses(c.Answer); refused {
		return out.done(w, note)
	}
	out.note = note
	return out.refused(w, &problem{status: http.StatusBadRequest, code: "unauthorized_client"})
}

// revocationUnavailable is the label of what could not be withdrawn, or not be
// kept.
const revocationUnavailable = "revocation_unavailable"

// unanswered is 503 for a token that is to be revoked: RFC 7009 section 2.2.1
// has the client assume that it still exists.
func (o outcome) unanswered(w http.ResponseWriter, label string, err error) outcome {
	o.reason, o.err = label, err
	return o.refused(w, &problem{status: http.StatusServiceUnavailable, code: "temporarily_unavailable"})
}

// refused writes p and keeps what is known of the request.
func (o outcome) refused(w http.ResponseWriter, p *problem) outcome {
	answered := refuse(w, p)
	o.status, o.code = answered.status, answered.code
	return o
}

// done is 200 without a body: the caller has nothing left to do.
func (o outcome) done(w http.ResponseWriter, note string) outcome {
	w.Header()["Cache-Control"] = noStore
	w.WriteHeader(http.StatusOK)
	o.status, o.note = http.StatusOK, note
	return o
}
