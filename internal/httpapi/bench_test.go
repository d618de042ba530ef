package httpapi_test

import (
	"io"
	"net/http"
	"runtime/debug"
	"slices"
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

// hits are the two ways of a request whose verdict is remembered, less
// net/http, with the log line written to nowhere. Each call of one is a request.
func hits(t testing.TB) map[string]func() int {
	f := newFixture(t, func(s *setup) { s.log = io.Discard })
	token := mint(corp(), members{"scope": "read write"})
	body := strings.NewReader(form("token", token))
	posted := newRequest(http.MethodPost, "/introspect", "x", append(as("orders"), "Content-Type", formType)...)
	posted.Body, posted.ContentLength = io.NopCloser(body), body.Size()
	asked := newRequest(http.MethodGet, "/auth/strict", "", "Authorization", "Bearer "+token)
	w := &sink{header: http.Header{}}
	return map[string]func() int{
		"POST /introspect": func() int {
			_, _ = body.Seek(0, io.SeekStart)
			clear(w.header)
			f.api.ServeHTTP(w, posted)
			return w.status
		},
		"GET /auth": func() int {
			clear(w.header)
			f.api.ServeHTTP(w, asked)
			return w.status
		},
	}
}

func BenchmarkIntrospectHit(b *testing.B) { benchmarkHit(b, "POST /introspect") }

func BenchmarkAuthHit(b *testing.B) { benchmarkHit(b, "GET /auth") }

func benchmarkHit(b *testing.B, way string) {
	request := hits(b)[way]
	b.ReportAllocs()
	for b.Loop() {
		if status := request(); status != http.StatusOK {
			b.Fatalf("got %d, want 200", status)
		}
	}
}

// What a hit may allocate, so that more is seen without a clock. The race
// detector has pools forget, and then more is allocated.
func TestHitsAllocateLittle(t *testing.T) {
	for way, most := range map[string]float64{"POST /introspect": 8, "GET /auth": 8} {
		request := hits(t)[way]
		if status := request(); status != http.StatusOK {
			t.Fatalf("%s: got %d, want 200", way, status)
		}
		if raced() {
			most += 12
		}
		if got := testing.AllocsPerRun(500, func() { request() }); got > most {
			t.Errorf("%s: got %v allocations for a hit, want at most %v", way, got, most)
		}
	}
}

// raced says whether this was built with the race detector.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}
