package redisstore

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"introspectd/internal/seal"
)

const (
	// maxVerdict is the largest value that is kept, sealed: an answer of 64 KiB
	// and where its members end.
	maxVerdict = 192 << 10

	queueEntries = 4096
	queueBytes   = 16 << 20
	batch        = 128
)

// Verdicts keeps values of requests, for a time. What it returns was put there
// by a replica with our seal key, under the same key, and is not over.
type Verdicts struct{ store *Store }

// Verdicts returns the values of requests.
func (s *Store) Verdicts() Verdicts { return Verdicts{s} }

// Get returns what was put under key, nil when there is nothing or it can't be
// had within 40 ms. It doesn't end with its context: others may wait for the same
// exchange, and one that is broken off costs a connection. It needs no room.
func (v Verdicts) Get(_ context.Context, key [32]byte, _ []byte) []byte {
	name := v.store.verdictKey(key)
	plain := v.store.unseal(seal.Verdict, name, v.store.look(name))
	if len(plain) < 8 || time.Now().UnixMilli() >= int64(binary.BigEndian.Uint64(plain)) {
		return nil
	}
	return plain[8:]
}

func (s *Store) verdictKey(key [32]byte) string {
	return s.key("verdict:" + base64.RawURLEncoding.EncodeToString(key[:]))
}

// Put keeps value for at most lifetime. It only queues: where there is no room,
// or redis does not answer, nothing is kept, and counted. What was refused is
// never kept. value must not be changed afterwards.
func (v Verdicts) Put(_ context.Context, key [32]byte, value []byte, lifetime time.Duration, refused bool) {
	if refused || lifetime < time.Millisecond || len(value)+8+seal.Overhead > maxVerdict {
		return
	}
	if !v.store.usable() || !v.store.queue.add(wanted{key, value, time.Now().Add(lifetime)}) {
		v.store.metrics.wrote(writeDropped, 1)
	}
}

// wanted is a value that is to be written.
type wanted struct {
	key   [32]byte
	value []byte
	until time.Time
}

// queue is what requests want written, bounded by count and by bytes.
type queue struct {
	entries chan wanted
	mu      sync.Mutex
	bytes   int
}

func (q *queue) init() { q.entries = make(chan wanted, queueEntries) }

func (q *queue) add(w wanted) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes+len(w.value) > queueBytes {
		return false
	}
	select {
	case q.entries <- w:
		q.bytes += len(w.value)
		return true
	default:
		return false
	}
}

// take waits for an entry, and takes those that wait behind it.
func (q *queue) take(ctx context.Context, into []wanted) []wanted {
	select {
	case <-ctx.Done():
		return nil
	case w := <-q.entries:
		into = append(into, w)
	}
	for len(into) < batch && len(q.entries) > 0 {
		into = append(into, <-q.entries)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, w := range into {
		q.bytes -= len(w.value)
	}
	return into
}

// write seals and writes what is queued, until ctx ends.
func (s *Store) write(ctx context.Context) {
	some := make([]wanted, 0, batch)
	for {
		some = s.queue.take(ctx, some[:0])
		if some == nil {
			return
		}
		if !s.usable() {
			s.metrics.wrote(writeDropped, len(some))
			continue
		}
		result := writeDone
		if _, err := s.breaker.Execute(func() ([]byte, error) { return nil, s.putAll(ctx, some) }); err != nil {
			result = writeFailed
			s.refused(seal.Verdict, err)
		}
		s.metrics.wrote(result, len(some))
	}
}

func (s *Store) putAll(ctx context.Context, some []wanted) error {
	now := time.Now()
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, w := range some {
			left := w.until.Sub(now).Truncate(time.Millisecond)
			if left <= 0 {
				continue // to the library it would mean for ever
			}
			name := s.verdictKey(w.key)
			plain := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(w.value)), uint64(w.until.UnixMilli()))
			p.Set(ctx, name, s.box.Seal(seal.Verdict, name, append(plain, w.value...)), left)
		}
		return nil
	})
	return err
}
