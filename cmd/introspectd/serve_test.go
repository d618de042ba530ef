package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"introspectd/internal/devissuer"
)

func TestServeJudgesATokenOfARealIssuer(t *testing.T) {
	issuer, iss := newIssuer(t)
	s := start(t, callerAndPolicy+"issuers:\n"+row("idp", iss))
	if got := s.introspect(issuer.Mint(nil)); got["active"] != true || got["iss"] != iss {
		t.Errorf("a good token: got %v, want it active", got)
	}
	if got := s.introspect(issuer.Mint(nil) + "x"); got["active"] != false || len(got) != 1 {
		t.Errorf("a spoilt token: got %v, want active:false alone", got)
	}
}

func TestStartWithIssuersThatHang(t *testing.T) {
	hung, hungURL := newIssuer(t, "ES256")
	good, goodURL := newIssuer(t, "ES256")
	hung.Fail(devissuer.Hang)
	begin := time.Now()
	s := launch(t, callerAndPolicy+"issuers:\n"+row("hung", hungURL)+row("good", goodURL))
	s.listens()
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it listened after %s, want 2s at most", took)
	}
	s.eventually("the other issuer's tokens are judged", func() bool {
		status, body := s.post("/introspect", url.Values{"token": {good.Mint(nil)}})
		return status == http.StatusOK && bytes.HasPrefix(body, []byte(`{"active":true`))
	})
	if got := s.status(s.Admin + "/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz: got %d, want 503 while an issuer has no keys", got)
	}
	t.Run("INT-19 no keys means that we can't tell", func(t *testing.T) {
		begin := time.Now()
		status, header, body, err := post(s.client, s.URL+"/introspect", "app", testSecret, url.Values{"token": {hung.Mint(nil)}})
		if err != nil {
			t.Fatal(err)
		}
		if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || string(body) != `{"error":"temporarily_unavailable"}` {
			t.Errorf("got %d, Retry-After %q, %s; want 503, some time, temporarily_unavailable", status, header.Get("Retry-After"), body)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("it took %s, want 2s at most", took)
		}
	})
	hung.Fail(devissuer.None)
	back := time.Now()
	s.eventually("it is ready", func() bool { return s.status(s.Admin+"/readyz") == http.StatusOK })
	if took := time.Since(back); took > 10*time.Second {
		t.Errorf("it recovered after %s, want 10s at most", took)
	}
	if got := s.introspect(hung.Mint(nil)); got["active"] != true {
		t.Errorf("a token of the issuer that came back: got %v, want it active", got)
	}
}

func TestOutagesOfAnIssuerAfterAGoodStart(t *testing.T) {
	for _, mode := range []devissuer.Outage{
		devissuer.Refuse500, devissuer.NotFound, devissuer.Hang, devissuer.HTML, devissuer.Truncated, devissuer.EmptyKeys,
		devissuer.Null, devissuer.ErrorObject, devissuer.Huge, devissuer.Redirect, devissuer.Drip,
	} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			issuer, iss := newIssuer(t, "ES256")
			s := start(t, callerAndPolicy+"issuers:\n"+row("idp", iss))
			seen := issuer.Mint(nil)
			if got := s.introspect(seen); got["active"] != true {
				t.Fatalf("before: got %v, want it active", got)
			}
			issuer.Fail(mode)
			before := issuer.Requests()
			begin := time.Now()
			if got := s.introspect(issuer.MintBy(devissuer.NewKey("ES256"), nil)); got["active"] != false {
				t.Errorf("an unknown kid: got %v, want it inactive", got)
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("an unknown kid took %s, want 2s at most", took)
			}
			if issuer.Requests() == before {
				t.Error("the IdP was not asked, so this outage was not met")
			}
			s.eventually("the fetch has failed", func() bool { return strings.Contains(s.issuers(), `"last_error":`) })
			for name, token := range map[string]string{"a token seen before": seen, "a new token": issuer.Mint(nil)} {
				begin := time.Now()
				if got := s.introspect(token); got["active"] != true {
					t.Errorf("%s: got %v, want it active", name, got)
				}
				if took := time.Since(begin); took > time.Second {
					t.Errorf("%s took %s, want 1s at most", name, took)
				}
			}
			if got := s.status(s.Admin + "/readyz"); got != http.StatusOK {
				t.Errorf("/readyz: got %d, want 200: once ready, it stays so", got)
			}
		})
	}
}

// issuers is the answer of GET /issuers.
func (s *service) issuers() string {
	s.t.Helper()
	answer, err := http.Get(s.Admin + "/issuers")
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(body)
}

func TestKeyRotation(t *testing.T) {
	t.Run("JWT-15 a new key is accepted at once, the removed one no longer", func(t *testing.T) {
		issuer, iss := newIssuer(t, "ES256")
		s := start(t, callerAndPolicy+"issuers:\n"+row("idp", iss))
		old := issuer.Mint(nil)
		if got := s.introspect(old); got["active"] != true {
			t.Fatalf("before: got %v, want it active", got)
		}
		issuer.Rotate("ES256")
		begin := time.Now()
		if got := s.introspect(issuer.Mint(nil)); got["active"] != true {
			t.Errorf("a token of the new key: got %v, want it active", got)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("the new key took %s, want 2s at most", took)
		}
		if got := s.introspect(old); got["active"] != false {
			t.Errorf("a token of the removed key, remembered as active: got %v, want it inactive", got)
		}
	})
	t.Run("JWT-15 an operator's refresh ends a removed key as well", func(t *testing.T) {
		issuer, iss := newIssuer(t, "ES256")
		s := start(t, callerAndPolicy+"issuers:\n"+row("idp", iss))
		old := issuer.Mint(nil)
		s.introspect(old)
		issuer.Rotate("ES256")
		if status, _, body, err := post(s.client, s.Admin+"/issuers/idp/refresh", "app", testSecret, nil); err != nil || status != http.StatusOK {
			t.Fatalf("refresh: got %d %s, %v; want 200", status, body, err)
		}
		if got := s.introspect(old); got["active"] != false {
			t.Errorf("a token of the removed key: got %v, want it inactive", got)
		}
	})
	t.Run("JWT-12 a flood of unknown kids", func(t *testing.T) {
		issuer, iss := newIssuer(t, "ES256")
		s := start(t, callerAndPolicy+"issuers:\n"+row("idp", iss))
		s.client = newClient(t, &http.Transport{MaxIdleConnsPerHost: 64})
		before := issuer.Requests()
		forger := devissuer.NewKey("ES256")
		kids := make(chan int)
		var wg sync.WaitGroup
		var wrong atomic.Int64
		for range 40 {
			wg.Go(func() {
				for n := range kids {
					key := *forger
					key.Kid = fmt.Sprint("kid-", n)
					status, _, body, err := post(s.client, s.URL+"/introspect", "app", testSecret, url.Values{"token": {issuer.MintBy(&key, nil)}})
					if err != nil || status != http.StatusOK || string(body) != `{"active":false}` {
						wrong.Add(1)
					}
				}
			})
		}
		for n := range 400 {
			if n%50 == 0 {
				if got := s.introspect(issuer.Mint(nil)); got["active"] != true {
					t.Errorf("a good token meanwhile: got %v, want it active", got)
				}
			}
			kids <- n
		}
		close(kids)
		wg.Wait()
		if n := wrong.Load(); n > 0 {
			t.Errorf("%d of 400 unknown kids were not answered active:false", n)
		}
		if got := issuer.Requests() - before; got < 1 || got > 5 {
			t.Errorf("requests at the IdP: got %d, want 1 to 5", got)
		}
	})
}

func TestDrainUnderLoad(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	s := start(t, callerAndPolicy+"server: {shutdown_delay: 1s}\nissuers:\n"+row("idp", iss))
	token := url.Values{"token": {issuer.Mint(nil)}}
	var draining atomic.Bool
	var asked, askedDraining atomic.Int64
	var wg sync.WaitGroup
	var faults syncBuffer
	// As behind a load balancer: requests go on until /readyz says no, and a
	// few more that were on their way.
	worker := func(client *http.Client) {
		for more := 5; more > 0; {
			if draining.Load() {
				more--
				askedDraining.Add(1)
			}
			status, _, body, err := post(client, s.URL+"/introspect", "app", testSecret, token)
			if err != nil || status != http.StatusOK || !bytes.HasPrefix(body, []byte(`{"active":true`)) {
				fmt.Fprintf(&faults, "%d %s %v\n", status, body, err)
			}
			asked.Add(1)
		}
	}
	for range 4 {
		keeping := newClient(t, &http.Transport{})
		fresh := newClient(t, &http.Transport{DisableKeepAlives: true})
		wg.Go(func() { worker(keeping) })
		wg.Go(func() { worker(fresh) })
	}
	s.eventually("the load is on", func() bool { return asked.Load() > 100 })
	s.signal(syscall.SIGTERM)
	s.eventually("/readyz is 503", func() bool { return s.status(s.URL+"/readyz") == http.StatusServiceUnavailable })
	draining.Store(true)
	wg.Wait()
	if text := faults.String(); text != "" {
		t.Errorf("failed requests:\n%s", text)
	}
	if askedDraining.Load() == 0 {
		t.Error("nothing was asked while it drained")
	}
	if got := s.exit(); got != exitOK {
		t.Errorf("exit status: got %d, want 0", got)
	}
}

func TestDrainFinishesWhatWasBegun(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	s := start(t, callerAndPolicy+"issuers:\n"+row("idp", iss))
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := "token=" + issuer.Mint(nil)
	r, _ := http.NewRequest(http.MethodPost, s.URL+"/introspect", nil)
	r.SetBasicAuth("app", testSecret)
	fmt.Fprintf(conn, "POST /introspect HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		r.Header.Get("Authorization"), len(body))
	// 100 Continue says that the handler waits for the body.
	hundred := make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))
	if _, err := io.ReadFull(conn, hundred); err != nil || !bytes.Contains(hundred, []byte(" 100 ")) {
		t.Fatalf("got %q, %v; want 100 Continue", hundred, err)
	}
	s.signal(syscall.SIGTERM)
	s.eventually("nobody listens any more", func() bool { return s.status(s.URL+"/livez") == 0 })
	if _, err := io.WriteString(conn, body); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.Contains(answer, []byte(`{"active":true`)) {
		t.Errorf("the request that was begun: got %q, %v; want it answered", answer, err)
	}
	if got := s.exit(); got != exitOK {
		t.Errorf("exit status: got %d, want 0", got)
	}
}

func TestSignalsWhileDraining(t *testing.T) {
	_, iss := newIssuer(t, "ES256")
	config := callerAndPolicy + "issuers:\n" + row("idp", iss)
	drain := func(t *testing.T, delay string) *service {
		s := start(t, config+"server: {shutdown_delay: "+delay+"}\n")
		s.signal(syscall.SIGTERM)
		s.eventually("it drains", func() bool { return s.status(s.Admin+"/readyz") == http.StatusServiceUnavailable })
		return s
	}
	t.Run("a second SIGTERM ends it at once", func(t *testing.T) {
		s := drain(t, "1h")
		s.signal(syscall.SIGTERM)
		s.exit()
		if got := s.command.ProcessState.Sys().(syscall.WaitStatus); !got.Signaled() || got.Signal() != syscall.SIGTERM {
			t.Errorf("got %v, want ended by SIGTERM", s.command.ProcessState)
		}
	})
	t.Run("a SIGHUP does not", func(t *testing.T) {
		s := drain(t, "500ms")
		s.signal(syscall.SIGHUP)
		if got := s.exit(); got != exitOK {
			t.Errorf("got %v, want exit status 0", s.command.ProcessState)
		}
	})
}

func TestListeners(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	token := issuer.Mint(nil)
	issuers := "issuers:\n" + row("idp", iss)

	t.Run("a unix socket", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "sock") // short, as socket paths have to be
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		path := filepath.Join(dir, "s")
		s := start(t, callerAndPolicy+issuers, "--listen", "unix:"+path)
		s.URL = "http://localhost"
		s.client = newClient(t, &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}})
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("the socket: got %v, %v; want mode 0660", info, err)
		}
		if got := s.introspect(token); got["active"] != true {
			t.Errorf("/introspect: got %v, want it active", got)
		}
		if got := s.auth(token); got != http.StatusOK {
			t.Errorf("/auth by a peer of the socket: got %d, want 200", got)
		}
		s.signal(syscall.SIGTERM)
		s.exit()
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket after the end: got %v, want it gone", err)
		}
	})

	// secure makes the service's client one that trusts ca and shows shown.
	secure := func(t *testing.T, s *service, ca *certificate, shown ...tls.Certificate) *http.Client {
		s.URL = strings.Replace(s.URL, "http:", "https:", 1)
		s.client = newClient(t, &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: ca.pool(), Certificates: shown, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		})
		return s.client
	}
	t.Run("TLS with a certificate that changes", func(t *testing.T) {
		dir := t.TempDir()
		ca := newCertificate(t, "root", nil)
		first := newCertificate(t, "127.0.0.1", ca)
		certificate, key := first.write(t, dir, "server")
		config := fmt.Sprintf("%sserver: {tls: {certificate: %s, key: %s}}\n%s", callerAndPolicy, certificate, key, issuers)
		s := start(t, config)
		plain := s.URL
		client := secure(t, s, ca)
		serial := func() string {
			answer, err := client.Get(s.URL + "/livez")
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			if answer.ProtoMajor != 2 {
				t.Errorf("protocol: got %s, want HTTP/2", answer.Proto)
			}
			return answer.TLS.PeerCertificates[0].SerialNumber.String()
		}
		if got := s.introspect(token); got["active"] != true {
			t.Errorf("/introspect: got %v, want it active", got)
		}
		if got := serial(); got != first.leaf.SerialNumber.String() {
			t.Errorf("serial: got %s, want the first certificate's", got)
		}
		if got := s.status(plain + "/livez"); got == http.StatusOK {
			t.Error("it answers in plaintext as well")
		}
		if got := s.metric("introspectd_tls_certificate_days_left"); !strings.HasPrefix(got, "0.99") && got != "1" {
			t.Errorf("days left: got %q, want about one", got)
		}
		second := newCertificate(t, "127.0.0.1", ca)
		second.write(t, dir, "server")
		s.hangup(config, reloaded)
		if got := serial(); got != second.leaf.SerialNumber.String() {
			t.Errorf("serial after the reload: got %s, want the second certificate's", got)
		}
		writeFile(t, certificate, "nonsense")
		s.hangup(config, refused)
		if got := serial(); got != second.leaf.SerialNumber.String() {
			t.Errorf("serial after a reload of nonsense: got %s, want the second certificate's", got)
		}
		third := newCertificate(t, "127.0.0.1", ca)
		third.write(t, dir, "server")
		s.hangup("nonsense: 1\n"+config, refused)
		if got := serial(); got != third.leaf.SerialNumber.String() {
			t.Errorf("serial beside a configuration at fault: got %s, want the third certificate's: the second will expire", got)
		}
	})

	t.Run("TLS with client certificates", func(t *testing.T) {
		dir := t.TempDir()
		ca, stranger := newCertificate(t, "root", nil), newCertificate(t, "root", nil)
		certificate, key := newCertificate(t, "127.0.0.1", ca).write(t, dir, "server")
		roots, _ := ca.write(t, dir, "root")
		s := start(t, fmt.Sprintf("%sserver: {tls: {certificate: %s, key: %s, client_ca: %s}}\n%s", callerAndPolicy, certificate, key, roots, issuers))
		for _, tt := range []struct {
			name  string
			shown []tls.Certificate
			good  bool
		}{
			{"ours", []tls.Certificate{newCertificate(t, "gateway", ca).shown()}, true},
			{"none", nil, false},
			{"a stranger's", []tls.Certificate{newCertificate(t, "gateway", stranger).shown()}, false},
		} {
			client := secure(t, s, ca, tt.shown...)
			status, _, body, err := post(client, s.URL+"/introspect", "app", testSecret, url.Values{"token": {token}})
			if good := err == nil && status == http.StatusOK; good != tt.good {
				t.Errorf("%s: got %d %s, %v; want it let in: %v", tt.name, status, body, err, tt.good)
			}
		}
	})

	t.Run("an address that is taken", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		for _, flag := range []string{"--listen", "--admin"} {
			s := launch(t, callerAndPolicy+issuers, flag, taken.Addr().String())
			if got := s.exit(); got != exitFailed || !strings.Contains(s.log.String(), "address already in use") {
				t.Errorf("%s: got exit status %d and %q, want 1 and the reason", flag, got, s.log)
			}
		}
	})
}

// auth asks /auth as a gateway.
func (s *service) auth(token string, header ...string) int {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.URL+"/auth", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

func TestTokensInMemoryStayThere(t *testing.T) {
	if _, err := os.Stat("/proc/self/limits"); err != nil {
		missing(t, "Linux's /proc")
	}
	program, uid, sys := "introspectd", uint32(os.Getuid()), (*syscall.SysProcAttr)(nil)
	if uid == 0 {
		// What is root's anyway would show nothing.
		program, uid = copyOfMyself(t), 12345
		sys = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	admin := freeAddress(t)
	command := exec.Command(program, "dev", "--listen", freeAddress(t), "--admin", admin)
	command.SysProcAttr = sys
	command.Dir = "/"
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-ended
	})
	until(t, "it listens", ended, func() bool {
		c, err := net.Dial("tcp", admin)
		return err == nil && c.Close() == nil
	})
	proc := fmt.Sprintf("/proc/%d/", command.Process.Pid)
	limits, err := os.ReadFile(proc + "limits")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(limits), "Max core file size")
	if line, _, _ := strings.Cut(rest, "\n"); strings.Join(strings.Fields(line), " ") != "0 0 bytes" {
		t.Errorf("core files: got limits %q, want 0 and 0", line)
	}
	// The files of a process that is not dumpable are root's (proc(5)): no
	// debugger of its own user may read its memory.
	info, err := os.Stat(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner == uid {
		t.Errorf("/proc/PID/status: owned by %d, the process's own user; want root's", owner)
	}
}

// copyOfMyself is this binary where every user may run it, under the name of
// the command.
func copyOfMyself(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "open")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "introspectd")
	for _, err := range []error{os.Chmod(dir, 0o755), os.WriteFile(path, binary, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestWarnings(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	t.Run("a secret that everyone can read", func(t *testing.T) {
		secret := filepath.Join(t.TempDir(), "secret")
		writeFile(t, secret, testSecret)
		if err := os.Chmod(secret, 0o644); err != nil {
			t.Fatal(err)
		}
		s := start(t, fmt.Sprintf("callers:\n  - {id: app, secrets: [{file: %s}], may: [introspect], any_audience: true}\nissuers:\n%s", secret, row("idp", iss)))
		if want := "callers[0].secrets[0].file: everyone on this machine can read " + secret + " (mode 0644)"; len(s.wrote(want, 1)) != 1 {
			t.Errorf("log: got\n%s\nwant once %q", s.log, want)
		}
		if strings.Contains(s.log.String(), testSecret) {
			t.Error("the log shows the secret")
		}
	})
	t.Run("AUT-06 a refused gateway is told the line that lets it in, once", func(t *testing.T) {
		s := start(t, callerAndPolicy+"auth: {allow_from: [192.0.2.1]}\nissuers:\n"+row("idp", iss))
		for range 3 {
			if got := s.auth(issuer.Mint(nil)); got != http.StatusForbidden {
				t.Errorf("/auth from a peer that isn't allowed: got %d, want 403", got)
			}
		}
		lines := s.wrote("a gateway was refused for its address; auth.allow_from can let it in", 1)
		if len(lines) != 1 || lines[0]["line"] != `auth: {allow_from: ["127.0.0.1"]}` {
			t.Errorf("log: got %v, want one line that says how", lines)
		}
	})
}

func TestHealthcheck(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	issuer.Fail(devissuer.Refuse500)
	s := launch(t, callerAndPolicy+"issuers:\n"+row("idp", iss))
	s.listens()
	check := func(args ...string) (int, string) {
		command := exec.Command("introspectd", append([]string{"healthcheck"}, args...)...)
		out, _ := command.CombinedOutput() // the status is looked at
		return command.ProcessState.ExitCode(), string(out)
	}
	admin := strings.TrimPrefix(s.Admin, "http://")
	if got, out := check("--admin", admin); got != exitFailed || !strings.Contains(out, "starting") {
		t.Errorf("before there are keys: got %d %s, want 1 and starting", got, out)
	}
	issuer.Fail(devissuer.None)
	s.eventually("it is ready", func() bool { return s.status(s.Admin+"/readyz") == http.StatusOK })
	if got, out := check("--admin", admin); got != exitOK || !strings.Contains(out, "ready") {
		t.Errorf("ready: got %d %s, want 0", got, out)
	}
	s.write(callerAndPolicy + "server: {admin: '" + admin + "'}\nissuers:\n" + row("idp", iss))
	if got, out := check("--config", s.Config); got != exitOK {
		t.Errorf("the address from the configuration: got %d %s, want 0", got, out)
	}
	s.kill()
	if got, out := check("--admin", admin); got != exitFailed {
		t.Errorf("nobody there: got %d %s, want 1", got, out)
	}
	s.write(callerAndPolicy + "server: {admin: ''}\nissuers:\n" + row("idp", iss))
	if got, out := check("--config", s.Config); got != exitUsage {
		t.Errorf("no admin listener: got %d %s, want 2", got, out)
	}
}

// Beyond this machine the admin listener speaks TLS, also with the health check.
func TestHealthcheckOfAnEncryptedListener(t *testing.T) {
	_, iss := newIssuer(t, "ES256")
	ca := newCertificate(t, "root", nil)
	dir := t.TempDir()
	crt, key := newCertificate(t, "introspect.example", ca).write(t, dir, "server")
	roots, _ := ca.write(t, dir, "roots")
	for name, clients := range map[string]string{"any client": "", "clients with a certificate": ", client_ca: " + roots} {
		t.Run(name, func(t *testing.T) {
			admin := strings.Replace(freeAddress(t), "127.0.0.1", "0.0.0.0", 1)
			s := launch(t, fmt.Sprintf("%sauth: {allow_from: []}\nserver: {admin: %q, trusted_proxies: [], tls: {certificate: %s, key: %s%s}}\nissuers:\n%s",
				oneCaller, admin, crt, key, clients, row("idp", iss)), "--admin", admin)
			s.tells("keys read")
			for _, args := range [][]string{{"--config", s.Config}, {"--config", s.Config, "--admin", admin}} {
				out, err := exec.Command("introspectd", append([]string{"healthcheck"}, args...)...).CombinedOutput()
				if err != nil || !strings.Contains(string(out), "ready") {
					t.Errorf("healthcheck %q: got %v %s, want it ready", args, err, out)
				}
			}
		})
	}
}

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
)

func TestSpansReachACollector(t *testing.T) {
	var mu sync.Mutex
	var spans []*trace.Span
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/v1/traces" {
			return // metrics, or somebody who hung up
		}
		var request collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &request); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				spans = append(spans, scope.Spans...)
			}
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20") // ms

	issuer, iss := newIssuer(t, "ES256")
	s := start(t, callerAndPolicy+"telemetry: {traces: {sample: 1}}\nissuers:\n"+row("idp", iss))
	token := issuer.Mint(nil)
	if got := s.auth(token, "Traceparent", traceparent); got != http.StatusOK {
		t.Fatalf("/auth: got %d, want 200", got)
	}
	s.eventually("a span arrives", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(spans) > 0
	})
	mu.Lock()
	span := spans[0]
	mu.Unlock()
	if got := hex.EncodeToString(span.TraceId); got != traceID || span.Name != "GET /auth" || hex.EncodeToString(span.ParentSpanId) != "00f067aa0ba902b7" {
		t.Errorf("span: got %s of trace %s, want GET /auth within the gateway's trace", span.Name, got)
	}
	if strings.Contains(span.String(), token) {
		t.Errorf("the span shows the token: %s", span)
	}
	lines := s.wrote("request", 1)
	if len(lines) != 1 || lines[0]["trace_id"] != traceID || lines[0]["span_id"] != hex.EncodeToString(span.SpanId) {
		t.Errorf("log: got %v, want one line with the trace's id and the span's", lines)
	}

	// A failure is traced, whoever asks and however few are drawn.
	s.write(callerAndPolicy + "telemetry: {traces: {sample: 0}}\nissuers:\n" + row("idp", iss))
	s.signal(syscall.SIGHUP)
	s.eventually("the reload is done", func() bool { return len(s.lines("reloaded")) > 0 })
	s.auth(token)
	if got := s.status(s.URL + "/auth/of-nobody"); got != http.StatusServiceUnavailable {
		t.Errorf("no such policy: got %d, want 503", got)
	}
	s.signal(syscall.SIGTERM)
	if got := s.exit(); got != exitOK {
		t.Errorf("exit status: got %d, want 0", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if failure := spans[len(spans)-1]; len(spans) != 2 || failure.Status.GetCode() != trace.Status_STATUS_CODE_ERROR ||
		failure.EndTimeUnixNano <= failure.StartTimeUnixNano || !strings.Contains(failure.String(), "error.type") {
		t.Errorf("got %d spans, the last %s, want one more, of the failure", len(spans), failure)
	}
}

func TestLogLinesCarryTheTraceOfTheirRequestWithoutACollector(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	s := start(t, callerAndPolicy+"issuers:\n"+row("idp", iss))
	token := issuer.Mint(nil)
	s.auth(token, "Traceparent", traceparent)
	s.eventually("the line is there", func() bool { return len(s.lines("request")) == 1 })
	if got := s.lines("request")[0]; got["trace_id"] != traceID {
		t.Errorf("log line: got %v, want trace_id %s", got, traceID)
	}
	if strings.Contains(s.log.String(), token[strings.LastIndex(token, ".")+1:]) {
		t.Error("the log shows the token")
	}
}
