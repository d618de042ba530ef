package extauthz

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"introspectd/internal/httpapi"
)

// forwarded reads a client's request out of what Envoy tells of it.
func forwarded(a *auth.AttributeContext) httpapi.Forwarded {
	f := httpapi.Forwarded{Method: a.GetRequest().GetHttp().GetMethod(), Thumbprint: thumbprint(a.GetSource().GetCertificate())}
	f.Policy, f.Misread = policyOf(a.GetContextExtensions())
	for name, value := range headers(a.GetRequest().GetHttp()) {
		if strings.EqualFold(name, "Authorization") {
			f.Authorization = append(f.Authorization, value)
		}
	}
	return f
}

// thumbprint is that of the certificate in URL-encoded PEM which the client
// showed to Envoy (RFC 8705 section 3.1); "" for anything but exactly one. Envoy
// sends it where include_peer_certificate is set, out of its own connection: no
// header of a client gets there.
func thumbprint(encoded string) string {
	text, err := url.PathUnescape(encoded) // a plus sign is one
	if err != nil {
		return ""
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return ""
	}
	sum := sha256.Sum256(block.Bytes)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// policyOf returns the name of the policy that the route demands, and what is
// wrong with how it says so.
func policyOf(extensions map[string]string) (name, misread string) {
	name = "default"
	for key, value := range extensions {
		if key != "policy" {
			return "", "context_extensions take the key policy alone"
		}
		name = value
	}
	return name, ""
}

// headers yields the client's headers: by name, where Envoy has joined the
// lines of one name by commas (a joined Authorization is no b64token), and line
// by line, where it is set to encode_raw_headers.
func headers(r *auth.AttributeContext_HttpRequest) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for name, value := range r.GetHeaders() {
			if !yield(name, value) {
				return
			}
		}
		for _, line := range r.GetHeaderMap().GetHeaders() {
			value := line.GetValue()
			if raw := line.GetRawValue(); len(raw) > 0 {
				value = string(raw)
			}
			if !yield(line.GetKey(), value) {
				return
			}
		}
	}
}

// allowed has Envoy replace every identity header, and remove what would pass
// for one.
func allowed(ruling *httpapi.Ruling, sent *auth.AttributeContext_HttpRequest) *auth.CheckResponse {
	ok := &auth.OkHttpResponse{}
	named, folded, remove := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for header, value := range ruling.Identity() {
		name := strings.ToLower(header)
		named[name], folded[fold(name)] = true, true
		if value == "" {
			remove[name] = true
			continue
		}
		ok.Headers = append(ok.Headers, overwrite(name, value))
	}
	for name := range named {
		remove[fold(name)], remove[strings.ReplaceAll(name, "-", "_")] = true, true
	}
	// Of the mixed spellings, those that were sent.
	for name := range headers(sent) {
		if folded[fold(name)] {
			remove[strings.ToLower(name)] = true
		}
	}
	for _, header := range ok.Headers {
		delete(remove, header.Header.Key) // Envoy removes after it has set
	}
	for _, name := range ruling.Remove() {
		remove[name] = true
	}
	ok.HeadersToRemove = slices.Sorted(maps.Keys(remove))
	return &auth.CheckResponse{
		Status:          &rpc.Status{Code: int32(codes.OK)},
		HttpResponse:    &auth.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: metadataOf(ruling),
	}
}

// fold spells a name as backends read it that tell apart only letters and
// digits: CGI, WSGI and PHP make X_Auth_Subject and X.Auth.Subject of one
// variable with X-Auth-Subject.
func fold(name string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, strings.ToLower(name))
}

// overwrite is a header that replaces every one of its name. Envoy appends
// unless the action says so; the older field append would win over it.
func overwrite(name, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{
		Header:       &core.HeaderValue{Key: name, Value: value},
		AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// metadataOf is what Envoy may log or match by: claims as the token has them.
func metadataOf(ruling *httpapi.Ruling) *structpb.Struct {
	fields := map[string]*structpb.Value{}
	for claim, value := range ruling.Claims() {
		fields[claim] = structpb.NewStringValue(value)
	}
	return &structpb.Struct{Fields: fields}
}

// denied has Envoy answer the client itself.
func denied(ruling *httpapi.Ruling) *auth.CheckResponse {
	if ruling.Status == 0 {
		ruling = &httpapi.Ruling{Status: http.StatusInternalServerError, Code: "server_error"}
	}
	answer := &auth.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode(ruling.Status)},
		Body:   string(ruling.Body()),
	}
	for header, value := range ruling.Headers() {
		answer.Headers = append(answer.Headers, overwrite(header, value))
	}
	return &auth.CheckResponse{
		Status:       &rpc.Status{Code: int32(codeOf(ruling.Status))},
		HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: answer},
	}
}

// codeOf is never OK: that alone would let a request pass.
func codeOf(status int) codes.Code {
	switch status {
	case http.StatusBadRequest:
		return codes.InvalidArgument
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusServiceUnavailable:
		return codes.Unavailable
	}
	return codes.Internal
}
