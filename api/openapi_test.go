package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"introspectd/api"
	"introspectd/internal/callers"
	"introspectd/internal/devissuer"
	"introspectd/internal/httpapi"
	"introspectd/internal/revoke"
	"introspectd/internal/sign"
)

// described is the description, loaded and found sound.
func described(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI)
	must(t, err)
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatalf("the description is not sound: %v", err)
	}
	return doc
}

func TestDescriptionIsSoundOpenAPI31(t *testing.T) {
	if doc := described(t); doc.OpenAPI != "3.1.0" {
		t.Errorf("openapi: got %s, want 3.1.0", doc.OpenAPI)
	}
}

// request is one that a client might make.
type request struct {
	method string
	target string // path and query as they are sent
	header http.Header
	body   string
	host   string // in place of the listener's
}

// row is a request and what is promised of its answer.
type row struct {
	name      string
	operation string // method and path as they are described
	status    int
	world     string // usual if empty
	admin     bool   // asks the admin listener
	request   request
}

// with returns r with another header line.
func (r request) with(name, value string) request {
	r.header = r.header.Clone()
	if r.header == nil {
		r.header = http.Header{}
	}
	r.header.Add(name, value)
	return r
}

func (r request) at(target string) request     { r.target = target; return r }
func (r request) to(host string) request       { r.host = host; return r }
func (r request) bearing(token string) request { return r.with("Authorization", "Bearer "+token) }

func (r request) asApp() request {
	return r.with("Authorization", "Basic YXBwOmNvcnJlY3QtaG9yc2UtYmF0dGVyeS1zdGFwbGU=")
}

func (r request) asIdle() request {
	return r.with("Authorization", "Basic aWRsZTpjb3JyZWN0LWhvcnNlLWJhdHRlcnktc3RhcGxl")
}

func (r request) asOwner() request {
	return r.with("Authorization", "Basic b3duZXI6Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ==")
}

func get(target string) request { return request{method: http.MethodGet, target: target} }

func post(target string) request { return request{method: http.MethodPost, target: target} }

// form is a POST of parameters, names and values in turn.
func form(target string, parameters ...string) request {
	values := url.Values{}
	for n := 0; n < len(parameters); n += 2 {
		values.Add(parameters[n], parameters[n+1])
	}
	r := post(target).with("Content-Type", "application/x-www-form-urlencoded")
	r.body = values.Encode()
	return r
}

func jsonBody(target, body string) request {
	r := post(target).with("Content-Type", "application/json")
	r.body = body
	return r
}

// tokens are what the rows ask about.
type tokens struct {
	good, narrow, expired, bound, away string
	foreign                            string // of a client that nobody has as its own
	revoked                            string // in the usual world
	set                                string // ETag of the usual world's keys
	taken, kept                        string // ids of revocations: in the usual world, and where the store takes nothing more
}

// rows is a request for every status of every operation.
func rows(t tokens) []row {
	large := strings.Repeat("x", 64<<10)
	all := []row{
		{name: "MET-01 OpenID's clients find the metadata", operation: "GET /.well-known/openid-configuration", status: 200, request: get("/.well-known/openid-configuration")},
		{name: "MET-01 OAuth's clients find the metadata", operation: "GET /.well-known/oauth-authorization-server", status: 200, request: get("/.well-known/oauth-authorization-server")},
		{name: "MET-01 no metadata without public_url", operation: "GET /.well-known/openid-configuration", status: 404, world: "broken", request: get("/.well-known/openid-configuration")},
		{name: "MET-01 no metadata without public_url", operation: "GET /.well-known/oauth-authorization-server", status: 404, world: "broken", request: get("/.well-known/oauth-authorization-server")},
		{name: "metadata is only read", operation: "GET /.well-known/openid-configuration", status: 405, request: post("/.well-known/openid-configuration")},
		{name: "metadata is only read", operation: "GET /.well-known/oauth-authorization-server", status: 405, request: post("/.well-known/oauth-authorization-server")},
		{name: "MET-02 our keys", operation: "GET /jwks.json", status: 200, request: get("/jwks.json")},
		{name: "MET-02 our keys, unchanged", operation: "GET /jwks.json", status: 304, request: get("/jwks.json").with("If-None-Match", t.set)},
		{name: "MET-02 without keys", operation: "GET /jwks.json", status: 404, world: "broken", request: get("/jwks.json")},
		{name: "MET-02 our keys are only read", operation: "GET /jwks.json", status: 405, request: post("/jwks.json")},
		{name: "no grant is supported", operation: "POST /token", status: 400, request: form("/token", "grant_type", "client_credentials")},
		{name: "no token endpoint without public_url", operation: "POST /token", status: 404, world: "broken", request: form("/token", "grant_type", "client_credentials")},
		{name: "tokens are asked for by POST", operation: "POST /token", status: 405, request: get("/token")},

		{name: "alive", operation: "GET /livez", status: 200, request: get("/livez")},
		{name: "alive on admin", operation: "GET /livez", status: 200, admin: true, request: get("/livez")},
		{name: "livez is only read", operation: "GET /livez", status: 405, request: post("/livez")},
		{name: "livez of another Host", operation: "GET /livez", status: 421, admin: true, request: get("/livez").to("evil.example")},
		{name: "ready", operation: "GET /readyz", status: 200, request: get("/readyz?verbose")},
		{name: "degraded, and what is missing", operation: "GET /readyz", status: 200, admin: true, request: get("/readyz?verbose")},
		{name: "readyz is only read", operation: "GET /readyz", status: 405, request: post("/readyz")},
		{name: "readyz of another Host", operation: "GET /readyz", status: 421, admin: true, request: get("/readyz").to("evil.example")},
		{name: "not ready", operation: "GET /readyz", status: 503, world: "broken", request: get("/readyz")},
		{name: "not ready, and what is missing", operation: "GET /readyz", status: 503, world: "broken", admin: true, request: get("/readyz?verbose")},

		{name: "metrics", operation: "GET /metrics", status: 200, admin: true, request: get("/metrics")},
		{name: "metrics are only read", operation: "GET /metrics", status: 405, admin: true, request: post("/metrics")},
		{name: "metrics of another Host", operation: "GET /metrics", status: 421, admin: true, request: get("/metrics").to("evil.example")},
		{name: "too many ask for metrics", operation: "GET /metrics", status: 503, world: "crowded", admin: true, request: get("/metrics")},
		{name: "this description", operation: "GET /openapi.yaml", status: 200, admin: true, request: get("/openapi.yaml")},
		{name: "the description is only read", operation: "GET /openapi.yaml", status: 405, admin: true, request: post("/openapi.yaml")},
		{name: "the description of another Host", operation: "GET /openapi.yaml", status: 421, admin: true, request: get("/openapi.yaml").to("evil.example")},
		{name: "issuers", operation: "GET /issuers", status: 200, admin: true, request: get("/issuers")},
		{name: "issuers are only read", operation: "GET /issuers", status: 405, admin: true, request: post("/issuers")},
		{name: "issuers of another Host", operation: "GET /issuers", status: 421, admin: true, request: get("/issuers").to("evil.example")},

		{name: "a panic", operation: "GET /issuers", status: 500, world: "broken", admin: true, request: get("/issuers")},
		{name: "a panic", operation: "GET /metrics", status: 500, world: "broken", admin: true, request: get("/metrics")},
		{name: "a panic", operation: "GET /readyz", status: 500, world: "unknown", request: get("/readyz")},

		{name: "refreshed", operation: "POST /issuers/{name}/refresh", status: 200, admin: true, request: post("/issuers/corp/refresh").asApp()},
		{name: "refreshed, with a body of JSON", operation: "POST /issuers/{name}/refresh", status: 200, admin: true, request: jsonBody("/issuers/corp/refresh", "{}").asApp()},
		{name: "refreshed, with nothing left of before", operation: "POST /issuers/{name}/refresh", status: 200, admin: true, request: post("/issuers/corp/refresh?drop=true").asApp()},
		{name: "refresh with nothing left of a trust store", operation: "POST /issuers/{name}/refresh", status: 409, admin: true, request: post("/issuers/apim/refresh?drop=true").asApp()},
		{name: "refresh with another parameter", operation: "POST /issuers/{name}/refresh", status: 400, admin: true, request: post("/issuers/corp/refresh?drop=1").asApp()},
		{name: "refresh that others may not know of", operation: "POST /issuers/{name}/refresh", status: 503, world: "forgetful", admin: true, request: post("/issuers/corp/refresh?drop=true").asApp()},
		{name: "refresh by a form", operation: "POST /issuers/{name}/refresh", status: 415, admin: true, request: form("/issuers/corp/refresh", "x", "y").asApp()},
		{name: "refresh is an act", operation: "POST /issuers/{name}/refresh", status: 405, admin: true, request: get("/issuers/corp/refresh").asApp()},
		{name: "refresh of no issuer", operation: "POST /issuers/{name}/refresh", status: 404, admin: true, request: post("/issuers/nobody/refresh").asApp()},
		{name: "refresh of a source that is away", operation: "POST /issuers/{name}/refresh", status: 502, admin: true, request: post("/issuers/away/refresh").asApp()},

		{name: "explained", operation: "POST /explain", status: 200, admin: true, request: jsonBody("/explain", `{"token":"`+t.good+`"}`).asApp()},
		{name: "explained where keys are away", operation: "POST /explain", status: 200, admin: true, request: jsonBody("/explain", `{"token":"`+t.away+`"}`).asApp()},
		{name: "explained what is no token", operation: "POST /explain", status: 200, admin: true, request: jsonBody("/explain", `{"token":"garbage"}`).asApp()},
		{name: "explain without a token", operation: "POST /explain", status: 400, admin: true, request: jsonBody("/explain", `{"tokens":"x"}`).asApp()},
		{name: "explain is an act", operation: "POST /explain", status: 405, admin: true, request: get("/explain").asApp()},
		{name: "explain too large", operation: "POST /explain", status: 413, admin: true, request: jsonBody("/explain", `{"token":"`+large+`"}`).asApp()},
		{name: "explain takes no form", operation: "POST /explain", status: 415, admin: true, request: form("/explain", "token", t.good).asApp()},

		{name: "not ready, for want of revocations", operation: "GET /readyz", status: 503, world: "untold", request: get("/readyz")},
		{name: "not ready, for want of revocations, told", operation: "GET /readyz", status: 503, world: "untold", admin: true, request: get("/readyz?verbose")},

		{name: "a profile", operation: "GET /debug/pprof/{profile}", status: 200, admin: true, request: get("/debug/pprof/heap").asApp()},
		{name: "profiles are off", operation: "GET /debug/pprof/{profile}", status: 404, world: "closed", admin: true, request: get("/debug/pprof/heap").asApp()},
		{name: "profiles are only read", operation: "GET /debug/pprof/{profile}", status: 405, admin: true, request: post("/debug/pprof/heap").asApp()},
	}
	all = append(all, actRows("POST /issuers/{name}/refresh", post("/issuers/corp/refresh"))...)
	all = append(all, actRows("POST /explain", jsonBody("/explain", `{"token":"`+t.good+`"}`))...)
	all = append(all, actRows("GET /debug/pprof/{profile}", get("/debug/pprof/cmdline"))...)
	for _, path := range []string{"/introspect", "/oauth2/introspect", "/transform"} {
		all = append(all, judgeRows(path, t)...)
	}
	all = append(all, revokeRows(t)...)
	all = append(all, revocationRows(t)...)
	all = append(all,
		row{name: "JSON", operation: "POST /transform", status: 200, request: jsonBody("/transform", `{"token":"`+t.good+`"}`).asApp()},
		row{name: "JSON with an unknown member", operation: "POST /transform", status: 400, request: jsonBody("/transform", `{"token":"`+t.good+`","x":""}`).asApp()},
		row{name: "TRN-02 a profile", operation: "POST /transform", status: 200, request: form("/transform", "token", t.good, "profile", "backend").asApp()},
		row{name: "TRN-02 a profile, in JSON", operation: "POST /transform", status: 200, request: jsonBody("/transform", `{"token":"`+t.good+`","profile":"backend","output":"claims"}`).asApp()},
		row{name: "TRN-03 a profile of a token that is expired", operation: "POST /transform", status: 200, request: form("/transform", "token", t.expired, "profile", "backend").asApp()},
		row{name: "TRN-03 a profile of others", operation: "POST /transform", status: 403, request: form("/transform", "token", t.good, "profile", "others").asApp()},
		row{name: "TRN-04 what a profile requires is not there", operation: "POST /transform", status: 200, request: form("/transform", "token", t.foreign, "profile", "transaction").asApp()},
		row{name: "ASN-01 signed", operation: "POST /transform", status: 200, request: form("/transform", "token", t.good, "profile", "backend", "output", "jwt").asApp()},
		row{name: "ASN-06 signed by default", operation: "POST /transform", status: 200, request: form("/transform", "token", t.good, "profile", "transaction").asApp()},
		row{name: "ASN-01 an unknown output", operation: "POST /transform", status: 400, request: form("/transform", "token", t.good, "profile", "backend", "output", "xml").asApp()},
		row{name: "ASN-04 a token bound to a key is not signed", operation: "POST /transform", status: 400, request: form("/transform", "token", t.bound, "profile", "backend", "output", "jwt").asApp()},
		row{name: "ASN-01 our key does not sign", operation: "POST /transform", status: 503, world: "speechless", request: form("/transform", "token", t.good, "profile", "backend", "output", "jwt").asApp()},
		row{name: "ATH-01 an answer that may be kept", operation: "GET /auth/{policy}", status: 200, world: "keeping", request: get("/auth/default").bearing(t.good)},
		row{name: "ATH-01 with an assertion", operation: "GET /auth/{policy}", status: 200, request: get("/auth/signed").bearing(t.good)},
		row{name: "ASN-06 with a transaction token", operation: "GET /ext-authz/{policy}", status: 200, request: get("/ext-authz/transaction").bearing(t.good)},
		row{name: "ATH-08 never without its assertion", operation: "GET /auth/{policy}", status: 503, world: "speechless", request: get("/auth/signed").bearing(t.good)},
		row{name: "an unknown profile", operation: "POST /transform", status: 400, request: form("/transform", "token", t.good, "profile", "wso2").asApp()},
		row{name: "JSON is no form", operation: "POST /introspect", status: 415, request: jsonBody("/introspect", `{"token":"`+t.good+`"}`).asApp()},
	)
	for described, prefix := range map[string]string{
		"/auth": "/auth", "/auth/{policy}": "/auth/", "/ext-authz/{policy}": "/ext-authz/", "/ext-authz/{policy}/{tail}": "/ext-authz/",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			all = append(all, gatewayRows(method, described, prefix, t)...)
		}
	}
	return all
}

// judgeRows are for the endpoints that a caller asks about a token.
func judgeRows(path string, t tokens) []row {
	good := form(path, "token", t.good)
	encoded := good.asApp().with("Content-Encoding", "gzip")
	all := []row{
		{name: "a good token", status: 200, request: good.asApp()},
		{name: "a token bound to a key", status: 200, request: form(path, "token", t.bound).asApp()},
		{name: "an expired token", status: 200, request: form(path, "token", t.expired).asApp()},
		{name: "no token at all", status: 200, request: form(path, "token", "garbage", "token_type_hint", "refresh_token").asApp()},
		{name: "a bearer asks", status: 200, request: good.bearing(bearer)},
		{name: "the caller in the form", status: 200, request: form(path, "token", t.good, "client_id", "app", "client_secret", secret)},
		{name: "the token is missing", status: 400, request: form(path, "x", "y").asApp()},
		{name: "the token twice", status: 400, request: form(path, "token", "a", "token", "b").asApp()},
		{name: "two mechanisms that disagree", status: 400, request: form(path, "token", t.good, "client_secret", "another").asApp()},
		{name: "the token in the URL", status: 400, request: good.asApp().at(path + "?token=x")},
		{name: "nobody asks", status: 401, request: good},
		{name: "a wrong secret", status: 401, request: good.with("Authorization", "Basic YXBwOndyb25n")},
		{name: "a wrong bearer", status: 401, request: good.bearing("wrong")},
		{name: "a bearer that may not", status: 401, request: good.bearing(idle)},
		{name: "a caller that may not", status: 403, request: good.asIdle()},
		{name: "too large", status: 413, request: form(path, "token", strings.Repeat("x", 64<<10)).asApp()},
		{name: "no form", status: 415, request: post(path).asApp()},
		{name: "an encoded body", status: 415, request: encoded},
		{name: "guessed too often", status: 429, world: "guessed", request: good.with("Authorization", "Basic YXBwOndyb25n")},
		{name: "a panic", status: 500, world: "broken", request: good.asApp()},
		{name: "keys are away", status: 503, request: form(path, "token", t.away).asApp()},
		{name: "revocations are unknown", status: 503, world: "untold", request: good.asApp()},
		{name: "a revoked token", status: 200, request: form(path, "token", t.revoked).asApp()},
	}
	for _, method := range []string{"GET", "PUT", "DELETE", "PATCH"} {
		all = append(all, row{name: method, status: 405, request: request{method: method, target: path}})
	}
	for n := range all {
		all[n].operation = "POST " + path
	}
	return all
}

// revokeRows are for POST /revoke.
func revokeRows(t tokens) []row {
	at := func(token string) request { return form("/revoke", "token", token) }
	all := []row{
		{name: "REV-01 a token", status: 200, request: at(t.revoked).asApp()},
		{name: "REV-01 a client's own", status: 200, request: at(t.revoked).asOwner()},
		{name: "REV-02 no token at all", status: 200, request: form("/revoke", "token", "garbage", "token_type_hint", "refresh_token").asApp()},
		{name: "REV-02 the caller in the form", status: 200, request: form("/revoke", "token", t.expired, "client_id", "app", "client_secret", secret)},
		{name: "REV-03 the token is missing", status: 400, request: form("/revoke", "x", "y").asApp()},
		{name: "REV-03 the token in the URL", status: 400, request: at("x").asApp().at("/revoke?token=x")},
		{name: "REV-03 nobody asks", status: 401, request: at(t.revoked)},
		{name: "REV-03 a bearer that may not", status: 401, request: at(t.revoked).bearing(idle)},
		{name: "REV-03 a caller that may not", status: 403, request: at(t.revoked).asIdle()},
		{name: "REV-04 a token of another client", status: 400, request: at(t.foreign).asOwner()},
		{name: "REV-05 the store does not take it", status: 503, world: "forgetful", request: at(t.foreign).asApp()},
		{name: "REV-05 there is no store", status: 503, world: "unkept", request: at(t.foreign).asApp()},
		{name: "REV-05 keys are away", status: 503, request: at(t.away).asApp()},
		{name: "REV-04 whether it is active is unknown", status: 503, world: "untold", request: at(t.foreign).asOwner()},
		{name: "too large", status: 413, request: at(strings.Repeat("x", 64<<10)).asApp()},
		{name: "no form", status: 415, request: jsonBody("/revoke", `{"token":"x"}`).asApp()},
		{name: "an encoded body", status: 415, request: at("x").asApp().with("Content-Encoding", "gzip")},
		{name: "guessed too often", status: 429, world: "guessed", request: at("x").with("Authorization", "Basic YXBwOndyb25n")},
		{name: "a panic", status: 500, world: "broken", request: at("x").asApp()},
	}
	for _, method := range []string{"GET", "PUT", "DELETE", "PATCH"} {
		all = append(all, row{name: "REV-03 " + method, status: 405, request: request{method: method, target: "/revoke"}})
	}
	for n := range all {
		all[n].operation = "POST /revoke"
	}
	return all
}

// revocationRows are for /revocations.
func revocationRows(t tokens) []row {
	const create, list, remove = "POST /revocations", "GET /revocations", "DELETE /revocations/{id}"
	asking := func(body string) request { return jsonBody("/revocations", body) }
	deleting := func(id string) request { return request{method: http.MethodDelete, target: "/revocations/" + id} }
	all := []row{
		{name: "REV-07 by sub", operation: create, status: 201, request: asking(`{"issuer":"corp","sub":"x","not_before":"2026-11-25T09:30:00.25Z"}`).asApp()},
		{name: "REV-07 by sid", operation: create, status: 201, request: asking(`{"issuer":"corp","sid":"x"}`).asApp()},
		{name: "REV-07 by client", operation: create, status: 201, request: asking(`{"issuer":"corp","client_id":"x"}`).asApp()},
		{name: "REV-07 by jti", operation: create, status: 201, request: asking(`{"issuer":"away","jti":"x","expires":"2095-11-25T09:30:00Z"}`).asApp()},
		{name: "REV-07 by kid", operation: create, status: 201, request: asking(`{"issuer":"corp","kid":"x"}`).asApp()},
		{name: "REV-07 by issuer", operation: create, status: 201, request: asking(`{"issuer":"away","all":true}`).asApp()},
		{name: "REV-07 by nothing", operation: create, status: 400, request: asking(`{"issuer":"corp"}`).asApp()},
		{name: "REV-07 by an issuer of others", operation: create, status: 403, request: asking(`{"issuer":"away","all":true}`).asOwner()},
		{name: "REV-07 of no issuer", operation: create, status: 404, request: asking(`{"issuer":"nobody","all":true}`).asApp()},
		{name: "REV-07 too large", operation: create, status: 413, request: asking(`{"sub":"` + strings.Repeat("x", 64<<10) + `"}`).asApp()},
		{name: "REV-07 by a form", operation: create, status: 415, request: form("/revocations", "issuer", "corp").asApp()},
		{name: "REV-05 REV-07 the store does not take it", operation: create, status: 503, world: "forgetful", request: asking(`{"issuer":"corp","sub":"x"}`).asApp()},
		{name: "REV-05 REV-07 there is no store", operation: create, status: 503, world: "unkept", request: asking(`{"issuer":"corp","sub":"x"}`).asApp()},
		{name: "REV-07 of no method", operation: create, status: 405, request: request{method: "PUT", target: "/revocations"}.asApp()},

		{name: "REV-07 all", operation: list, status: 200, request: get("/revocations").asApp()},
		{name: "REV-07 one page", operation: list, status: 200, request: get("/revocations?limit=1&issuer=corp").asApp()},
		{name: "REV-07 the next one", operation: list, status: 200, request: get("/revocations?limit=10000&kind=sub&after=" + t.taken).asApp()},
		{name: "REV-07 of a list that is not current", operation: list, status: 200, world: "untold", request: get("/revocations").asApp()},
		{name: "REV-07 too many", operation: list, status: 400, request: get("/revocations?limit=10001").asApp()},
		{name: "REV-07 of an issuer of others", operation: list, status: 403, request: get("/revocations?issuer=away").asOwner()},
		{name: "REV-07 of no issuer", operation: list, status: 404, request: get("/revocations?issuer=nobody").asApp()},
		{name: "REV-07 of no method", operation: list, status: 405, request: request{method: "PATCH", target: "/revocations"}.asApp()},

		{name: "REV-07 taken back", operation: remove, status: 204, request: deleting(t.taken).asApp()},
		{name: "REV-07 what is no id", operation: remove, status: 400, request: deleting("x").asApp()},
		{name: "REV-07 what is not there", operation: remove, status: 404, request: deleting(strings.Repeat("0", 32)).asApp()},
		{name: "REV-07 of no method", operation: remove, status: 405, request: get("/revocations/" + t.taken).asApp()},
		{name: "REV-07 by a form", operation: remove, status: 415, request: request{method: http.MethodDelete, target: "/revocations/" + t.taken, body: "x=y"}.asApp()},
		{name: "REV-05 REV-07 the store does not take it", operation: remove, status: 503, world: "forgetful", request: deleting(t.kept).asApp()},
	}
	for n := range all {
		all[n].admin = true
	}
	all = append(all, actRows(create, asking(`{"issuer":"corp","sub":"x"}`))...)
	all = append(all, actRows(list, get("/revocations"))...)
	return append(all, actRows(remove, deleting(t.taken))...)
}

// actRows are for what takes a caller on the admin listener: act is good but
// for who asks.
func actRows(operation string, act request) []row {
	all := []row{
		{name: "by two lines of Authorization", status: 400, request: act.asApp().asIdle()},
		{name: "by nobody", status: 401, request: act},
		{name: "by a bearer that may not", status: 401, request: act.bearing(idle)},
		{name: "by a caller that may not", status: 403, request: act.asIdle()},
		{name: "for another Host", status: 421, request: act.asApp().to("evil.example")},
		{name: "guessed too often", status: 429, world: "guessed", request: act.with("Authorization", "Basic YXBwOndyb25n")},
		{name: "a panic", status: 500, world: "broken", request: act.asApp()},
	}
	for n := range all {
		all[n].operation, all[n].admin = operation, true
		all[n].name = operation + " " + all[n].name
	}
	return all
}

// gatewayRows are for what a gateway asks; prefix is where a policy's name
// follows, or /auth itself.
func gatewayRows(method, described, prefix string, t tokens) []row {
	at := func(policy, query string) request {
		target := prefix
		if strings.HasSuffix(prefix, "/") {
			target += policy
		}
		if strings.Contains(described, "{tail}") {
			target += "/orders/17"
		}
		return request{method: method, target: target + query}
	}
	own := strings.HasPrefix(described, "/auth") // the query is the gateway's, and bad credentials are 401
	malformed := http.StatusBadRequest
	if own {
		malformed = http.StatusUnauthorized
	}
	all := []row{
		{name: "a good token", status: 200, request: at("default", "").bearing(t.good)},
		{name: "no token", status: 401, request: at("default", "")},
		{name: "another scheme", status: 401, request: at("default", "").asApp()},
		{name: "an expired token", status: 401, request: at("default", "").bearing(t.expired)},
		{name: "a token bound to a key", status: 401, request: at("default", "").bearing(t.bound)},
		{name: "no token of any kind", status: 401, request: at("default", "").bearing("garbage")},
		{name: "credentials that are not well-formed", status: malformed, request: at("default", "").bearing("a b")},
		{name: "a gateway nobody knows", status: 403, world: "closed", request: at("default", "").bearing(t.good)},
		{name: "a gateway with credentials", status: 200, world: "closed", request: at("default", "").bearing(t.good).
			with("X-Introspectd-Caller", "Basic aWRsZTpjb3JyZWN0LWhvcnNlLWJhdHRlcnktc3RhcGxl")},
		{name: "a panic", status: 500, world: "broken", request: at("default", "").bearing(t.good)},
		{name: "keys are away", status: 503, request: at("default", "").bearing(t.away)},
		{name: "revocations are unknown", status: 503, world: "untold", request: at("default", "").bearing(t.good)},
		{name: "another policy in the header", status: 503, request: at("default", "").bearing(t.good).with("X-Introspectd-Policy", "orders")},
	}
	// The same in the words of WSO2: what is described is what is answered.
	for _, r := range all {
		if r.world == "" && r.status != http.StatusOK {
			r.name, r.world = r.name+", as WSO2 says it", "wso2"
			all = append(all, r)
		}
	}
	if own {
		all = append(all,
			row{name: "a scope is missing, as WSO2 says it", status: 403, world: "wso2", request: at("default", "?scope=orders").bearing(t.narrow)},
			row{name: "a scope is missing", status: 403, request: at("default", "?scope=orders").bearing(t.narrow)},
			row{name: "more scopes are missing than a challenge names", status: 403, request: at("default", "?scope="+manyScopes()).bearing(t.narrow)},
			row{name: "a query that asks for what is there", status: 200, request: at("default", "?scope=orders&scope=read&audience=https%3A%2F%2Fapi.example%2Fdev").bearing(t.good)},
			row{name: "a query nobody knows", status: 503, request: at("default", "?role=x").bearing(t.good)})
	}
	if strings.Contains(described, "{policy}") {
		all = append(all,
			row{name: "a policy nobody knows", status: 503, request: at("nobody", "").bearing(t.good)},
			row{name: "the policy's scope", status: 200, request: at("orders", "").bearing(t.good)},
			row{name: "the policy's scope is missing", status: 403, request: at("orders", "").bearing(t.narrow)})
	}
	for n := range all {
		all[n].operation = method + " " + described
	}
	return all
}

// manyScopes are more of them than fit into 2,048 bytes.
func manyScopes() string {
	var all []string
	for n := range 100 {
		all = append(all, fmt.Sprintf("scope-of-some-length-%03d", n))
	}
	return strings.Join(all, "+")
}

// promises names what the contract says of every answer of a status.
var promises = map[int]string{
	http.StatusUnauthorized:        "ERR-04", // has a challenge
	http.StatusMethodNotAllowed:    "ERR-05", // has Allow
	http.StatusTooManyRequests:     "ERR-06", // has Retry-After
	http.StatusServiceUnavailable:  "ERR-06",
	http.StatusInternalServerError: "ERR-09", // tells a request's id and no more
}

func TestHandlersAnswerAsTheDescriptionSays(t *testing.T) {
	issuer, dir := newIssuer(t)
	kept := &shelf{}
	worlds := map[string]*world{
		"": newWorld(t, dir, nil),
		// Nothing that a judgement needs is there: every look at it panics.
		"broken": newWorld(t, dir, func(w *world) {
			w.api.PublicURL, w.api.Signer, w.api.Introspector, w.api.Callers = "", nil, nil, nil
			w.ops.Introspector, w.ops.Callers = nil, nil
			w.api.Ready = func() httpapi.Readiness {
				return httpapi.Readiness{Status: "starting", Missing: []string{"keys of away"}}
			}
			w.ops.Ready, w.ops.Issuers, w.ops.Metrics = w.api.Ready, nil, nil
		}),
		"unknown": newWorld(t, dir, func(w *world) { w.api.Ready = nil }),
		// No gateway is known by its address, and there are no profiles.
		"closed": newWorld(t, dir, func(w *world) { w.api.Auth.AllowFrom, w.ops.PProf = nil, false }),
		// Time stands still and all guesses are used up.
		"guessed": newWorld(t, dir, func(w *world) {
			now := time.Now()
			who, err := callers.New(w.api.Rows, callers.NewLimits(func() time.Time { return now }))
			must(t, err)
			for range 100 {
				who.Authenticate(callers.Credentials{Authorization: []string{"Basic YXBwOndyb25n"}, Peer: "127.0.0.1:1"})
			}
			w.api.Callers, w.ops.Callers = who, who
		}),
		// Its list meets others in a store that it never read.
		"untold": newWorldThatKeeps(t, dir, revoke.Options{Shared: &shelf{}}, func(w *world) {
			gate := httpapi.NewGate()
			w.api.Ready = func() httpapi.Readiness { return gate.Read(map[string]bool{"corp": true}, w.revocations.State()) }
			w.ops.Ready = w.api.Ready
		}),
		// Its store takes nothing any more; the other has none.
		"forgetful": newWorldThatKeeps(t, dir, revoke.Options{File: kept}, nil),
		"unkept":    newWorldThatKeeps(t, dir, revoke.Options{}, nil),
		"keeping":   newWorld(t, dir, func(w *world) { w.api.Auth.Cacheable, w.api.MaxDelay = true, time.Second }),
		"wso2":      newWorld(t, dir, func(w *world) { w.api.Errors.Format = httpapi.WSO2 }),
		// No key's time has come.
		"speechless": newWorld(t, dir, func(w *world) {
			own, err := sign.Of(sign.Key{Signer: devissuer.NewKey("ES256").Signer, ActiveFrom: time.Now().Add(time.Hour)})
			must(t, err)
			w.api.Signer = sign.New(sign.Options{Keys: own, Issuer: w.api.PublicURL})
		}),
		"crowded": newWorld(t, dir, func(w *world) { w.ops.Metrics = crowd(t, w.ops.Metrics) }),
	}
	now := time.Now().Unix()
	asked := tokens{
		good:    issuer.Mint(map[string]any{"scope": "orders read", "auth_time": now, "act": map[string]any{"sub": "x"}, "département": "ventes"}),
		narrow:  issuer.Mint(map[string]any{"scope": "read", "aud": []string{"a", "b"}}),
		expired: issuer.Mint(map[string]any{"iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}),
		bound:   issuer.Mint(map[string]any{"cnf": map[string]any{"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}),
		away:    issuer.Mint(map[string]any{"iss": away}),
		foreign: issuer.Mint(map[string]any{"client_id": "of-nobody"}),
		revoked: issuer.Mint(nil),
	}
	asked.taken, asked.kept = worlds[""].revoke(t, asked.revoked), worlds["forgetful"].revoke(t, asked.revoked)
	asked.set = keySetTag(t, worlds[""])
	kept.err = errors.New("the disk is full")
	table := rows(asked)

	doc := described(t)
	for _, r := range table {
		t.Run(strings.TrimSpace(fmt.Sprintf("%s %s %d %s", promises[r.status], r.operation, r.status, r.name)), func(t *testing.T) {
			server := worlds[r.world].public
			if r.admin {
				server = worlds[r.world].admin
			}
			sent, answer, body := ask(t, server.URL, r.request)
			if answer.StatusCode != r.status {
				t.Fatalf("%s %s: got %d %s, want %d", r.request.method, r.request.target, answer.StatusCode, body, r.status)
			}
			holdAgainst(t, doc, r, sent, answer, body)
		})
	}
	t.Run("no status is described that no request gets", func(t *testing.T) {
		got := map[string]bool{}
		for _, r := range table {
			got[r.operation+" "+strconv.Itoa(r.status)] = true
		}
		for operation, o := range operations(doc) {
			for status := range o.Responses.Map() {
				if !got[operation+" "+status] {
					t.Errorf("%s: %s is described, and no request of the table gets it", operation, status)
				}
			}
		}
	})
}

func TestTheExampleOfExplainIsAnswered(t *testing.T) {
	_, dir := newIssuer(t)
	w := newWorld(t, dir, nil)
	operation := described(t).Paths.Value("/explain").Post
	example, err := json.Marshal(operation.RequestBody.Value.Content.Get("application/json").Example)
	must(t, err)
	want, _ := operation.Responses.Status(http.StatusOK).Value.Content.Get("application/json").Example.(map[string]any)
	_, answer, body := ask(t, w.admin.URL, jsonBody("/explain", string(example)).asApp())
	var got map[string]any
	must(t, json.Unmarshal(body, &got))
	for _, one := range []map[string]any{got, want} {
		delete(one, "at") // the one member that differs each time
	}
	if answer.StatusCode != http.StatusOK || !reflect.DeepEqual(got, want) {
		t.Errorf("ERR-08: got %d %s, want the example %v", answer.StatusCode, body, want)
	}
}

// keySetTag is the ETag of a world's own keys.
func keySetTag(t *testing.T, w *world) string {
	t.Helper()
	_, answer, _ := ask(t, w.public.URL, get("/jwks.json"))
	return answer.Header.Get("ETag")
}

// crowd is h while it serves as many as it does at once.
func crowd(t *testing.T, h http.Handler) http.Handler {
	release := make(chan struct{})
	entered := make(chan struct{}, 64)
	t.Cleanup(func() { close(release) })
	for range 4 {
		go h.ServeHTTP(&stuck{header: http.Header{}, entered: entered, release: release}, &http.Request{Method: http.MethodGet, Header: http.Header{}})
	}
	for range 4 {
		<-entered
	}
	return h
}

// stuck is a peer that reads nothing until it is released.
type stuck struct {
	header           http.Header
	entered, release chan struct{}
}

func (s *stuck) Header() http.Header { return s.header }
func (s *stuck) WriteHeader(int)     {}
func (s *stuck) Write(p []byte) (int, error) {
	select {
	case s.entered <- struct{}{}:
	default:
	}
	<-s.release
	return len(p), nil
}

// ask sends r and returns it as sent, with a body to read again.
func ask(t *testing.T, base string, r request) (*http.Request, *http.Response, []byte) {
	t.Helper()
	sent, err := http.NewRequestWithContext(t.Context(), r.method, base+r.target, strings.NewReader(r.body))
	must(t, err)
	sent.Header, sent.Host = r.header.Clone(), r.host
	if sent.Header == nil {
		sent.Header = http.Header{}
	}
	answer, err := http.DefaultClient.Do(sent)
	must(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	must(t, err)
	sent.Body = io.NopCloser(strings.NewReader(r.body))
	return sent, answer, body
}

// holdAgainst checks an answer, and a request that was granted, by the
// description.
func holdAgainst(t *testing.T, doc *openapi3.T, r row, sent *http.Request, answer *http.Response, body []byte) {
	t.Helper()
	method, path, _ := strings.Cut(r.operation, " ")
	item := doc.Paths.Value(path)
	if item == nil || item.GetOperation(method) == nil {
		t.Fatalf("%s is not described", r.operation)
	}
	operation := item.GetOperation(method)
	input := &openapi3filter.RequestValidationInput{
		Request: sent, PathParams: pathParameters(path, r.request.target),
		Route:   &routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: operation},
		Options: &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if r.status < 300 {
		if err := openapi3filter.ValidateRequest(t.Context(), input); err != nil {
			t.Errorf("the request was granted and is not as described: %v", err)
		}
	}
	// Each line of a header is to be as described; the filter looks at one.
	lines := max(1, len(answer.Header.Values("WWW-Authenticate")))
	for line := range lines {
		header := answer.Header.Clone()
		if challenges := header.Values("WWW-Authenticate"); len(challenges) > 0 {
			header["Www-Authenticate"] = challenges[line : line+1]
		}
		response := &openapi3filter.ResponseValidationInput{
			RequestValidationInput: input, Status: answer.StatusCode, Header: header, Body: io.NopCloser(bytes.NewReader(body)), Options: input.Options,
		}
		if err := openapi3filter.ValidateResponse(t.Context(), response); err != nil {
			t.Errorf("the answer is not as described: %v\n%v\n%s", err, answer.Header, body)
		}
	}
	response := operation.Responses.Status(answer.StatusCode)
	if response == nil {
		return // said above
	}
	if len(response.Value.Content) == 0 && len(body) > 0 {
		t.Errorf("the answer has a body that is not described: %s", body)
	}
	known := map[string]bool{"Date": true, "Content-Type": true, "Content-Length": true}
	for name := range response.Value.Headers {
		known[http.CanonicalHeaderKey(name)] = true
	}
	for name := range answer.Header {
		if !known[name] {
			t.Errorf("the answer has a header that is not described: %s: %s", name, answer.Header.Get(name))
		}
	}
}

// pathParameters reads the values of a described path's parameters out of a
// target; the last one takes the rest.
func pathParameters(described, target string) map[string]string {
	target, _, _ = strings.Cut(target, "?")
	names := strings.Split(described, "/")
	values := strings.SplitN(target, "/", len(names))
	found := map[string]string{}
	for n, name := range names {
		if inner, ok := strings.CutPrefix(name, "{"); ok && n < len(values) {
			found[strings.TrimSuffix(inner, "}")] = values[n]
		}
	}
	return found
}

// operations are all that are described, by method and path.
func operations(doc *openapi3.T) map[string]*openapi3.Operation {
	all := map[string]*openapi3.Operation{}
	for path, item := range doc.Paths.Map() {
		for method, o := range item.Operations() {
			all[method+" "+path] = o
		}
	}
	return all
}

func TestAnswersOfOursHaveNoOtherMembers(t *testing.T) {
	doc := described(t)
	for name, text := range map[string]string{
		"Revocation":  `{"id":"0f1e2d3c4b5a69788796a5b4c3d2e1f0","kind":"token","iss":"i","token_ref":"0f1e2d3c4b5a6978","created":"2026-11-25T09:30:00Z","expires":"2026-11-25T09:30:00Z","by":"c"}`,
		"Revocations": `{"revocations":[],"total":0,"complete":true,"current":true,"lag_seconds":0}`, "RevocationError": `{"error":"unauthorized_client"}`,
		"Withdrawal": `{"issuer":"corp","all":true}`, "Inactive": `{"active":false}`, "Transformed": `{"active":true,"iss":"i","exp":1,"claims":{}}`,
		"Profiled": `{"active":true,"profile":"p","iss":"i","exp":1,"claims":{},"assertion":"a.b.c","expires_in":1}`, "PublicKeys": `{"keys":[{"alg":"ES256","kid":"N9oUrEWo01Z0NLL9T_rcLvvyxqwAwJq47WxE-cUEwRE","use":"sig","kty":"EC"}]}`,
		"WSO2Error":        `{"code":"900901","message":"m","description":"d"}`,
		"UnavailableError": `{"error":"temporarily_unavailable"}`, "InvalidRequest": `{"error":"invalid_request"}`,
	} {
		var value map[string]any
		must(t, json.Unmarshal([]byte(text), &value))
		schema := doc.Components.Schemas[name].Value
		if err := schema.VisitJSON(value, openapi3.EnableJSONSchema2020()); err != nil {
			t.Errorf("schema %s refuses %s: %v", name, text, err)
		}
		value["x"] = true
		if err := schema.VisitJSON(value, openapi3.EnableJSONSchema2020()); err == nil {
			t.Errorf("schema %s: takes %v, want it refused for the member x", name, value)
		}
	}
}

// TestEveryRouteIsDescribedAndEveryDescribedOneIsThere compares with the routes
// as package httpapi writes them; the gateways' paths, which no router has, are
// asked.
func TestEveryRouteIsDescribedAndEveryDescribedOneIsThere(t *testing.T) {
	doc := described(t)
	got := routes(t, "../internal/httpapi")
	for _, path := range []string{"/auth", "/auth/{policy}", "/ext-authz/{policy}", "/ext-authz/{policy}/{tail}"} {
		got = append(got, "GET "+path, "POST "+path)
	}
	slices.Sort(got)
	want := slices.Sorted(maps.Keys(operations(doc)))
	for _, operation := range got {
		if !slices.Contains(want, operation) {
			t.Errorf("%s is routed and not described", operation)
		}
	}
	for _, operation := range want {
		if !slices.Contains(got, operation) {
			t.Errorf("%s is described and not routed", operation)
		}
	}
}

// routes reads the calls that route in a package: `x.GET("/path", …)`.
func routes(t *testing.T, dir string) (found []string) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.go")
	must(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue // what tests route is none of the service's
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		must(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			selector, ok := call.Fun.(*ast.SelectorExpr)
			literal, isText := call.Args[0].(*ast.BasicLit)
			if !ok || !isText || !strings.HasPrefix(literal.Value, `"/`) {
				return true
			}
			path, err := strconv.Unquote(literal.Value)
			must(t, err)
			switch method := selector.Sel.Name; method {
			case "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS":
				found = append(found, method+" "+template(path))
			case "Any", "Handle", "Match", "Group", "HandleFunc":
				t.Errorf("%s(%q): this test reads routes by one method each", method, path)
			}
			return true
		})
	}
	if len(found) < 10 {
		t.Fatalf("got %d routes in %s, want to find them all: %v", len(found), dir, found)
	}
	return found
}

// template spells a router's path as a description does.
func template(path string) string {
	segments := strings.Split(path, "/")
	for n, s := range segments {
		if name := strings.TrimLeft(s, ":*"); name != s {
			segments[n] = "{" + name + "}"
		}
	}
	return strings.Join(segments, "/")
}

func TestGatewaysAreAnsweredTheSameForEveryMethod(t *testing.T) {
	issuer, dir := newIssuer(t)
	w := newWorld(t, dir, nil)
	doc := described(t)
	for _, method := range []string{"HEAD", "PUT", "DELETE", "OPTIONS", "PROPFIND", "QUERY"} {
		for described, target := range map[string]string{
			"/auth": "/auth", "/auth/{policy}": "/auth/default", "/ext-authz/{policy}": "/ext-authz/default", "/ext-authz/{policy}/{tail}": "/ext-authz/default/a/b?scope=x",
		} {
			r := row{operation: "GET " + described, status: 200, request: request{method: method, target: target}.bearing(issuer.Mint(nil))}
			sent, answer, body := ask(t, w.public.URL, r.request)
			if answer.StatusCode != r.status {
				t.Errorf("%s %s: got %d, want %d", method, target, answer.StatusCode, r.status)
				continue
			}
			holdAgainst(t, doc, r, sent, answer, body)
		}
	}
}
