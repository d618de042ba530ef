package httpapi

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"introspectd/internal/callers"
	"introspectd/internal/sign"
)

// metadata answers the discovery documents: RFC 8414 section 2 with the
// members that resource servers configure themselves from. response_types is
// the least untrue value for a server without an authorization endpoint; the
// member itself is required.
func metadata(publicURL string, methods []callers.Method, signs bool) gin.HandlerFunc {
	base := strings.TrimSuffix(publicURL, "/")
	asking, revoking := methodNames(methods)
	keys := ""
	if signs {
		keys = base + "/jwks.json"
	}
	body, err := json.Marshal(struct {
		Issuer                string   `json:"issuer"`
		IntrospectionEndpoint string   `json:"introspection_endpoint"`
		IntrospectionMethods  []string `json:"introspection_endpoint_auth_methods_supported,omitempty"`
		RevocationEndpoint    string   `json:"revocation_endpoint"`
		RevocationMethods     []string `json:"revocation_endpoint_auth_methods_supported,omitempty"`
		TokenEndpoint         string   `json:"token_endpoint"`
		JWKSURI               string   `json:"jwks_uri,omitempty"`
		ResponseTypes         []string `json:"response_types_supported"`
		Claims                []string `json:"claims_supported"`
	}{
		Issuer:                publicURL,
		IntrospectionEndpoint: base + "/introspect",
		IntrospectionMethods:  asking,
		RevocationEndpoint:    base + "/revoke",
		RevocationMethods:     revoking,
		TokenEndpoint:         base + "/token",
		JWKSURI:               keys,
		ResponseTypes:         []string{"none"},
		Claims:                []string{"active", "scope", "client_id", "username", "token_type", "exp", "iat", "nbf", "sub", "aud", "iss", "jti", "cnf"},
	})
	return func(c *gin.Context) {
		if err != nil {
			respond(c.Writer, http.StatusInternalServerError, errorBody("server_error", ""))
			return
		}
		respond(cached{c.Writer}, http.StatusOK, body)
	}
}

// methodNames are the methods as RFC 8414 section 2 names them: at the
// introspection endpoint also by types of access tokens, at the revocation
// endpoint by client authentication alone.
func methodNames(methods []callers.Method) (asking, revoking []string) {
	for _, m := range methods {
		if m == callers.Bearer {
			asking = append(asking, "Bearer")
			continue
		}
		asking, revoking = append(asking, string(m)), append(revoking, string(m))
	}
	return asking, revoking
}

// cached makes respond's answer one that may be kept for an hour.
type cached struct{ http.ResponseWriter }

func (w cached) WriteHeader(status int) {
	w.Header().Set("Cache-Control", "max-age=3600")
	w.ResponseWriter.WriteHeader(status)
}

// noGrants answers POST /token: clients that configure themselves by discovery
// expect the endpoint, and no grant is supported (RFC 6749 section 5.2).
func noGrants(w http.ResponseWriter, r *http.Request) outcome {
	leaveBody(w, r)
	return refuse(w, &problem{status: http.StatusBadRequest, code: "unsupported_grant_type"})
}

// keySet answers GET /jwks.json: our own public keys, those included that are yet
// to sign, so that whoever keeps the set for its lifetime knows each in time.
func keySet(set []byte) gin.HandlerFunc {
	sum := sha256.Sum256(set)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:]) + `"`
	lifetime := "max-age=" + strconv.Itoa(int(sign.CacheLifetime/time.Second))
	return func(c *gin.Context) {
		h := c.Writer.Header()
		h.Set("Cache-Control", lifetime)
		h.Set("ETag", tag)
		if slices.Contains(c.Request.Header.Values("If-None-Match"), tag) {
			c.Writer.WriteHeader(http.StatusNotModified)
			c.Writer.WriteHeaderNow()
			return
		}
		h.Set("Content-Type", "application/jwk-set+json")
		h.Set("Content-Length", strconv.Itoa(len(set)))
		c.Writer.WriteHeader(http.StatusOK)
		_, _ = c.Writer.Write(set) // a peer that is gone needs no answer
	}
}
