package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
)

// runYardstick is a server that reads requests of the same size and answers
// with the same number of bytes, and does nothing else: what the framework
// costs. It is a process of its own, which the other modes start.
func runYardstick(ctx context.Context, args []string, _, stderr io.Writer) (status int, err error) {
	flags := flag.NewFlagSet("loadtest yardstick", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8080", "address")
	kind := flags.String("kind", "gin", "gin or net/http")
	size := flags.Int("size", 300, "bytes in the answer to POST /introspect")
	if err := flags.Parse(args); err != nil {
		return exitUsage, err
	}
	h, ok := map[string]func([]byte) http.Handler{"gin": bareGin, "net/http": bareHTTP}[*kind]
	if !ok || *size < 2 {
		return exitUsage, fmt.Errorf("expected --kind gin or net/http and --size of 2 or more, got %q and %d", *kind, *size)
	}
	socket, err := new(net.ListenConfig).Listen(ctx, "tcp", *listen)
	if err != nil {
		return exitFailed, err
	}
	s := &http.Server{Handler: h(padded(*size)), ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	_ = s.Serve(socket) // until ctx ends
	return exitOK, nil
}

// padded is a JSON object of size bytes.
func padded(size int) []byte {
	return []byte("{" + strings.Repeat(" ", size-2) + "}")
}

// identity are headers such as /auth answers with.
var identity = [...][2]string{
	{"X-Auth-Subject", "customer-0042-amy-pond"},
	{"X-Auth-Issuer", "http://127.0.0.1:20000"},
	{"X-Auth-Client-Id", "storefront"},
	{"X-Auth-Scope", "orders:read orders:write"},
}

func bareGin(body []byte) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.POST("/introspect", func(c *gin.Context) {
		if _, err := io.ReadAll(c.Request.Body); err != nil {
			c.Status(http.StatusBadRequest)
			return
		}
		c.Data(http.StatusOK, "application/json", body)
	})
	e.GET("/auth", func(c *gin.Context) {
		if c.GetHeader("Authorization") == "" {
			c.Status(http.StatusUnauthorized)
			return
		}
		for _, h := range identity {
			c.Header(h[0], h[1])
		}
		c.Status(http.StatusOK)
	})
	e.GET("/readyz", func(c *gin.Context) { c.Status(http.StatusOK) })
	return e
}

func bareHTTP(body []byte) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
	mux.HandleFunc("GET /auth", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		for _, h := range identity {
			w.Header().Set(h[0], h[1])
		}
	})
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	return mux
}
