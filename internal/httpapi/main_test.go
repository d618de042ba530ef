package httpapi_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"

	"introspectd/internal/callers"
	"introspectd/internal/devissuer"
	"introspectd/internal/httpapi"
	"introspectd/internal/introspect"
	"introspectd/internal/jwks"
	"introspectd/internal/memstore"
	"introspectd/internal/revoke"
	ours "introspectd/internal/sign"
	"introspectd/internal/transform"
	"introspectd/internal/verify"
)

// TestMain looks, after all tests, through everything that any of them had
// logged: no token, no secret and no claim may be in there.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if leaks := suite.leaks(); len(leaks) > 0 {
			fmt.Printf("FAIL: R13 the suite's log holds what must never be logged: %q\n", leaks)
			code = 1
		}
		os.Exit(code)
	}))
}

// everything is what the whole suite logged, and what must not be in it.
type everything struct {
	mu       sync.Mutex
	log      bytes.Buffer
	words    map[string]bool
	segments map[string]bool // of tokens
}

var suite = everything{words: map[string]bool{"raw-claim-": true, "secret-of-": true, "bearer-of-": true}, segments: map[string]bool{}}

func (e *everything) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log.Write(p)
}

// keepOut says that text must never be logged.
func (e *everything) keepOut(text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.words[text] = true
}

// keepOutToken says the same of every longer segment of a token.
func (e *everything) keepOutToken(token string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, segment := range longSegment.FindAllString(token, -1) {
		e.segments[segment] = true
	}
}

var longSegment = regexp.MustCompile(`[A-Za-z0-9_-]{44,}`)

func (e *everything) leaks() (found []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for word := range e.words {
		if bytes.Contains(e.log.Bytes(), []byte(word)) {
			found = append(found, word)
		}
	}
	for _, run := range longSegment.FindAllString(e.log.String(), -1) {
		if e.segments[run] {
			found = append(found, run)
		}
	}
	return found
}

// syncBuffer is a bytes.Buffer for many goroutines.
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

const (
	corpIss    = "https://idp.example/realms/corp"
	partnerIss = "https://partner.example/"
	darkIss    = "https://dark.example"
	ordersAud  = "https://api.example/orders"
	partnerAud = "https://api.example/partner"
)

// Key pairs take time to make and are the same for all tests.
var (
	corp    = sync.OnceValue(func() *devissuer.Issuer { return devissuer.New(corpIss, "ES256", "RS256") })
	partner = sync.OnceValue(func() *devissuer.Issuer { return devissuer.New(partnerIss, "EdDSA") })
	dark    = sync.OnceValue(func() *devissuer.Issuer { return devissuer.New(darkIss, "ES256") })
)

// setup is what a test may change of a fixture's configuration.
type setup struct {
	issuers  []introspect.IssuerConfig
	callers  []callers.Config
	policies []httpapi.Policy
	profiles []httpapi.Profile
	keys     []ours.Key      // our own; none means that nothing is signed
	kept     *memstore.Store // assertions
	allow    []string        // auth.allow_from
	keep     bool            // auth.cacheable
	public   string          // public_url
	errors   httpapi.ErrorFormat
	store    introspect.Cache
	digests  []byte // the key of the store's digests
	meter    metric.Meter
	log      io.Writer
	access   *slog.Logger // nil for log
	tracer   trace.Tracer
	pprof    bool
	address  string // the admin listener's
	hosts    []string
	states   func() any
	ready    func() httpapi.Readiness
	refresh  map[string]error // what a refresh of an issuer comes to
	// refreshed, when set, is called at each.
	refreshed func()
	local     string         // the issuer whose keys count as configuration
	list      revoke.Options // without a store it takes nothing
}

// fixture is the service below its listeners: real keys in files, everything
// wired as `serve` wires it.
type fixture struct {
	testing.TB
	errors              httpapi.ErrorFormat
	keep                bool
	api, admin, metrics http.Handler
	gate                *httpapi.Gate
	log                 *syncBuffer
	clock               *clock
	revocations         *revoke.List
	shelf               *shelf // that keeps them, unless setup says otherwise
}

// shelf is a store of revocations in memory that can be made to fail.
type shelf struct {
	mu      sync.Mutex
	err     error
	records map[revoke.Name]time.Time // when each is over
}

func (s *shelf) Append(_ context.Context, name revoke.Name, _ []byte, expires time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.records[name] = expires
	}
	return s.err
}

// fail has it refuse everything, until it is told otherwise.
func (s *shelf) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *shelf) kept() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}

// clock is the wall clock, set forward.
type clock struct {
	mu      sync.Mutex
	ahead   time.Duration
	stopped time.Time // unless zero, the time that it shows, but for ahead
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped.IsZero() {
		return c.stopped.Add(c.ahead)
	}
	return time.Now().Add(c.ahead)
}

// stop leaves it at a whole second, which it returns.
func (c *clock) stop() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped, c.ahead = time.Now().Truncate(time.Second), 0
	return c.stopped.Unix()
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

func secretOf(id string) string { return "secret-of-" + id + "-0123456789abcdef" }
func bearerOf(id string) string { return "bearer-of-" + id + "-0123456789abcdef" }

func digestOf(secret string) []callers.Secret {
	suite.keepOut(secret)
	sum := sha256.Sum256([]byte(secret))
	return []callers.Secret{{SHA256: hex.EncodeToString(sum[:])}}
}

// caller is a row with a secret and the given permissions, which is told of
// everything.
func caller(id string, may ...callers.Permission) callers.Config {
	return callers.Config{
		ID: id, Secrets: digestOf(secretOf(id)), May: may, AnyIssuer: true,
		AnyAudience: callers.AnyAudience{All: true}, Claims: callers.Claims{Mode: callers.Passthrough},
	}
}

func standardCallers() []callers.Config {
	both := []callers.Permission{callers.Introspect, callers.Transform}
	orders := caller("orders", both...)
	orders.BearerTokens = digestOf(bearerOf("orders"))
	orders.AnyIssuer, orders.Issuers = false, []string{"corp"}
	orders.AnyAudience, orders.Audiences = callers.AnyAudience{}, []string{ordersAud}

	desk := caller("partner-desk", both...)
	desk.AnyIssuer, desk.Issuers = false, []string{"partner"}
	desk.AnyAudience, desk.Audiences = callers.AnyAudience{}, []string{partnerAud}

	small, listed := caller("small", both...), caller("listed", both...)
	small.Claims = callers.Claims{Mode: callers.Minimal}
	listed.Claims = callers.Claims{Mode: callers.List, Names: []string{"department"}}

	absent := caller("absent-audience", both...)
	absent.AnyAudience, absent.Audiences = callers.AnyAudience{Issuers: []string{"corp"}}, []string{ordersAud}

	posting, basic := caller("posting", both...), caller("basic-only", both...)
	posting.Methods = []callers.Method{callers.ClientSecretPost}
	basic.Methods = []callers.Method{callers.ClientSecretBasic}

	gateway := caller("gateway", callers.Auth)
	gateway.BearerTokens = digestOf(bearerOf("gateway"))
	rotating := caller("rotating", both...)
	rotating.Secrets = append(rotating.Secrets, digestOf("secret-of-tomorrow-0123456789")...)

	revoker, owner, clerk := caller("revoker", callers.Revoke), caller("owner", both...), caller("clerk", callers.RevokeBroad)
	revoker.AnyIssuer, revoker.Issuers = false, []string{"corp"}
	revoker.BearerTokens = digestOf(bearerOf("revoker"))
	owner.Clients = []callers.Client{{Issuer: "corp", ClientID: "app"}, {Issuer: "partner", ClientID: "desk"}}
	clerk.AnyIssuer, clerk.Issuers = false, []string{"corp"}
	return []callers.Config{
		revoker, owner, clerk, caller("revoke-any", callers.Revoke), caller("officer", callers.RevokeBroad),
		orders, desk, caller("any", both...), small, listed, absent, posting, basic, gateway, rotating,
		caller("operator", callers.Operate), caller("explainer", callers.Explain),
	}
}

var identityHeaders = map[string]string{
	"X-Auth-Subject": "sub", "X-Auth-Issuer": "iss", "X-Auth-Client-Id": "client_id",
	"X-Auth-Username": "username", "X-Auth-Scope": "scope",
}

func anyPolicy(name string) httpapi.Policy {
	return httpapi.Policy{Name: name, AnyAudience: true, AnyIssuer: true, Realm: "introspectd", Headers: identityHeaders}
}

func standardPolicies() []httpapi.Policy {
	strict := httpapi.Policy{
		Name: "strict", Audiences: []string{ordersAud, partnerAud}, Issuers: []string{"corp"},
		Scopes: []string{"read", "write"}, Realm: "strict zone", Headers: identityHeaders,
	}
	return []httpapi.Policy{anyPolicy("default"), anyPolicy("lenient"), strict}
}

func issuerConfig(name, iss string) introspect.IssuerConfig {
	return introspect.IssuerConfig{
		Config: verify.Config{
			Name: name, Issuer: iss, TokenTypes: verify.Compat, Leeway: 30 * time.Second,
			Require: []string{"sub", "iat", "exp", "iss"},
		},
		Claims: transform.Config{
			Scope:    []string{"scope", "scp"},
			ClientID: []string{"client_id", "azp", "cid", "appid", "consumerKey"},
			Username: []string{"preferred_username", "username", "upn", "cognito:username"},
		},
	}
}

func newFixture(t testing.TB, changes ...func(*setup)) *fixture {
	t.Helper()
	f := &fixture{TB: t, log: &syncBuffer{}, clock: &clock{}, gate: httpapi.NewGate(), shelf: &shelf{records: map[revoke.Name]time.Time{}}}
	s := setup{
		issuers:  []introspect.IssuerConfig{issuerConfig("corp", corpIss), issuerConfig("partner", partnerIss), issuerConfig("dark", darkIss)},
		callers:  standardCallers(),
		policies: standardPolicies(),
		allow:    []string{"127.0.0.0/8", "::1/128", "unix"},
		store:    memstore.New(32 << 20),
		meter:    metricnoop.Meter{},
		log:      io.MultiWriter(f.log, &suite),
		tracer:   tracenoop.NewTracerProvider().Tracer(""),
		address:  "127.0.0.1:8081",
		ready:    func() httpapi.Readiness { return f.gate.Read(map[string]bool{"corp": true}, f.revocations.State()) },
		refresh:  map[string]error{"corp": nil},
		list: revoke.Options{
			Config: revoke.Config{MaxDelay: time.Second, MaxEntries: 10_000, Grace: 5 * time.Minute, OnOutage: revoke.Deny},
			File:   f.shelf, Now: f.clock.now,
		},
	}
	s.states = func() any { return map[string]any{"issuers": []string{"corp"}} }
	for _, change := range changes {
		change(&s)
	}
	f.wire(s)
	return f
}

// wire does what cmd's world does.
func (f *fixture) wire(s setup) {
	f.Helper()
	names := map[string]string{}
	var issuers []introspect.Issuer
	for _, row := range s.issuers {
		names[row.Issuer] = row.Name
		row.Keys = f.keySource(row.Name)
		keys, err := jwks.New(row.Keys, jwks.Options{Name: row.Name, Issuer: row.Issuer, Now: f.clock.now})
		f.must(err)
		issuers = append(issuers, introspect.Issuer{Config: row, Verifier: verify.NewIssuer(row.Config, keys)})
	}
	log := slog.New(slog.NewJSONHandler(s.log, nil))
	access := log
	if s.access != nil {
		access = s.access
	}
	observer, err := httpapi.NewObserver(log, access, s.meter, s.tracer, propagation.TraceContext{})
	f.must(err)
	f.revocations, err = revoke.New(s.list)
	f.must(err)
	metrics, err := introspect.NewMetrics(s.meter)
	f.must(err)
	introspector, err := introspect.New(issuers, introspect.Options{
		Cache: introspect.CacheConfig{Verdicts: introspect.VerdictsConfig{TTL: 5 * time.Minute, InactiveTTL: 10 * time.Second}},
		Store: s.store, DigestKey: s.digests, Revocations: f.revocations, Metrics: metrics, Now: f.clock.now,
	})
	f.must(err)
	who, err := callers.New(s.callers, callers.NewLimits(f.clock.now))
	f.must(err)
	var auth httpapi.AuthConfig
	for _, text := range s.allow {
		var peer callers.Peer
		f.must(peer.UnmarshalText([]byte(text)))
		auth.AllowFrom = append(auth.AllowFrom, peer)
	}
	var signer *ours.Signer
	if len(s.keys) > 0 {
		keys, err := ours.Of(s.keys...)
		f.must(err)
		o := ours.Options{Keys: keys, Issuer: s.public, Now: f.clock.now}
		if s.kept != nil {
			o.Cache = s.kept
		}
		signer = ours.New(o)
	}
	f.errors, f.keep, auth.Cacheable = s.errors, s.keep, s.keep
	f.api = httpapi.New(httpapi.Options{
		Introspector: introspector, Callers: who, Rows: s.callers, Auth: auth, MaxDelay: s.list.Config.MaxDelay, Now: f.clock.now, Policies: s.policies, Errors: httpapi.ErrorsConfig{Format: s.errors}, Profiles: s.profiles, Signer: signer,
		PublicURL: s.public, Observer: observer, Ready: s.ready,
	})
	figures := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "introspectd_build_info 1\n") })
	f.admin = httpapi.NewAdmin(httpapi.AdminOptions{
		Callers: who, Observer: observer, Ready: s.ready, Metrics: figures, OpenAPI: []byte("openapi: 3.1.0\n"),
		Issuers: s.states, Refresh: s.doRefresh, Introspector: introspector, Address: s.address, Hosts: s.hosts, PProf: s.pprof,
		Revocations: f.revocations, Names: names, Local: func(name string) bool { return name == s.local },
	})
	f.metrics = httpapi.NewMetrics(observer, s.ready, figures)
}

// keySource is a file with the issuer's keys; that of dark can't be had.
func (f *fixture) keySource(name string) jwks.Config {
	f.Helper()
	if name == "dark" {
		return jwks.Config{JWKSURL: "http://127.0.0.1:1/jwks.json"}
	}
	set := corp().JWKS()
	if name == "partner" {
		set = partner().JWKS()
	}
	path := filepath.Join(f.TempDir(), name+".jwks.json")
	f.must(os.WriteFile(path, set, 0o600))
	return jwks.Config{Files: []jwks.File{{Path: path}}}
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// members are claims or form parameters.
type members map[string]any

// mint makes a token for orders with a subject that must not be logged.
func mint(i *devissuer.Issuer, claims members) string {
	all := members{"sub": "raw-claim-alice", "aud": ordersAud}
	for name, value := range claims {
		all[name] = value
	}
	return noted(i.Mint(all))
}

// sign makes a token of raw texts by corp's first key.
func sign(header, payload string) string { return noted(corp().Key("ES256").Sign(header, payload)) }

// corpHeader is the header of corp's tokens with a typ, or without one.
func corpHeader(typ string) string {
	h := members{"alg": "ES256", "kid": corp().Key("ES256").Kid}
	if typ != "" {
		h["typ"] = typ
	}
	return text(h)
}

// noted keeps a token's segments out of the log.
func noted(token string) string {
	suite.keepOutToken(token)
	return token
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// response is what came back.
type response struct {
	status int
	header http.Header
	body   string
}

func (r response) challenges() []string { return r.header.Values("WWW-Authenticate") }

// object decodes the body with its numbers as they were written.
func (r response) object(t testing.TB) map[string]any {
	t.Helper()
	var out map[string]any
	d := json.NewDecoder(strings.NewReader(r.body))
	d.UseNumber()
	if err := d.Decode(&out); err != nil {
		t.Fatalf("body: got %q, want a JSON object: %v", r.body, err)
	}
	return out
}

const loopback = "127.0.0.1:40000"

// newRequest is a request from loopback with the headers given in pairs.
func newRequest(method, target, body string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr = loopback
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

// through has h answer r, and holds the answer to what every answer promises.
func (f *fixture) through(h http.Handler, r *http.Request) response {
	f.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	got := response{status: w.Code, header: w.Header(), body: w.Body.String()}
	f.holdToPromises(r, got)
	return got
}

func (f *fixture) send(method, target, body string, headers ...string) response {
	f.Helper()
	return f.through(f.api, newRequest(method, target, body, headers...))
}

const formType = "application/x-www-form-urlencoded"

// post sends a form that is already encoded.
func (f *fixture) post(path, form string, headers ...string) response {
	f.Helper()
	return f.send(http.MethodPost, path, form, append([]string{"Content-Type", formType}, headers...)...)
}

// ask is the plain case: a caller asks about a token.
func (f *fixture) ask(id, path, token string) response {
	f.Helper()
	return f.post(path, form("token", token), as(id)...)
}

// gate asks /auth or /ext-authz about a token.
func (f *fixture) get(path, token string, headers ...string) response {
	f.Helper()
	return f.send(http.MethodGet, path, "", append([]string{"Authorization", "Bearer " + token}, headers...)...)
}

// form encodes parameters given in pairs, in their order.
func form(pairs ...string) string {
	var out []string
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, url.QueryEscape(pairs[i])+"="+url.QueryEscape(pairs[i+1]))
	}
	return strings.Join(out, "&")
}

// as are the headers of a caller that authenticates by HTTP Basic.
func as(id string) []string { return []string{"Authorization", basic(id, secretOf(id))} }

func basic(id, secret string) string {
	encoded := base64.StdEncoding.EncodeToString([]byte(id + ":" + secret))
	if len(encoded) > 12 {
		suite.keepOut(encoded)
	}
	return "Basic " + encoded
}

const inactive = `{"active":false}`

// oauthText is the charset of RFC 6749 section 5.2.
var oauthText = regexp.MustCompile(`^[\x20-\x21\x23-\x5B\x5D-\x7E]+$`)

// wso2Form is the flat JSON of API Manager 4.
var wso2Form = regexp.MustCompile(`^\{"code":"9009\d\d","message":"[^"\\]+","description":"[^"\\]+"\}$`)

// holdToPromises checks what the contract promises of every answer.
func (f *fixture) holdToPromises(r *http.Request, got response) {
	f.Helper()
	fail := func(format string, arguments ...any) {
		f.Helper()
		f.Errorf("%s %s: %s; got %d %v %q", r.Method, r.URL.Path, fmt.Sprintf(format, arguments...), got.status, got.header, got.body)
	}
	public := strings.HasPrefix(r.URL.Path, "/.well-known/") || r.URL.Path == "/jwks.json" || r.URL.Path == "/metrics" || r.URL.Path == "/openapi.yaml" ||
		strings.HasPrefix(r.URL.Path, "/debug/")
	if !public || got.status >= 400 {
		gateway := strings.HasPrefix(r.URL.Path, "/auth") || strings.HasPrefix(r.URL.Path, "/ext-authz")
		if cc := got.header.Values("Cache-Control"); !slices.Equal(cc, []string{"no-store"}) && !(f.keep && gateway && got.status == 200) {
			fail("ERR-03 Cache-Control: want one no-store, got %q", cc)
		}
		if ct := got.header.Values("Content-Type"); got.body != "" && !slices.Equal(ct, []string{"application/json"}) {
			fail("ERR-08 Content-Type: want application/json, got %q", ct)
		}
	}
	if path := r.URL.Path; (path == "/introspect" || path == "/oauth2/introspect") && got.status != 404 && got.status != 421 && got.status < 500 && !slices.Equal(got.header.Values("Vary"), []string{"Accept"}) {
		fail("ERR-03 Vary: want Accept, got %q", got.header.Values("Vary"))
	}
	if got.status == 401 && len(got.challenges()) == 0 {
		fail("ERR-04 a 401 has a challenge")
	}
	if got.status == 405 && got.header.Get("Allow") == "" {
		fail("ERR-05 a 405 has Allow")
	}
	if (got.status == 503 || got.status == 429) && !regexp.MustCompile(`^[1-9][0-9]*$`).MatchString(got.header.Get("Retry-After")) {
		fail("ERR-06 a %d has Retry-After in seconds", got.status)
	}
	for name := range got.header {
		if strings.HasPrefix(name, "Access-Control-") {
			fail("ERR-07 no CORS header by default, there is %s", name)
		}
	}
	if got.status >= 400 && r.Method != http.MethodHead && r.URL.Path != "/readyz" {
		f.holdToErrorForm(r, got, fail)
	}
	sent, err := r.GetBody()
	f.must(err)
	body, err := io.ReadAll(sent)
	f.must(err)
	whole := got.body + text(got.header)
	for _, secret := range append(longSegment.FindAllString(string(body)+text(r.Header)+r.RequestURI, -1), "secret-of-", "bearer-of-") {
		if strings.Contains(whole, secret) {
			fail("INT-25 an answer never holds a token or a secret, this one has %q", secret)
		}
	}
}

func (f *fixture) holdToErrorForm(r *http.Request, got response, fail func(string, ...any)) {
	f.Helper()
	gateway := strings.HasPrefix(r.URL.Path, "/auth") || strings.HasPrefix(r.URL.Path, "/ext-authz")
	if f.errors == httpapi.WSO2 && gateway && got.status != http.StatusNotFound && got.status != http.StatusInternalServerError {
		if !wso2Form.MatchString(got.body) {
			fail("a gateway's client is answered in the form of WSO2")
		}
		return
	}
	var object map[string]string
	if err := json.Unmarshal([]byte(got.body), &object); err != nil {
		fail("ERR-01 an error is one JSON object of texts: %v", err)
		return
	}
	if object["error"] == "" {
		fail("ERR-01 an error has the member error")
	}
	for name, value := range object {
		if !slices.Contains([]string{"error", "error_description", "request_id"}, name) || !oauthText.MatchString(value) {
			fail("ERR-01 member %s: want ASCII without quotes and backslashes, got %q", name, value)
		}
	}
}

// want compares status and body.
func (r response) want(t testing.TB, status int, body string) response {
	t.Helper()
	if r.status != status || r.body != body {
		t.Errorf("got %d %q, want %d %q", r.status, r.body, status, body)
	}
	return r
}

// wantStatus compares the status.
func (r response) wantStatus(t testing.TB, status int) response {
	t.Helper()
	if r.status != status {
		t.Errorf("status: got %d (%s), want %d", r.status, r.body, status)
	}
	return r
}

// wantError compares status and error code.
func (r response) wantError(t testing.TB, status int, code string) response {
	t.Helper()
	var object struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal([]byte(r.body), &object)
	if r.status != status || object.Error != code {
		t.Errorf("got %d %s, want %d with the error %s", r.status, r.body, status, code)
	}
	return r
}

// wantHeader compares all lines of a header.
func (r response) wantHeader(t testing.TB, name string, lines ...string) response {
	t.Helper()
	if got := r.header.Values(name); !slices.Equal(got, lines) {
		t.Errorf("%s: got %q, want %q", name, got, lines)
	}
	return r
}

// wantActive wants the answer of an active token.
func (r response) wantActive(t testing.TB) response {
	t.Helper()
	if r.status != http.StatusOK || !strings.HasPrefix(r.body, `{"active":true,`) {
		t.Errorf("got %d %s, want 200 with active:true", r.status, r.body)
	}
	return r
}

// lines are the fixture's log lines with the given message.
func (f *fixture) lines(message string) (out []map[string]any) {
	f.Helper()
	for line := range strings.Lines(f.log.String()) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			f.Fatalf("log line: got %q, want JSON: %v", line, err)
		}
		if object["msg"] == message {
			out = append(out, object)
		}
	}
	return out
}

// last is the latest request line of the log.
func (f *fixture) last() map[string]any {
	f.Helper()
	all := strings.Split(strings.TrimSuffix(f.log.String(), "\n"), "\n")
	for _, line := range slices.Backward(all) {
		var object map[string]any
		if json.Unmarshal([]byte(line), &object) == nil && object["msg"] == "request" {
			return object
		}
	}
	f.Fatal("no request was logged")
	return nil
}

// wantReason wants the last request to be logged with a reason and issuer.
func (f *fixture) wantReason(t testing.TB, reason, issuer string) {
	t.Helper()
	last := f.last()
	got := [2]any{last["reason"], last["issuer"]}
	want := [2]any{any(nil), any(nil)}
	if reason != "" {
		want[0] = reason
	}
	if issuer != "" {
		want[1] = issuer
	}
	if got != want {
		t.Errorf("logged reason and issuer: got %v, want %v", got, want)
	}
}

// doRefresh stands for the keys of the issuers, which are files here.
func (s setup) doRefresh(_ context.Context, name string) error {
	err, ok := s.refresh[name]
	if !ok {
		return httpapi.ErrNoIssuer
	}
	if s.refreshed != nil {
		s.refreshed()
	}
	return err
}

// segments64 is a token of three texts, its signature taken as it is.
func segments64(header, payload, signature string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return noted(encode([]byte(header)) + "." + encode([]byte(payload)) + "." + signature)
}
