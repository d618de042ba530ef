package main

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"introspectd/internal/devissuer"
)

// gatewayPolicies are the ones that the recipe names.
const gatewayPolicies = `
policies:
  - {name: default, any_audience: true}
  - {name: reports, any_audience: true, scopes: ["reports:read"]}
`

// arrival is a request as the backend got it.
type arrival struct {
	Method, URI string
	Header      http.Header
	Body        int // bytes
}

// backend answers each request with what arrived, and an Upgrade by telling who
// asks and what Connection said, and echoing a line.
type backend struct {
	*httptest.Server
	mu       sync.Mutex
	arrivals int
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.arrivals++
		b.mu.Unlock()
		if r.Header.Get("Upgrade") != "" {
			b.echo(w, r)
			return
		}
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(arrival{r.Method, r.RequestURI, r.Header, int(n)})
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *backend) echo(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	accept := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455 section 4.2.2
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\nX-Seen: %s %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(accept[:]), strings.Join(r.Header.Values("X-Auth-Subject"), ","), strings.Join(r.Header.Values("Connection"), ","))
	_ = rw.Flush()
	line, err := rw.ReadString('\n')
	if err == nil {
		fmt.Fprint(rw, "echo "+line)
		_ = rw.Flush()
	}
}

func (b *backend) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.arrivals
}

// tap stands between a gateway and introspectd and keeps what the gateway
// sent, by connection.
type tap struct {
	net.Listener
	mu    sync.Mutex
	heard []*syncBuffer
	open  []net.Conn
	mute  bool
}

func newTap(t *testing.T, to string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{Listener: l}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.forward(in, to) })
		}
	})
	return p
}

func (p *tap) forward(in net.Conn, to string) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	said := &syncBuffer{}
	p.mu.Lock()
	p.heard, p.open = append(p.heard, said), append(p.open, in, out)
	mute := p.mute
	p.mu.Unlock()
	if mute {
		_, _ = io.Copy(io.Discard, in)
		return
	}
	go func() {
		_, _ = io.Copy(out, io.TeeReader(in, said))
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
}

// connections is what was sent on each connection since the last call.
func (p *tap) connections() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var texts []string
	for _, b := range p.heard {
		texts = append(texts, b.String())
	}
	p.heard = nil
	return texts
}

// silence has introspectd hear nothing more and answer nothing, on any
// connection.
func (p *tap) silence(mute bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = mute
	for _, conn := range p.open {
		_ = conn.Close()
	}
	p.open = nil
}

// gone has connections refused.
func (p *tap) gone() {
	_ = p.Close()
	p.silence(true)
}

// edge is a gateway that speaks TLS, as its clients see it.
type edge struct {
	t                *testing.T
	Address          string
	dir              string // where its configuration lies
	certificate, key string // paths
	client           *http.Client
	tls              *tls.Config
	patience         time.Duration // how long its clients wait for an answer
}

// newEdge is one that is not running yet.
func newEdge(t *testing.T) *edge {
	t.Helper()
	e := &edge{t: t, Address: freeAddress(t), dir: t.TempDir(), patience: 10 * time.Second}
	ca := newCertificate(t, "a test's root", nil)
	e.certificate, e.key = newCertificate(t, "127.0.0.1", ca).write(t, e.dir, "edge")
	e.tls = &tls.Config{RootCAs: ca.pool(), MinVersion: tls.VersionTLS12}
	e.client = &http.Client{Transport: &http.Transport{TLSClientConfig: e.tls}, Timeout: e.patience}
	t.Cleanup(e.client.CloseIdleConnections)
	return e
}

// recipe is a file of deploy with texts replaced. An edit whose text the file
// doesn't have fails the test: it would test nothing.
func (e *edge) recipe(name string, edits ...edit) string {
	e.t.Helper()
	text, err := os.ReadFile(filepath.Join("../../deploy", name))
	if err != nil {
		e.t.Fatal(err)
	}
	conf := string(text)
	for _, one := range edits {
		if !strings.Contains(conf, one.old) {
			e.t.Fatalf("%s has no %q", name, one.old)
		}
		conf = strings.ReplaceAll(conf, one.old, one.with)
	}
	return conf
}

// run starts the gateway's process, waits until it listens and ends it with
// the test; its log is shown when that failed.
func (e *edge) run(command *exec.Cmd, log string) {
	e.t.Helper()
	said := &syncBuffer{}
	command.Stdout, command.Stderr = said, said
	if err := command.Start(); err != nil {
		e.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	e.t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		<-ended
		if text, _ := os.ReadFile(log); e.t.Failed() {
			e.t.Logf("the gateway's log:\n%s%s", said, text)
		}
	})
	until(e.t, "the gateway listens", ended, func() bool {
		c, err := net.Dial("tcp", e.Address)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

// nginx is an edge.
type nginx struct{ *edge }

// newNginx is one that is not running yet.
func newNginx(t *testing.T) *nginx {
	t.Helper()
	return &nginx{newEdge(t)}
}

// edit is one replacement in the recipe.
type edit struct{ old, with string }

// startNginx runs the recipe with addresses and paths replaced.
func startNginx(t *testing.T, introspectd, backend string, edits ...edit) *nginx {
	t.Helper()
	n := newNginx(t)
	n.start(n.recipe("nginx/auth_request.conf", append(n.places(introspectd, backend), edits...)...))
	return n
}

// places are the addresses and paths to replace in a recipe of nginx.
func (n *nginx) places(introspectd, backend string) []edit {
	return []edit{
		{"server 127.0.0.1:8080;", "server " + introspectd + ";"},
		{"server 127.0.0.1:9000;", "server " + backend + ";"},
		{"listen 443 ssl;", "listen " + n.Address + " ssl;"},
		{"/etc/nginx/api.example.crt", n.certificate},
		{"/etc/nginx/api.example.key", n.key},
	}
}

// start runs it with what belongs into the http section, and with modules.
func (n *nginx) start(conf string, modules ...string) {
	n.t.Helper()
	program := need(n.t, "nginx")
	writeFile(n.t, filepath.Join(n.dir, "http.conf"), conf)
	main := ""
	for _, module := range modules {
		main += "load_module " + module + ";\n"
	}
	if os.Geteuid() == 0 {
		main += "user root;\n" // else the workers could not enter the test's directory
	}
	main += fmt.Sprintf("daemon off;\npid %s/pid;\nworker_processes 1;\nevents {}\nhttp {\naccess_log off;\n", n.dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		main += fmt.Sprintf("%s_temp_path %s/%[1]s;\n", kind, n.dir)
	}
	writeFile(n.t, filepath.Join(n.dir, "nginx.conf"), main+"include http.conf;\n}\n")

	log := filepath.Join(n.dir, "error.log")
	n.run(exec.Command(program, "-e", log, "-p", n.dir, "-c", filepath.Join(n.dir, "nginx.conf")), log)
}

// reply is a gateway's answer to a client.
type reply struct {
	Status     int
	Challenges []string
	Body       string
	Arrival    arrival // what the backend told, if it was the one to answer
}

// send makes a request with headers given as "Name: value", byte for byte.
func (e *edge) send(line string, headers ...string) reply {
	e.t.Helper()
	r, err := e.ask(line, headers...)
	if err != nil {
		e.t.Fatalf("%s: %v", line, err)
	}
	return r
}

// ask is send for those that can't end a test.
func (e *edge) ask(line string, headers ...string) (reply, error) {
	conn, answer, err := e.dial(line, headers...)
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	return read(answer)
}

func read(answer *http.Response) (reply, error) {
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return reply{}, fmt.Errorf("reading the answer: %w", err)
	}
	r := reply{Status: answer.StatusCode, Challenges: answer.Header["Www-Authenticate"], Body: string(body)}
	if answer.Header.Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(body, &r.Arrival); err != nil {
			return r, fmt.Errorf("the backend's answer: %w in %s", err, body)
		}
	}
	return r, nil
}

// open sends the head of a request and reads that of the answer.
func (e *edge) open(line string, headers ...string) (*bufferedConn, *http.Response) {
	e.t.Helper()
	conn, answer, err := e.dial(line, headers...)
	if err != nil {
		e.t.Fatalf("%s: %v", line, err)
	}
	return conn, answer
}

func (e *edge) dial(line string, headers ...string) (*bufferedConn, *http.Response, error) {
	raw, err := tls.Dial("tcp", e.Address, e.tls)
	if err != nil {
		return nil, nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(e.patience))
	conn := &bufferedConn{raw, bufio.NewReader(raw)}
	head := line + " HTTP/1.1\r\nHost: api.example\r\n"
	if !strings.Contains(strings.Join(headers, "\n"), "Connection:") {
		head += "Connection: close\r\n"
	}
	for _, h := range headers {
		head += h + "\r\n"
	}
	_, err = io.WriteString(conn, head+"\r\n")
	var answer *http.Response
	if err == nil {
		answer, err = http.ReadResponse(conn.buffer, nil)
	}
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, answer, nil
}

type bufferedConn struct {
	net.Conn
	buffer *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.buffer.Read(p) }

// bearer is the Authorization line for a token.
func bearer(token string) string { return "Authorization: Bearer " + token }

// gateway is nginx before a backend, judged by introspectd.
type gateway struct {
	*nginx
	issuer  *devissuer.Issuer
	iss     string
	service *service
	backend *backend
	tap     *tap
}

func newGateway(t *testing.T, edits ...edit) *gateway {
	t.Helper()
	need(t, "nginx")
	g := &gateway{backend: newBackend(t)}
	g.issuer, g.iss = newIssuer(t)
	g.service = start(t, oneCaller+gatewayPolicies+"issuers:\n"+row("idp", g.iss))
	g.tap = newTap(t, strings.TrimPrefix(g.service.URL, "http://"))
	g.nginx = startNginx(t, g.tap.Addr().String(), g.backend.Listener.Addr().String(), edits...)
	return g
}

func TestGatewayVerdicts(t *testing.T) {
	g := newGateway(t)
	expired := g.issuer.Mint(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})
	strange := devissuer.New("https://elsewhere.example").Mint(nil)
	for _, tt := range []struct {
		name, line string
		headers    []string
		status     int
		challenge  string
	}{
		{"ATH-01 a good token", "GET /", []string{bearer(g.issuer.Mint(nil))}, 200, ""},
		{"ATH-01 the scheme in lower case", "GET /", []string{"authorization: bearer " + g.issuer.Mint(nil)}, 200, ""},
		{"ATH-02 no token", "GET /", nil, 401, `Bearer realm="introspectd"`},
		{"ATH-03 another scheme", "GET /", []string{"Authorization: Basic YTpi"}, 401, `Bearer realm="introspectd"`},
		{"ATH-05 garbage", "GET /", []string{bearer("garbage")}, 401, `Bearer realm="introspectd", error="invalid_token", error_description="The access token is invalid"`},
		{"ATH-05 expired", "GET /", []string{bearer(expired)}, 401, `Bearer realm="introspectd", error="invalid_token", error_description="The access token expired"`},
		{"ATH-05 an unknown issuer", "GET /", []string{bearer(strange)}, 401, `Bearer realm="introspectd", error="invalid_token", error_description="The access token is invalid"`},
		{"ATH-05 a token over 16 KiB", "GET /", []string{bearer(strings.Repeat("a", 20<<10))}, 401, `Bearer realm="introspectd", error="invalid_token", error_description="The access token is invalid"`},
		{"§9b a header that nginx itself has no room for", "GET /", []string{bearer(strings.Repeat("a", 40<<10))}, 400, ""},
		{"ATH-06 a missing scope", "GET /reports/1", []string{bearer(g.issuer.Mint(map[string]any{"scope": "reports:write"}))}, 403, `Bearer realm="introspectd", error="insufficient_scope", scope="reports:read"`},
		{"ATH-01 the scope is there", "GET /reports/1", []string{bearer(g.issuer.Mint(map[string]any{"scope": "x reports:read"}))}, 200, ""},
		{"ATH-10 a method that nobody has heard of", "BREW /", []string{bearer(g.issuer.Mint(nil))}, 200, ""},
		{"ATH-11 OPTIONS is judged like any other", "OPTIONS /", nil, 401, `Bearer realm="introspectd"`},
		{"§9b a route without a verdict", "GET /healthz", nil, 200, ""},
		{"GW-02 a question can't be asked from outside", "GET /_introspectd/default", []string{bearer(g.issuer.Mint(nil))}, 404, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := g.backend.count()
			got := g.send(tt.line, tt.headers...)
			if got.Status != tt.status || strings.Join(got.Challenges, "\n") != tt.challenge {
				t.Errorf("%s: got %d with %q, want %d with %q", tt.line, got.Status, got.Challenges, tt.status, tt.challenge)
			}
			if reached := g.backend.count() > before; reached != (tt.status == 200) {
				t.Errorf("%s: the backend was reached: %v, with status %d", tt.line, reached, got.Status)
			}
		})
	}
	t.Run("ATH-04 two Authorization lines never reach the backend", func(t *testing.T) {
		before := g.backend.count()
		got := g.send("GET /", bearer("garbage"), bearer(g.issuer.Mint(nil)))
		// nginx from 1.23 refuses them itself.
		if got.Status != 401 && got.Status != 400 || g.backend.count() > before {
			t.Errorf("got %d, backend reached: %v; want 400 or 401 and not reached", got.Status, g.backend.count() > before)
		}
	})
}

func TestGatewayTellsTheBackendWhoAsks(t *testing.T) {
	g := newGateway(t)
	t.Run("ATH-01 every configured header, from the token", func(t *testing.T) {
		got := g.send("GET /orders?x=1", bearer(g.issuer.Mint(map[string]any{
			"sub": "u-1", "client_id": "shop", "preferred_username": "amy", "scope": "read write",
		}))).Arrival
		for name, want := range map[string]string{
			"X-Auth-Subject": "u-1", "X-Auth-Issuer": g.iss, "X-Auth-Client-Id": "shop", "X-Auth-Username": "amy", "X-Auth-Scope": "read write",
		} {
			if v := got.Header.Values(name); len(v) != 1 || v[0] != want {
				t.Errorf("%s at the backend: got %q, want %q", name, v, want)
			}
		}
		if got.URI != "/orders?x=1" {
			t.Errorf("URI at the backend: got %q, want it as it was sent", got.URI)
		}
	})
	t.Run("GW-03 an absent claim clears what the client sent", func(t *testing.T) {
		got := g.send("GET /", bearer(g.issuer.Mint(map[string]any{"client_id": nil})),
			"X-Auth-Username: root", "X-Auth-Client-Id: root", "X-Auth-Scope: admin")
		if got.Status != 200 {
			t.Fatalf("status: got %d, want 200", got.Status)
		}
		for _, name := range []string{"X-Auth-Username", "X-Auth-Client-Id", "X-Auth-Scope"} {
			if v, ok := got.Arrival.Header[name]; ok {
				t.Errorf("%s at the backend: got %q, want none", name, v)
			}
		}
	})
	t.Run("GW-05 line breaks in a claim make no header", func(t *testing.T) {
		got := g.send("GET /", bearer(g.issuer.Mint(map[string]any{"preferred_username": "a\r\nX-Admin: 1"})))
		if v := got.Arrival.Header; got.Status != 200 || v.Get("X-Admin") != "" || v["X-Auth-Username"] != nil {
			t.Errorf("got %d and %v, want 200 and neither X-Admin nor X-Auth-Username", got.Status, v)
		}
		got = g.send("GET /", bearer(g.issuer.Mint(map[string]any{"sub": "a\r\nX-Admin: 1"})))
		if got.Status != 401 {
			t.Errorf("a sub that no header can carry: got %d, want 401", got.Status)
		}
	})
	t.Run("GW-05 what is not ASCII is percent-encoded", func(t *testing.T) {
		got := g.send("GET /", bearer(g.issuer.Mint(map[string]any{"sub": "Zoë 100%"}))).Arrival.Header.Get("X-Auth-Subject")
		if want := "Zo%C3%AB 100%25"; got != want {
			t.Errorf("X-Auth-Subject: got %q, want %q", got, want)
		}
	})
	t.Run("GW-05 headers beyond nginx's buffer are left out, whole", func(t *testing.T) {
		var scopes []string // all different, as duplicates are dropped
		for n := range 1000 {
			scopes = append(scopes, fmt.Sprint("scope-", n))
		}
		got := g.send("GET /", bearer(g.issuer.Mint(map[string]any{"sub": "u-1", "scope": strings.Join(scopes, " ")})))
		if h := got.Arrival.Header; got.Status != 200 || h.Get("X-Auth-Subject") != "u-1" || h["X-Auth-Scope"] != nil {
			t.Errorf("got %d, subject %q and %d bytes of scope; want 200 with the subject and no scope", got.Status, h.Get("X-Auth-Subject"), len(h.Get("X-Auth-Scope")))
		}
	})
}

// spellings are all names that CGI and WSGI make one variable of.
func spellings(name string) []string {
	head, rest, found := strings.Cut(name, "-")
	if !found {
		return []string{name}
	}
	var all []string
	for _, tail := range spellings(rest) {
		all = append(all, head+"-"+tail, head+"_"+tail)
	}
	return all
}

func TestGatewayStopsSpoofedIdentities(t *testing.T) {
	var headers []string
	for _, name := range []string{"X-Auth-Subject", "X-Auth-Issuer", "X-Auth-Client-Id", "X-Auth-Username", "X-Auth-Scope"} {
		for _, spelling := range spellings(name) {
			headers = append(headers, spelling+": root", strings.ToLower(spelling)+": root")
		}
		headers = append(headers, strings.ReplaceAll(name, "-", ".")+": root")
	}
	for _, underscores := range []string{"off", "on"} {
		t.Run("GW-03 underscores_in_headers "+underscores, func(t *testing.T) {
			g := newGateway(t, edit{"underscores_in_headers off;", "underscores_in_headers " + underscores + ";"})
			token := g.issuer.Mint(map[string]any{"sub": "u-1", "client_id": nil})
			check := func(line string, headers ...string) http.Header {
				t.Helper()
				got := g.send(line, headers...)
				if got.Status != 200 {
					t.Fatalf("%s: got %d, want 200", line, got.Status)
				}
				for name, values := range got.Arrival.Header {
					if strings.Contains(strings.Join(values, " "), "root") {
						t.Errorf("%s: the backend got %s: %q of the client", line, name, values)
					}
				}
				return got.Arrival.Header
			}
			if got := check("GET /", append(headers, bearer(token))...); got.Get("X-Auth-Subject") != "u-1" || got.Get("X-Auth-Issuer") != g.iss {
				t.Errorf("identity at the backend: got %v, want that of the token", got)
			}
			check("GET /healthz", headers...)
			for _, connection := range []string{"X-Auth-Subject", "close, X-Auth-Subject, X-Auth-Issuer, X-Original-URI", "keep-alive, x-auth-subject"} {
				got := check("GET /", bearer(token), "X-Auth-Subject: root", "Connection: "+connection+", close")
				if got.Get("X-Auth-Subject") != "u-1" || got.Get("X-Auth-Issuer") != g.iss {
					t.Errorf("Connection: %s: got %v at the backend, want the token's identity", connection, got)
				}
				// A backend that honours it would drop the identity.
				if named := strings.ToLower(got.Get("Connection")); strings.Contains(named, "x-") {
					t.Errorf("Connection at the backend: got %q, want nothing that the client named", named)
				}
			}
		})
	}
}

func TestGatewayAsksAboutTheRequestThatItGot(t *testing.T) {
	g := newGateway(t)
	g.tap.connections()
	got := g.send("POST /orders/../reports/1?a=1", "Content-Length: 0")
	if got.Status != 400 || len(g.tap.connections()) != 0 {
		t.Fatalf("a path with two readings: got %d, want 400 and no question", got.Status)
	}
	got = g.send("POST /reports/%31?a=1", bearer(g.issuer.Mint(map[string]any{"scope": "reports:read"})), "Content-Length: 2",
		"X-Original-URI: /healthz", "X-Original-URL: http://x/healthz", "X-Original-Method: HEAD", "X-Forwarded-Uri: /healthz", "X-Forwarded-Method: HEAD",
		"X-Forwarded-Host: evil.example", "X-Forwarded-Proto: gopher", "X-Client-Cert: forged", "X-Forwarded-For: 203.0.113.9",
		"X-Introspectd-Policy: default", "X-Introspectd-Caller: Basic Zm9yZ2Vk", "Expect: 100-continue", "Upgrade: websocket", "Connection: upgrade, close",
		"X-Auth-Subject: root")
	asked := strings.Join(g.tap.connections(), "")
	head, _, _ := strings.Cut(asked, "\r\n\r\n")
	t.Run("GW-01 the policy stands in path and header, and is nginx's", func(t *testing.T) {
		if !strings.HasPrefix(head, "GET /auth/reports HTTP/1.1\r\n") || strings.Count(head, "X-Introspectd-Policy: reports") != 1 || strings.Contains(head, "default") {
			t.Errorf("nginx asked:\n%s\nwant GET /auth/reports with X-Introspectd-Policy: reports alone", head)
		}
	})
	t.Run("GW-02 forwarded facts are overwritten", func(t *testing.T) {
		for _, forged := range []string{"healthz", "HEAD", "evil.example", "gopher", "forged", "203.0.113.9", "Zm9yZ2Vk"} {
			if strings.Contains(head, forged) {
				t.Errorf("nginx passed on %q of the client:\n%s", forged, head)
			}
		}
		for _, fact := range []string{"X-Original-Method: POST", "X-Original-URI: /reports/%31?a=1", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: api.example"} {
			if !strings.Contains(head+"\r\n", fact+"\r\n") {
				t.Errorf("nginx asked:\n%s\nwant %s", head, fact)
			}
		}
		for _, name := range []string{"Content-Length", "Transfer-Encoding", "Expect", "Upgrade", "Connection"} {
			if strings.Contains(head, "\n"+name+":") {
				t.Errorf("nginx asked with %s:\n%s", name, head)
			}
		}
	})
}

func TestGatewayLeavesBodiesToTheBackend(t *testing.T) {
	g := newGateway(t)
	token := g.issuer.Mint(nil)
	const size = 8 << 20
	post := func(t *testing.T, token string, body io.Reader) reply {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, "https://"+g.Address+"/upload", body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := g.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		got, err := read(answer)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for name, body := range map[string]func() io.Reader{
		"ATH-10 of a known length": func() io.Reader { return bytes.NewReader(bytes.Repeat([]byte("body"), size/4)) },
		"ATH-10 in chunks": func() io.Reader {
			return io.MultiReader(bytes.NewReader(bytes.Repeat([]byte("body"), size/4))) // hides its length
		},
	} {
		t.Run(name, func(t *testing.T) {
			g.tap.connections()
			got := post(t, token, body())
			if got.Status != 200 || got.Arrival.Body != size || got.Arrival.Method != "POST" {
				t.Fatalf("got %d, %s and %d bytes at the backend; want 200, POST and %d", got.Status, got.Arrival.Method, got.Arrival.Body, size)
			}
			if asked := strings.Join(g.tap.connections(), ""); strings.Contains(asked, "bodybody") || len(asked) > 4<<10 {
				t.Errorf("nginx sent introspectd %d bytes, want a head alone", len(asked))
			}
		})
	}
	t.Run("ATH-05 the body of a refused request stays out as well", func(t *testing.T) {
		before := g.backend.count()
		if got := post(t, "garbage", strings.NewReader("body")); got.Status != 401 || g.backend.count() != before {
			t.Errorf("got %d, backend reached: %v; want 401 and not reached", got.Status, g.backend.count() != before)
		}
	})
}

func TestGatewayPassesWebSocketsAlone(t *testing.T) {
	g := newGateway(t)
	t.Run("ATH-01 a good token upgrades", func(t *testing.T) {
		conn, answer := g.open("GET /ws", bearer(g.issuer.Mint(nil)), "Upgrade: websocket", "Connection: Upgrade")
		defer conn.Close()
		if answer.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("got %s, want 101", answer.Status)
		}
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := conn.buffer.ReadString('\n'); err != nil || line != "echo hello\n" {
			t.Errorf("over the WebSocket: got %q, %v; want it echoed", line, err)
		}
	})
	t.Run("ATH-02 no token, no upgrade", func(t *testing.T) {
		before := g.backend.count()
		conn, answer := g.open("GET /ws", "Upgrade: websocket", "Connection: Upgrade")
		defer conn.Close()
		if answer.StatusCode != 401 || g.backend.count() != before {
			t.Errorf("got %s, backend reached: %v; want 401 and not reached", answer.Status, g.backend.count() != before)
		}
	})
	t.Run("ERR-10 an upgrade to h2c ends at nginx", func(t *testing.T) {
		got := g.send("GET /", bearer(g.issuer.Mint(nil)), "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", "Connection: Upgrade, HTTP2-Settings, close")
		if got.Status != 200 || got.Arrival.Header["Upgrade"] != nil {
			t.Errorf("got %d with %v at the backend, want 200 and no Upgrade", got.Status, got.Arrival.Header)
		}
	})
}

func TestGatewayByOtherConnections(t *testing.T) {
	ask := func(t *testing.T, g *gateway) []string {
		t.Helper()
		g.tap.connections()
		for range 5 {
			if got := g.send("GET /", bearer(g.issuer.Mint(nil))); got.Status != 200 {
				t.Fatalf("got %d, want 200", got.Status)
			}
		}
		if got := g.send("GET /"); got.Status != 401 {
			t.Fatalf("without a token: got %d, want 401", got.Status)
		}
		return g.tap.connections()
	}
	t.Run("§9b keep-alive asks many questions on one connection", func(t *testing.T) {
		if got := ask(t, newGateway(t)); len(got) != 1 || strings.Count(got[0], "GET /auth/default HTTP/1.1") != 6 {
			t.Errorf("connections: got %d, %q; want one with six questions", len(got), got)
		}
	})
	t.Run("§9b HTTP/1.0 with Connection: close, nginx's own way", func(t *testing.T) {
		g := newGateway(t, edit{"keepalive 16;", ""}, edit{"proxy_http_version 1.1;", ""}, edit{`proxy_set_header Connection "";`, ""})
		got := ask(t, g)
		if len(got) != 6 || !strings.HasPrefix(got[0], "GET /auth/default HTTP/1.0\r\n") || !strings.Contains(got[0], "\r\nConnection: close\r\n") {
			t.Errorf("connections: got %d, %q; want six by HTTP/1.0", len(got), got)
		}
	})
	t.Run("§9b a client of HTTP/1.0 and one that keeps its connection", func(t *testing.T) {
		g := newGateway(t)
		conn, err := tls.Dial("tcp", g.Address, g.tls)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET / HTTP/1.0\r\nAuthorization: Bearer %s\r\n\r\n", g.issuer.Mint(nil))
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != 200 {
			t.Errorf("HTTP/1.0: got %v, %v; want 200", answer, err)
		}
		for _, token := range []string{g.issuer.Mint(nil), "garbage", g.issuer.Mint(nil)} {
			r, _ := http.NewRequest(http.MethodGet, "https://"+g.Address+"/", nil)
			r.Header.Set("Authorization", "Bearer "+token)
			answer, err := g.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, answer.Body)
			_ = answer.Body.Close()
			if good := answer.StatusCode == 200; good == (token == "garbage") {
				t.Errorf("one connection, token %.10s: got %d", token, answer.StatusCode)
			}
		}
	})
}

func TestGatewayFailsClosed(t *testing.T) {
	refused := func(t *testing.T, g *gateway, headers ...string) {
		t.Helper()
		before := g.backend.count()
		if got := g.send("GET /", headers...); got.Status != 500 || g.backend.count() != before {
			t.Errorf("got %d, backend reached: %v; want 500 and not reached", got.Status, g.backend.count() != before)
		}
	}
	t.Run("§9b introspectd is down", func(t *testing.T) {
		g := newGateway(t)
		token := bearer(g.issuer.Mint(nil))
		if got := g.send("GET /", token); got.Status != 200 {
			t.Fatalf("before: got %d, want 200", got.Status)
		}
		g.service.kill()
		refused(t, g, token)
		refused(t, g)
		if got := g.send("GET /healthz"); got.Status != 200 {
			t.Errorf("a route that isn't judged: got %d, want 200", got.Status)
		}
	})
	t.Run("§9b introspectd hangs", func(t *testing.T) {
		// The kernel takes the connection, and nobody answers on it.
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		g := &gateway{backend: newBackend(t)}
		g.nginx = startNginx(t, silent.Addr().String(), g.backend.Listener.Addr().String(), edit{"proxy_read_timeout    2s;", "proxy_read_timeout 100ms;"})
		refused(t, g, bearer("x.y.z"))
	})
	t.Run("ATH-09 the policy does not exist", func(t *testing.T) {
		g := newGateway(t, edit{"proxy_pass http://introspectd/auth/default;", "proxy_pass http://introspectd/auth/nosuch;"})
		refused(t, g, bearer(g.issuer.Mint(nil)))
	})
	t.Run("GW-01 path and X-Introspectd-Policy disagree", func(t *testing.T) {
		g := newGateway(t, edit{"proxy_set_header X-Introspectd-Policy default;", "proxy_set_header X-Introspectd-Policy reports;"})
		refused(t, g, bearer(g.issuer.Mint(nil)))
	})
	t.Run("ATH-08 no keys are at hand", func(t *testing.T) {
		g := &gateway{backend: newBackend(t)}
		g.issuer, g.iss = newIssuer(t)
		g.issuer.Fail(devissuer.Refuse500)
		g.service = launch(t, oneCaller+gatewayPolicies+"issuers:\n"+row("idp", g.iss))
		g.service.listens()
		g.nginx = startNginx(t, strings.TrimPrefix(g.service.URL, "http://"), g.backend.Listener.Addr().String())
		refused(t, g, bearer(g.issuer.Mint(nil)))
	})
}

func TestGatewayRefusesPathsWithTwoReadings(t *testing.T) {
	g := newGateway(t)
	token := bearer(g.issuer.Mint(nil)) // good for all but /reports/
	t.Run("GW-01 no spelling gets round the policy of its route", func(t *testing.T) {
		for _, path := range []string{
			"//reports/1", "/x/../reports/1", "/./reports/1", "/reports;x=1/1", "/x/..;/reports/1", "/x%2f..%2freports/1", "/%2e%2e/reports/1",
			"/healthz/../reports/1", "/healthz#/../reports/1", "/healthz%23/../reports/1", "/healthz;/reports/1", "/reports/../healthz",
			"/reports%2F1", "/x/..", `/x\..\reports\1`, "/x%5c..%5creports", "/healthz/%2E%2E/reports/1", "/healthz%252f..%252freports",
		} {
			before := g.backend.count()
			if got := g.send("GET "+path, token); got.Status != 400 || g.backend.count() != before {
				t.Errorf("GET %s: got %d, backend reached: %v; want 400 and not reached", path, got.Status, g.backend.count() != before)
			}
		}
		for _, path := range []string{"/reports/1", "/%72eports/1", "/reports/"} {
			if got := g.send("GET "+path, token); got.Status != 403 {
				t.Errorf("GET %s: got %d, want 403", path, got.Status)
			}
		}
	})
	t.Run("GW-01 plain paths pass as they were sent", func(t *testing.T) {
		for _, path := range []string{"/", "/a/b.c/..d/e...", "/a%20b?u=http://x/../y;z//#f%2f", "/~u/:x@y/%C3%AB", "/.well-known/x", "/a?/../b"} {
			if got := g.send("GET "+path, token); got.Status != 200 || got.Arrival.URI != path {
				t.Errorf("GET %s: got %d and %q at the backend, want 200 and the same", path, got.Status, got.Arrival.URI)
			}
		}
	})
}
