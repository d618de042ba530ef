// Package httpapi is the wire: who may ask, what is read of a request, and
// what is answered. It never judges a token; every endpoint renders the one
// answer of package introspect.
//
// # Decisions
//
// gin routes what has a method; /auth and /ext-authz are told apart by their
// raw path before it, because they take every method there is, and because a
// router that decodes or cleans a path would let its sender choose the policy.
//
// Each handler returns what happened as a value, and one place turns that into
// the log line, the metrics and the span. No request carries a logger. A panic,
// an act of an operator and a gateway that may not ask have a line of their own
// besides.
//
// /revoke tells no more than /introspect. Context: a caller could try tokens
// that it found, and RFC 7009 has an error for those of other clients. Choice:
// that error is answered only where the caller's own demand would show it the
// token active; all else that it may not revoke is 200, as if there were
// nothing to do. Cost: a caller whose clients are configured wrongly is told so
// by the log alone.
//
// A form, the verdict that is recalled for it and the answer lie in memory that
// requests use one after the other: new memory is cold, and three copies of a
// kilobyte were 3 % of a hit. Cost: an Answer and the token of a form end with their
// request, and what is to outlive it is copied: all that is text has been.
//
// Acts on revocations are bound to the caller's issuers, also those that read
// and delete. What lies beyond them is 403 where the caller named the issuer
// itself, and unknown where it named an id. Cost: an operator for all issuers
// needs any_issuer.
package httpapi

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"introspectd/internal/callers"
	"introspectd/internal/introspect"
	"introspectd/internal/sign"
)

// Options are what an API works with.
type Options struct {
	Introspector *introspect.Introspector
	Callers      *callers.Callers
	Rows         []callers.Config // those that Callers were made of
	Auth         AuthConfig
	// MaxDelay is how late a revocation may act; no gateway is told to keep an
	// answer for longer.
	MaxDelay time.Duration
	Policies []Policy
	Profiles []Profile
	Errors   ErrorsConfig
	// Signer signs assertions; nil means that nothing is signed.
	Signer *sign.Signer
	// PublicURL is our own issuer identifier; empty means no metadata.
	PublicURL string
	Observer  *Observer
	// Ready reports the state for /readyz.
	Ready func() Readiness
	// Now is the clock that lifetimes are counted by; nil means time.Now.
	Now func() time.Time
}

// API is the public listener's handler: one configuration, immutable.
type API struct {
	introspector *introspect.Introspector
	callers      *callers.Callers
	views        []callerView // by the caller's index
	policies     map[string]*policy
	profiles     map[string]*profile
	allowFrom    []callers.Peer
	keep         time.Duration // how long a gateway may keep an answer; 0: not at all
	now          func() time.Time
	refusals     refusals // of /auth and /ext-authz
	observer     *Observer
	ready        func() Readiness
	gateways     struct{ auth, extAuthz *endpoint }
	engine       *gin.Engine
}

// callerView is what one caller is told, and of which tokens.
type callerView struct {
	demand introspect.Demand
	view   introspect.View
}

// New returns the API of a checked configuration.
func New(o Options) *API {
	a := &API{
		introspector: o.Introspector,
		callers:      o.Callers,
		policies:     make(map[string]*policy, len(o.Policies)),
		profiles:     make(map[string]*profile, len(o.Profiles)),
		allowFrom:    o.Auth.AllowFrom,
		now:          o.Now,
		refusals:     refusalsIn(o.Errors.Format),
		observer:     o.Observer,
		ready:        o.Ready,
	}
	if a.now == nil {
		a.now = time.Now
	}
	if o.Auth.Cacheable {
		a.keep = o.MaxDelay
	}
	for _, row := range o.Rows {
		a.views = append(a.views, compileView(row))
	}
	for _, row := range o.Profiles {
		a.profiles[row.Name] = compileProfile(row, o.Signer)
	}
	for _, row := range o.Policies {
		a.policies[row.Name] = compilePolicy(row, a.profiles)
	}
	a.gateways.auth, a.gateways.extAuthz = newEndpoint("/auth", a.auth), newEndpoint("/ext-authz", a.extAuthz)
	a.engine = newEngine(a.observer)
	a.engine.POST("/introspect", a.observed("/introspect", a.introspect))
	a.engine.POST("/oauth2/introspect", a.observed("/oauth2/introspect", a.introspect))
	a.engine.POST("/transform", a.observed("/transform", a.transform))
	a.engine.POST("/revoke", a.observed("/revoke", a.revoke))
	unreported := a.engine.Group("", a.observer.guard)
	unreported.GET("/livez", livez)
	unreported.GET("/readyz", readyz(a.ready, false))
	if o.Signer != nil {
		unreported.GET("/jwks.json", keySet(o.Signer.Keys().JWKS()))
	}
	if o.PublicURL != "" {
		document := metadata(o.PublicURL, o.Callers.Methods(), o.Signer != nil)
		unreported.GET("/.well-known/oauth-authorization-server", document)
		unreported.GET("/.well-known/openid-configuration", document)
		a.engine.POST("/token", a.observed("/token", noGrants))
	}
	return a
}

// newEngine returns a gin engine without any of its conveniences that change
// what a request says: no redirects, no cleaned paths, no proxy headers.
func newEngine(o *Observer) *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.RedirectTrailingSlash = false
	e.RedirectFixedPath = false
	e.HandleMethodNotAllowed = true
	e.ForwardedByClientIP = false
	_ = e.SetTrustedProxies(nil) // nil can't be malformed
	e.NoRoute(o.gin("", func(w http.ResponseWriter, r *http.Request) outcome {
		leaveBody(w, r)
		return refuse(w, &problem{status: http.StatusNotFound, code: "not_found"})
	}))
	e.NoMethod(o.gin("", func(w http.ResponseWriter, r *http.Request) outcome {
		leaveBody(w, r)
		if strings.HasSuffix(r.URL.Path, "/introspect") {
			w.Header()["Vary"] = varyAccept // on every answer of that endpoint
		}
		return refuse(w, &problem{status: http.StatusMethodNotAllowed, code: "invalid_request", description: "the method is not allowed"})
	}))
	return e
}

// CallerDemand is what a caller may be told of.
func CallerDemand(row callers.Config) introspect.Demand {
	return introspect.Demand{
		Issuers: row.Issuers, AnyIssuer: row.AnyIssuer,
		Audiences: row.Audiences, AnyAudience: row.AnyAudience.All, NoAudienceFrom: row.AnyAudience.Issuers,
	}
}

func compileView(row callers.Config) callerView {
	return callerView{demand: CallerDemand(row), view: viewOf(row.Claims)}
}

func viewOf(c callers.Claims) introspect.View {
	switch c.Mode {
	case callers.Passthrough:
		return introspect.Passthrough()
	case callers.Minimal:
		return introspect.Minimal()
	case callers.List:
		return introspect.Only(c.Names)
	}
	return introspect.View{}
}

// ServeHTTP dispatches by the raw path, and the rest by gin.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, _ := rawTarget(r)
	switch {
	case path == "/auth", strings.HasPrefix(path, authPrefix):
		a.observer.serve(w, r, a.gateways.auth)
	case path == "/ext-authz", strings.HasPrefix(path, extAuthzPrefix):
		a.observer.serve(w, r, a.gateways.extAuthz)
	default:
		a.engine.ServeHTTP(w, r)
	}
}

const (
	authPrefix     = "/auth/"
	extAuthzPrefix = "/ext-authz/"
)

// rawTarget returns path and query of the request target as they were sent,
// nothing decoded or cleaned (RFC 9112 section 3.2).
func rawTarget(r *http.Request) (path, query string) {
	path, query, _ = strings.Cut(r.RequestURI, "?")
	if !strings.HasPrefix(path, "/") {
		// The absolute form: a scheme, an authority, the path.
		scheme, rest, _ := strings.Cut(path, "://")
		slash := strings.IndexByte(rest, '/')
		if slash < 0 || strings.ContainsAny(scheme, ":/") {
			return "", ""
		}
		path = rest[slash:]
	}
	return path, query
}

func (a *API) observed(route string, h handler) gin.HandlerFunc { return a.observer.gin(route, h) }

// refuse writes p as an OAuth error.
func refuse(w http.ResponseWriter, p *problem) outcome {
	for _, h := range p.headers {
		w.Header().Add(h[0], h[1])
	}
	if p.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	respond(w, p.status, errorBody(p.code, p.description))
	return outcome{status: p.status, code: p.code}
}

// unavailable is the answer where we could not tell: never cached, never
// active.
func unavailable(w http.ResponseWriter) {
	refuse(w, &problem{status: http.StatusServiceUnavailable, code: "temporarily_unavailable"})
}

// respond writes a JSON body whole, with the headers of every answer that says
// something of a token.
func respond(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h["Content-Type"] = contentJSON
	h["Cache-Control"] = noStore
	if len(body) > counted {
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // a peer that is gone needs no answer
}

// counted is how large an answer net/http itself counts, at the end of the
// handler and for less than a header costs. It would send a larger one in chunks.
const counted = 2 << 10

// retryAfter is when to ask again where we could not tell, in seconds.
const retryAfter = "5"

var (
	contentJSON = []string{"application/json"}
	noStore     = []string{"no-store"}
	varyAccept  = []string{"Accept"}
	// varyGateway names what an answer to a gateway depends on besides its path.
	varyGateway = []string{"Authorization, X-Introspectd-Caller, X-Introspectd-Policy"}
)

// authenticate finds out who asks and whether it may do p. It answers who may not,
// and returns nil.
func (a *API) authenticate(w http.ResponseWriter, c callers.Credentials, p callers.Permission, out *outcome) *callers.Caller {
	who, refusal := a.callers.Authenticate(c)
	if who.Caller != nil {
		out.caller = who.ID
	}
	if refusal == nil && !who.May(p) {
		refusal = a.callers.Denied(who, p)
	}
	if refusal == nil {
		return who.Caller
	}
	bad := &problem{status: refusal.Status, code: refusal.Code}
	for _, challenge := range refusal.Challenges {
		bad.with("WWW-Authenticate", challenge)
	}
	if refusal.RetryAfter > 0 {
		bad.with("Retry-After", strconv.Itoa(int((refusal.RetryAfter+time.Second-1)/time.Second)))
	}
	*out = out.refused(w, bad)
	return nil
}
