package memstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"introspectd/internal/memstore"
)

var ctx = context.Background()

func key(n int) (k memstore.Key) {
	binary.BigEndian.PutUint64(k[:], uint64(n))
	return k
}

func TestKeepsAValueForItsLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(1 << 20)
		s.Put(ctx, key(1), []byte("good"), 10*time.Second, false)
		s.Put(ctx, key(2), []byte("bad"), 10*time.Second, true)
		time.Sleep(9 * time.Second)
		if got := s.Get(ctx, key(1), nil); string(got) != "good" {
			t.Errorf("after 9 s of 10: got %q, want it", got)
		}
		if got := s.Get(ctx, key(2), nil); string(got) != "bad" {
			t.Errorf("refused, after 9 s of 10: got %q, want it", got)
		}
		if got := s.Get(ctx, key(3), nil); got != nil {
			t.Errorf("never put: got %q", got)
		}
		time.Sleep(2 * time.Second)
		if got := s.Get(ctx, key(1), nil); got != nil {
			t.Errorf("after 11 s of 10: got %q, want nothing", got)
		}
	})
}

func TestALifetimeOfNothingIsNotKept(t *testing.T) {
	s := memstore.New(1 << 20)
	for _, d := range []time.Duration{0, -1, -time.Hour, time.Second - 1} {
		s.Put(ctx, key(1), []byte("x"), d, false)
		if got := s.Get(ctx, key(1), nil); got != nil {
			t.Errorf("lifetime %s: got %q, want nothing kept", d, got)
		}
	}
}

func TestAHitIsACopy(t *testing.T) {
	s := memstore.New(1 << 20)
	s.Put(ctx, key(1), []byte("good"), time.Minute, false)
	s.Get(ctx, key(1), nil)[0] = 'X'
	if got := s.Get(ctx, key(1), nil); string(got) != "good" {
		t.Errorf("got %q: a reader changed what is kept", got)
	}
}

func TestRefusedTokensPushOutNoGoodOne(t *testing.T) {
	s := memstore.New(16 << 20)
	good := bytes.Repeat([]byte("g"), 600)
	for n := range 1000 {
		s.Put(ctx, key(n), good, time.Hour, false)
	}
	for n := range 200_000 {
		s.Put(ctx, key(1_000_000+n), []byte("refused"), time.Hour, true)
	}
	for n := range 1000 {
		if s.Get(ctx, key(n), nil) == nil {
			t.Fatalf("good value %d is gone after 200,000 refused ones", n)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	s := memstore.New(4 << 20)
	value := bytes.Repeat([]byte("v"), 1024)
	for n := range 20_000 {
		s.Put(ctx, key(n), value, time.Hour, false)
	}
	if got := s.Len(); got > 4096 {
		t.Errorf("got %d values of 1 KiB in 4 MiB", got)
	}
}

func BenchmarkGet(b *testing.B) {
	s := memstore.New(128 << 20)
	value := bytes.Repeat([]byte("v"), 1024)
	for n := range 10_000 {
		s.Put(ctx, key(n), value, time.Hour, false)
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if s.Get(ctx, key(n%10_000), nil) == nil {
			b.Fatal("gone")
		}
	}
}
