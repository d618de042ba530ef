package extauthz_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"introspectd/internal/httpapi"
	"introspectd/internal/listen"
	"introspectd/internal/revoke"
)

// want holds a refusal against what the client is to be answered.
func want(t *testing.T, got *auth.CheckResponse, code int, body, challenge string) {
	t.Helper()
	d := got.GetDeniedResponse()
	if d == nil || codes.Code(got.GetStatus().GetCode()) == codes.OK {
		t.Fatalf("got %v, want a denied_response", got)
	}
	lines := map[string]string{}
	for _, h := range d.GetHeaders() {
		if !overwrites(h) {
			t.Errorf("%v: want it to overwrite", h)
		}
		lines[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	if int(d.GetStatus().GetCode()) != code || d.GetBody() != body || lines["WWW-Authenticate"] != challenge {
		t.Errorf("got %d %s %q, want %d %s %q", d.GetStatus().GetCode(), d.GetBody(), lines["WWW-Authenticate"], code, body, challenge)
	}
	if lines["Cache-Control"] != "no-store" || lines["Content-Type"] != "application/json" || (lines["Retry-After"] != "") != (code == 503) {
		t.Errorf("ERR-03 ERR-06 ERR-08: got %v", lines)
	}
	if got.GetDynamicMetadata() != nil {
		t.Errorf("got dynamic metadata on a refusal: %v", got.GetDynamicMetadata())
	}
}

// overwrites says whether every Envoy replaces a header: the field append, which
// is older, wins over the action where it is there.
func overwrites(h *core.HeaderValueOption) bool {
	m := h.ProtoReflect()
	return !m.Has(m.Descriptor().Fields().ByName("append")) && h.GetAppendAction() == core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
}

const (
	plain   = `Bearer realm="introspectd"`
	invalid = plain + `, error="invalid_token", error_description="The access token is invalid"`
)

// arrives is what a backend gets, by Envoy's own order: overwrite, then remove.
func arrives(t *testing.T, got *auth.CheckResponse, sent map[string]string) map[string]string {
	t.Helper()
	if got.GetOkResponse() == nil || codes.Code(got.GetStatus().GetCode()) != codes.OK {
		t.Fatalf("got %v, want an ok_response", got)
	}
	headers := map[string]string{}
	for name, value := range sent {
		headers[strings.ToLower(name)] = value
	}
	for _, h := range got.GetOkResponse().GetHeaders() {
		if !overwrites(h) || h.GetHeader().GetValue() == "" {
			t.Errorf("%v: want a value that overwrites", h)
		}
		headers[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	for _, name := range got.GetOkResponse().GetHeadersToRemove() {
		delete(headers, name)
	}
	return headers
}

func TestAllowed(t *testing.T) {
	wide := policy("wide")
	wide.RemoveHeaders = []string{"Authorization", "DPoP"}
	wide.Headers = map[string]string{"X-Auth-Subject": "sub", "X_Tenant": "tenant", "X-Groups": "groups"}
	f := newFixture(t, func(s *setup) { s.policies = append(s.policies, wide) })

	t.Run("ATH-01 every identity header overwrites, and what is empty is removed", func(t *testing.T) {
		for range 2 {
			got := f.check(request(bearer(mint(members{"client_id": nil}))...))
			headers := arrives(t, got, nil)
			for name, value := range map[string]string{"x-auth-subject": "alice", "x-auth-issuer": corpIss, "x-auth-scope": "read write"} {
				if headers[name] != value {
					t.Errorf("%s: got %q, want %q", name, headers[name], value)
				}
			}
			for _, name := range []string{"x-auth-username", "x-auth-client-id", "x_auth_subject", "x_auth_username", "x_auth_scope", "x_auth_issuer", "x_auth_client_id"} {
				if !slices.Contains(got.GetOkResponse().GetHeadersToRemove(), name) {
					t.Errorf("headers_to_remove: got %q, want %s among them", got.GetOkResponse().GetHeadersToRemove(), name)
				}
			}
		}
	})
	t.Run("GW-03 no spelling of an identity header is the client's", func(t *testing.T) {
		for _, spoofed := range []string{
			"x-auth-subject", "X-Auth-Subject", "X-AUTH-SUBJECT", "x_auth_subject", "X_Auth_Subject", "x-auth_subject", "x_auth-subject",
			"x-auth-username", "X_Auth_Username", "x-auth_username", "x_auth-client_id", "X-Auth_Client-Id", "x.auth.subject",
		} {
			for _, r := range []*auth.CheckRequest{request(append(bearer(mint(members{"client_id": nil})), spoofed, "root")...), raw(append(bearer(mint(members{"client_id": nil})), spoofed, "root")...)} {
				for name, value := range arrives(t, f.check(r), map[string]string{spoofed: "root", "x-other": "kept"}) {
					if value == "root" {
						t.Errorf("%s: the backend gets root as %s", spoofed, name)
					}
				}
			}
		}
		got := arrives(t, f.check(request(bearer(mint(nil))...)), map[string]string{"x-other": "kept", "x_other": "kept"})
		if got["x-other"] != "kept" || got["x_other"] != "kept" {
			t.Errorf("got %v, want the headers that are none of ours kept", got)
		}
	})
	t.Run("GW-04 GW-05 GW-06 a policy's own headers, and what it keeps from backends", func(t *testing.T) {
		got := f.check(on(request(bearer(mint(members{"tenant": "blue", "groups": []string{"a", "b"}}))...), "policy", "wide"))
		headers := arrives(t, got, map[string]string{"authorization": "Bearer x", "dpop": "x", "x-tenant": "red"})
		if want := (map[string]string{"x-auth-subject": "alice", "x_tenant": "blue", "x-groups": "a b"}); len(headers) != 3 || headers["x_tenant"] != want["x_tenant"] || headers["x-groups"] != want["x-groups"] {
			t.Errorf("got %v, want %v", headers, want)
		}
		headers = arrives(t, f.check(on(request(bearer(mint(members{"tenant": "a\r\nx-admin: 1"}))...), "policy", "wide")), map[string]string{"x_tenant": "red"})
		if _, there := headers["x_tenant"]; there || headers["x-admin"] != "" {
			t.Errorf("got %v, want neither x_tenant nor x-admin", headers)
		}
	})
	t.Run("the metadata holds four claims at most, of those that the policy shows", func(t *testing.T) {
		got := f.check(request(bearer(mint(members{"username": "al", "email": "a@b"}))...)).GetDynamicMetadata().AsMap()
		if len(got) != 4 || got["sub"] != "alice" || got["iss"] != corpIss || got["client_id"] != "app" || got["scope"] != "read write" {
			t.Errorf("got %v", got)
		}
		got = f.check(on(request(bearer(mint(nil))...), "policy", "wide")).GetDynamicMetadata().AsMap()
		if len(got) != 1 || got["sub"] != "alice" {
			t.Errorf("got %v, want sub alone", got)
		}
	})
	t.Run("ATH-04 a header in odd case, a scheme in odd case", func(t *testing.T) {
		arrives(t, f.check(request("AUTHORIZATION", "bEARER "+mint(nil))), nil)
		arrives(t, f.check(raw("Authorization", "Bearer   "+mint(nil))), nil)
	})
	t.Run("ATH-11 any method", func(t *testing.T) {
		for _, method := range []string{"OPTIONS", "HEAD", "TRACE", "PROPFIND", ""} {
			r := request(bearer(mint(nil))...)
			r.Attributes.Request.Http.Method = method
			arrives(t, f.check(r), nil)
			r = request()
			r.Attributes.Request.Http.Method = method
			want(t, f.check(r), 401, `{"error":"unauthorized"}`, plain)
		}
	})
}

func TestRefused(t *testing.T) {
	f := newFixture(t)
	good := mint(nil)
	for _, row := range []struct {
		name            string
		request         *auth.CheckRequest
		code            int
		body, challenge string
	}{
		{"ATH-02 no token", request(), 401, "unauthorized", plain},
		{"ATH-02 no request at all", &auth.CheckRequest{}, 401, "unauthorized", plain},
		{"ATH-02 a TCP connection", &auth.CheckRequest{Attributes: &auth.AttributeContext{Request: &auth.AttributeContext_Request{}}}, 401, "unauthorized", plain},
		{"ATH-03 another scheme", request("authorization", "Basic eDp5"), 401, "unauthorized", plain},
		{"ATH-03 the second of two joined lines", request("authorization", "Basic eDp5,Bearer "+good), 401, "unauthorized", plain},
		{"ATH-04 two lines, joined by Envoy", request("authorization", "Bearer "+good+",Bearer "+good), 400, "invalid_request", plain + `, error="invalid_request"`},
		{"ATH-04 two lines, raw", raw("authorization", "Bearer "+good, "Authorization", "Bearer "+good), 400, "invalid_request", plain + `, error="invalid_request"`},
		{"ATH-04 two lines, one empty", raw("authorization", "", "authorization", "Bearer "+good), 400, "invalid_request", plain + `, error="invalid_request"`},
		{"ATH-04 two spellings of the name", request("authorization", "Bearer "+good, "Authorization", "Bearer "+good), 400, "invalid_request", plain + `, error="invalid_request"`},
		{"ATH-04 no b64token", request("authorization", "Bearer a b"), 400, "invalid_request", plain + `, error="invalid_request"`},
		{"ATH-04 a line feed", request(bearer(good + "\n")...), 400, "invalid_request", plain + `, error="invalid_request"`},
		{"ATH-05 garbage", request(bearer("x")...), 401, "invalid_token", invalid},
		{"ATH-05 too long a token", request(bearer(strings.Repeat("A", 300<<10))...), 401, "invalid_token", invalid},
		{"ATH-05 expired", request(bearer(mint(members{"exp": time.Now().Unix() - 100}))...), 401, "invalid_token", plain + `, error="invalid_token", error_description="The access token expired"`},
		{"ATH-05 a sub that can't be shown", request(bearer(mint(members{"sub": "a\r\nb"}))...), 401, "invalid_token", invalid},
		{"ATH-12 a bound token", request(bearer(mint(members{"cnf": members{"x5t#S256": "t"}}))...), 401, "invalid_token", invalid},
		{"ATH-06 a scope is missing", on(request(bearer(good)...), "policy", "strict"), 403, "insufficient_scope", plain + `, error="insufficient_scope", scope="read admin"`},
		{"ATH-08 keys can't be had", request(bearer(dark().Mint(members{"sub": "x"}))...), 503, "temporarily_unavailable", ""},
		{"ATH-09 no such policy", on(request(bearer(good)...), "policy", "nothing"), 503, "temporarily_unavailable", ""},
		{"ATH-09 an empty policy", on(request(bearer(good)...), "policy", ""), 503, "temporarily_unavailable", ""},
		{"ATH-09 a policy in another case", on(request(bearer(good)...), "policy", "Default"), 503, "temporarily_unavailable", ""},
		{"ATH-09 an unknown key", on(request(bearer(good)...), "Policy", "strict"), 503, "temporarily_unavailable", ""},
		{"ATH-09 a key more", on(request(bearer(good)...), "policy", "default", "scope", "admin"), 503, "temporarily_unavailable", ""},
		{"R12 a token elsewhere", request("cookie", "access_token="+good, "x-forwarded-access-token", good, "proxy-authorization", "Bearer "+good, ":path", "/?access_token="+good), 401, "unauthorized", plain},
		{"GW-01 the client's X-Introspectd-Policy", on(request("x-introspectd-policy", "default", "authorization", "Bearer "+good), "policy", "strict"), 403, "insufficient_scope", plain + `, error="insufficient_scope", scope="read admin"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			for range 2 {
				want(t, f.check(row.request), row.code, `{"error":"`+row.body+`"}`, row.challenge)
			}
		})
	}
	t.Run("ATH-05 revoked", func(t *testing.T) {
		token := mint(members{"jti": "j1"})
		arrives(t, f.check(request(bearer(token)...)), nil)
		if _, err := f.revocations.Add(f.limited(), revoke.Revocation{
			Kind: revoke.JTI, IDs: []revoke.ID{revoke.Of(revoke.JTI, corpIss, "j1")}, Issuer: corpIss, Value: "j1", Expires: time.Now().Add(time.Hour), By: "test",
		}); err != nil {
			t.Fatal(err)
		}
		want(t, f.check(request(bearer(token)...)), 401, `{"error":"invalid_token"}`, invalid)
	})
	t.Run("ATH-09 without a policy named default", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.policies = s.policies[1:] })
		want(t, f.check(request(bearer(good)...)), 503, `{"error":"temporarily_unavailable"}`, "")
	})
	t.Run("a message beyond 1 MiB is an error, not an answer", func(t *testing.T) {
		_, err := auth.NewAuthorizationClient(f.dial()).Check(f.limited(), request("x", strings.Repeat("x", 1<<20)))
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("got %v, want ResourceExhausted", err)
		}
	})
	t.Run("nothing else is served", func(t *testing.T) {
		if err := f.dial().Invoke(f.limited(), "/envoy.service.auth.v2.Authorization/Check", &auth.CheckRequest{}, &auth.CheckResponse{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("got %v, want Unimplemented", err)
		}
	})
}

// A token that is bound to a certificate passes with that one alone.
func TestTokensBoundToACertificate(t *testing.T) {
	f := newFixture(t)
	mine, _ := issue(t, "mine", nil, nil)
	other, _ := issue(t, "other", nil, nil)
	sum := sha256.Sum256(mine.Raw)
	mark := base64.RawURLEncoding.EncodeToString(sum[:])
	encoded := func(kind string, all ...*x509.Certificate) string {
		var text strings.Builder
		for _, c := range all {
			_ = pem.Encode(&text, &pem.Block{Type: kind, Bytes: c.Raw})
		}
		return strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D").Replace(text.String())
	}
	bound := mint(members{"cnf": members{"x5t#S256": mark}})
	for _, row := range []struct {
		name, token, certificate string
		allowed                  bool
	}{
		{"MTL-02 the certificate that it is bound to", bound, encoded("CERTIFICATE", mine), true},
		{"MTL-02 another", bound, encoded("CERTIFICATE", other), false},
		{"MTL-02 none", bound, "", false},
		{"MTL-02 two", bound, encoded("CERTIFICATE", mine, other), false},
		{"MTL-02 no certificate but its bytes", bound, encoded("PUBLIC KEY", mine), false},
		{"MTL-02 the thumbprint itself", bound, mark, false},
		{"MTL-02 bad encoding", bound, encoded("CERTIFICATE", mine) + "%", false},
		{"MTL-04 bound to a DPoP key as well", mint(members{"cnf": members{"x5t#S256": mark, "jkt": "k"}}), encoded("CERTIFICATE", mine), false},
		{"MTL-04 bound to something else", mint(members{"cnf": members{"jkt": mark}}), encoded("CERTIFICATE", mine), false},
		{"MTL-04 bound to an empty thumbprint", mint(members{"cnf": members{"x5t#S256": ""}}), "", false},
		{"a bearer token, with a certificate", mint(nil), encoded("CERTIFICATE", other), true},
	} {
		t.Run(row.name, func(t *testing.T) {
			for range 2 {
				r := request(append(bearer(row.token), "x-forwarded-client-cert", "Hash="+hex.EncodeToString(sum[:]), "client-cert", ":AA==:")...)
				r.Attributes.Source.Certificate = row.certificate
				if got := f.check(r); row.allowed {
					arrives(t, got, nil)
				} else {
					want(t, got, 401, `{"error":"invalid_token"}`, invalid)
				}
			}
		})
	}
}

func TestWhoMayAsk(t *testing.T) {
	good := mint(nil)
	basic := func(password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("gateway:"+password))
	}
	f := newFixture(t, func(s *setup) { s.allow = []string{"10.0.0.0/8", "unix"} })

	t.Run("AUT-06 the peer of the call decides, not what it tells of the client", func(t *testing.T) {
		r := request(bearer(good)...)
		r.Attributes.Source.Address.GetSocketAddress().Address = "10.1.2.3"
		want(t, f.check(r), 403, `{"error":"access_denied"}`, "")
		want(t, f.check(on(request(bearer(good)...), "policy", "nothing")), 403, `{"error":"access_denied"}`, "")
		if !strings.Contains(f.log.String(), `auth: {allow_from: [\"127.0.0.1\"]}`) {
			t.Errorf("log: got %s, want the line that lets it in", f.log)
		}
	})
	t.Run("AUT-06 a caller that may auth, by metadata", func(t *testing.T) {
		client := auth.NewAuthorizationClient(f.dial())
		for credential, ok := range map[string]bool{basic(secret): true, basic("wrong"): false, "": false, "Bearer " + good: false} {
			got, err := client.Check(metadata.AppendToOutgoingContext(f.limited(), "x-introspectd-caller", credential), request(bearer(good)...))
			if err != nil || (got.GetOkResponse() != nil) != ok {
				t.Errorf("%q: got %v, %v, want ok %t", credential, got, err, ok)
			}
		}
		twice := metadata.AppendToOutgoingContext(f.limited(), "x-introspectd-caller", basic(secret), "x-introspectd-caller", basic(secret))
		if got, err := client.Check(twice, request(bearer(good)...)); err != nil || got.GetOkResponse() != nil {
			t.Errorf("two credentials: got %v, %v, want a refusal", got, err)
		}
	})
	t.Run("AUT-06 never by a header of the client, nor by authorization", func(t *testing.T) {
		want(t, f.check(request("authorization", "Bearer "+good, "x-introspectd-caller", basic(secret))), 403, `{"error":"access_denied"}`, "")
		got, err := auth.NewAuthorizationClient(f.dial()).Check(metadata.AppendToOutgoingContext(f.limited(), "authorization", basic(secret)), request(bearer(good)...))
		if err != nil || got.GetOkResponse() != nil {
			t.Errorf("got %v, %v, want a refusal", got, err)
		}
	})
	t.Run("AUT-06 a unix socket", func(t *testing.T) {
		f := newFixture(t, func(s *setup) { s.allow, s.address = []string{"unix"}, "unix:"+filepath.Join(t.TempDir(), "s") })
		arrives(t, f.check(request(bearer(good)...)), nil)
		f = newFixture(t, func(s *setup) { s.address = "unix:" + filepath.Join(t.TempDir(), "s") })
		want(t, f.check(request(bearer(good)...)), 403, `{"error":"access_denied"}`, "")
	})
}

func TestTLS(t *testing.T) {
	root, rootKey := issue(t, "root", nil, nil)
	server, serverKey := issue(t, "127.0.0.1", root, rootKey)
	client, clientKey := issue(t, "envoy", root, rootKey)
	dir := t.TempDir()
	files := listen.TLS{Certificate: filepath.Join(dir, "c.pem"), Key: filepath.Join(dir, "k.pem"), ClientCA: filepath.Join(dir, "ca.pem")}
	der, err := x509.MarshalPKCS8PrivateKey(serverKey)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		files.Certificate: {Type: "CERTIFICATE", Bytes: server.Raw}, files.Key: {Type: "PRIVATE KEY", Bytes: der}, files.ClientCA: {Type: "CERTIFICATE", Bytes: root.Raw},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	shown := tls.Certificate{Certificate: [][]byte{client.Raw}, PrivateKey: clientKey}

	f := newFixture(t, func(s *setup) { s.files = files })
	check := func(c *tls.Config) (*auth.CheckResponse, error) {
		return auth.NewAuthorizationClient(f.dial(overTLS(credentials.NewTLS(c)))).Check(f.limited(), request(bearer(mint(nil))...))
	}
	got, err := check(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{shown}})
	if err != nil {
		t.Fatal(err)
	}
	arrives(t, got, nil)
	if _, err := check(&tls.Config{RootCAs: roots}); status.Code(err) != codes.Unavailable {
		t.Errorf("without a client certificate: got %v, want Unavailable", err)
	}
	if _, err := check(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{shown}, MaxVersion: tls.VersionTLS11}); status.Code(err) != codes.Unavailable {
		t.Errorf("TLS 1.1: got %v, want Unavailable", err)
	}
	if !refusesPlaintext(t, f.address) {
		t.Error("plaintext is answered")
	}
}

// issue makes a certificate; one that issues, where there is no root.
func issue(t *testing.T, name string, root *x509.Certificate, rootKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wanted := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if ip := net.ParseIP(name); ip != nil {
		wanted.IPAddresses = []net.IP{ip}
	}
	if root == nil {
		wanted.IsCA, wanted.BasicConstraintsValid, wanted.KeyUsage = true, true, x509.KeyUsageCertSign
		root, rootKey = wanted, key
	}
	der, err := x509.CreateCertificate(rand.Reader, wanted, root, key.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made, key
}

func TestHealth(t *testing.T) {
	f := newFixture(t)
	if got, err := f.health(); err != nil || got.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("ready: got %v, %v, want SERVING", got, err)
	}
	f.gate.Drain()
	if got, err := f.health(); err != nil || got.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("draining: got %v, %v, want NOT_SERVING", got, err)
	}
	if _, err := healthv1.NewHealthClient(f.dial()).Check(f.limited(), &healthv1.HealthCheckRequest{Service: "x"}); status.Code(err) != codes.NotFound {
		t.Errorf("another service: got %v, want NotFound", err)
	}
}

// A request that is being answered when the drain begins is answered; the
// connection then ends, and no other is taken.
func TestDrainFinishesWhatWasBegun(t *testing.T) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	f := newFixture(t, func(s *setup) {
		s.around = func(a *httpapi.API) *httpapi.API {
			entered <- struct{}{}
			<-release
			return a
		}
	})
	client := auth.NewAuthorizationClient(f.dial())
	type result struct {
		answer *auth.CheckResponse
		err    error
	}
	came := make(chan result, 1)
	go func() {
		answer, err := client.Check(f.limited(), request(bearer(mint(nil))...))
		came <- result{answer, err}
	}()
	<-entered
	f.stop()
	for { // until the listener is closed
		c, err := net.DialTimeout("tcp", f.address, time.Second)
		if err != nil {
			break
		}
		_ = c.Close()
	}
	close(release)
	got := <-came
	if got.err != nil {
		t.Fatal(got.err)
	}
	arrives(t, got.answer, nil)
	if err := <-f.served; err != nil {
		t.Errorf("Serve: got %v, want nil", err)
	}
	f.served <- nil
	if _, err := client.Check(f.limited(), request()); status.Code(err) != codes.Unavailable {
		t.Errorf("after the drain: got %v, want Unavailable", err)
	}
}

func TestShutdownCutsOffWhatOutlastsIt(t *testing.T) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	f := newFixture(t, func(s *setup) {
		s.around = func(a *httpapi.API) *httpapi.API {
			entered <- struct{}{}
			<-release
			return a
		}
	})
	failed := make(chan error, 1)
	go func() {
		_, err := auth.NewAuthorizationClient(f.dial()).Check(f.limited(), request())
		failed <- err
	}()
	<-entered
	ended, stop := context.WithCancel(context.Background())
	stop()
	if err := f.server.Shutdown(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: got %v, want context.Canceled", err)
	}
	if err := <-failed; status.Code(err) != codes.Unavailable {
		t.Errorf("Check: got %v, want Unavailable", err)
	}
	close(release)
}

func TestPanicsAreDenied(t *testing.T) {
	for name, change := range map[string]func(*setup){
		"in the judgement": func(s *setup) { s.blind = true },
		"around it":        func(s *setup) { s.around = func(*httpapi.API) *httpapi.API { panic("boom") } },
	} {
		t.Run("ERR-09 "+name, func(t *testing.T) {
			f := newFixture(t, change)
			for range 2 {
				want(t, f.check(request(bearer(mint(nil))...)), http.StatusInternalServerError, `{"error":"server_error"}`, "")
			}
			if got := strings.Count(f.log.String(), `"msg":"panic"`); got != 2 {
				t.Errorf("got %d panics in the log, want 2", got)
			}
		})
	}
	f := newFixture(t, func(s *setup) { s.around = func(*httpapi.API) *httpapi.API { panic("boom") } })
	if _, err := f.health(); status.Code(err) != codes.Internal {
		t.Errorf("health: got %v, want Internal", err)
	}
}

func TestEachRequestIsOneLineAndOneCount(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	f := newFixture(t, func(s *setup) { s.meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("") })
	good := mint(members{"sub": "raw-claim"})
	f.check(request(bearer(good)...))
	f.check(on(request(bearer(good)...), "policy", "strict"))
	f.check(request())
	lines := f.requests()
	if len(lines) != 3 {
		t.Fatalf("got %v, want three lines", lines)
	}
	for n, want := range []map[string]any{
		{"route": "/envoy.service.auth.v3.Authorization/Check", "method": "GET", "status": 200.0, "policy": "default", "active": true, "issuer": "idp.example/realms/corp"},
		{"status": 403.0, "error": "insufficient_scope", "policy": "strict", "active": false, "reason": "insufficient_scope"},
		{"status": 401.0, "error": "unauthorized", "policy": "default"},
	} {
		for key, value := range want {
			if lines[n][key] != value {
				t.Errorf("line %d, %s: got %v, want %v", n, key, lines[n][key], value)
			}
		}
	}
	if log := f.log.String(); strings.Contains(log, "raw-claim") || strings.Contains(log, good[:60]) {
		t.Errorf("R13 the log holds a claim or a token: %s", log)
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	counted := map[string]int64{}
	for _, m := range all.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				counted[m.Name+" "+p.Attributes.Encoded(attribute.DefaultEncoder())] = p.Value
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				counted[m.Name+" "+p.Attributes.Encoded(attribute.DefaultEncoder())] = int64(p.Count)
			}
		}
	}
	for _, key := range []string{
		"introspectd.verdicts active=true,issuer=idp.example/realms/corp,reason=",
		"introspectd.verdicts active=false,issuer=idp.example/realms/corp,reason=insufficient_scope",
		"http.server.request.duration http.request.method=GET,http.response.status_code=200,http.route=/envoy.service.auth.v3.Authorization/Check",
	} {
		if counted[key] != 1 {
			t.Errorf("%s: got %d, want 1 in %v", key, counted[key], counted)
		}
	}
}

// Whatever is sent, nothing passes without a good token.
func FuzzCheck(f *testing.F) {
	fixture := newFixture(f)
	for _, r := range []*auth.CheckRequest{request(), request(bearer("x")...), raw(bearer("a.b.c")...), on(request(), "policy", "strict")} {
		seed, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		r := &auth.CheckRequest{}
		if proto.Unmarshal(message, r) != nil {
			return
		}
		got, err := fixture.server.Check(context.Background(), r)
		if err != nil || got.GetDeniedResponse() == nil || codes.Code(got.GetStatus().GetCode()) == codes.OK {
			t.Errorf("got %v, %v, want a denied_response", got, err)
		}
	})
}

// The whole way of a request whose verdict is remembered, over loopback.
func BenchmarkCheckHit(b *testing.B) {
	f := newFixture(b)
	client, r := auth.NewAuthorizationClient(f.dial()), request(bearer(mint(nil))...)
	b.ReportAllocs()
	for b.Loop() {
		if got, err := client.Check(context.Background(), r); err != nil || got.GetOkResponse() == nil {
			b.Fatal(got, err)
		}
	}
}
