package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"introspectd/internal/devissuer"
)

// TestMain lets this test binary stand for the command: `introspectd` is on
// the PATH of scripts and of exec.Command.
func TestMain(m *testing.M) {
	if os.Getenv("GORACE") == "" {
		// With -race each process of the many would end a second late.
		_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	testscript.Main(m, map[string]func(){"introspectd": main})
}

// missing ends a test that needs a real program which is not there.
func missing(t *testing.T, program string) {
	t.Helper()
	unable(t, fmt.Errorf("%s is not installed; .ci/test says how to install it", program))
}

// unable ends a test that lacks what it needs: loudly elsewhere, as a failure
// where CI runs.
func unable(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skipf("SKIPPED, NOT PASSED: %v", err)
}

// tool finds the program of .ci/NAME, a module of its own, which Go builds once
// and keeps.
type tool func() (path string, err error)

var clients, manifests, skipper = newTool("clients"), newTool("manifests"), newTool("skipper")

func newTool(name string) tool {
	return sync.OnceValues(func() (string, error) {
		find := exec.Command("go", "tool", "-n", name)
		find.Dir = "../../.ci/" + name
		var said bytes.Buffer
		find.Stderr = &said
		path, err := find.Output()
		if err != nil {
			return "", fmt.Errorf("building .ci/%s: %w\n%s", name, err, &said)
		}
		return strings.TrimSpace(string(path)), nil
	})
}

// path ends a test that can't have the program.
func (f tool) path(t *testing.T) string {
	t.Helper()
	path, err := f()
	if err != nil {
		unable(t, err)
	}
	return path
}

// need returns the path of a program the test can't do without.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		missing(t, program)
	}
	return path
}

// newIssuer serves a development issuer on loopback.
func newIssuer(t *testing.T, algs ...string) (issuer *devissuer.Issuer, iss string) {
	t.Helper()
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	issuer = devissuer.New(server.URL+"/idp", algs...)
	handler = issuer.Handler()
	return issuer, server.URL + "/idp"
}

// freeAddress is a loopback address that nobody listens on, and another each
// time. It lies below the ports that the kernel gives to connections, which
// could take it before the service does.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 15_000+mrand.IntN(15_000))
		if _, given := addresses.LoadOrStore(address, true); given {
			continue
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return address
	}
	t.Fatal("no free port among a hundred")
	return ""
}

// addresses are those that freeAddress gave.
var addresses sync.Map

// service is introspectd running as a process of its own.
type service struct {
	t          *testing.T
	URL, Admin string
	Config     string // path of its configuration
	client     *http.Client
	command    *exec.Cmd
	log        *syncBuffer
	ended      chan struct{}
}

// syncBuffer is a bytes.Buffer for two goroutines.
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

// start runs `introspectd serve` with a configuration and waits until it is
// ready. The configuration's server section is written here.
func start(t *testing.T, config string, args ...string) *service {
	t.Helper()
	s := launch(t, config, args...)
	s.eventually("it is ready", func() bool { return s.status(s.Admin+"/readyz") == http.StatusOK })
	return s
}

// newClient is an HTTP client that ends with the test.
func newClient(t *testing.T, transport *http.Transport) *http.Client {
	t.Helper()
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// launch is start without the wait.
func launch(t *testing.T, config string, args ...string) *service {
	t.Helper()
	listen, admin := freeAddress(t), freeAddress(t)
	s := &service{
		t: t, URL: "http://" + listen, Admin: "http://" + admin,
		Config: filepath.Join(t.TempDir(), "config.yaml"), log: &syncBuffer{}, ended: make(chan struct{}),
		client: newClient(t, &http.Transport{}),
	}
	s.write(config)
	s.command = exec.Command("introspectd", append([]string{"serve", "--config", s.Config, "--listen", listen, "--admin", admin}, args...)...)
	s.command.Stderr, s.command.Stdout = s.log, s.log
	if err := s.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.command.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		_ = s.command.Process.Signal(syscall.SIGKILL)
		<-s.ended
		if t.Failed() {
			t.Logf("the service's log:\n%s", s.log)
		}
	})
	return s
}

// write replaces the service's configuration file at once, as the service may
// be reading it.
func (s *service) write(config string) {
	s.t.Helper()
	writeFile(s.t, s.Config+".new", config)
	if err := os.Rename(s.Config+".new", s.Config); err != nil {
		s.t.Fatal(err)
	}
}

// eventually waits for a condition, and fails the test when it doesn't come.
func (s *service) eventually(what string, holds func() bool) {
	s.t.Helper()
	until(s.t, what, s.ended, holds)
}

// until polls a condition for at most 20 s, and fails the test when it doesn't
// come or when the process that could bring it has ended.
func until(t *testing.T, what string, ended <-chan struct{}, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if holds() {
			return
		}
		select {
		case <-ended:
			t.Fatalf("waiting until %s: the process ended", what)
		default:
		}
	}
	t.Fatalf("20 s and not yet: %s", what)
}

// listens waits until the service answers at all, ready or not.
func (s *service) listens() {
	s.t.Helper()
	s.eventually("it listens", func() bool {
		return s.status(s.Admin+"/livez") == http.StatusOK && s.status(s.URL+"/livez") == http.StatusOK
	})
}

// status is that of a GET, 0 where there was no answer.
func (s *service) status(url string) int {
	answer, err := http.Get(url)
	if err != nil {
		return 0
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

// signal sends one to the process.
func (s *service) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.command.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// kill ends the process as a crash would.
func (s *service) kill() {
	s.t.Helper()
	s.signal(syscall.SIGKILL)
	<-s.ended
}

// exit waits for the process's end and returns its exit status, -1 after a
// signal.
func (s *service) exit() int {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		s.t.Fatalf("30 s and the process has not ended\n%s", s.log)
	}
	return s.command.ProcessState.ExitCode()
}

// lines are the log lines with this message.
func (s *service) lines(message string) (found []map[string]any) {
	for line := range strings.Lines(s.log.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			found = append(found, entry)
		}
	}
	return found
}

// wrote returns the log's lines of message once there are n of them: a line comes
// through a pipe, and so a little later than what it tells of.
func (s *service) wrote(message string, n int) (found []map[string]any) {
	s.t.Helper()
	s.eventually("the log says: "+message, func() bool {
		found = s.lines(message)
		return len(found) >= n
	})
	return found
}

// tells waits until the log holds text.
func (s *service) tells(text string) {
	s.t.Helper()
	s.eventually("the log says: "+text, func() bool { return strings.Contains(s.log.String(), text) })
}

// metric is the value of one series of /metrics, as it is written there; empty
// if there is none.
func (s *service) metric(series string) string {
	s.t.Helper()
	answer, err := http.Get(s.Admin + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate is one that a test made, with its key.
type certificate struct {
	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newCertificate makes a certificate for a name or address, issued by a root,
// or one that issues where there is none.
func newCertificate(t *testing.T, name string, root *certificate) *certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wanted := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		wanted.IPAddresses = []net.IP{ip}
	}
	issuer, signer := wanted, key
	if root == nil {
		wanted.IsCA, wanted.BasicConstraintsValid, wanted.KeyUsage, wanted.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	} else {
		issuer, signer = root.leaf, root.key
	}
	der, err := x509.CreateCertificate(rand.Reader, wanted, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &certificate{leaf, key}
}

// write puts certificate and key into PEM files of dir.
func (c *certificate) write(t *testing.T, dir, name string) (certificate, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	writeFile(t, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.leaf.Raw})))
	writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return certificate, key
}

func (c *certificate) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.leaf)
	return pool
}

// shown is the certificate for a TLS connection.
func (c *certificate) shown() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.leaf.Raw}, PrivateKey: c.key, Leaf: c.leaf}
}

// testSecret is the secret of the caller that configurations of tests share.
const testSecret = "correct-horse-battery-staple"

// oneCaller has a caller `app` that may do everything, for any audience and
// issuer.
const oneCaller = `
callers:
  - id: app
    secrets: [{sha256: 87cbebfeebc05f7c54ac9336c4b4bbec831227a641951a4bde7edd56020f8590}]
    may: [introspect, transform, auth, operate, explain]
    any_issuer: true
    any_audience: true
`

// callerAndPolicy is that caller, and a policy `default`, for any audience and
// issuer.
const callerAndPolicy = oneCaller + `
policies:
  - {name: default, any_audience: true, any_issuer: true}
`

// row is an issuer's row of a configuration.
func row(name, issuer string, extra ...string) string {
	return fmt.Sprintf("  - name: %s\n    issuer: %s\n    keys: {jwks_url: %s/jwks.json}\n%s", name, issuer, issuer, strings.Join(extra, ""))
}

// introspect asks /introspect as app and returns the decoded answer.
func (s *service) introspect(token string) map[string]any {
	s.t.Helper()
	return s.ask("/introspect", token)
}

func (s *service) ask(path, token string) map[string]any {
	s.t.Helper()
	status, body := s.post(path, url.Values{"token": {token}})
	if status != http.StatusOK {
		s.t.Fatalf("POST %s: got %d %s, want 200", path, status, body)
	}
	var answer map[string]any
	if err := json.Unmarshal(body, &answer); err != nil {
		s.t.Fatalf("POST %s: %v in %s", path, err, body)
	}
	return answer
}

// post sends a form as app.
func (s *service) post(path string, form url.Values) (int, []byte) {
	s.t.Helper()
	return s.postAs("app", testSecret, path, form)
}

func (s *service) postAs(id, secret, path string, form url.Values) (int, []byte) {
	s.t.Helper()
	status, _, body, err := post(s.client, s.URL+path, id, secret, form)
	if err != nil {
		s.t.Fatal(err)
	}
	return status, body
}

// post sends a form with HTTP Basic. Unlike the methods it may be called from
// any goroutine.
func post(client *http.Client, address, id, secret string, form url.Values) (int, http.Header, []byte, error) {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(id, secret)
	answer, err := client.Do(r)
	if err != nil {
		return 0, nil, nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, answer.Header, body, err
}
