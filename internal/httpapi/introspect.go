package httpapi

import (
	"bytes"
	"net/http"
	"sync"

	"introspectd/internal/callers"
	"introspectd/internal/introspect"
	"introspectd/internal/verify"
)

// introspect answers POST /introspect: RFC 7662 section 2. Method, media type,
// size, form, caller, token, verdict: in this order.
func (a *API) introspect(w http.ResponseWriter, r *http.Request) outcome {
	w.Header()["Vary"] = varyAccept
	space := buffers.Get().(*[]byte)
	defer buffers.Put(space)
	p, bad := readForm(w, r, space, false)
	if bad != nil {
		return refuse(w, bad)
	}
	return a.judge(w, r, &p, callers.Introspect, func(dst []byte, v introspect.View, answer introspect.Answer) []byte {
		return v.Append(dst, answer)
	})
}

// transform answers POST /transform: the mapped claims in an object of their
// own, or what a profile makes of them.
func (a *API) transform(w http.ResponseWriter, r *http.Request) outcome {
	space := buffers.Get().(*[]byte)
	defer buffers.Put(space)
	p, bad := readForm(w, r, space, true)
	if bad != nil {
		return refuse(w, bad)
	}
	if p.profile.value != "" || p.output.value != "" {
		return a.profiled(w, r, &p)
	}
	return a.judge(w, r, &p, callers.Transform, func(dst []byte, v introspect.View, answer introspect.Answer) []byte {
		return v.AppendTransformed(dst, answer)
	})
}

// judge is what /introspect and /transform have in common: everything but how
// an active answer is shown.
func (a *API) judge(w http.ResponseWriter, r *http.Request, p *parameters, needs callers.Permission,
	show func([]byte, introspect.View, introspect.Answer) []byte,
) (out outcome) {
	caller := a.authenticate(w, p.credentials(r), needs, &out)
	if caller == nil {
		return out
	}
	if bad := p.check(); bad != nil {
		return out.refused(w, bad)
	}
	answer, err := a.introspector.Introspect(r.Context(), p.token.value, p.room)
	if err != nil {
		unavailable(w)
		out.failed(&answer, err)
		return out
	}
	view := &a.views[caller.Index]
	reason, refused := view.demand.Refuses(answer)
	out.judged(&answer, reason, !refused)
	out.status = http.StatusOK
	if refused {
		respond(w, http.StatusOK, inactive)
		return out
	}
	buffer := buffers.Get().(*[]byte)
	*buffer = show((*buffer)[:0], view.view, answer)
	respond(w, http.StatusOK, *buffer)
	buffers.Put(buffer)
	return out
}

// buffers hold what is read of a request and of memory, and an answer while it is
// written.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 4096)) }}

var inactive = []byte(introspect.Inactive)

// check is what the parameters must be once the caller is known. A parameter
// without a value counts as omitted (RFC 6749 section 3.2), and so does a blank
// token, as it does for WSO2's clients.
func (p *parameters) check() *problem {
	if len(bytes.Trim(p.token.value, " ")) == 0 {
		return badRequest("token is missing")
	}
	return nil
}

// judged notes a verdict.
func (o *outcome) judged(a *introspect.Answer, reason verify.Reason, active bool) {
	o.isVerdict, o.active = true, active
	o.reason, o.issuer, o.ref = reason.String(), a.Issuer(), a.Ref()
	if note := a.Note(); note != "" {
		o.note = note
	}
}

// failed notes that no verdict could be made.
func (o *outcome) failed(a *introspect.Answer, err error) {
	o.status, o.isVerdict, o.err = http.StatusServiceUnavailable, true, err
	o.reason, o.issuer, o.ref = introspect.Unavailable(err), a.Issuer(), a.Ref()
}
