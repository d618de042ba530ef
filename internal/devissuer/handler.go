package devissuer

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The credentials of `introspectd dev`; its manual prints them, so there is
// nothing here to compare in constant time.
const (
	clientID     = "dev"
	clientSecret = "dev-secret"
)

const (
	maxBody     = 64 << 10
	maxLifetime = 24 * time.Hour
)

// Handler serves the issuer under the path of its URL: POST token,
// GET jwks.json and GET .well-known/openid-configuration.
//
// A request for another Host is answered 421: a page in a browser that has
// rebound its own name to this address must not get tokens.
func (i *Issuer) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+i.path+"/token", i.token)
	mux.HandleFunc("GET "+i.path+"/jwks.json", i.jwks)
	mux.HandleFunc("GET "+i.path+"/.well-known/openid-configuration", i.discovery)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Host, i.host) {
			http.Error(w, "this issuer answers to "+i.host+" only", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// Requests is how often /jwks.json was asked for, outages included.
func (i *Issuer) Requests() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.requests
}

func (i *Issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	base := strings.TrimSuffix(i.url, "/")
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                i.url,
		"jwks_uri":                              base + "/jwks.json",
		"token_endpoint":                        base + "/token",
		"grant_types_supported":                 []string{"client_credentials"},
		"response_types_supported":              []string{"none"},
		"subject_types_supported":               []string{"public"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
	})
}

// token answers the client credentials grant (RFC 6749 section 4.4).
func (i *Issuer) token(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	form, refused := readForm(w, r)
	if refused != nil {
		refused.write(w)
		return
	}
	if refused := authenticate(r, form); refused != nil {
		refused.write(w)
		return
	}
	claims, lifetime, refused := wanted(form)
	if refused != nil {
		refused.write(w)
		return
	}
	answer := map[string]any{"access_token": i.Mint(claims), "token_type": "Bearer"}
	if lifetime > 0 {
		answer["expires_in"] = int64(lifetime / time.Second)
	}
	if scope := form.Get("scope"); scope != "" {
		answer["scope"] = scope
	}
	writeJSON(w, http.StatusOK, answer)
}

// refusal is an error answer of RFC 6749 section 5.2.
type refusal struct{ code, description string }

func invalidRequest(description string) *refusal { return &refusal{"invalid_request", description} }

func (e *refusal) write(w http.ResponseWriter) {
	status := http.StatusBadRequest
	if e.code == "invalid_client" {
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", `Basic realm="dev"`)
	}
	writeJSON(w, status, map[string]any{"error": e.code, "error_description": e.description})
}

func readForm(w http.ResponseWriter, r *http.Request) (url.Values, *refusal) {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return nil, invalidRequest("expected application/x-www-form-urlencoded")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		return nil, invalidRequest("expected a form of at most 64 KiB")
	}
	for _, values := range r.PostForm {
		if len(values) > 1 { // RFC 6749 section 3.2
			return nil, invalidRequest("a parameter is given twice")
		}
	}
	return r.PostForm, nil
}

func authenticate(r *http.Request, form url.Values) *refusal {
	id, secret := form.Get("client_id"), form.Get("client_secret")
	if user, password, ok := r.BasicAuth(); ok {
		if secret != "" {
			return invalidRequest("two ways of client authentication")
		}
		// RFC 6749 section 2.3.1 encodes both, and some clients write - as %2D.
		id, _ = url.QueryUnescape(user)
		secret, _ = url.QueryUnescape(password)
	}
	if id != clientID || secret != clientSecret {
		return &refusal{"invalid_client", "the client is dev with the secret dev-secret"}
	}
	return nil
}

// wanted is what the form asks to have in the token, and how long that token
// lives; 0 when the form sets exp itself.
func wanted(form url.Values) (map[string]any, time.Duration, *refusal) {
	switch form.Get("grant_type") {
	case "":
		return nil, 0, invalidRequest("grant_type is missing")
	case "client_credentials":
	default:
		return nil, 0, &refusal{"unsupported_grant_type", "only client_credentials is supported"}
	}
	lifetime := time.Hour
	if s := form.Get("lifetime"); s != "" {
		var err error
		lifetime, err = time.ParseDuration(s)
		if err != nil || lifetime < time.Second || lifetime > maxLifetime {
			return nil, 0, invalidRequest("lifetime: expected a time with a unit from 1s to 24h")
		}
	}
	claims := map[string]any{"exp": time.Now().Add(lifetime).Unix()}
	if audience := form.Get("audience"); audience != "" {
		claims["aud"] = audience
	}
	if scope := form.Get("scope"); scope != "" {
		claims["scope"] = scope
	}
	own, err := object(form.Get("claims"))
	if err != nil {
		return nil, 0, invalidRequest("claims: expected one JSON object")
	}
	if _, set := own["exp"]; set {
		lifetime = 0
	}
	maps.Copy(claims, own)
	return claims, lifetime, nil
}

// object decodes a JSON object with its numbers as they were written; an empty
// text is an empty object.
func object(s string) (map[string]any, error) {
	if s == "" {
		return nil, nil
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var members map[string]any
	if err := d.Decode(&members); err != nil {
		return nil, err
	}
	if members == nil {
		return nil, errors.New("null")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("text after the object")
	}
	return members, nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text(v)) // a caller that hung up is no fault of ours
}
