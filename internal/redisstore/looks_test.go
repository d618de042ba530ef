package redisstore_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"introspectd/internal/redistest"
)

// Whoever asks with others gets its own value, whatever lies under the names that
// others ask for.
func TestLookUpsThatMeetGoTogether(t *testing.T) {
	server, cfg, client := standalone(t)
	cfg.Timeout = time.Second
	s := open(t, cfg)
	const values = 20
	for n := range byte(values) {
		put(t, s, n, fmt.Sprint("value ", n), time.Hour)
	}
	for n, planted := range map[byte]string{0: "garbage", 1: strings.Repeat("x", 1<<20), 2: client.Get(t.Context(), verdictKey(5)).Val()} {
		if err := client.Set(t.Context(), verdictKey(n), planted, time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Del(t.Context(), verdictKey(3)).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Del(t.Context(), verdictKey(4)).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.RPush(t.Context(), verdictKey(4), "a list").Err(); err != nil {
		t.Fatal(err)
	}
	// A busy machine may take longer than a request waits, and a look-up that meets
	// nobody goes alone: it is enough that they do so once.
	eventually(t, 30*time.Second, "look-ups go together and find what is there", func() bool {
		before := reads(t, server)
		var found, asked atomic.Int64
		var all sync.WaitGroup
		for worker := range byte(32) {
			all.Go(func() {
				for round := range byte(40) {
					n := (worker + round*7) % values
					want := fmt.Sprint("value ", n)
					if n < 5 {
						want = ""
					} else {
						asked.Add(1)
					}
					switch v := got(s, n); {
					case v == want && n >= 5:
						found.Add(1)
					case v != want && v != "":
						t.Errorf("under %d: got %.20q, want %q", n, v, want)
					}
				}
			})
		}
		all.Wait()
		return found.Load() > asked.Load()*9/10 && reads(t, server)-before < 32*40/2
	})
}

// reads is how often redis has read from a connection.
func reads(t *testing.T, server *redistest.Server) (n int64) {
	t.Helper()
	text, err := server.Do("INFO", "stats")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(text, "total_reads_processed:")
	if _, err := fmt.Sscan(after, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Nobody waits for longer than one look-up may take, in whichever exchange it is.
func TestManyLookUpsWaitNoLongerThanOne(t *testing.T) {
	server, cfg, _ := standalone(t)
	s := open(t, cfg)
	put(t, s, 1, "value", time.Hour)
	server.Pause()
	var most atomic.Int64
	var all sync.WaitGroup
	for range 500 {
		all.Go(func() {
			began := time.Now()
			if v := got(s, 1); v != "" {
				t.Errorf("got %q of a redis that hangs", v)
			}
			for took := int64(time.Since(began)); ; {
				if m := most.Load(); took <= m || most.CompareAndSwap(m, took) {
					return
				}
			}
		})
	}
	all.Wait()
	server.Resume()
	if took := time.Duration(most.Load()); took > 200*time.Millisecond { // 40 ms, on a machine that may be busy
		t.Errorf("one waited %s", took)
	}
}

// BenchmarkVerdictsGet finds a verdict in redis, and unseals it.
func BenchmarkVerdictsGet(b *testing.B) {
	server, err := redistest.Start(b.TempDir())
	if err != nil {
		b.Skip("SKIPPED, NOT MEASURED: ", err)
	}
	b.Cleanup(server.Stop)
	s := open(b, configFor(server.Addr))
	put(b, s, 9, strings.Repeat("v", 700), time.Hour)
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if got(s, 9) == "" {
				b.Fatal("not found")
			}
		}
	})
	b.Run("64 askers", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(max(64/runtime.GOMAXPROCS(0), 1))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if got(s, 9) == "" {
					b.Error("not found")
				}
			}
		})
	})
}
