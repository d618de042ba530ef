package httpapi_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"introspectd/internal/telemetry"
)

// BenchmarkServed has net/http serve hits, and what is refused without a look at
// its signature, on a connection that costs nothing, and bare gin the same
// requests: all of an answer but the kernel's part. On one processor
// (GOMAXPROCS=1) it is steady to 1 %, and shows what a load test can't.
func BenchmarkServed(b *testing.B) {
	tel, err := telemetry.New(b.Context(), telemetry.Config{Log: telemetry.LogConfig{Level: "error", Format: "json"}}, telemetry.Options{LogTo: io.Discard})
	if err != nil {
		b.Fatal(err)
	}
	f := newFixture(b, func(s *setup) { s.access, s.meter, s.tracer = tel.Access, tel.Meter, tel.Tracer })
	token := mint(corp(), members{"scope": "read write"})
	q, refused := form("token", token), form("token", mint(corp(), members{"iss": "https://unlisted.example"}))
	post := func(body string) string {
		return lines("POST /introspect HTTP/1.1", "Host: x", "Authorization: "+basic("orders", secretOf("orders")), "Content-Type: "+formType, "Content-Length: "+fmt.Sprint(len(body)), "", body)
	}
	for way, of := range map[string]struct{ request, answer string }{
		"POST introspect": {post(q), `{"active":true,`},
		"POST refused":    {post(refused), `{"active":false}`},
		"GET auth":        {lines("GET /auth/strict HTTP/1.1", "Host: x", "Authorization: Bearer "+token, "", ""), "X-Auth-Subject: "},
	} {
		for name, h := range map[string]http.Handler{"bare gin": bareGin(), "introspectd": f.api} {
			request, answer := of.request, of.answer
			if name == "bare gin" {
				answer = ""
			}
			b.Run(way+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				pipe := &endless{request: request, left: b.N, over: make(chan struct{})}
				server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second}
				conns := make(offered, 1)
				go func() { _ = server.Serve(conns) }()
				b.ResetTimer()
				conns <- pipe
				<-pipe.over
				b.StopTimer()
				close(conns)
				_ = server.Shutdown(context.Background())
				if !strings.HasPrefix(pipe.last, "HTTP/1.1 200 ") || !strings.Contains(pipe.last, answer) {
					b.Errorf("got %q, want 200 with %s", pipe.last, answer)
				}
			})
		}
	}
}

func bareGin() http.Handler {
	gin.SetMode(gin.ReleaseMode)
	e, answer := gin.New(), []byte("{"+strings.Repeat(" ", 250)+"}")
	e.POST("/introspect", func(c *gin.Context) {
		_, _ = io.ReadAll(c.Request.Body)
		c.Data(http.StatusOK, "application/json", answer)
	})
	e.GET("/auth/strict", func(c *gin.Context) {
		for _, h := range []string{"X-Auth-Subject", "X-Auth-Issuer", "X-Auth-Client-Id", "X-Auth-Scope"} {
			c.Header(h, c.GetHeader("Authorization")[7:30])
		}
		c.Status(http.StatusOK)
	})
	return e
}

// endless is a connection on which a request comes as often as is left, and
// what is answered goes nowhere.
type endless struct {
	net.Conn
	request  string
	at, left int
	over     chan struct{} // closed by the last answer
	last     string        // an answer
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		<-e.over
		return 0, io.EOF
	}
	n := copy(p, e.request[e.at:])
	if e.at += n; e.at == len(e.request) {
		e.at, e.left = 0, e.left-1
	}
	return n, nil
}

func (e *endless) Write(p []byte) (int, error) {
	if e.left == 0 {
		e.last = string(p)
		close(e.over)
	}
	return len(p), nil
}

func (*endless) Close() error        { return nil }
func (*endless) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

func (*endless) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000} }
func (*endless) SetReadDeadline(time.Time) error  { return nil }
func (*endless) SetWriteDeadline(time.Time) error { return nil }

// offered are connections that a server may accept.
type offered chan net.Conn

func (o offered) Accept() (net.Conn, error) {
	if c, ok := <-o; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (offered) Close() error   { return nil }
func (offered) Addr() net.Addr { return &net.TCPAddr{} }
