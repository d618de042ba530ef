package listen_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"introspectd/internal/listen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// served is one server of this package, answering until the test ends.
type served struct {
	addr   string
	server *http.Server
	stop   context.CancelFunc
	done   chan error // what Serve returned
}

// serve runs h; limits may shorten the server's time-outs first.
func serve(t *testing.T, h http.HandlerFunc, certificates *listen.Certificates, limits ...func(*http.Server)) *served {
	t.Helper()
	l, err := listen.Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := listen.NewServer(h, slog.New(slog.DiscardHandler), certificates)
	for _, limit := range limits {
		limit(server)
	}
	return run(t, 0, server, l)
}

func run(t *testing.T, delay time.Duration, server *http.Server, l net.Listener) *served {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s := &served{addr: l.Addr().String(), server: server, stop: stop, done: make(chan error, 1)}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		s.done <- listen.Serve(ctx, delay, listen.Running{Server: server, Listener: l})
	}()
	t.Cleanup(func() { stop(); <-finished })
	return s
}

// result is what Serve returned, once it did.
func (s *served) result(t *testing.T) error {
	t.Helper()
	select {
	case err := <-s.done:
		return err
	case <-time.After(25 * time.Second):
		t.Fatal("Serve did not return within 25 s")
		return nil
	}
}

func echo(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", r.Proto, r.URL.Path) }

// client makes no connection that outlives the test.
func client(t *testing.T, change func(*http.Transport)) *http.Client {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(true)
	if change != nil {
		change(transport)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func get(c *http.Client, url string) (*http.Response, string, error) {
	res, err := c.Get(url)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

func wantBody(t *testing.T, c *http.Client, url, want string) {
	t.Helper()
	if _, got, err := get(c, url); err != nil || got != want {
		t.Errorf("GET %s: got %q, %v, want %q", url, got, err, want)
	}
}

// dial connects, for ten seconds at most.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// raw sends text as it is and reads until the server ends the connection.
func raw(t *testing.T, addr, text string) string {
	t.Helper()
	c := dial(t, addr)
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("reading: %v after %q", err, answer)
	}
	return string(answer)
}

func TestHTTP1(t *testing.T) {
	s := serve(t, echo, nil)
	wantBody(t, client(t, nil), "http://"+s.addr+"/x", "HTTP/1.1 /x")
}

func TestHTTP10(t *testing.T) {
	s := serve(t, echo, nil)
	answer := raw(t, s.addr, "GET /x HTTP/1.0\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.0 200") || !strings.HasSuffix(answer, "\r\n\r\nHTTP/1.0 /x") {
		t.Errorf("got %q, want 200 and the end of the connection", answer)
	}
}

func TestHTTP2ByPriorKnowledge(t *testing.T) {
	s := serve(t, echo, nil)
	h2c := client(t, func(tr *http.Transport) {
		tr.Protocols.SetHTTP1(false)
		tr.Protocols.SetUnencryptedHTTP2(true)
	})
	wantBody(t, h2c, "http://"+s.addr+"/x", "HTTP/2.0 /x")
}

func TestUpgradeToH2C(t *testing.T) {
	t.Run("ERR-10 Upgrade: h2c is ignored", func(t *testing.T) {
		s := serve(t, echo, nil)
		answer := raw(t, s.addr, "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"+
			"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 200") || !strings.HasSuffix(answer, "HTTP/1.1 /x") {
			t.Errorf("got %q, want an HTTP/1.1 answer and no 101", answer)
		}
	})
}

func TestEveryLimitIsSet(t *testing.T) {
	s := listen.NewServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler), nil)
	for name, is := range map[string]struct{ got, want any }{
		"ReadHeaderTimeout":    {s.ReadHeaderTimeout, 5 * time.Second},
		"ReadTimeout":          {s.ReadTimeout, 15 * time.Second},
		"WriteTimeout":         {s.WriteTimeout, 30 * time.Second},
		"IdleTimeout":          {s.IdleTimeout, 90 * time.Second},
		"MaxHeaderBytes":       {s.MaxHeaderBytes, 64 << 10},
		"MaxConcurrentStreams": {s.HTTP2.MaxConcurrentStreams, 128},
		"WriteByteTimeout":     {s.HTTP2.WriteByteTimeout, 30 * time.Second},
		"Protocols":            {s.Protocols.String(), "{HTTP1,HTTP2,UnencryptedHTTP2}"},
		"TLSConfig":            {s.TLSConfig == nil, true},
	} {
		if is.got != is.want {
			t.Errorf("%s: got %v, want %v", name, is.got, is.want)
		}
	}
}

func TestSlowHeaderIsCutOff(t *testing.T) {
	s := serve(t, echo, nil, func(s *http.Server) { s.ReadHeaderTimeout = 50 * time.Millisecond })
	begun := time.Now()
	answer := raw(t, s.addr, "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
	if strings.Contains(answer, "200 OK") {
		t.Errorf("got %q for half a header", answer)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("cut off after %v, want it near the 50 ms of ReadHeaderTimeout", took)
	}
}

func TestAnswerArrivesThoughTheBodyWasNotRead(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}, nil)
	answer := raw(t, s.addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 300_000))
	if !strings.HasPrefix(answer, "HTTP/1.1 413 ") {
		t.Errorf("got %q, want 413", answer)
	}
}

func TestLargeHeaderIsRefused(t *testing.T) {
	s := serve(t, echo, nil)
	r, _ := http.NewRequest("GET", "http://"+s.addr, nil)
	r.Header.Set("X-Large", strings.Repeat("x", 80<<10))
	res, err := client(t, nil).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d, want 431", res.StatusCode)
	}
}

func TestNetworkNoiseIsLoggedAtDebug(t *testing.T) {
	var log safeBuffer
	server := listen.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }),
		slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), nil)
	l, err := listen.Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, 0, server, l)
	raw(t, s.addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	s.stop()
	s.result(t)
	if got := log.String(); !strings.Contains(got, `"level":"DEBUG"`) || !strings.Contains(got, "boom") {
		t.Errorf("log: got %q, want the server's own message at debug", got)
	}
}

func TestUnixSocketIsServed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listen.Open("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	run(t, 0, listen.NewServer(http.HandlerFunc(echo), slog.New(slog.DiscardHandler), nil), l)
	c := client(t, func(tr *http.Transport) {
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	})
	wantBody(t, c, "http://introspectd/x", "HTTP/1.1 /x")
}

func TestCertificateIsReplacedWithoutARestart(t *testing.T) {
	ca, dir := newAuthority(t, "ca"), t.TempDir()
	first := time.Now().Add(time.Hour).Truncate(time.Second)
	certificate, key := ca.leaf(t, "first", first).files(t, dir)
	certs, err := listen.LoadCertificates(listen.TLS{Certificate: certificate, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, echo, certs)
	seen := func() string {
		return peerName(t, s.addr, &tls.Config{RootCAs: ca.pool(), ServerName: "introspect.example"})
	}
	if got := seen(); got != "first" {
		t.Errorf("certificate: got %q, want first", got)
	}
	if got := certs.NotAfter(); !got.Equal(first) {
		t.Errorf("NotAfter: got %v, want %v", got, first)
	}

	second := first.Add(time.Hour)
	ca.leaf(t, "second", second).files(t, dir)
	if err := certs.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := seen(); got != "second" {
		t.Errorf("certificate after Reload: got %q, want second", got)
	}

	write(t, certificate, []byte("half a file"))
	if err := certs.Reload(); err == nil {
		t.Error("Reload of a broken file: got no error")
	}
	if got := seen(); got != "second" || !certs.NotAfter().Equal(second) {
		t.Errorf("after a bad Reload: got %q until %v, want second kept", got, certs.NotAfter())
	}
}

func TestTLSListenerSpeaksBothVersions(t *testing.T) {
	ca := newAuthority(t, "ca")
	certificate, key := ca.leaf(t, "server", time.Now().Add(time.Hour)).files(t, t.TempDir())
	certs, err := listen.LoadCertificates(listen.TLS{Certificate: certificate, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, echo, certs)
	trust := &tls.Config{RootCAs: ca.pool(), ServerName: "introspect.example"}
	h1 := client(t, func(tr *http.Transport) { tr.TLSClientConfig = trust })
	wantBody(t, h1, "https://"+s.addr+"/x", "HTTP/1.1 /x")
	h2 := client(t, func(tr *http.Transport) {
		tr.TLSClientConfig = trust.Clone()
		tr.Protocols.SetHTTP2(true)
	})
	wantBody(t, h2, "https://"+s.addr+"/x", "HTTP/2.0 /x")

	old := trust.Clone()
	old.MaxVersion = tls.VersionTLS11
	old.MinVersion = tls.VersionTLS10
	if c, err := tls.Dial("tcp", s.addr, old); err == nil {
		c.Close()
		t.Error("TLS 1.1 was accepted")
	}
}

func TestClientCertificateIsRequired(t *testing.T) {
	ours, theirs, dir := newAuthority(t, "ours"), newAuthority(t, "theirs"), t.TempDir()
	later := time.Now().Add(time.Hour)
	certificate, key := ours.leaf(t, "server", later).files(t, dir)
	root := write(t, filepath.Join(dir, "ca.crt"), ours.certPEM())
	certs, err := listen.LoadCertificates(listen.TLS{Certificate: certificate, Key: key, ClientCA: root})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, echo, certs)
	config := func(shown ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: ours.pool(), ServerName: "introspect.example", Certificates: shown}
	}
	ask := func(c *tls.Config) (string, error) {
		_, body, err := get(client(t, func(tr *http.Transport) { tr.TLSClientConfig = c }), "https://"+s.addr+"/x")
		return body, err
	}

	known := config(ours.leaf(t, "caller", later).pair())
	known.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	if body, err := ask(known); err != nil || body != "HTTP/1.1 /x" {
		t.Fatalf("a certificate of client_ca: got %q, %v, want an answer", body, err)
	}
	for name, c := range map[string]*tls.Config{
		"no certificate":                config(),
		"certificate of another CA":     config(theirs.leaf(t, "caller", later).pair()),
		"certificate that has run out":  config(ours.leaf(t, "caller", time.Now().Add(-time.Minute)).pair()),
		"certificate without its chain": config(newAuthority(t, "self").pair()),
	} {
		if body, err := ask(c); err == nil {
			t.Errorf("%s: got %q, want the connection refused", name, body)
		}
	}

	write(t, root, theirs.certPEM())
	if err := certs.Reload(); err != nil {
		t.Fatal(err)
	}
	if body, err := ask(known); err == nil {
		t.Errorf("a remembered session of a CA that was taken out: got %q, want it refused", body)
	}
}

func TestNoCertificateIsPlaintext(t *testing.T) {
	certs, err := listen.LoadCertificates(listen.TLS{})
	if certs != nil || err != nil {
		t.Errorf("got %v, %v, want nil and no error", certs, err)
	}
	if err := certs.Reload(); err != nil || !certs.NotAfter().IsZero() {
		t.Errorf("got %v and %v, want nothing to reload nor to expire", err, certs.NotAfter())
	}
}

func TestBrokenListenerEndsServe(t *testing.T) {
	l, err := listen.Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, 0, listen.NewServer(http.HandlerFunc(echo), slog.New(slog.DiscardHandler), nil), l)
	l.Close()
	if err := s.result(t); !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), s.addr) {
		t.Errorf("got %v, want an error that names %s", err, s.addr)
	}
}

func TestDrainFinishesARequest(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-finish
		echo(w, r)
	}, nil)
	answered := make(chan string, 1)
	go func() {
		_, body, err := get(client(t, nil), "http://"+s.addr+"/slow")
		answered <- fmt.Sprint(body, " ", err)
	}()
	<-begun
	s.stop()
	untilRefused(t, s.addr)
	select {
	case err := <-s.done:
		t.Fatalf("Serve returned %v while a request was being answered", err)
	default:
	}
	close(finish)
	if got := <-answered; got != "HTTP/1.1 /slow <nil>" {
		t.Errorf("the request: got %q, want its answer", got)
	}
	if err := s.result(t); err != nil {
		t.Errorf("Serve: got %v, want nil", err)
	}
}

func TestDrainGoesOnForTheDelay(t *testing.T) {
	l, err := listen.Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const delay = 300 * time.Millisecond
	s := run(t, delay, listen.NewServer(http.HandlerFunc(echo), slog.New(slog.DiscardHandler), nil), l)
	wantBody(t, client(t, nil), "http://"+s.addr+"/x", "HTTP/1.1 /x")
	stopped := time.Now()
	s.stop()
	res, body, err := get(client(t, nil), "http://"+s.addr+"/late")
	if err != nil || body != "HTTP/1.1 /late" {
		t.Errorf("a new connection within the delay: got %q, %v, want an answer", body, err)
	}
	for deadline := time.Now().Add(5 * time.Second); !res.Close; {
		if time.Now().After(deadline) {
			t.Fatal("answers within the delay don't end their connections")
		}
		if res, _, err = get(client(t, nil), "http://"+s.addr); err != nil {
			t.Fatalf("within the delay: %v", err)
		}
	}
	if err := s.result(t); err != nil || time.Since(stopped) < delay {
		t.Errorf("Serve: got %v after %v, want nil after %v or more", err, time.Since(stopped), delay)
	}
}

// A connection that was accepted before the listener closed and speaks only
// afterwards is what http.Server.Shutdown alone would drop.
func TestDrainAnswersAConnectionThatSpeaksLate(t *testing.T) {
	accepted := make(chan struct{}, 1)
	l, err := listen.Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, 0, listen.NewServer(http.HandlerFunc(echo), slog.New(slog.DiscardHandler), nil), &telling{l, accepted})
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-accepted
	s.stop()
	untilRefused(t, s.addr)
	fmt.Fprint(c, "GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("got %v, want an answer", err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK || !res.Close {
		t.Errorf("got %d, close %v, want 200 and the end of the connection", res.StatusCode, res.Close)
	}
}

// telling says when it has accepted.
type telling struct {
	net.Listener
	accepted chan struct{}
}

func (l *telling) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		select {
		case l.accepted <- struct{}{}:
		default:
		}
	}
	return c, err
}

func TestDrainUnderLoadFailsNoAcceptedRequest(t *testing.T) {
	modes := map[string]func(*http.Transport){
		"keep-alive":      nil,
		"new connections": func(tr *http.Transport) { tr.DisableKeepAlives = true },
		"h2c": func(tr *http.Transport) {
			tr.Protocols.SetHTTP1(false)
			tr.Protocols.SetUnencryptedHTTP2(true)
		},
	}
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			var begun sync.Map // ids of requests that reached the handler
			s := serve(t, func(_ http.ResponseWriter, r *http.Request) { begun.Store(r.URL.Path, true) }, nil)
			var answered atomic.Int64
			var workers sync.WaitGroup
			for w := range 8 {
				c := client(t, mode)
				workers.Go(func() {
					for n := 0; ; n++ {
						id := fmt.Sprintf("/%d/%d", w, n)
						reused, err := post(c, "http://"+s.addr, id)
						if err == nil {
							answered.Add(1)
							continue
						}
						if _, ok := begun.Load(id); ok || reused {
							t.Errorf("request %s: accepted (connection reused: %v), then %v", id, reused, err)
						}
						return // the listener is closed
					}
				})
			}
			until(t, "load", func() bool { return answered.Load() > 400 })
			s.stop()
			workers.Wait()
			if err := s.result(t); err != nil {
				t.Errorf("Serve: got %v, want nil", err)
			}
		})
	}
}

// post sends what a client does not repeat by itself, and tells whether it went
// over a connection that was used before.
func post(c *http.Client, url, id string) (reused bool, err error) {
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused },
	})
	r, err := http.NewRequestWithContext(ctx, "POST", url+id, bytes.NewReader([]byte("token=x")))
	if err != nil {
		return false, err
	}
	r.GetBody = nil
	res, err := c.Do(r)
	if err != nil {
		return reused, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	return reused, err
}

func TestDrainDoesNotWaitForIdleConnections(t *testing.T) {
	s := serve(t, echo, nil)
	wantBody(t, client(t, nil), "http://"+s.addr+"/x", "HTTP/1.1 /x") // and stays connected
	stopped := time.Now()
	s.stop()
	if err := s.result(t); err != nil {
		t.Errorf("Serve: got %v, want nil", err)
	}
	if took := time.Since(stopped); took > 5*time.Second {
		t.Errorf("took %v, want about the second that idle connections are left", took)
	}
}

func peerName(t *testing.T, addr string, config *tls.Config) string {
	t.Helper()
	c, err := tls.Dial("tcp", addr, config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func untilRefused(t *testing.T, addr string) {
	t.Helper()
	until(t, "the listener to close", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// On a fake clock, over a pipe: what hangs for longer than the limit is cut off.
func TestDrainEndsAtItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{dialled: make(chan net.Conn), closed: make(chan struct{})}
		begun := make(chan struct{})
		server := listen.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done()
		}), slog.New(slog.DiscardHandler), nil)
		server.WriteTimeout = 0
		s := run(t, 0, server, l)
		c, theirs := net.Pipe()
		defer c.Close()
		l.dialled <- theirs
		fmt.Fprint(c, "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
		<-begun
		stopped := time.Now()
		s.stop()
		err := <-s.done
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Serve: got %v, want it to say that a request outlasted the limit", err)
		}
		if took := time.Since(stopped); took < 20*time.Second || took > 22*time.Second {
			t.Errorf("took %v, want the limit of 20s and a second", took)
		}
	})
}

// pipes is a listener without a network.
type pipes struct {
	dialled chan net.Conn
	closed  chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.dialled:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (l *pipes) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}
