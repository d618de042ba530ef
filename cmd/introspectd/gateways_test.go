package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"introspectd/internal/devissuer"
)

// recipe is one file of deploy and how the gateway that it is for runs with it.
type recipe struct {
	name string
	// start runs the gateway with the file, its addresses and paths replaced
	// by those of r, and the edits besides.
	start func(t *testing.T, r *rig, edits ...edit) *edge
	// hurry has the gateway wait less for an answer; waits is for how long it does
	// whatever is written.
	hurry []edit
	waits time.Duration
	// claims says that the gateway asks /introspect, not /auth or /ext-authz;
	// words that it words refusals itself all the same, and passes on no
	// challenge of introspectd.
	claims, words bool
	// tls says that introspectd listens with TLS; caching that it has
	// auth.cacheable.
	tls, caching bool
	// late is for how long a revoked token may still pass.
	late time.Duration
	// away is the status for a client while introspectd can't be reached; slow
	// and untold are those while it doesn't answer and while it answers 503,
	// where they differ; malformed is that of a credential that is none.
	away, slow, untold, malformed int
	// cleans says that the gateway takes empty and dot segments out of a path, and
	// judges and passes on the rest; semicolon is what it makes of one in a query.
	cleans    bool
	semicolon string
	// dotted is the status for a header such as X.Auth.Subject, where the gateway
	// can't take it out of the request.
	dotted int
	// but holds the statuses that differ from all other gateways', by the name
	// of the row, and says why.
	but map[string]exception
	// connections is how many the gateway opens for six questions, 0 where
	// that can't be said.
	connections int
}

type exception struct {
	status int
	why    string
}

// rig is a backend, introspectd, and a tap before that.
type rig struct {
	issuer, dark *devissuer.Issuer // the keys of dark are never to be had
	iss          string
	service      *service
	backend      *backend
	tap          *tap
	ca           string // of introspectd's certificate, a path; empty without TLS
}

func newRig(t *testing.T, r recipe) *rig {
	t.Helper()
	g := &rig{backend: newBackend(t)}
	var darkIss string
	g.issuer, g.iss = newIssuer(t, "ES256")
	g.dark, darkIss = newIssuer(t, "ES256")
	g.dark.Fail(devissuer.Refuse500)
	config := oneCaller + `
policies:
  - {name: default, any_audience: true, any_issuer: true}
  - {name: reports, any_audience: true, any_issuer: true, scopes: ["reports:read"]}
`
	config = strings.Replace(config, "transform, auth,", "transform, auth, revoke,", 1) + "state: {path: " + filepath.Join(t.TempDir(), "state") + "}\n"
	if r.caching {
		config += "auth: {cacheable: true}\n"
	}
	if r.tls {
		dir, root := t.TempDir(), newCertificate(t, "a test's root", nil)
		g.ca, _ = root.write(t, dir, "root")
		certificate, key := newCertificate(t, "127.0.0.1", root).write(t, dir, "introspectd")
		config += fmt.Sprintf("server: {tls: {certificate: %s, key: %s}}\n", certificate, key)
		defer func() {
			g.service.URL = strings.Replace(g.service.URL, "http:", "https:", 1)
			g.service.client = newClient(t, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: root.pool()}})
		}()
	}
	g.service = launch(t, config+"issuers:\n"+row("idp", g.iss)+row("dark", darkIss))
	g.hasKeys()
	_, address, _ := strings.Cut(g.service.URL, "://")
	g.tap = newTap(t, address)
	return g
}

// hasKeys waits for the keys of idp: introspectd never is ready, as those of dark
// never come.
func (r *rig) hasKeys() {
	r.service.eventually("it has the keys of idp", func() bool {
		return r.service.status(r.service.Admin+"/livez") == 200 && r.service.metric(`introspectd_jwks_keys{issuer="idp"}`) == "1"
	})
}

// introspectd is where the gateway asks, backend where it passes on to.
func (r *rig) introspectd() string { return r.tap.Addr().String() }
func (r *rig) behind() string      { return r.backend.Listener.Addr().String() }

// verdict is one row of what every gateway does.
type verdict struct {
	name, line string
	headers    []string
	status     int
	challenge  string // of introspectd; gateways with words of their own have another
}

const (
	plainly = `Bearer realm="introspectd"`
	invalid = plainly + `, error="invalid_token", error_description="The access token is invalid"`
	over    = plainly + `, error="invalid_token", error_description="The access token expired"`
	unmet   = plainly + `, error="insufficient_scope", scope="reports:read"`
)

func (r *rig) verdicts() []verdict {
	good := bearer(r.issuer.Mint(nil))
	return []verdict{
		{"ATH-01 a good token", "GET /", []string{good}, 200, ""},
		{"ATH-01 the scheme in lower case", "GET /", []string{"authorization: bearer " + r.issuer.Mint(nil)}, 200, ""},
		{"ATH-01 the scope is there", "GET /reports/1", []string{bearer(r.issuer.Mint(map[string]any{"scope": "x reports:read y"}))}, 200, ""},
		{"ATH-02 no token", "GET /", nil, 401, plainly},
		{"ATH-02 no token for a route with demands", "GET /reports/1", nil, 401, plainly},
		{"ATH-03 another scheme", "GET /", []string{"Authorization: Basic YTpi"}, 401, plainly},
		{"ATH-04 a scheme alone", "GET /", []string{"Authorization: Bearer"}, 401, plainly + `, error="invalid_request"`},
		{"ATH-05 garbage", "GET /", []string{bearer("garbage")}, 401, invalid},
		{"ATH-05 expired", "GET /", []string{bearer(r.issuer.Mint(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}))}, 401, over},
		{"ATH-05 an unknown issuer", "GET /", []string{bearer(devissuer.New("https://elsewhere.example", "ES256").Mint(nil))}, 401, invalid},
		{"ATH-05 a token over 16 KiB", "GET /", []string{bearer(strings.Repeat("a", 20<<10))}, 401, invalid},
		{"ATH-06 a scope that only looks like it", "GET /reports/1", []string{bearer(r.issuer.Mint(map[string]any{"scope": "reports:write xreports:read reports:readx reports_read"}))}, 403, unmet},
		{"ATH-06 no scope", "GET /reports/1", []string{good}, 403, unmet},
		{"ATH-08 no keys of the issuer", "GET /", []string{bearer(r.dark.Mint(nil))}, 503, ""},
		{"ATH-10 a method that nobody has heard of", "BREW /", []string{good}, 200, ""},
		{"ATH-11 OPTIONS is judged like any other", "OPTIONS /", nil, 401, plainly},
		{"ATH-12 a token bound to a key", "GET /", []string{bearer(r.issuer.Mint(map[string]any{"cnf": map[string]any{"jkt": "x"}}))}, 401, invalid},
		{"§9b a route without a verdict", "GET /healthz", nil, 200, ""},
		{"§9b and nothing below it", "GET /healthz/x", nil, 401, plainly},
	}
}

// TestEveryGateway runs each gateway with its recipe and holds all of them to
// the same.
func TestEveryGateway(t *testing.T) {
	for _, r := range recipes() {
		t.Run(r.name, func(t *testing.T) {
			r.conform(t)
		})
	}
}

func (r recipe) conform(t *testing.T) {
	world := newRig(t, r)
	e := r.start(t, world)
	used := map[string]bool{}
	t.Run("verdicts", func(t *testing.T) {
		for _, row := range world.verdicts() {
			t.Run(row.name, func(t *testing.T) { r.judges(t, e, world, row, used) })
		}
	})
	for name := range r.but {
		if !used[name] {
			t.Errorf("there is no row %q to make an exception of", name)
		}
	}
	t.Run("GW-03 identities are the token's", func(t *testing.T) { r.tellsWhoAsks(t, e, world) })
	t.Run("GW-02 questions are the gateway's", func(t *testing.T) { r.asks(t, e, world) })
	t.Run("GW-01 paths have one reading", func(t *testing.T) { r.refusesPaths(t, e, world) })
	t.Run("ATH-10 bodies are the backend's", func(t *testing.T) { r.leavesBodies(t, e, world) })
	t.Run("ATH-01 WebSocket", func(t *testing.T) { r.upgrades(t, e, world) })
	t.Run("§9b connections", func(t *testing.T) { r.connects(t, e, world) })
	t.Run("ATH-05 a revoked token dies", func(t *testing.T) { r.revokes(t, e, world) })
	t.Run("§9b introspectd is slow", func(t *testing.T) {
		hasty := r.start(t, world, r.hurry...)
		hasty.patience += r.waits
		world.tap.silence(true)
		defer world.tap.silence(false)
		began := time.Now()
		r.closed(t, hasty, world, cmp.Or(r.slow, r.away))
		if waited := time.Since(began); waited < r.waits*9/10 {
			t.Errorf("it waited %v, and deploy/README.md says %v", waited, r.waits)
		}
	})
	t.Run("§9b introspectd is away", func(t *testing.T) {
		world.tap.gone()
		r.closed(t, e, world, r.away)
		if got := e.send("GET /healthz"); got.Status != 200 {
			t.Errorf("a route that isn't judged: got %d, want 200", got.Status)
		}
	})
}

func (r recipe) judges(t *testing.T, e *edge, world *rig, row verdict, used map[string]bool) {
	t.Helper()
	want := row.status
	if want == 503 {
		want = cmp.Or(r.untold, r.away)
	}
	if strings.HasPrefix(row.name, "ATH-04") {
		want = cmp.Or(r.malformed, want)
	}
	other, excepted := r.but[row.name]
	if excepted {
		want, used[row.name] = other.status, true
	}
	before := world.backend.count()
	got := e.send(row.line, row.headers...)
	if got.Status != want {
		t.Errorf("%s: got %d, want %d (%s)", row.line, got.Status, want, other.why)
	}
	if reached := world.backend.count() > before; reached != (want == 200) {
		t.Errorf("%s: the backend was reached: %v, with status %d", row.line, reached, got.Status)
	}
	said := strings.Join(got.Challenges, "\n")
	switch {
	case (r.claims || r.words) && !excepted && want == 401 && !strings.HasPrefix(said, "Bearer"):
		t.Errorf("%s: got the challenge %q, want one of Bearer", row.line, said)
	case !r.claims && !r.words && !excepted && said != row.challenge:
		t.Errorf("%s: got the challenge %q, want %q", row.line, said, row.challenge)
	}
}

// tellsWhoAsks holds what the backend is told to the token, whatever the client
// says.
func (r recipe) tellsWhoAsks(t *testing.T, e *edge, world *rig) {
	var forged, dotted []string
	for _, name := range []string{"X-Auth-Subject", "X-Auth-Issuer", "X-Auth-Client-Id", "X-Auth-Username", "X-Auth-Scope"} {
		for _, spelling := range spellings(name) {
			forged = append(forged, spelling+": root", strings.ToLower(spelling)+": root")
		}
		dotted = append(dotted, strings.ReplaceAll(name, "-", ".")+": root", strings.Replace(name, "-", ".", 1)+": root", strings.Replace(strings.ReplaceAll(name, "-", "_"), "_A", ".a", 1)+": root")
	}
	if r.dotted == 0 {
		forged, dotted = append(forged, dotted...), nil
	}
	ask := func(line string, headers ...string) http.Header {
		t.Helper()
		got := e.send(line, headers...)
		if got.Status != 200 {
			t.Fatalf("%s %q: got %d, want 200", line, headers, got.Status)
		}
		for name, values := range got.Arrival.Header {
			if strings.Contains(strings.Join(values, " "), "root") {
				t.Errorf("%s: the backend got %s: %q of the client", line, name, values)
			}
		}
		return got.Arrival.Header
	}
	whole := bearer(world.issuer.Mint(map[string]any{"sub": "u-1", "client_id": "shop", "preferred_username": "amy", "scope": "read write"}))
	partly := bearer(world.issuer.Mint(map[string]any{"sub": "u-2", "client_id": nil, "scope": nil}))
	for _, sent := range [][]string{nil, forged} {
		got := ask("GET /orders?x=1", append(sent, whole)...)
		for name, want := range map[string]string{
			"X-Auth-Subject": "u-1", "X-Auth-Issuer": world.iss, "X-Auth-Client-Id": "shop", "X-Auth-Username": "amy", "X-Auth-Scope": "read write",
		} {
			if v := got.Values(name); len(v) != 1 || v[0] != want {
				t.Errorf("%s at the backend: got %q, want %q", name, v, want)
			}
		}
		got = ask("GET /", append(sent, partly)...)
		if got.Get("X-Auth-Subject") != "u-2" || strings.Join(append(append(got.Values("X-Auth-Client-Id"), got.Values("X-Auth-Username")...), got.Values("X-Auth-Scope")...), "") != "" {
			t.Errorf("a token without most claims: got %v at the backend", got)
		}
	}
	ask("GET /healthz", forged...)
	for _, connection := range []string{"X-Auth-Subject", "close, X-Auth-Subject, X-Auth-Issuer", "keep-alive, x-auth-subject, x-auth-issuer"} {
		got := ask("GET /", whole, "X-Auth-Subject: root", "Connection: "+connection+", close")
		if got.Get("X-Auth-Subject") != "u-1" || got.Get("X-Auth-Issuer") != world.iss {
			t.Errorf("Connection: %s: got %v at the backend, want the token's identity", connection, got)
		}
		if strings.Contains(strings.ToLower(got.Get("Connection")), "x-") {
			t.Errorf("Connection at the backend: got %q, want nothing that the client named", got.Get("Connection"))
		}
	}
	for _, header := range dotted {
		before := world.backend.count()
		if got := e.send("GET /", whole, header); got.Status != r.dotted || world.backend.count() > before {
			t.Errorf("%s: got %d, backend reached: %v; want %d and not reached", header, got.Status, world.backend.count() > before, r.dotted)
		}
	}
	t.Run("GW-05 what has no place in a header", func(t *testing.T) {
		got := ask("GET /", bearer(world.issuer.Mint(map[string]any{"preferred_username": "a\r\nX-Admin: 1"})))
		if got.Get("X-Admin") != "" || strings.ContainsAny(got.Get("X-Auth-Username"), "\r\n") {
			t.Errorf("line breaks in a claim: got %v at the backend", got)
		}
		before := world.backend.count()
		if got := e.send("GET /", bearer(world.issuer.Mint(map[string]any{"sub": "a\r\nX-Admin: 1"}))); got.Status == 200 || world.backend.count() != before {
			t.Errorf("a sub that no header can carry: got %d, want it refused", got.Status)
		}
	})
}

// asks holds what introspectd hears to what it has to be told.
func (r recipe) asks(t *testing.T, e *edge, world *rig) {
	world.tap.connections()
	world.tap.silence(false) // the next question is on a connection of its own
	got := e.send("POST /reports/%31?a=1&policy=x", bearer(world.issuer.Mint(map[string]any{"scope": "reports:read"})), "Content-Length: 0",
		"X-Original-URI: /forged", "X-Original-URL: http://x/forged", "X-Original-Method: FORGED", "X-Forwarded-Uri: /forged", "X-Forwarded-Method: FORGED",
		"X-Forwarded-Host: forged.example", "X-Forwarded-Proto: forged", "X-Client-Cert: forged", "X-Forwarded-For: 203.0.113.9", "X-Real-Ip: 203.0.113.9",
		"Forwarded: for=203.0.113.9", "X-Rewrite-Url: /forged", "X_Forwarded_Host: forged.example", "X_Forwarded_For: 203.0.113.9",
		"X-Introspectd-Policy: forged", "X_Introspectd_Policy: forged", "X-Introspectd-Caller: Basic Zm9yZ2Vk")
	if got.Status != 200 {
		t.Fatalf("got %d, want 200", got.Status)
	}
	for name, values := range got.Arrival.Header {
		if forged(strings.Join(values, " ")) {
			t.Errorf("the backend got %s: %q of the client", name, values)
		}
	}
	asked := strings.Join(world.tap.connections(), "")
	if r.tls {
		return // nobody can read along
	}
	head, body, _ := strings.Cut(asked, "\r\n\r\n")
	line, _, _ := strings.Cut(head, "\r\n")
	lower := "\n" + strings.ToLower(head) + "\n"
	switch {
	case r.claims:
		form, err := url.ParseQuery(body)
		if line != "POST /introspect HTTP/1.1" || err != nil || len(form["token"]) != 1 || !strings.Contains(lower, "\nauthorization: basic ") || strings.Contains(lower, "bearer") {
			t.Errorf("the gateway asked:\n%s\n\n%s\nwant POST /introspect as a caller, with one token", head, body)
		}
	case !strings.Contains(line, " /auth/reports HTTP/1.") && !strings.Contains(line, " /ext-authz/reports/"):
		t.Errorf("the gateway asked:\n%s\nwant the policy reports", head)
	case strings.Count(lower, "\nx-introspectd-policy: reports\r") != 1 || strings.Count(lower, "introspectd-policy") != 1:
		t.Errorf("the gateway asked:\n%s\nwant X-Introspectd-Policy: reports once", head)
	case strings.Contains(lower, "\ncontent-length: 2") || strings.Contains(lower, "\ntransfer-encoding:"):
		t.Errorf("the gateway asked with the client's framing:\n%s", head)
	}
	for header := range strings.Lines(head) {
		if forged(header) {
			t.Errorf("introspectd got %s of the client", header)
		}
	}
}

// forged says whether a text is one that the client made up.
func forged(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, "forged") || strings.Contains(text, "203.0.113.9") || strings.Contains(text, "zm9yz2vk")
}

// ambiguous are paths with more than one reading.
func ambiguous() []string {
	return []string{
		"//reports/1", "/x/../reports/1", "/./reports/1", "/reports;x=1/1", "/x/..;/reports/1", "/x%2f..%2freports/1", "/%2e%2e/reports/1",
		"/healthz/../reports/1", "/healthz%23/../reports/1", "/healthz;/reports/1", "/reports/../healthz", "/reports%2F1", "/x/..",
		"/" + strings.Repeat("a/", 10<<10) + "../reports/1", `/x\..\reports\1`, "/x%5c..%5creports", "/healthz/%2E%2E/reports/1", "/healthz%252f..%252freports",
		"/healthz%23x", "/healthz%3bx", "/healthz%5Cx",
	}
}

// refusesPaths holds a path that could be read as another route's to 400.
func (r recipe) refusesPaths(t *testing.T, e *edge, world *rig) {
	token := bearer(world.issuer.Mint(nil)) // good for all but /reports/
	for _, path := range ambiguous() {
		before := world.backend.count()
		got := e.send("GET "+path, token)
		if cleaned := filepath.Clean(path); r.cleans && cleaned != path && got.Status == 200 && got.Arrival.URI == cleaned && !strings.HasPrefix(cleaned, "/reports") {
			continue
		}
		if (got.Status < 400 || got.Status > 404) && got.Status != 414 || world.backend.count() != before {
			t.Errorf("GET %.40s: got %d, backend reached: %v; want it refused and not reached", path, got.Status, world.backend.count() != before)
		}
	}
	for _, path := range []string{"/reports/1", "/%72eports/1", "/reports/"} {
		if got := e.send("GET "+path, token); got.Status != 403 {
			t.Errorf("GET %s: got %d, want 403", path, got.Status)
		}
	}
	for _, path := range []string{"/", "/a/b.c/..d/e...", "/a%20b?u=http://x/../y;z//", "/~u/:x@y/%C3%AB", "/.well-known/x", "/a?/../b"} {
		want := strings.ReplaceAll(path, ";", cmp.Or(r.semicolon, ";"))
		if got := e.send("GET "+path, token); got.Status != 200 || got.Arrival.URI != want {
			t.Errorf("GET %s: got %d and %q at the backend, want 200 and %q", path, got.Status, got.Arrival.URI, want)
		}
	}
}

func (r recipe) leavesBodies(t *testing.T, e *edge, world *rig) {
	const size = 8 << 20
	world.tap.connections()
	world.tap.silence(false)
	for name, body := range map[string]io.Reader{
		"of a known length": bytes.NewReader(bytes.Repeat([]byte("body"), size/4)),
		"in chunks":         io.MultiReader(bytes.NewReader(bytes.Repeat([]byte("body"), size/4))), // hides its length
	} {
		got, err := e.post(body, world.issuer.Mint(nil))
		if err != nil || got.Status != 200 || got.Arrival.Body != size || got.Arrival.Method != "POST" {
			t.Fatalf("%s: got %d, %s and %d bytes at the backend, %v; want 200, POST and %d", name, got.Status, got.Arrival.Method, got.Arrival.Body, err, size)
		}
	}
	if asked := strings.Join(world.tap.connections(), ""); strings.Contains(asked, "bodybody") || len(asked) > 16<<10 {
		t.Errorf("the gateway sent introspectd %d bytes, want heads alone", len(asked))
	}
	before := world.backend.count()
	if got, err := e.post(strings.NewReader("body"), "garbage"); err != nil || got.Status != 401 || world.backend.count() != before {
		t.Errorf("refused: got %d, %v, backend reached: %v; want 401 and not reached", got.Status, err, world.backend.count() != before)
	}
}

func (e *edge) post(body io.Reader, token string) (reply, error) {
	r, err := http.NewRequest(http.MethodPost, "https://"+e.Address+"/upload", body)
	if err != nil {
		return reply{}, err
	}
	r.Host = "api.example"
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := e.client.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer answer.Body.Close()
	return read(answer)
}

func (r recipe) upgrades(t *testing.T, e *edge, world *rig) {
	token := world.issuer.Mint(map[string]any{"sub": "u-1"})
	conn, answer := e.open("GET /ws", bearer(token), "Upgrade: websocket", "Connection: Upgrade, X-Auth-Subject", "X-Auth-Subject: root", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
	defer conn.Close()
	if answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("a good token: got %s, want 101", answer.Status)
	}
	if seen := answer.Header.Get("X-Seen"); !strings.EqualFold(seen, "u-1 upgrade") {
		t.Errorf("the backend saw %q, want the token's subject and upgrade alone", seen)
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := conn.buffer.ReadString('\n'); err != nil || line != "echo hello\n" {
		t.Errorf("over the WebSocket: got %q, %v; want it echoed", line, err)
	}
	before := world.backend.count()
	refused, answer := e.open("GET /ws", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
	defer refused.Close()
	if answer.StatusCode != 401 || world.backend.count() != before {
		t.Errorf("no token: got %s, backend reached: %v; want 401 and not reached", answer.Status, world.backend.count() != before)
	}
	// An upgrade to h2c would carry requests past the gateway.
	got := e.send("GET /", bearer(world.issuer.Mint(nil)), "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", "Connection: Upgrade, HTTP2-Settings, close")
	if got.Status != 200 || got.Arrival.Header["Upgrade"] != nil {
		t.Errorf("h2c: got %d with %v at the backend, want 200 and no Upgrade", got.Status, got.Arrival.Header)
	}
}

func (r recipe) connects(t *testing.T, e *edge, world *rig) {
	world.tap.connections()
	world.tap.silence(false)
	for range 6 {
		if got := e.send("GET /", bearer(world.issuer.Mint(nil))); got.Status != 200 {
			t.Fatalf("got %d, want 200", got.Status)
		}
	}
	if got := len(world.tap.connections()); r.connections != 0 && got != r.connections {
		t.Errorf("connections for six questions: got %d, want %d", got, r.connections)
	}
	for _, row := range []struct {
		token string
		want  int
	}{{world.issuer.Mint(nil), 200}, {"garbage", 401}} {
		conn, err := tls.Dial("tcp", e.Address, e.tls)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: api.example\r\nAuthorization: Bearer %s\r\n\r\n", row.token)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != row.want {
			t.Errorf("HTTP/1.0: got %v, %v; want %d", answer, err, row.want)
		}
		_ = conn.Close()
	}
	// One client connection, one verdict for each request on it.
	for _, token := range []string{world.issuer.Mint(nil), "garbage", world.issuer.Mint(nil)} {
		got, err := e.post(strings.NewReader(""), token)
		if err != nil || (got.Status == 200) == (token == "garbage") {
			t.Errorf("one connection, token %.10s: got %d, %v", token, got.Status, err)
		}
	}
	t.Run("ATH-04 two Authorization lines never reach the backend", func(t *testing.T) {
		good := bearer(world.issuer.Mint(nil))
		e.send("GET /", good) // where answers are kept, this one is
		for _, lines := range [][]string{{good, bearer("garbage")}, {bearer("garbage"), good}, {good, good}} {
			before := world.backend.count()
			if got := e.send("GET /", lines...); got.Status != 401 && got.Status != 400 || world.backend.count() > before {
				t.Errorf("got %d, backend reached: %v; want 400 or 401 and not reached", got.Status, world.backend.count() > before)
			}
		}
	})
	t.Run("§9b a header that is too large for somebody", func(t *testing.T) {
		before := world.backend.count()
		got := e.send("GET /", bearer(strings.Repeat("a", 60<<10)))
		if !slices.Contains([]int{400, 401, 413, 431}, got.Status) && got.Status != r.away || world.backend.count() > before {
			t.Errorf("got %d, backend reached: %v; want it refused", got.Status, world.backend.count() > before)
		}
	})
}

// revokes holds the gateway to refusing what is revoked, late at most.
func (r recipe) revokes(t *testing.T, e *edge, world *rig) {
	token := world.issuer.Mint(map[string]any{"jti": "one"})
	for range 3 {
		if got := e.send("GET /", bearer(token)); got.Status != 200 {
			t.Fatalf("before: got %d, want 200", got.Status)
		}
	}
	if status, body := world.service.post("/revoke", url.Values{"token": {token}}); status != 200 {
		t.Fatalf("POST /revoke: got %d %s", status, body)
	}
	revoked := time.Now()
	var last time.Time // when the last request that passed was sent
	until(t, "the revoked token is refused", world.service.ended, func() bool {
		sent := time.Now()
		got := e.send("GET /", bearer(token))
		if got.Status == 200 {
			last = sent
		}
		return got.Status == 401
	})
	if late := last.Sub(revoked); !last.IsZero() && late > r.late {
		t.Errorf("a request passed %s after the revocation, want none after %s", late, r.late)
	}
}

// closed holds a gateway whose introspectd gives no verdict to letting nothing
// pass. All ask at once: some gateways have their clients wait long.
func (r recipe) closed(t *testing.T, e *edge, world *rig, want int) {
	t.Helper()
	var asked sync.WaitGroup
	before := world.backend.count()
	for name, headers := range map[string][]string{"a good token": {bearer(world.issuer.Mint(nil))}, "garbage": {bearer("garbage")}, "no token": nil} {
		asked.Go(func() {
			got, err := e.ask("GET /", headers...)
			if err != nil || got.Status != want && (headers != nil || got.Status != 401) {
				t.Errorf("%s: got %d and %v; want %d, or 401 where there is no token", name, got.Status, err, want)
			}
		})
	}
	asked.Wait()
	if reached := world.backend.count() - before; reached > 0 {
		t.Errorf("the backend was reached %d times, want never", reached)
	}
}

// recipes are all that are run.
func recipes() []recipe {
	return []recipe{
		{
			name: "nginx", away: 500, connections: 1,
			start: func(t *testing.T, r *rig, edits ...edit) *edge {
				return startNginx(t, r.introspectd(), r.behind(), edits...).edge
			},
			hurry: []edit{{"proxy_read_timeout    2s;", "proxy_read_timeout 100ms;"}},
		},
		{
			name: "nginx that keeps answers", away: 500, connections: 1, caching: true, late: keptByNginx,
			start: startCachingNginx,
			hurry: []edit{{"proxy_read_timeout    2s;", "proxy_read_timeout 100ms;"}},
		},
		{
			name: "nginx with njs", away: 500, connections: 1, claims: true,
			start: func(t *testing.T, r *rig, edits ...edit) *edge {
				need(t, "nginx")
				const module = "/usr/lib/nginx/modules/ngx_http_js_module.so"
				if _, err := os.Stat(module); err != nil {
					missing(t, "nginx's JavaScript module (libnginx-mod-http-js)")
				}
				n := newNginx(t)
				writeFile(t, filepath.Join(n.dir, "introspect.js"), n.recipe("nginx/introspect.js"))
				writeFile(t, filepath.Join(n.dir, "caller"), fmt.Sprintf("proxy_set_header Authorization %q;\n", asCaller))
				edits = append(n.places(r.introspectd(), r.behind()), append(edits, edit{"/etc/nginx/introspectd-caller", n.dir + "/caller"}, edit{"js_path /etc/nginx/;", "js_path " + n.dir + ";"})...)
				n.start(n.recipe("nginx/introspect.conf", edits...), module)
				return n.edge
			},
			hurry: []edit{{"proxy_read_timeout    2s;", "proxy_read_timeout 100ms;"}},
		},
		{
			name: "Apache with mod_auth_openidc", away: 401, dotted: 400, claims: true, tls: true,
			start: func(t *testing.T, r *rig, edits ...edit) *edge {
				return startApache(t, r, "apache/auth_openidc.conf", "auth_openidc", "OIDCOAuthClientID app\nOIDCOAuthClientSecret "+testSecret, append(edits, edit{"https://127.0.0.1:8443", "https://" + r.introspectd()})...)
			},
			hurry: []edit{{"OIDCHTTPTimeoutLong  2", "OIDCHTTPTimeoutLong 1"}},
			but: map[string]exception{
				"ATH-11 OPTIONS is judged like any other": {401, "without a challenge: the module lets it through to the demands, which no one meets"},
				"ATH-12 a token bound to a key":           {403, "the module finds the token good, and the recipe's demand refuses it"},
			},
		},
		{
			name: "Apache with mod_oauth2", away: 401, dotted: 400, claims: true, late: 2 * time.Second,
			start: func(t *testing.T, r *rig, edits ...edit) *edge {
				question := "OAuth2TokenVerify introspect http://" + r.introspectd() + "/introspect introspect.auth=client_secret_basic&client_id=app&client_secret=" + testSecret + "&expiry=1"
				return startApache(t, r, "apache/oauth2.conf", "oauth2", question, edits...)
			},
			waits: 15 * time.Second, // and nothing shortens it
			but: map[string]exception{
				"ATH-12 a token bound to a key": {403, "the module finds the token good, and the recipe's demand refuses it"},
			},
		},
		{
			name: "Caddy", away: 502, slow: 504, untold: 503, malformed: 400, connections: 1,
			start: func(t *testing.T, r *rig, edits ...edit) *edge {
				program := need(t, "caddy")
				e := newEdge(t)
				conf := e.recipe("caddy/Caddyfile", append([]edit{
					{"api.example {", "https://api.example:" + port(e.Address) + " {\n\tbind 127.0.0.1"},
					{"/etc/caddy/api.example.crt", e.certificate},
					{"/etc/caddy/api.example.key", e.key},
					{"127.0.0.1:8080", r.introspectd()},
					{"127.0.0.1:9000", r.behind()},
					// No certificate authority is asked, and none made and trusted.
					{"\tadmin off\n", "\tadmin off\n\tauto_https off\n\tskip_install_trust\n\tstorage file_system " + e.dir + "\n"},
				}, edits...)...)
				writeFile(t, e.dir+"/Caddyfile", conf)
				command := exec.Command(program, "run", "--config", e.dir+"/Caddyfile", "--adapter", "caddyfile")
				command.Env = []string{"HOME=" + e.dir, "PATH=" + e.dir} // it can't start others
				e.run(command, "")
				return e
			},
			hurry: []edit{{"response_header_timeout 2s", "response_header_timeout 100ms"}},
		},
		{
			name: "HAProxy", away: 503, malformed: 400,
			start: startHAProxy,
			hurry: []edit{{"timeout server  2s", "timeout server 100ms"}},
		},
		{
			name: "skipper", away: 401, words: true, connections: 1,
			start: func(t *testing.T, r *rig, edits ...edit) *edge {
				return startSkipper(t, r, "routes.eskip", "http://127.0.0.1:8080", edits...)
			},
			hurry: []edit{{"webhook-timeout: 2s", "webhook-timeout: 100ms"}},
		},
		{
			name: "Traefik", away: 500, untold: 503, malformed: 400, connections: 1, cleans: true, semicolon: "%3B",
			start: startTraefik,
			waits: 30 * time.Second, // and nothing shortens it
		},
	}
}

// startApache runs a recipe of Apache with the modules that it asks for.
func startApache(t *testing.T, r *rig, file, client, credential string, edits ...edit) *edge {
	t.Helper()
	program := need(t, "apache2")
	const modules = "/usr/lib/apache2/modules"
	if _, err := os.Stat(modules + "/mod_" + client + ".so"); err != nil {
		missing(t, "Apache's mod_"+client+" (Debian: libapache2-mod-"+strings.ReplaceAll(client, "_", "-")+")")
	}
	e := newEdge(t)
	// Apache works as another user where root starts it, and tests' own
	// directories are closed to all others.
	dir, err := os.MkdirTemp("", "apache")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, open := range []func() error{
		func() error { return os.Chmod(dir, 0o755) },
		func() error { return os.Mkdir(dir+"/cache", 0o777) },
		func() error { return os.Chmod(dir+"/cache", 0o777) },
	} {
		if err := open(); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf("ServerRoot %[1]s\nPidFile %[1]s/pid\nDefaultRuntimeDir %[1]s\nErrorLog %[1]s/log\nServerName api.example\nListen %[2]s https\n", dir, e.Address)
	if os.Geteuid() == 0 {
		conf += "User www-data\nGroup www-data\n"
	}
	for _, module := range []string{"mpm_event", "authn_core", "authz_core", "authz_user", "ssl", "socache_shmcb", "headers", "rewrite", "setenvif", "proxy", "proxy_http", client} {
		conf += fmt.Sprintf("LoadModule %s_module %s/mod_%[1]s.so\n", module, modules)
	}
	if r.ca != "" {
		text, err := os.ReadFile(r.ca)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/ca", text, 0o644); err != nil {
			t.Fatal(err)
		}
		edits = append(edits, edit{"/etc/apache2/introspectd-ca.crt", dir + "/ca"})
	}
	writeFile(t, dir+"/caller", credential+"\n")
	conf += e.recipe(file, append([]edit{
		{"<VirtualHost *:443>", "<VirtualHost " + e.Address + ">"},
		{"/etc/apache2/api.example.crt", e.certificate},
		{"/etc/apache2/api.example.key", e.key},
		{"http://127.0.0.1:9000/", "http://" + r.behind() + "/"},
		{"/etc/apache2/introspectd-caller", dir + "/caller"},
	}, edits...)...)
	writeFile(t, dir+"/httpd.conf", conf)
	e.run(exec.Command(program, "-DFOREGROUND", "-f", dir+"/httpd.conf"), dir+"/log")
	return e
}

func startHAProxy(t *testing.T, r *rig, edits ...edit) *edge {
	t.Helper()
	program := need(t, "haproxy")
	e := newEdge(t)
	both := ""
	for _, path := range []string{e.certificate, e.key} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		both += string(text)
	}
	writeFile(t, e.dir+"/both.pem", both)
	socket := edit{"abns@introspectd-questions", "abns@introspectd-" + port(e.Address)}
	writeFile(t, e.dir+"/introspectd.lua", e.recipe("haproxy/introspectd.lua", socket))
	writeFile(t, e.dir+"/haproxy.cfg", e.recipe("haproxy/haproxy.cfg", append(edits, socket, edit{"127.0.0.1:8080", r.introspectd()},
		edit{"bind :443 ", "bind " + e.Address + " "}, edit{"/etc/haproxy/api.example.pem", e.dir + "/both.pem"},
		edit{"/etc/haproxy/introspectd.lua", e.dir + "/introspectd.lua"}, edit{"127.0.0.1:9000", r.behind()})...))
	e.run(exec.Command(program, "-db", "-f", e.dir+"/haproxy.cfg"), "")
	return e
}

func startTraefik(t *testing.T, r *rig, _ ...edit) *edge {
	t.Helper()
	// Nothing is built here: that takes minutes.
	program, err := exec.Command("../../.ci/traefik/build", "-n").Output()
	if err != nil {
		missing(t, "Traefik")
	}
	e := newEdge(t)
	writeFile(t, e.dir+"/dynamic.yaml", e.recipe("traefik/dynamic.yaml", edit{"http://127.0.0.1:8080", "http://" + r.introspectd()}, edit{"http://127.0.0.1:9000", "http://" + r.behind()},
		edit{"/etc/traefik/api.example.crt", e.certificate}, edit{"/etc/traefik/api.example.key", e.key}))
	writeFile(t, e.dir+"/traefik.yaml", e.recipe("traefik/traefik.yaml", edit{`address: ":443"`, "address: " + e.Address}, edit{"/etc/traefik/", e.dir + "/"}))
	e.run(exec.Command(strings.TrimSpace(string(program)), "--configFile="+e.dir+"/traefik.yaml"), "")
	// It listens before it has read its routes.
	until(t, "Traefik has its routes", nil, func() bool {
		answer, err := e.client.Get("https://" + e.Address + "/healthz")
		return err == nil && answer.Body.Close() == nil && answer.StatusCode == 200
	})
	return e
}

// startSkipper runs skipper with its settings and a file of routes, in which
// introspectd is where it says.
func startSkipper(t *testing.T, r *rig, routes, introspectd string, edits ...edit) *edge {
	t.Helper()
	e := newEdge(t)
	writeFile(t, e.dir+"/introspectd.lua", e.recipe("skipper/introspectd.lua"))
	writeFile(t, e.dir+"/routes.eskip", e.recipe("skipper/"+routes, edit{introspectd, "http://" + r.introspectd()}, edit{"http://127.0.0.1:9000", "http://" + r.behind()}))
	writeFile(t, e.dir+"/skipper.yaml", e.recipe("skipper/skipper.yaml", append(edits,
		edit{`address: ":443"`, "address: " + e.Address}, edit{"/etc/skipper/api.example.crt", e.certificate}, edit{"/etc/skipper/api.example.key", e.key},
		edit{"127.0.0.1:9911", freeAddress(t)}, edit{"/etc/skipper/", e.dir + "/"})...))
	command := exec.Command(skipper.path(t), "-config-file", e.dir+"/skipper.yaml", "-access-log-disabled", "-wait-for-healthcheck-interval", "0s")
	command.Env = []string{"OAUTH_CLIENT_ID=app", "OAUTH_CLIENT_SECRET=" + testSecret}
	e.run(command, "")
	return e
}

// port is that of an address.
func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// asCaller is the credential of app.
var asCaller = "Basic " + base64.StdEncoding.EncodeToString([]byte("app:"+testSecret))

func startCachingNginx(t *testing.T, r *rig, edits ...edit) *edge {
	t.Helper()
	need(t, "nginx")
	n := newNginx(t)
	edits = append(n.places(r.introspectd(), r.behind()), append(edits, edit{"/run/nginx-introspectd", n.dir + "/kept"})...)
	n.start(n.recipe("nginx/auth_request-cached.conf", edits...))
	return n.edge
}

// keptByNginx is max_delay, and the second that nginx may take more.
const keptByNginx = 2 * time.Second

func TestNginxThatKeepsAnswers(t *testing.T) {
	r := recipe{caching: true}
	world := newRig(t, r)
	e := startCachingNginx(t, world)
	asked := func() int { return strings.Count(strings.Join(world.tap.connections(), ""), "GET /auth/") }

	t.Run("ATH-01 many requests ask few questions", func(t *testing.T) {
		token := bearer(world.issuer.Mint(nil))
		for range 20 {
			if got := e.send("GET /", token); got.Status != 200 {
				t.Fatalf("got %d, want 200", got.Status)
			}
		}
		if n := asked(); n > 10 {
			t.Errorf("introspectd was asked %d times for 20 requests, want a few", n)
		}
	})
	t.Run("GW-01 the policy is part of the key", func(t *testing.T) {
		token := bearer(world.issuer.Mint(nil))
		for range 3 {
			if default_, reports := e.send("GET /", token), e.send("GET /reports/1", token); default_.Status != 200 || reports.Status != 403 {
				t.Errorf("got %d and %d, want 200 and 403", default_.Status, reports.Status)
			}
		}
	})
	t.Run("ATH-05 no refusal is kept", func(t *testing.T) {
		asked()
		world.tap.silence(false)
		for range 5 {
			if got := e.send("GET /", bearer("garbage")); got.Status != 401 {
				t.Errorf("got %d, want 401", got.Status)
			}
		}
		if n := asked(); n != 5 {
			t.Errorf("introspectd was asked %d times, want 5", n)
		}
	})
	t.Run("ATH-05 nothing is kept of a token with less than the bound left", func(t *testing.T) {
		asked()
		world.tap.silence(false)
		token := bearer(world.issuer.Mint(map[string]any{"exp": time.Now().Unix()})) // passes by leeway
		for range 5 {
			if got := e.send("GET /", token); got.Status != 200 {
				t.Errorf("got %d, want 200", got.Status)
			}
		}
		if n := asked(); n != 5 {
			t.Errorf("introspectd was asked %d times, want 5", n)
		}
	})
	t.Run("§9b a kept answer outlives introspectd by no more", func(t *testing.T) {
		token := bearer(world.issuer.Mint(nil))
		if got := e.send("GET /", token); got.Status != 200 {
			t.Fatalf("got %d, want 200", got.Status)
		}
		world.tap.gone()
		gone := time.Now()
		var last time.Time
		until(t, "the token is refused", world.service.ended, func() bool {
			sent := time.Now()
			got := e.send("GET /", token)
			if got.Status == 200 {
				last = sent
			}
			return got.Status == 500
		})
		if late := last.Sub(gone); late > keptByNginx {
			t.Errorf("a request passed %s after introspectd was gone, want none after %s", late, keptByNginx)
		}
	})
}

// TestSkipperByDiscovery runs skipper as a client of RFC 7662 that knows our
// public_url and nothing more.
func TestSkipperByDiscovery(t *testing.T) {
	world := &rig{backend: newBackend(t)}
	var darkIss string
	world.issuer, world.iss = newIssuer(t, "ES256")
	world.dark, darkIss = newIssuer(t, "ES256")
	world.dark.Fail(devissuer.Refuse500)
	listen := freeAddress(t)
	world.tap = newTap(t, listen)
	config := strings.Replace(oneCaller, "introspect,", "introspect, revoke,", 1) + "state: {path: " + filepath.Join(t.TempDir(), "state") + "}\n"
	world.service = launch(t, config+fmt.Sprintf("server: {public_url: \"http://%s\"}\nissuers:\n", world.introspectd())+row("idp", world.iss)+row("dark", darkIss), "--listen", listen)
	world.service.URL = "http://" + listen
	world.hasKeys()
	run := func() *edge {
		return startSkipper(t, world, "introspect.eskip", "https://introspect.example", edit{"tokenintrospect-timeout: 2s", "tokenintrospect-timeout: 500ms"})
	}
	e := run()
	ask := func(want int, challenge string, headers ...string) http.Header {
		t.Helper()
		before := world.backend.count()
		got := e.send("GET /", headers...)
		if got.Status != want || strings.Join(got.Challenges, "\n") != challenge || world.backend.count() > before != (want == 200) {
			t.Errorf("%.60q: got %d, %q, backend reached: %v; want %d and %q", headers, got.Status, got.Challenges, world.backend.count() > before, want, challenge)
		}
		return got.Arrival.Header
	}
	token := world.issuer.Mint(map[string]any{"sub": "u-1", "jti": "one"})
	t.Run("INT-01 a good token, whatever the client says of itself", func(t *testing.T) {
		for _, name := range append(spellings("X-Auth-Subject"), "X.Auth.Subject") {
			got := ask(200, "", bearer(token), name+": root", "X-Auth-Issuer: root", "Connection: X-Auth-Subject, close")
			if subject, issuer := got.Values("X-Auth-Subject"), got.Get("X-Auth-Issuer"); len(subject) != 1 || subject[0] != "u-1" || issuer != world.iss || strings.Contains(fmt.Sprint(got), "root") {
				t.Errorf("%s: got %v at the backend, want the token's identity alone", name, got)
			}
		}
	})
	t.Run("INT-02 refusals", func(t *testing.T) {
		for _, headers := range [][]string{
			nil,
			{"Authorization: Basic YTpi"},
			{"Authorization: Bearer"},
			{bearer("garbage")},
			{bearer("garbage"), bearer(token)},
			{bearer(world.issuer.Mint(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}))},
			{bearer(devissuer.New("https://elsewhere.example").Mint(nil))},
			{bearer(world.issuer.Mint(map[string]any{"cnf": map[string]any{"jkt": "x"}}))},
		} {
			ask(401, plainly, headers...)
		}
	})
	t.Run("GW-05 a sub that no header can carry", func(t *testing.T) {
		before := world.backend.count()
		if got := e.send("GET /", bearer(world.issuer.Mint(map[string]any{"sub": "a\r\nX-Admin: 1"}))); got.Status < 400 || world.backend.count() > before {
			t.Errorf("got %d, backend reached: %v; want it refused", got.Status, world.backend.count() > before)
		}
	})
	t.Run("INT-02 revoked", func(t *testing.T) {
		if status, body := world.service.post("/revoke", url.Values{"token": {token}}); status != 200 {
			t.Fatalf("POST /revoke: got %d %s", status, body)
		}
		ask(401, plainly, bearer(token))
	})
	t.Run("§9b no keys of the issuer", func(t *testing.T) { ask(503, "", bearer(world.dark.Mint(nil))) })
	fresh := bearer(world.issuer.Mint(nil))
	t.Run("§9b introspectd is slow", func(t *testing.T) {
		world.tap.silence(true)
		defer world.tap.silence(false)
		ask(503, "", fresh)
	})
	t.Run("§9b introspectd is away", func(t *testing.T) {
		world.tap.gone()
		ask(503, "", fresh)
		ask(401, plainly)
		before := world.backend.count()
		if got := run().send("GET /", fresh); got.Status != 404 || world.backend.count() > before {
			t.Errorf("a skipper that starts now: got %d, backend reached: %v; want 404", got.Status, world.backend.count() > before)
		}
	})
}
