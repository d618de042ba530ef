package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"introspectd/internal/redistest"
)

// withRedis is a world of a real redis-server alone, with some keys of the
// service in it.
func withRedis(t *testing.T) *world {
	t.Helper()
	if err := redistest.Find(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v is not installed", err)
		}
		t.Skipf("SKIPPED, NOT PASSED: %v is not installed", err)
	}
	s, err := redistest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	w := &world{redis: s, row: &row{}, planted: map[string]bool{}}
	for n := range 300 {
		w.do(t, "SET", fmt.Sprintf("%sv:%d", prefix, n), value)
	}
	w.do(t, "XADD", prefix+"{x}:feed", "*", "a", "b")
	w.do(t, "SET", "somebody-else", value)
	return w
}

const value = "a value as the service might write it"

func (w *world) do(t *testing.T, args ...string) string {
	t.Helper()
	answer, err := w.redis.Do(args...)
	if err != nil {
		t.Fatalf("redis: %v: %v", args, err)
	}
	return answer
}

func TestRedisIsWellAfterEachOfItsFaults(t *testing.T) {
	w := withRedis(t)
	for _, f := range faults {
		if !f.needsRedis {
			continue
		}
		for _, s := range f.steps {
			if s.begin != nil {
				if err := s.begin(t.Context(), w); err != nil {
					t.Fatalf("%s: %v", s.name, err)
				}
			}
			if s.during != nil {
				ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
				if err := s.during(ctx, w); err != nil {
					t.Fatalf("%s: %v", s.name, err)
				}
				stop()
			}
			if s.name == "redis-hung" {
				continue // it would be asked in vain for some seconds
			}
			refused, bad := map[string]string{
				"redis-killed": "refused", "redis-stays-down": "refused", "redis-read-only": "READONLY", "redis-oom": "OOM",
			}[s.name]
			_, err := w.redis.Do("SET", prefix+"x", "y")
			if bad != (err != nil) || bad && !strings.Contains(err.Error(), refused) {
				t.Errorf("%s: SET: got %v, want it refused: %v %s", s.name, err, bad, refused)
			}
		}
	}
	if got := w.do(t, "CONFIG", "GET", "maxmemory*"); !strings.Contains(got, "maxmemory\n0") || !strings.Contains(got, "noeviction") {
		t.Errorf("in the end: got %q, want no limit", got)
	}
}

func TestEvictionIsMet(t *testing.T) {
	w := withRedis(t)
	if err := squeezeRedis(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	for n := range 500 {
		w.do(t, "SET", fmt.Sprint(prefix, "new:", n), strings.Repeat("x", 1000))
	}
	if err := countEvicted(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if len(w.row.Notes) != 1 || strings.Contains(w.row.Notes[0], "evicted 0 keys") {
		t.Errorf("got %v, want some keys evicted", w.row.Notes)
	}
}

func TestGarbageIsPlantedAndTakenAway(t *testing.T) {
	w := withRedis(t)
	ctx, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer stop()
	if err := spoil(ctx, w); err != nil {
		t.Fatal(err)
	}
	if w.huge == 0 || w.huge > mostHuge || !w.planted[prefix+"{x}:feed"] {
		t.Errorf("got %d keys of 8 MB, want some and at most %d; got the feed planted over: %v, want that", w.huge, mostHuge, w.planted[prefix+"{x}:feed"])
	}
	changed, types := 0, map[string]bool{}
	for key := range w.planted {
		kind := w.do(t, "TYPE", key)
		types[kind] = true
		if kind != "string" || w.do(t, "GET", key) != value {
			changed++
		}
	}
	if changed < len(w.planted)/2 || !types["list"] || !types["hash"] {
		t.Errorf("got %d of %d keys changed, of the types %v, want most, lists and hashes too", changed, len(w.planted), types)
	}
	if got := w.do(t, "GET", "somebody-else"); got != value {
		t.Errorf("a key that is not the service's: got %d bytes, want it untouched", len(got))
	}
	if err := unspoil(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	keys, err := w.someKeys()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if w.planted[key] {
			t.Errorf("%s is still there", key)
		}
	}
}

func TestNoKeyToSpoilIsABrokenPromise(t *testing.T) {
	w := withRedis(t)
	w.do(t, "FLUSHALL")
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if err := spoil(ctx, w); err != nil || len(w.row.Broken) != 1 {
		t.Errorf("got %v and %v, want it said that nothing is shown", err, w.row.Broken)
	}
}
