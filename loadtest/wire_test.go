package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestAnswersAreReadWhole(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		status   int
		body     string
	}{
		{"with a length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, "{}"},
		{"a name in capitals", "HTTP/1.1 401 Unauthorized\r\nCONTENT-LENGTH:0\r\nX: y\r\n\r\n", 401, ""},
		{"no content", "HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n", 204, ""},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200, "2\r\n{}"},
		{"no chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, ""},
	} {
		for cut := range len(tt.in) {
			if _, size, err := readAnswer([]byte(tt.in[:cut])); size != 0 || err != nil {
				t.Errorf("%s, %d bytes of it: got %d, %v; want more asked for", tt.name, cut, size, err)
			}
		}
		a, size, err := readAnswer([]byte(tt.in + "HTTP/1.1 200"))
		if a.status != tt.status || string(a.body) != tt.body || size != len(tt.in) || err != nil {
			t.Errorf("%s: got %d %q of %d bytes, %v; want %d %q of %d", tt.name, a.status, a.body, size, err, tt.status, tt.body, len(tt.in))
		}
	}
}

func TestWhatIsNoAnswerIsAnError(t *testing.T) {
	for _, in := range []string{
		"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "HTTP/1.1 200 OK\r\nX: until it closes\r\n\r\n", "hello\r\n\r\n",
	} {
		if _, _, err := readAnswer([]byte(in)); err == nil {
			t.Errorf("%q: got no error", in)
		}
	}
}

// slowServer answers after the given times, in turn; 0 from then on.
func slowServer(t *testing.T, delays ...time.Duration) string {
	t.Helper()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if i := int(n.Add(1)) - 1; i < len(delays) {
			time.Sleep(delays[i])
		}
		fmt.Fprint(w, r.URL.Path)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func get(address string, paths ...string) (all [][]byte) {
	for _, p := range paths {
		all = append(all, fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", p, address))
	}
	return all
}

func TestEachRequestIsSentOnceAndJudgedByItsOwn(t *testing.T) {
	onLinux(t)
	address := slowServer(t)
	paths := []string{"/0", "/1", "/2", "/3", "/4"}
	counts := make([]int, len(paths))
	got, err := load{address: address, connections: 3, requests: get(address, paths...), once: true, right: func(n int, a answer) bool {
		counts[n]++
		return string(a.body) == paths[n] && n != 3
	}}.run(t.Context(), -1)
	if err != nil || got.requests != 5 || got.wrong != 1 || got.example != "200 /3" || got.latencies.total() != 5 {
		t.Errorf("got %d requests, %d wrong such as %q, %v; want 5, 1 and 200 /3", got.requests, got.wrong, got.example, err)
	}
	for n, count := range counts {
		if count != 1 {
			t.Errorf("%s was sent %d times, want once", paths[n], count)
		}
	}
}

func TestALoadBeginsWhereItIsTold(t *testing.T) {
	onLinux(t)
	address := slowServer(t)
	var first string
	_, err := load{address: address, connections: 1, requests: get(address, "/0", "/1", "/2"), from: 4, length: time.Millisecond, right: func(_ int, a answer) bool {
		if first == "" {
			first = string(a.body)
		}
		return true
	}}.run(t.Context(), -1)
	if err != nil || first != "/1" {
		t.Errorf("got %s first, %v; want /1", first, err)
	}
}

func TestEachConnectionIsGreetedBeforeTheLoadBegins(t *testing.T) {
	onLinux(t)
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := asked.Add(1); (n <= 3) != (r.URL.Path == "/hello") {
			t.Errorf("request %d: got %s", n, r.URL.Path)
		}
		fmt.Fprint(w, r.URL.Path)
	}))
	defer s.Close()
	address := s.Listener.Addr().String()
	got, err := load{address: address, connections: 3, greeting: get(address, "/hello")[0], greeted: func(a answer) bool { return string(a.body) == "/hello" }, requests: get(address, "/0"), once: true, right: func(_ int, a answer) bool {
		return string(a.body) == "/0"
	}}.run(t.Context(), -1)
	if err != nil || got.requests != 1 || got.wrong != 0 {
		t.Errorf("got %d requests, %d wrong, %v; want 1, and no greeting among them", got.requests, got.wrong, err)
	}
	if _, err := (load{address: address, connections: 1, greeting: []byte("no HTTP\r\n\r\n"), requests: get(address, "/0"), once: true, right: status(200)}).run(t.Context(), -1); err == nil {
		t.Error("a greeting that is not answered as one: got no error")
	}
}

// A server that stands still for one request keeps all that were due meanwhile
// waiting; a closed loop would have sent none of them.
func TestLatencyCountsFromWhenARequestWasDue(t *testing.T) {
	onLinux(t)
	const stall = 60 * time.Millisecond
	address := slowServer(t, stall)
	got, err := load{address: address, connections: 1, requests: get(address, "/"), rate: 500, length: 100 * time.Millisecond, right: status(200)}.run(t.Context(), -1)
	if err != nil || got.requests != 50 {
		t.Fatalf("got %d requests, %v; want 50", got.requests, err)
	}
	// About 30 were due within the stall, evenly: the median of all waited long.
	if late := got.latencies.quantile(0.5); late < stall/10 {
		t.Errorf("p50: got %s, want at least %s", late, stall/10)
	}
	if got.latencies.most < stall {
		t.Errorf("max: got %s, want at least %s", got.latencies.most, stall)
	}
}

// A fixed rate has more due within its time than there is to send once.
func TestAFixedRateEndsWhereEachRequestWasSentOnce(t *testing.T) {
	onLinux(t)
	address := slowServer(t)
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	got, err := load{address: address, connections: 2, requests: get(address, "/0", "/1", "/2"), once: true, rate: 200, length: time.Minute, right: status(200)}.run(ctx, -1)
	if err != nil || got.requests != 3 || got.wrong > 0 {
		t.Errorf("got %d requests, %d wrong, %v; want 3 right ones", got.requests, got.wrong, err)
	}
}

func TestALoadThatCannotBeSentIsAnError(t *testing.T) {
	onLinux(t)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	all := load{address: address, connections: 2, requests: get(address, "/"), once: true, right: status(200)}
	if _, err := all.run(t.Context(), -1); err == nil {
		t.Error("a server that closes: got no error")
	}
	_ = l.Close()
	if _, err := all.run(t.Context(), -1); err == nil || !strings.Contains(err.Error(), "connecting") {
		t.Errorf("no server: got %v", err)
	}
}

// A fixed rate may leave a connection alone for longer than its server keeps it.
func TestAConnectionThatWasIdleForTooLongIsOpenedAgain(t *testing.T) {
	onLinux(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Listener = &closesAtOnce{Listener: s.Listener, spared: 7}
	s.Start()
	t.Cleanup(s.Close)
	address := s.Listener.Addr().String()
	// The eighth is needed 350 ms after it was closed.
	got, err := load{address: address, connections: 8, requests: get(address, "/"), rate: 20, length: 450 * time.Millisecond, right: status(200)}.run(t.Context(), -1)
	if err != nil || got.requests != 9 || got.wrong > 0 {
		t.Errorf("got %d requests, %d wrong, %v; want 9 right ones", got.requests, got.wrong, err)
	}
}

// closesAtOnce closes the connection after those that are spared.
type closesAtOnce struct {
	net.Listener
	spared int
}

func (l *closesAtOnce) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if l.spared--; err == nil && l.spared == -1 {
		_ = c.Close()
	}
	return c, err
}

// onLinux skips what needs epoll or /proc.
func onLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED, NOT PASSED: this needs Linux")
	}
}
