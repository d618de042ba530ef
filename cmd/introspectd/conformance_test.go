package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"introspectd/internal/filestore"
	"introspectd/internal/memstore"
	"introspectd/internal/redisstore"
	"introspectd/internal/redistest"
	"introspectd/internal/seal"
)

// bytesKept is what the suite below asks of every store there is.
type bytesKept struct {
	// put returns once value can be had, where it is to be had at all.
	put func(t *testing.T, name byte, value []byte, lifetime time.Duration)
	get func(name byte) []byte
	// trouble, when set, is a fault in the middle, after which the store works
	// again; it may have lost what it had.
	trouble func(t *testing.T)
}

// TestEveryStoreKeepsItsPromises is one suite for process memory, the local file,
// and redis alone, as a cluster and under sentinels.
func TestEveryStoreKeepsItsPromises(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) bytesKept{
		"process memory":  inMemory,
		"the local file":  inFile,
		"redis":           inRedis,
		"a redis cluster": inCluster,
		"redis sentinels": underSentinels,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			want := func(when string, name byte, value string) {
				t.Helper()
				if got := s.get(name); string(got) != value {
					t.Errorf("%s: %d is %.20q, want %.20q", when, name, got, value)
				}
			}
			want("at first", 1, "")
			s.put(t, 1, []byte("one"), time.Hour)
			s.put(t, 2, []byte("two\x00\xff\r\n"), time.Hour)
			want("what was put", 1, "one")
			want("any bytes", 2, "two\x00\xff\r\n")
			want("another name", 3, "")
			s.put(t, 1, []byte("one again"), time.Hour)
			want("overwritten", 1, "one again")

			got := s.get(1)
			clear(got)
			want("after a copy was changed", 1, "one again")
			value := []byte("mine")
			s.put(t, 4, value, time.Hour)
			clear(value)
			want("after what was put was changed", 4, "mine")

			for _, lifetime := range []time.Duration{0, -time.Hour} {
				s.put(t, 5, []byte("never"), lifetime)
				want(fmt.Sprint("lifetime ", lifetime), 5, "")
			}
			s.put(t, 6, []byte("short"), 2*time.Second)
			within(t, 10*time.Second, "its time is over", func() bool { return s.get(6) == nil })

			big := bytes.Repeat([]byte("x"), 50<<10)
			s.put(t, 7, big, time.Hour)
			want("a large value", 7, string(big))

			var all sync.WaitGroup
			for worker := range byte(8) {
				all.Go(func() {
					for range 20 {
						if got := s.get(1); got != nil && string(got) != "one again" {
							t.Errorf("got another's value: %.20q", got)
						}
						s.put(t, 100+worker, []byte{worker}, time.Hour)
						if got := s.get(100 + worker); got != nil && !bytes.Equal(got, []byte{worker}) {
							t.Errorf("%d is %v", worker, got)
						}
					}
				})
			}
			all.Wait()
			if s.trouble == nil {
				return
			}
			s.trouble(t)
			if got := s.get(1); got != nil && string(got) != "one again" {
				t.Errorf("after trouble: got %.20q", got)
			}
			s.put(t, 8, []byte("after"), time.Hour)
			want("after trouble", 8, "after")
		})
	}
}

func inMemory(*testing.T) bytesKept {
	s := memstore.New(64 << 20)
	return bytesKept{
		put: func(_ *testing.T, name byte, value []byte, lifetime time.Duration) {
			s.Put(context.Background(), [32]byte{name}, value, lifetime, false)
		},
		get: func(name byte) []byte { return s.Get(context.Background(), [32]byte{name}, nil) },
	}
}

func inFile(t *testing.T) bytesKept {
	path := filepath.Join(t.TempDir(), "state")
	open := func() *filestore.Store {
		s, err := filestore.Open(path, filestore.Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	t.Cleanup(func() { _ = s.Close() })
	return bytesKept{
		put: func(t *testing.T, name byte, value []byte, lifetime time.Duration) {
			if err := s.Put(fmt.Sprint(name), value, time.Now().Add(lifetime)); err != nil {
				t.Error(err)
			}
		},
		get: func(name byte) []byte {
			value, err := s.Get(fmt.Sprint(name))
			if err != nil {
				t.Error(err)
			}
			return value
		},
		trouble: func(t *testing.T) {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open()
		},
	}
}

func inRedis(t *testing.T) bytesKept {
	server := newFleet(t).redis
	k := keptIn(t, redisstore.Config{Mode: redisstore.Standalone, Addresses: []string{server.Addr}})
	k.trouble = func(t *testing.T) {
		server.Kill()
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func inCluster(t *testing.T) bytesKept {
	needRedis(t)
	c, err := redistest.StartCluster(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return keptIn(t, redisstore.Config{Mode: redisstore.Cluster, Addresses: c.Addresses()})
}

func underSentinels(t *testing.T) bytesKept {
	needRedis(t)
	w, err := redistest.StartSentinels(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	k := keptIn(t, redisstore.Config{Mode: redisstore.Sentinel, Addresses: w.Addresses(), Master: redistest.MasterName})
	k.trouble = func(t *testing.T) {
		if err := w.Failover(); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func keptIn(t *testing.T, cfg redisstore.Config) bytesKept {
	cfg.Set, cfg.Prefix, cfg.Timeout = true, "introspectd:", 300*time.Millisecond
	box, err := seal.New(cfg.Prefix, bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	s, err := redisstore.Open(cfg, box, redisstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		stop()
		run.Wait()
		_ = s.Close()
	})
	v := s.Verdicts()
	get := func(name byte) []byte { return v.Get(context.Background(), [32]byte{name}, nil) }
	return bytesKept{get: get, put: func(t *testing.T, name byte, value []byte, lifetime time.Duration) {
		v.Put(context.Background(), [32]byte{name}, bytes.Clone(value), lifetime, false)
		if lifetime <= 0 {
			return
		}
		for end := time.Now().Add(20 * time.Second); !bytes.Equal(get(name), value); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("20 s and not yet: %d is in redis", name)
				return
			}
			// What is dropped under pressure, or lost in trouble, is put again.
			v.Put(context.Background(), [32]byte{name}, bytes.Clone(value), lifetime, false)
		}
	}}
}
