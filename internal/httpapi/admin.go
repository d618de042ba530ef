package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"introspectd/internal/callers"
	"introspectd/internal/claims"
	"introspectd/internal/introspect"
	"introspectd/internal/revoke"
)

// AdminOptions are what the admin listener shows and does.
type AdminOptions struct {
	Callers  *callers.Callers
	Observer *Observer
	Ready    func() Readiness
	// Metrics answers GET /metrics.
	Metrics http.Handler
	// OpenAPI is the description of the public listener, in YAML.
	OpenAPI []byte
	// Issuers is the state of every issuer and its keys, for JSON.
	Issuers func() any
	// Refresh fetches an issuer's keys anew; ErrNoIssuer for an unknown name.
	Refresh func(ctx context.Context, name string) error
	// Local tells whether an issuer's keys are configuration, which no act here
	// takes away; false for an unknown name.
	Local func(name string) bool
	// Introspector explains tokens, and withdraws what they give.
	Introspector *introspect.Introspector
	// Revocations is the list that Introspector works with.
	Revocations *revoke.List
	// Names maps each iss to the issuer's configured name.
	Names map[string]string
	// Address is the listener's own, Hosts are further names it answers to.
	Address string
	Hosts   []string
	PProf   bool
}

// ErrNoIssuer says that no issuer is configured under a name.
var ErrNoIssuer = introspect.ErrNoIssuer

const (
	noIssuer  = "no issuer of this name is configured"
	localKeys = "the keys of this issuer are configuration, and go on verifying: take the key out of the configuration, or out of the trust store"
)

// NewAdmin returns the handler of the admin listener.
func NewAdmin(o AdminOptions) http.Handler {
	e := newEngine(o.Observer)
	e.Use(o.hostCheck)
	unreported := e.Group("", o.Observer.guard)
	probes(unreported, o.Ready, o.Metrics, true)
	unreported.GET("/openapi.yaml", func(c *gin.Context) {
		c.Data(http.StatusOK, "application/yaml", o.OpenAPI)
	})
	unreported.GET("/issuers", func(c *gin.Context) { writeJSON(c.Writer, http.StatusOK, o.Issuers()) })
	e.POST("/issuers/:name/refresh", func(c *gin.Context) { o.act(c, callers.Operate, "/issuers/{name}/refresh", o.refresh(c.Param("name"))) })
	e.POST("/explain", func(c *gin.Context) { o.act(c, callers.Explain, "/explain", o.explain) })
	e.POST("/revocations", func(c *gin.Context) { o.act(c, callers.RevokeBroad, "/revocations", o.withdraw) })
	e.GET("/revocations", func(c *gin.Context) { o.act(c, callers.RevokeBroad, "/revocations", o.list) })
	e.DELETE("/revocations/:id", func(c *gin.Context) { o.act(c, callers.RevokeBroad, "/revocations/{id}", o.takeBack(c.Param("id"))) })
	if o.PProf {
		e.GET("/debug/pprof/*profile", func(c *gin.Context) { o.act(c, callers.Operate, "/debug/pprof", goProfile) })
	}
	return e
}

// NewMetrics returns the handler of the listener that a cluster scrapes.
func NewMetrics(o *Observer, ready func() Readiness, metrics http.Handler) http.Handler {
	e := newEngine(o)
	probes(e.Group("", o.guard), ready, metrics, false)
	return e
}

func probes(e gin.IRoutes, ready func() Readiness, metrics http.Handler, verbose bool) {
	e.GET("/livez", livez)
	e.GET("/readyz", readyz(ready, verbose))
	e.GET("/metrics", gin.WrapH(metrics))
}

// hostCheck refuses requests that were made for another host: a web page whose
// name was pointed at this address (DNS rebinding). The port is not looked at.
func (o *AdminOptions) hostCheck(c *gin.Context) {
	if strings.HasPrefix(o.Address, "unix:") || o.answersTo(c.Request) {
		return
	}
	leaveBody(c.Writer, c.Request)
	refuse(c.Writer, &problem{status: http.StatusMisdirectedRequest, code: "invalid_request", description: "this listener does not answer to that Host"})
	c.Abort()
}

func (o *AdminOptions) answersTo(r *http.Request) bool {
	host, own := hostOnly(r.Host), hostOnly(o.Address)
	if ip := net.ParseIP(own); own == "" || ip != nil && ip.IsUnspecified() {
		// A listener on every address: its own is the one that was dialled.
		own = ""
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
			own = hostOnly(local.String())
		}
	}
	named := func(h string) bool { return strings.EqualFold(h, host) }
	return host != "" && (host == own || host == "localhost" || slices.ContainsFunc(o.Hosts, named))
}

func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		hostport = host
	}
	return strings.ToLower(strings.Trim(hostport, "[]"))
}

// act is what a caller does here.
type act func(w http.ResponseWriter, r *http.Request, who *callers.Caller) outcome

// act runs one act of a caller that may do it, and writes its audit line: who,
// what, result.
func (o *AdminOptions) act(c *gin.Context, needs callers.Permission, route string, run act) {
	o.Observer.serve(c.Writer, c.Request, newEndpoint(route, func(w http.ResponseWriter, r *http.Request) outcome {
		// A browser that remembers an operator's credentials sends them for
		// any page that asks. What is checked is a POST, since Check lets every
		// GET pass: acts are more than reading, whatever their method.
		checked := r.WithContext(r.Context())
		checked.Method = http.MethodPost
		if http.NewCrossOriginProtection().Check(checked) != nil {
			leaveBody(w, r)
			return refuse(w, &problem{status: http.StatusForbidden, code: "access_denied", description: "the request comes from a page of another origin"})
		}
		gate := API{callers: o.Callers}
		var out outcome
		who := gate.authenticate(w, callers.Credentials{Authorization: r.Header["Authorization"], Peer: r.RemoteAddr}, needs, &out)
		if who != nil {
			out = run(w, r, who)
			out.caller = who.ID
		}
		attrs := []any{"audit", true, "who", out.caller, "what", r.Method + " " + route, "status", out.status}
		if out.issuer != "" {
			attrs = append(attrs, "issuer", out.issuer)
		}
		if out.kind != 0 {
			attrs = append(attrs, "kind", out.kind.String())
		}
		if len(out.revocations) > 0 {
			attrs = append(attrs, "revocations", out.revocations)
		}
		if out.note != "" {
			attrs = append(attrs, "note", out.note)
		}
		o.Observer.log.InfoContext(r.Context(), "admin act", attrs...)
		return out
	}))
}

// refresh answers POST /issuers/{name}/refresh; with drop=true no store may bring
// the present keys back, only the issuer itself.
func (o *AdminOptions) refresh(name string) act {
	return func(w http.ResponseWriter, r *http.Request, who *callers.Caller) outcome {
		if bad := noneOrJSON(r); bad != nil {
			return refuse(w, bad)
		}
		drop := r.URL.RawQuery == "drop=true"
		if r.URL.RawQuery != "" && !drop {
			// Whoever asks to drop keys must not be told that it was done.
			return refuse(w, badRequest("expected no parameter but drop=true"))
		}
		if bad := o.reaches(who, name); bad != nil {
			return refuse(w, bad)
		}
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		var untold error
		out := outcome{issuer: name}
		if drop {
			if o.Local(name) {
				return out.refused(w, &problem{status: http.StatusConflict, code: "invalid_request", description: localKeys})
			}
			out.note = "keys dropped"
			// Without a store there is nothing that could bring a key back.
			if err := o.Introspector.DropKeys(ctx, name, who.ID); !errors.Is(err, revoke.ErrNoStore) {
				untold = err
			}
		}
		err := o.Refresh(ctx, name)
		if errors.Is(err, ErrNoIssuer) {
			return refuse(w, &problem{status: http.StatusNotFound, code: "not_found", description: noIssuer})
		}
		if bad := unrefreshed(drop, untold, err); bad != nil {
			out.err = errors.Join(untold, err)
			return out.refused(w, bad)
		}
		respond(w, http.StatusOK, []byte(`{"refreshed":true}`))
		out.status = http.StatusOK
		return out
	}
}

// unrefreshed says what is left undone: untold is why other replicas may not
// know that the keys were dropped, unfetched why there are no new ones.
func unrefreshed(drop bool, untold, unfetched error) *problem {
	bad := &problem{status: http.StatusBadGateway, code: "temporarily_unavailable"}
	switch {
	case untold != nil && unfetched != nil:
		bad.status, bad.description = http.StatusServiceUnavailable, "the keys were dropped here, and could not be fetched; other replicas may still have them"
	case untold != nil:
		bad.status, bad.description = http.StatusServiceUnavailable, "the keys were dropped here, and fetched; other replicas may still have the old ones"
	case unfetched != nil && drop:
		bad.description = "the keys were dropped, and could not be fetched"
	case unfetched != nil:
		bad.description = "the keys could not be fetched"
	default:
		return nil
	}
	return bad
}

// noneOrJSON is onlyJSON for acts that need no body.
func noneOrJSON(r *http.Request) *problem {
	if r.ContentLength == 0 {
		return nil
	}
	return onlyJSON(r)
}

// onlyJSON refuses what a page of another origin can send with a browser's
// remembered credentials: forms and plain text.
func onlyJSON(r *http.Request) *problem {
	if isJSON, bad := mediaType(r, true); bad != nil || !isJSON {
		return unsupported("the media type is not supported").with("Accept", "application/json")
	}
	return nil
}

// explain answers POST /explain {"token"} with the ladder of its judgement.
func (o *AdminOptions) explain(w http.ResponseWriter, r *http.Request, _ *callers.Caller) outcome {
	if bad := onlyJSON(r); bad != nil {
		return refuse(w, bad)
	}
	body, bad := readBody(w, r, new([]byte))
	if bad != nil {
		return refuse(w, bad)
	}
	set, err := claims.Decode(body)
	value, _ := set.Find("token")
	token, ok := claims.String(value)
	if err != nil || !ok || len(set) != 1 {
		return refuse(w, badRequest("expected a JSON object with the member token"))
	}
	writeJSON(w, http.StatusOK, o.Introspector.Explain(r.Context(), token, time.Now()))
	return outcome{status: http.StatusOK}
}

func goProfile(w http.ResponseWriter, r *http.Request, _ *callers.Caller) outcome {
	switch name := strings.TrimPrefix(r.URL.Path, "/debug/pprof/"); name {
	case "cmdline":
		pprof.Cmdline(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r)
	}
	return outcome{status: http.StatusOK}
}

// writeJSON answers v without the escapes for HTML that encoding/json adds.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		respond(w, http.StatusInternalServerError, errorBody("server_error", ""))
		return
	}
	respond(w, status, bytes.TrimSuffix(body.Bytes(), []byte("\n")))
}
