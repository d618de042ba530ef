package httpapi_test

import (
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"introspectd/internal/introspect"
	"introspectd/internal/telemetry"
)

// sink is a ResponseWriter that keeps nothing but whether a body is that of a token
// which is not active.
type sink struct {
	header   http.Header
	status   int
	inactive bool
}

func (s *sink) Header() http.Header    { return s.header }
func (s *sink) WriteHeader(status int) { s.status = status }

func (s *sink) Write(p []byte) (int, error) {
	s.inactive = string(p) == introspect.Inactive
	return len(p), nil
}

// told is the status that was answered, and 0 where that was of no active token.
func (s *sink) told() int {
	if s.inactive {
		return 0
	}
	return s.status
}

// hits are the two ways of a request whose verdict is remembered, less
// net/http, with the log line written to nowhere and metrics counted, or with
// neither. Each call of one is a request, and returns 200 where that was told of an
// active token.
func hits(t testing.TB, level telemetry.Level) map[string]func() int {
	tel, err := telemetry.New(t.Context(), telemetry.Config{Log: telemetry.LogConfig{Level: level, Format: "json"}}, telemetry.Options{LogTo: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(s *setup) { s.access, s.meter, s.tracer = tel.Access, tel.Meter, tel.Tracer })
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
			return w.told()
		},
		"GET /auth": func() int {
			clear(w.header)
			f.api.ServeHTTP(w, asked)
			return w.told()
		},
	}
}

func BenchmarkIntrospectHit(b *testing.B) { benchmarkHit(b, "POST /introspect") }

func BenchmarkAuthHit(b *testing.B) { benchmarkHit(b, "GET /auth") }

func benchmarkHit(b *testing.B, way string) {
	for _, level := range []telemetry.Level{"error", "info"} {
		b.Run("log="+string(level), func(b *testing.B) {
			request := hits(b, level)[way]
			b.ReportAllocs()
			for b.Loop() {
				if status := request(); status != http.StatusOK {
					b.Fatalf("got %d, want 200", status)
				}
			}
		})
	}
}

// What a hit may allocate, so that more is seen without a clock: the headers that
// are answered, as one text and one list; with a log line, the token's reference
// and the time it took. The race detector has pools forget, and then more is
// allocated.
func TestHitsAllocateLittle(t *testing.T) {
	for _, row := range []struct {
		way   string
		level telemetry.Level
		most  float64
	}{
		{"POST /introspect", "error", 0},
		{"POST /introspect", "info", 2},
		{"GET /auth", "error", 2},
		{"GET /auth", "info", 4},
	} {
		request := hits(t, row.level)[row.way]
		if status := request(); status != http.StatusOK {
			t.Fatalf("%s: got %d, want 200", row.way, status)
		}
		if raced() {
			row.most += 12
		}
		if got := testing.AllocsPerRun(500, func() { request() }); got > row.most {
			t.Errorf("%s, log level %s: got %v allocations for a hit, want at most %v", row.way, row.level, got, row.most)
		}
	}
}

// raced says whether this was built with the race detector.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}
