package httpapi

import (
	"context"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/propagation"

	"introspectd/internal/claims"
	"introspectd/internal/introspect"
	"introspectd/internal/sign"
)

// Forwarded is a client's request as a gateway tells of it, in whatever
// protocol.
type Forwarded struct {
	// Peer is the gateway's address in the form of http.Request.RemoteAddr.
	Peer string
	// Caller holds the lines of the gateway's own credential.
	Caller []string
	// Policy is the name of the one that the gateway's route demands.
	Policy string
	// Misread, when set, says why it can't be known which one that is; then
	// nothing is allowed.
	Misread string
	// Method is the client's.
	Method string
	// Authorization holds the client's lines of that name.
	Authorization []string
	// Thumbprint is that of the certificate that the client showed to the
	// gateway (RFC 8705 section 3.1), as the gateway itself has seen it; "" for
	// none.
	Thumbprint string

	repeated  []string // X-Introspectd-Policy
	query     string   // of /auth
	malformed int      // the status for an Authorization that is not well-formed
	room      []byte   // for the answer, until the ruling is told
}

// Ruling is what a gateway is told of one request, to be rendered in its
// protocol. Only one with Status 200 allows; the zero value doesn't.
type Ruling struct {
	// Status is what the client is answered unless it is 200: 400, 401, 403, and
	// 503 where we could not tell.
	Status int
	// Code is the error of an OAuth body, Challenge the value of
	// WWW-Authenticate; both may be empty.
	Code, Challenge string

	bodies refusals // of those that do not

	policy    *policy  // of a ruling that allows
	values    []string // of the policy's headers
	assertion sign.Assertion
	answer    introspect.Answer
	lifetime  int64 // seconds for which a gateway may keep it over HTTP
}

// untold is the ruling where we could not tell.
func untold() Ruling {
	return Ruling{Status: http.StatusServiceUnavailable, Code: "temporarily_unavailable"}
}

// Judge rules on a request that came by another way than ServeHTTP, by RFC 6750
// as /ext-authz does. It is logged and counted under route, with the trace
// context that carrier holds. A panic is a ruling with status 500.
func (a *API) Judge(ctx context.Context, route string, carrier propagation.TextMapCarrier, f Forwarded) Ruling {
	f.malformed = http.StatusBadRequest
	ruling := Ruling{Status: http.StatusInternalServerError, Code: "server_error"}
	a.observer.run(ctx, carrier, route, f.Method, func(ctx context.Context) outcome {
		var out outcome
		ruling = a.rule(ctx, &f, &out)
		ruling.bodies = a.refusals
		return out
	})
	return ruling
}

// Ready says what /readyz says.
func (a *API) Ready() bool { return a.ready().Ready }

// Identity yields every header of the policy by its name in canonical spelling,
// with the value that must replace whatever a client sent under it. The value
// is empty where the token has none.
func (r *Ruling) Identity() iter.Seq2[string, string] {
	return func(yield func(header, value string) bool) {
		if r.policy == nil {
			return
		}
		for n, h := range r.policy.headers {
			if !yield(h.header, r.values[n]) {
				return
			}
		}
		if r.policy.profile != nil {
			yield(r.policy.header, r.assertion.Text)
		}
	}
}

// Remove lists the headers, in lower case, that the policy keeps from backends.
func (r *Ruling) Remove() []string {
	if r.policy == nil || r.policy.remove == "" {
		return nil
	}
	return strings.Split(r.policy.remove, ",")
}

// shareable are the claims that may go into a gateway's own records.
var shareable = []string{"sub", "iss", "client_id", "scope"}

// Claims yields sub, iss, client_id and scope as the token has them, of those
// that the policy's headers show.
func (r *Ruling) Claims() iter.Seq2[string, string] {
	return func(yield func(claim, value string) bool) {
		if r.policy == nil {
			return
		}
		for _, claim := range shareable {
			name := introspect.NameOf(claim)
			shown := slices.ContainsFunc(r.policy.headers, func(h identityHeader) bool { return h.claim == name })
			value, ok := claims.String(r.answer.Find(name))
			if shown && ok && !yield(claim, value) {
				return
			}
		}
	}
}

// Body is that of a refusal.
func (r *Ruling) Body() []byte {
	if body, ok := r.bodies[r.Code]; ok {
		return body
	}
	return errorBody(r.Code, "")
}

// Headers yields those of a refusal, without the ones that frame its body.
func (r *Ruling) Headers() iter.Seq2[string, string] {
	return func(yield func(header, value string) bool) {
		if r.Challenge != "" && !yield("WWW-Authenticate", r.Challenge) {
			return
		}
		if r.Status == http.StatusServiceUnavailable && !yield("Retry-After", retryAfter) {
			return
		}
		_ = yield("Content-Type", contentJSON[0]) && yield("Cache-Control", noStore[0])
	}
}

// write answers over HTTP: exactly 200 with every configured header, or a
// refusal.
func (r *Ruling) write(w http.ResponseWriter) {
	h := w.Header()
	if r.Status != http.StatusOK {
		if r.Challenge != "" {
			h["Www-Authenticate"] = []string{r.Challenge}
		}
		if r.Status == http.StatusServiceUnavailable {
			h["Retry-After"] = []string{retryAfter}
		}
		respond(w, r.Status, r.Body())
		return
	}
	for n := range r.policy.headers {
		h[r.policy.headers[n].header] = r.values[n : n+1 : n+1]
	}
	if r.policy.profile != nil {
		h[r.policy.header] = []string{r.assertion.Text}
	}
	if r.policy.remove != "" {
		h[removeHeader] = r.policy.removeValue
	}
	h["Cache-Control"] = noStore
	if r.lifetime > 0 {
		h["Cache-Control"] = []string{"private, max-age=" + strconv.FormatInt(r.lifetime, 10)}
		h["Vary"] = varyGateway
	}
	w.WriteHeader(http.StatusOK)
}
