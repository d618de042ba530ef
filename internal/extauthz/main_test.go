package extauthz_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"introspectd/internal/callers"
	"introspectd/internal/devissuer"
	"introspectd/internal/extauthz"
	"introspectd/internal/httpapi"
	"introspectd/internal/introspect"
	"introspectd/internal/jwks"
	"introspectd/internal/listen"
	"introspectd/internal/memstore"
	"introspectd/internal/revoke"
	"introspectd/internal/transform"
	"introspectd/internal/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	corpIss = "https://idp.example/realms/corp"
	darkIss = "https://dark.example"
	secret  = "secret-of-the-gateway-0123456789"
)

// Key pairs take time to make and are the same for all tests.
var (
	corp = sync.OnceValue(func() *devissuer.Issuer { return devissuer.New(corpIss, "ES256") })
	dark = sync.OnceValue(func() *devissuer.Issuer { return devissuer.New(darkIss, "ES256") })
)

type members map[string]any

func mint(claims members) string {
	all := members{"sub": "alice", "scope": "read write", "client_id": "app"}
	for name, value := range claims {
		all[name] = value
	}
	return corp().Mint(all)
}

// setup is what a test may change.
type setup struct {
	policies []httpapi.Policy
	allow    []string
	meter    metric.Meter
	files    listen.TLS
	address  string
	// around, when set, stands before the API of each call.
	around func(*httpapi.API) *httpapi.API
	// blind leaves out what judges tokens: every use of it panics.
	blind bool
}

// fixture is the gRPC listener as `serve` runs it, real keys in files.
type fixture struct {
	testing.TB
	api         *httpapi.API
	gate        *httpapi.Gate
	server      *extauthz.Server
	revocations *revoke.List
	log         *syncBuffer
	address     string
	stop        context.CancelFunc // begins the drain
	served      chan error
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// requests are the log's lines about requests.
func (f *fixture) requests() (out []map[string]any) {
	f.Helper()
	for line := range strings.Lines(f.log.String()) {
		var object map[string]any
		f.must(json.Unmarshal([]byte(line), &object))
		if object["msg"] == "request" {
			out = append(out, object)
		}
	}
	return out
}

type shelf struct{}

func (shelf) Append(context.Context, revoke.Name, []byte, time.Time) error { return nil }

var identity = map[string]string{
	"X-Auth-Subject": "sub", "X-Auth-Issuer": "iss", "X-Auth-Client-Id": "client_id",
	"X-Auth-Username": "username", "X-Auth-Scope": "scope",
}

func policy(name string, scopes ...string) httpapi.Policy {
	return httpapi.Policy{Name: name, AnyAudience: true, AnyIssuer: true, Realm: "introspectd", Headers: identity, Scopes: scopes}
}

func newFixture(t testing.TB, changes ...func(*setup)) *fixture {
	t.Helper()
	s := setup{
		policies: []httpapi.Policy{policy("default"), policy("strict", "read", "admin")},
		allow:    []string{"127.0.0.0/8"}, meter: metricnoop.Meter{}, address: "127.0.0.1:0",
		around: func(a *httpapi.API) *httpapi.API { return a },
	}
	for _, change := range changes {
		change(&s)
	}
	f := &fixture{TB: t, gate: httpapi.NewGate(), log: &syncBuffer{}, served: make(chan error, 1)}
	log := slog.New(slog.NewJSONHandler(f.log, nil))
	f.wire(s, log)
	f.listen(s, log)
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// wire does what cmd's world does.
func (f *fixture) wire(s setup, log *slog.Logger) {
	f.Helper()
	path := filepath.Join(f.TempDir(), "corp.jwks.json")
	f.must(os.WriteFile(path, corp().JWKS(), 0o600))
	var issuers []introspect.Issuer
	for name, source := range map[string]jwks.Config{
		corpIss: {Files: []jwks.File{{Path: path}}}, darkIss: {JWKSURL: "http://127.0.0.1:1/jwks.json"},
	} {
		word := strings.TrimPrefix(strings.TrimSuffix(name, ".example"), "https://")
		row := introspect.IssuerConfig{
			Config: verify.Config{Name: word, Issuer: name, TokenTypes: verify.Compat, Leeway: 30 * time.Second, Require: []string{"sub", "iat", "exp", "iss"}},
			Claims: transform.Config{Scope: []string{"scope"}, ClientID: []string{"client_id"}, Username: []string{"username"}},
		}
		keys, err := jwks.New(source, jwks.Options{Name: word, Issuer: name})
		f.must(err)
		issuers = append(issuers, introspect.Issuer{Config: row, Verifier: verify.NewIssuer(row.Config, keys)})
	}
	observer, err := httpapi.NewObserver(log, log, s.meter, tracenoop.NewTracerProvider().Tracer(""), propagation.TraceContext{})
	f.must(err)
	f.revocations, err = revoke.New(revoke.Options{
		Config: revoke.Config{MaxDelay: time.Second, MaxEntries: 100, Grace: time.Minute, OnOutage: revoke.Deny}, File: shelf{},
	})
	f.must(err)
	metrics, err := introspect.NewMetrics(s.meter)
	f.must(err)
	introspector, err := introspect.New(issuers, introspect.Options{
		Cache: introspect.CacheConfig{Verdicts: introspect.VerdictsConfig{TTL: time.Minute, InactiveTTL: time.Second}},
		Store: memstore.New(1 << 20), Revocations: f.revocations, Metrics: metrics,
	})
	f.must(err)
	if s.blind {
		introspector = nil
	}
	sum := sha256.Sum256([]byte(secret))
	rows := []callers.Config{{ID: "gateway", Secrets: []callers.Secret{{SHA256: hex.EncodeToString(sum[:])}}, May: []callers.Permission{callers.Auth}, AnyIssuer: true, AnyAudience: callers.AnyAudience{All: true}}}
	who, err := callers.New(rows, callers.NewLimits(time.Now))
	f.must(err)
	var allowed httpapi.AuthConfig
	for _, text := range s.allow {
		var peer callers.Peer
		f.must(peer.UnmarshalText([]byte(text)))
		allowed.AllowFrom = append(allowed.AllowFrom, peer)
	}
	f.api = httpapi.New(httpapi.Options{
		Introspector: introspector, Callers: who, Rows: rows, Auth: allowed, Policies: s.policies, Observer: observer,
		Ready: func() httpapi.Readiness {
			return f.gate.Read(map[string]bool{"corp": true}, f.revocations.State())
		},
	})
}

func (f *fixture) listen(s setup, log *slog.Logger) {
	f.Helper()
	certificates, err := listen.LoadCertificates(s.files)
	f.must(err)
	o := extauthz.Options{API: func() *httpapi.API { return s.around(f.api) }, Log: log}
	if certificates != nil {
		o.TLS = certificates.Config()
	}
	f.server = extauthz.New(o)
	socket, err := listen.Open(s.address)
	f.must(err)
	f.address = socket.Addr().String()
	if socket.Addr().Network() == "unix" {
		f.address = "unix:" + f.address
	}
	var ctx context.Context
	ctx, f.stop = context.WithCancel(context.Background())
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		f.served <- listen.Serve(ctx, 0, listen.Running{Server: f.server, Listener: socket})
	}()
	f.Cleanup(func() { f.stop(); <-finished })
}

// dial connects as Envoy does: one connection, kept.
func (f *fixture) dial(options ...grpc.DialOption) *grpc.ClientConn {
	f.Helper()
	connection, err := grpc.NewClient(f.address, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy()}, options...)...)
	f.must(err)
	f.Cleanup(func() { _ = connection.Close() })
	return connection
}

func overTLS(c credentials.TransportCredentials) grpc.DialOption {
	return grpc.WithTransportCredentials(c)
}

// limited is a context that ends with the test, or after a while.
func (f *fixture) limited() context.Context {
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	f.Cleanup(stop)
	return ctx
}

// check asks about a request with one connection of its own.
func (f *fixture) check(r *auth.CheckRequest) *auth.CheckResponse {
	f.Helper()
	answer, err := auth.NewAuthorizationClient(f.dial()).Check(f.limited(), r)
	f.must(err)
	f.must(answer.ValidateAll())
	return answer
}

func (f *fixture) health() (*healthv1.HealthCheckResponse, error) {
	return healthv1.NewHealthClient(f.dial()).Check(f.limited(), &healthv1.HealthCheckRequest{Service: "envoy.service.auth.v3.Authorization"})
}

// request is what Envoy tells of one: headers by name, in pairs, for a route
// without a policy of its own.
func request(pairs ...string) *auth.CheckRequest {
	headers := map[string]string{":method": "GET", ":path": "/orders", ":authority": "api.example"}
	for n := 0; n < len(pairs); n += 2 {
		headers[pairs[n]] = pairs[n+1]
	}
	return &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source:  &auth.AttributeContext_Peer{Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: "203.0.113.7"}}}},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/orders", Host: "api.example", Headers: headers}},
	}}
}

// raw is what Envoy tells with encode_raw_headers: every line by itself.
func raw(pairs ...string) *auth.CheckRequest {
	r := request()
	r.Attributes.Request.Http.Headers = nil
	r.Attributes.Request.Http.HeaderMap = &core.HeaderMap{}
	for n := 0; n < len(pairs); n += 2 {
		r.Attributes.Request.Http.HeaderMap.Headers = append(r.Attributes.Request.Http.HeaderMap.Headers, &core.HeaderValue{Key: pairs[n], RawValue: []byte(pairs[n+1])})
	}
	return r
}

// on puts a request on a route with context_extensions, in pairs.
func on(r *auth.CheckRequest, pairs ...string) *auth.CheckRequest {
	r.Attributes.ContextExtensions = map[string]string{}
	for n := 0; n < len(pairs); n += 2 {
		r.Attributes.ContextExtensions[pairs[n]] = pairs[n+1]
	}
	return r
}

func bearer(token string) []string { return []string{"authorization", "Bearer " + token} }

// refusesPlaintext says whether nothing answers without TLS at an address.
func refusesPlaintext(t *testing.T, address string) bool {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	answer := make([]byte, 9)
	n, _ := c.Read(answer)
	return n < 9 || answer[3] != 4 // a SETTINGS frame
}
