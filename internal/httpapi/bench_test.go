package httpapi_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// sink is a ResponseWriter that keeps nothing.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
func (s *sink) WriteHeader(status int)      { s.status = status }

// The whole way of a request whose verdict is remembered, less net/http, with
// the log line written to nowhere.
func BenchmarkIntrospectHit(b *testing.B) {
	f := newFixture(b, func(s *setup) { s.log = io.Discard })
	body := strings.NewReader(form("token", mint(corp(), members{"scope": "read write"})))
	r := newRequest(http.MethodPost, "/introspect", "x", append(as("orders"), "Content-Type", formType)...)
	r.Body, r.ContentLength = io.NopCloser(body), body.Size()
	w := &sink{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = body.Seek(0, io.SeekStart)
		clear(w.header)
		f.api.ServeHTTP(w, r)
	}
	if w.status != http.StatusOK {
		b.Fatalf("got %d, want 200", w.status)
	}
}

func BenchmarkAuthHit(b *testing.B) {
	f := newFixture(b, func(s *setup) { s.log = io.Discard })
	r := newRequest(http.MethodGet, "/auth/strict", "", "Authorization", "Bearer "+mint(corp(), members{"scope": "read write"}))
	w := &sink{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		f.api.ServeHTTP(w, r)
	}
	if w.status != http.StatusOK {
		b.Fatalf("got %d, want 200", w.status)
	}
}
