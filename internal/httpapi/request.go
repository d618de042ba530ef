package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"introspectd/internal/callers"
	"introspectd/internal/claims"
)

// maxRequest is the size of a request's body in bytes.
const maxRequest = 64 << 10

// problem is an answer that refuses a request for what the request is, not for
// what its token is. Its description is fixed text.
type problem struct {
	status      int
	code        string
	description string
	headers     [][2]string
}

func (p *problem) with(header, value string) *problem {
	p.headers = append(p.headers, [2]string{header, value})
	return p
}

func badRequest(description string) *problem {
	return &problem{status: http.StatusBadRequest, code: "invalid_request", description: description}
}

// readForm reads the parameters of a POST in the order of the contract: media
// type, size, form. With orJSON a JSON object will do too. The token may lie in
// space, and there is room for the answer behind it.
func readForm(w http.ResponseWriter, r *http.Request, space *[]byte, orJSON bool) (p parameters, bad *problem) {
	isJSON, bad := mediaType(r, orJSON)
	if bad != nil {
		leaveBody(w, r)
		return p, bad
	}
	body, bad := readBody(w, r, space)
	if bad != nil {
		return p, bad
	}
	p.profiled, p.room = orJSON, (*space)[len(*space):]
	if r.URL.RawQuery != "" {
		if err := eachInQuery(r.URL.RawQuery, refuseCredential); err != nil {
			return p, badRequest(err.Error())
		}
	}
	if isJSON {
		return p, p.readJSON(body)
	}
	if err := eachParameter(body, p.take); err != nil {
		return p, badRequest(err.Error())
	}
	return p, nil
}

// mediaType checks what the body is declared to be. Parameters such as charset
// say nothing: forms are UTF-8.
func mediaType(r *http.Request, orJSON bool) (isJSON bool, bad *problem) {
	for _, encoding := range r.Header["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return false, unsupported("the body is encoded").with("Accept-Encoding", "identity")
		}
	}
	if types := r.Header["Content-Type"]; len(types) == 1 {
		kind, _, _ := strings.Cut(types[0], ";")
		switch kind = strings.TrimSpace(kind); {
		case kind == formType, strings.EqualFold(kind, formType): // the usual spelling first
			return false, nil
		case orJSON && strings.EqualFold(kind, jsonType):
			return true, nil
		}
	}
	accepted := formType
	if orJSON {
		accepted += ", " + jsonType
	}
	return false, unsupported("the media type is not supported").with("Accept", accepted)
}

const formType, jsonType = "application/x-www-form-urlencoded", "application/json"

func unsupported(description string) *problem {
	return &problem{status: http.StatusUnsupportedMediaType, code: "invalid_request", description: description}
}

// readBody reads the body: if its size is known into space, which then ends with it,
// else beside it, and space is left empty.
func readBody(w http.ResponseWriter, r *http.Request, space *[]byte) ([]byte, *problem) {
	if r.ContentLength > maxRequest {
		leaveBody(w, r)
		return nil, tooLarge()
	}
	*space = (*space)[:0]
	if r.ContentLength < 0 {
		return readUndeclared(w, r)
	}
	*space = slices.Grow(*space, int(r.ContentLength))[:r.ContentLength]
	if _, err := io.ReadFull(r.Body, *space); err != nil {
		return nil, unreadable()
	}
	return *space, nil
}

// readUndeclared reads a body whose size isn't known before.
func readUndeclared(w http.ResponseWriter, r *http.Request) ([]byte, *problem) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		leaveBody(w, r)
		return nil, tooLarge()
	case err != nil:
		return nil, unreadable()
	}
	return body, nil
}

func tooLarge() *problem {
	return &problem{status: http.StatusRequestEntityTooLarge, code: "invalid_request", description: "the body is too large"}
}

func unreadable() *problem { return badRequest("the body can't be read") }

// leaveBody is for answers that are given without the body's having been read:
// over HTTP/1 net/http would wait for it before it sends them, to keep the
// connection.
func leaveBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
}

// readJSON reads the JSON form of a request: no member but token, profile and
// output, each a string, none twice.
func (p *parameters) readJSON(body []byte) *problem {
	set, err := claims.Decode(body)
	if err != nil {
		return badRequest("the body is not one JSON object")
	}
	for _, m := range set {
		value, ok := claims.String(m.Value)
		if !ok || m.Name != "token" && m.Name != "profile" && m.Name != "output" {
			return badRequest("expected the members token, profile and output, all strings")
		}
		_ = p.take([]byte(m.Name), []byte(value)) // names are unique in a set
	}
	return nil
}

// credentials are what a request shows of its caller.
func (p *parameters) credentials(r *http.Request) callers.Credentials {
	return callers.Credentials{
		Authorization: r.Header["Authorization"],
		ClientID:      p.clientID.value, HasClientID: p.clientID.sent,
		ClientSecret: p.clientSecret.value, HasClientSecret: p.clientSecret.sent,
		ClientAssertion: p.clientAssertion.value, HasClientAssertion: p.clientAssertion.sent,
		Peer: r.RemoteAddr,
	}
}

// errorBody is the JSON of an OAuth error (RFC 6749 section 5.2): ASCII
// without quotes or backslashes, and nothing of the request.
func errorBody(code, description string) []byte {
	text, err := json.Marshal(struct {
		Code        string `json:"error"`
		Description string `json:"error_description,omitempty"`
	}{code, description})
	if err != nil {
		return []byte(`{"error":"server_error"}`)
	}
	return text
}
