package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
)

// metadata answers the discovery documents: RFC 8414 section 2 with the
// members that resource servers configure themselves from. response_types is
// the least untrue value for a server without an authorization endpoint; the
// member itself is required.
func metadata(publicURL string) gin.HandlerFunc {
	base := strings.TrimSuffix(publicURL, "/")
	methods := []string{"client_secret_basic", "client_secret_post"}
	body, err := json.Marshal(struct {
		Issuer                string   `json:"issuer"`
		IntrospectionEndpoint string   `json:"introspection_endpoint"`
		IntrospectionMethods  []string `json:"introspection_endpoint_auth_methods_supported"`
		RevocationEndpoint    string   `json:"revocation_endpoint"`
		RevocationMethods     []string `json:"revocation_endpoint_auth_methods_supported"`
		TokenEndpoint         string   `json:"token_endpoint"`
		ResponseTypes         []string `json:"response_types_supported"`
		Claims                []string `json:"claims_supported"`
	}{
		Issuer:                publicURL,
		IntrospectionEndpoint: base + "/introspect",
		IntrospectionMethods:  methods,
		RevocationEndpoint:    base + "/revoke",
		RevocationMethods:     methods,
		TokenEndpoint:         base + "/token",
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

// cached makes respond's answer one that may be kept for an hour.
type cached struct{ http.ResponseWriter }

func (w cached) WriteHeader(status int) {
	w.Header().Set("Cache-Control", "max-age=3600")
	w.ResponseWriter.WriteHeader(status)
}

// noGrants answers POST /token: clients that configure themselves by discovery
// expect the endpoint, and no grant is supported (RFC 6749 section 5.2).
func noGrants(w http.ResponseWriter, _ *http.Request) outcome {
	return refuse(w, &problem{status: http.StatusBadRequest, code: "unsupported_grant_type"})
}
