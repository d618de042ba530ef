package main

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"
)

func killRedis(_ context.Context, w *world) error {
	w.redis.Kill()
	return nil
}

func restartRedis(_ context.Context, w *world) error { return w.redis.Restart() }

func pauseRedis(_ context.Context, w *world) error {
	w.redis.Pause()
	return nil
}

func resumeRedis(_ context.Context, w *world) error {
	w.redis.Resume()
	return nil
}

// command is an act of one or more commands to Redis, each written as one
// line.
func command(lines ...string) func(context.Context, *world) error {
	return func(_ context.Context, w *world) error {
		for _, line := range lines {
			if _, err := w.redis.Do(strings.Fields(line)...); err != nil {
				return fmt.Errorf("redis: %s: %w", line, err)
			}
		}
		return nil
	}
}

// demoteRedis makes it a replica of a master that is not there: it answers
// reads with what it has and refuses writes.
func demoteRedis(ctx context.Context, w *world) error {
	dead, err := freeAddress()
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(dead)
	if err != nil {
		return err
	}
	return command("CONFIG SET replica-read-only yes", "REPLICAOF "+host+" "+port)(ctx, w)
}

// squeezeRedis leaves it hardly more memory than it uses, and lets it evict
// whatever it likes.
func squeezeRedis(ctx context.Context, w *world) error {
	used, err := w.redisInfo("memory", "used_memory")
	if err != nil {
		return err
	}
	return command("CONFIG SET maxmemory-policy allkeys-lru", fmt.Sprint("CONFIG SET maxmemory ", used+64<<10))(ctx, w)
}

// countEvicted notes how much was evicted: nothing would show nothing.
func countEvicted(_ context.Context, w *world) error {
	n, err := w.redisInfo("stats", "evicted_keys")
	w.row.note("Redis has evicted %d keys", n)
	return err
}

// redisInfo is a number of a section of INFO.
func (w *world) redisInfo(section, name string) (int, error) {
	info, err := w.redis.Do("INFO", section)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(info, name+":")
	digits, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0, fmt.Errorf("redis: INFO %s: %w", section, err)
	}
	return n, nil
}

const (
	// prefix is that of the service's keys in Redis.
	prefix = "introspectd:"
	// mostSpoilt is how many keys of a kind are replaced at a time, mostHuge
	// how many of all by 8 MB in a run.
	mostSpoilt = 24
	mostHuge   = 8
)

// spoil replaces keys of the service by what it did not write, again and again
// until ctx ends, as the service repairs them.
func spoil(ctx context.Context, w *world) error {
	for ctx.Err() == nil {
		keys, err := w.someKeys()
		if err != nil {
			return err
		}
		for _, key := range keys {
			if err := w.plant(key, keys[rand.IntN(len(keys))]); err != nil {
				return fmt.Errorf("redis: planting at %s: %w", key, err)
			}
			w.planted[key] = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	if len(w.planted) == 0 {
		w.row.broken("there was no key under %q to replace, so nothing is shown", prefix)
	}
	w.row.note("%d keys were replaced, %d of them by 8 MB", len(w.planted), w.huge)
	return nil
}

// someKeys are keys of the service: some of each kind, so that the rare ones
// are among them. A kind is what a key is called up to its last colon.
func (w *world) someKeys() (some []string, err error) {
	var all []string
	for cursor := ""; cursor != "0"; {
		reply, err := w.redis.Do("SCAN", cmp.Or(cursor, "0"), "MATCH", prefix+"*", "COUNT", "10000")
		if err != nil {
			return nil, err
		}
		var rest string
		cursor, rest, _ = strings.Cut(reply, "\n")
		all = append(all, strings.Fields(rest)...)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	taken := map[string]int{}
	for _, key := range all {
		kind := key[:strings.LastIndexByte(key, ':')]
		if taken[kind]++; taken[kind] <= mostSpoilt {
			some = append(some, key)
		}
	}
	return some, nil
}

// plant replaces what lies under key: by a value of another type, by 8 MB, by
// what lies under another key, by random bytes; or cuts it short or changes its
// first byte, as a later version may.
func (w *world) plant(key, other string) error {
	value, err := w.redis.Do("GET", key)
	text := err == nil && len(value) > 1 // else it is of a type that GET refuses, or gone
	garbage := make([]byte, 600)
	_, _ = crand.Read(garbage) // never fails
	ways := [][]string{
		{"RPUSH", key, "a", "list"},
		{"HSET", key, "a", "hash"},
		{"SET", key, string(garbage)},
		{"COPY", other, key},
	}
	if text {
		ways = append(ways, []string{"SET", key, value[:len(value)/2]}, []string{"SET", key, string(value[0]+1) + value[1:]})
	}
	if w.huge < mostHuge && rand.IntN(4) == 0 {
		w.huge++
		ways = [][]string{{"SETRANGE", key, fmt.Sprint(8<<20 - 1), "x"}}
	}
	way := ways[rand.IntN(len(ways))]
	if key == other && way[0] == "COPY" {
		return nil // it would be gone before it is copied
	}
	if _, err := w.redis.Do("DEL", key); err != nil {
		return err
	}
	_, err = w.redis.Do(way...)
	if err != nil && strings.HasPrefix(err.Error(), "WRONGTYPE") {
		return nil // the service was faster
	}
	return err
}

// unspoil removes what was planted.
func unspoil(_ context.Context, w *world) error {
	for key := range w.planted {
		if _, err := w.redis.Do("DEL", key); err != nil {
			return err
		}
	}
	return nil
}

// redisHits is how many verdicts the replicas have found in Redis.
func (w *world) redisHits(ctx context.Context) (sum float64) {
	for _, r := range w.replicas {
		n, _ := r.metric(ctx, `introspectd_cache_requests_total{result="hit",tier="redis"`)
		sum += n
	}
	return sum
}

// redisUsed waits until every replica uses Redis again, and notes how long
// that took beyond the time of the step's start.
func redisUsed(ctx context.Context, w *world) error {
	if w.redis == nil {
		return nil
	}
	const longest = 15 * time.Second
	began := time.Now()
	for time.Since(began) < longest {
		used := 0
		for _, r := range w.replicas {
			if up, ok := r.metric(ctx, "introspectd_redis_up"); ok && up == 1 {
				used++
			}
		}
		if used == len(w.replicas) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	w.row.broken("%s after the step's end, a replica does not use Redis: introspectd_redis_up is not 1", longest)
	return nil
}
