package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"

	"introspectd/internal/revoke"
)

// startGrace is how long a replica waits for the keys of every issuer before
// those of one will do.
const startGrace = 30 * time.Second

// Readiness is the state of a replica as /readyz tells it.
type Readiness struct {
	Ready bool `json:"-"`
	// Status is ready, degraded (ready, but something is missing), starting,
	// revocations_unknown (the list of revocations makes us answer nothing) or
	// draining.
	Status string `json:"status"`
	// Missing names what is not as it should be.
	Missing []string `json:"missing,omitempty"`
}

// Gate decides when a replica may be sent requests. It outlives
// configurations and is safe for concurrent use.
type Gate struct {
	start    time.Time
	latched  atomic.Bool
	draining atomic.Bool
}

// NewGate returns a Gate that starts now.
func NewGate() *Gate { return &Gate{start: time.Now()} }

// Drain makes the replica unready for good.
func (g *Gate) Drain() { g.draining.Store(true) }

// Read returns the state, given for each issuer by name whether it has usable
// keys, and that of the list of revocations. Once ready, a replica stays so when
// it loses an issuer: others would fare no better. One that never had a key is
// never ready, so that a rollout can't replace replicas that know keys by ones
// that don't. Neither is one whose list denies, for as long as it does: it
// answers every token with an error, and another may have the list.
func (g *Gate) Read(issuers map[string]bool, list revoke.State, problems ...string) Readiness {
	var missing []string
	for name, hasKeys := range issuers {
		if !hasKeys {
			missing = append(missing, "keys of "+name)
		}
	}
	slices.Sort(missing)
	some := len(missing) < len(issuers)
	if len(missing) == 0 || some && time.Since(g.start) >= startGrace {
		g.latched.Store(true)
	}
	if problem := list.Problem(); problem != "" {
		missing = append(missing, problem)
	}
	missing = append(missing, problems...)
	r := Readiness{Missing: missing}
	switch {
	case g.draining.Load():
		r.Status = "draining"
	case !g.latched.Load():
		r.Status = "starting"
	case list.Denies:
		r.Status = "revocations_unknown"
	case len(missing) > 0:
		r.Status, r.Ready = "degraded", true
	default:
		r.Status, r.Ready = "ready", true
	}
	return r
}

func livez(c *gin.Context) { respond(c.Writer, http.StatusOK, []byte(`{"status":"alive"}`)) }

// readyz answers 200 or 503. What is missing is shown where verbose answers
// are permitted and ?verbose asks for one: issuers' names are not the
// public's.
func readyz(read func() Readiness, permitted bool) gin.HandlerFunc {
	return func(c *gin.Context) {
		r := read()
		status := http.StatusOK
		if !r.Ready {
			status = http.StatusServiceUnavailable
			c.Header("Retry-After", "1")
		}
		if !permitted || !strings.HasPrefix(c.Request.URL.RawQuery, "verbose") {
			r.Missing = nil
		}
		body, err := json.Marshal(r)
		if err != nil {
			status, body = http.StatusInternalServerError, errorBody("server_error", "")
		}
		respond(c.Writer, status, body)
	}
}
