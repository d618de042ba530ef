// Package redisstore keeps bytes with a lifetime, and a feed of records, where
// all replicas of a fleet find them. It knows nothing of tokens, and believes
// nothing that does not open under a seal key.
//
// # Decisions
//
// One client for each mode, chosen by name. Context: the library's universal
// client guesses from the shape of its options, and takes two addresses of one
// server for a cluster. Choice: connect makes the client that mode says, and
// reads go to masters alone. Cost: three lists of the same options.
//
// A request asks only a redis that answers. Context: a store that hangs costs
// each request its time limit. Choice: a breaker (gobreaker) that three
// failures in a row open; while it is not closed, requests get a miss at once,
// and only a ping in the background tries again. Cost: up to a second until a
// redis that is back is used.
//
// Look-ups that meet go together. Context: most of what a look-up costs is not
// redis but system calls, a write, two reads and a look whether the connection
// lives. Choice: at most four exchanges are under way; what is asked meanwhile
// goes in the next one, made by one of those who ask. A look-up that meets
// nobody goes alone and at once. Cost: one that meets others waits for up to one
// exchange more, and fails with those it goes with. In a cluster, where one
// silent node would hold up the others' look-ups, each goes alone.
//
// A cluster is there when all of it is. Context: where one node of several
// hangs, the others' answers keep the breaker closed, and every request for that
// node's slots waits. Choice: the ping goes to every master, and requests ask
// none while one is silent. Cost: until the cluster has replaced that node, the
// others are not asked either.
//
// What one reply may bring is bounded twice. Context: 8 MB planted under a name
// of ours must not become 8 MB in each replica, on each look-up. Choice: values
// are read with GETRANGE up to the largest of ours, and a connection fails after
// 16 MiB in one exchange. Cost: GETRANGE of a value that is too long reads that
// much for nothing.
//
// The library's logger is a global. Context: it writes lines of text to standard
// error. Choice: Open sets it to the process's log, rate limited; of several
// stores the last one has it.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"golang.org/x/time/rate"

	"introspectd/internal/seal"
)

const (
	// requestTime is the most that one request waits for redis.
	requestTime = 40 * time.Millisecond
	// failuresToOpen in a row open the breaker.
	failuresToOpen = 3
	openTime       = 500 * time.Millisecond
	pingEvery      = 500 * time.Millisecond
	inspectEvery   = time.Minute
)

// Options are what a Store needs beside its Config.
type Options struct {
	// Log takes changes of state; nil discards them.
	Log *slog.Logger
	// Meter takes the instruments; nil measures nothing.
	Meter metric.Meter
}

// Store is one redis, however it is run. It is safe for concurrent use.
type Store struct {
	cfg     Config
	client  redis.UniversalClient
	box     *seal.Box
	log     *slog.Logger
	meter   metric.Meter
	metrics metrics
	breaker *gobreaker.CircuitBreaker[[]byte]
	queue   queue
	looks   looks

	up        atomic.Bool  // every master answered the last ping
	silent    atomic.Bool  // one did not; before the first ping neither holds
	forbidden atomic.Int64 // when redis last said NOPERM, in ns since 1970
	scold     rate.Sometimes

	mu       sync.Mutex
	degraded []string
	away     string // why requests do without redis; empty: they don't, or it is too early to tell
}

// Open makes the store of a checked configuration; what it keeps is sealed by
// box. It does not dial: redis may be away.
func Open(cfg Config, box *seal.Box, o Options) (*Store, error) {
	s := &Store{cfg: cfg, box: box, log: o.Log, meter: o.Meter, scold: rate.Sometimes{Interval: time.Minute}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.meter == nil {
		s.meter = noop.Meter{}
	}
	redis.SetLogger(&libraryLog{log: s.log, some: rate.Sometimes{Interval: time.Minute}})
	s.breaker = gobreaker.NewCircuitBreaker[[]byte](gobreaker.Settings{
		Name: "redis", MaxRequests: 1, Timeout: openTime,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failuresToOpen },
		IsSuccessful: func(err error) bool { return !outage(err) },
		// A request that was given up says nothing of redis.
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				s.note("three requests in a row had no answer")
			}
		},
	})
	s.queue.init()
	s.looks.together = cfg.Mode != Cluster
	var err error
	if s.client, err = connect(cfg); err != nil {
		return nil, err
	}
	s.metrics, err = newMetrics(s.meter, s)
	return s, err
}

// Close gives the connections back. What is asked afterwards is an error.
func (s *Store) Close() error {
	if err := s.client.Close(); err != nil {
		return fmt.Errorf("closing redis: %w", err)
	}
	return nil
}

// key is the full name of what is called name here.
func (s *Store) key(name string) string { return s.cfg.Prefix + name }

// outage says whether an error is about redis itself, not about one value: such
// errors open the breaker.
func outage(err error) bool {
	if err == nil || errors.Is(err, redis.Nil) || errors.Is(err, errReplyTooLarge) || errors.Is(err, context.Canceled) {
		return false
	}
	var reply redis.Error
	if !errors.As(err, &reply) {
		return true // no reply at all
	}
	// About one value, or about writing: look-ups go on.
	for _, kind := range []string{"WRONGTYPE", "READONLY", "OOM", "MISCONF", "NOREPLICAS", "NOPERM"} {
		if strings.HasPrefix(reply.Error(), kind) {
			return false
		}
	}
	return true
}

// usable says whether requests ask redis.
func (s *Store) usable() bool { return !s.silent.Load() && s.breaker.State() == gobreaker.StateClosed }

// note logs that requests do without redis, and why; empty: that they ask it
// again.
func (s *Store) note(why string) {
	s.mu.Lock()
	was := s.away
	s.away = why
	s.mu.Unlock()
	switch {
	case was == "" && why != "":
		s.log.Warn("redis does not answer; requests do without it", "cause", why)
	case was != "" && why == "":
		s.log.Info("redis answers again")
	}
}

// refused notes what an error says of one value, or of our rights.
func (s *Store) refused(kind seal.Kind, err error) {
	switch {
	case errors.Is(err, errReplyTooLarge):
		s.metrics.refuse(kind, "oversized")
	case says(err, "WRONGTYPE"):
		s.metrics.refuse(kind, "wrong_type")
	case says(err, "NOPERM"):
		s.forbidden.Store(time.Now().UnixNano())
		s.scold.Do(func() { s.log.Warn("redis forbids its user something that we need", "cause", brief(err.Error())) })
	}
}

// says reports whether err is a reply of redis that begins with word.
func says(err error, word string) bool {
	var reply redis.Error
	return errors.As(err, &reply) && strings.HasPrefix(reply.Error(), word)
}

// brief is as much of a text as a log needs: redis may say anything, at any
// length.
func brief(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), 300)], "")
}

// get reads at most limit bytes. A longer value is none of ours.
func (s *Store) get(ctx context.Context, kind seal.Kind, key string, limit int) ([]byte, error) {
	text, err := s.client.GetRange(ctx, key, 0, int64(limit)).Bytes()
	switch {
	case err != nil || len(text) == 0:
		return nil, err
	case len(text) > limit:
		s.metrics.refuse(kind, "oversized")
		return nil, nil
	}
	return text, nil
}

// unseal opens what lies under key; nil, and a count, where it is not ours.
func (s *Store) unseal(kind seal.Kind, key string, entry []byte) []byte {
	if len(entry) == 0 {
		return nil
	}
	plain, err := s.box.Open(kind, key, entry)
	switch {
	case errors.Is(err, seal.ErrUnknownKey):
		s.metrics.refuse(kind, "unknown_key")
	case errors.Is(err, seal.ErrVersion):
		s.metrics.refuse(kind, "version")
	case err != nil:
		s.metrics.refuse(kind, "broken")
	}
	return plain
}

// Run pings redis, so that the breaker closes when it is back, looks at how it
// is set up, and writes what requests left to be written, until ctx ends.
func (s *Store) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { s.write(ctx) })
	defer all.Wait()
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	var inspected time.Time
	for {
		was := s.up.Load()
		up := s.ping(ctx)
		if up && (!was || time.Since(inspected) >= inspectEvery) {
			inspected = time.Now()
			s.inspect(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// masters calls each for every node that takes writes, at once, and returns an
// error of one of them.
func (s *Store) masters(ctx context.Context, each func(ctx context.Context, node *redis.Client) error) error {
	switch c := s.client.(type) {
	case *redis.Client:
		return each(ctx, c)
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, each)
	}
	return fmt.Errorf("no masters of %T", s.client)
}

// ping tells requests and the breaker whether redis answers.
func (s *Store) ping(ctx context.Context) bool {
	// Time for nodes of a cluster that have to be asked which the masters are.
	limited, stop := context.WithTimeout(ctx, 5*s.cfg.Timeout)
	defer stop()
	err := s.masters(limited, s.pingNode)
	if ctx.Err() != nil {
		return false
	}
	s.up.Store(err == nil)
	s.silent.Store(err != nil)
	_, _ = s.breaker.Execute(func() ([]byte, error) { return nil, err }) // it counts
	switch {
	case err != nil:
		s.note(brief(err.Error()))
	case s.usable():
		s.note("")
	}
	return err == nil
}

// pingNode pings until a connection lives. Those that redis has closed are found
// out one by one, and dropped.
func (s *Store) pingNode(ctx context.Context, node *redis.Client) error {
	ctx, stop := context.WithTimeout(ctx, s.cfg.Timeout)
	defer stop()
	err := node.Ping(ctx).Err()
	for n := 0; n < poolSize && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)); n++ {
		err = node.Ping(ctx).Err()
	}
	return err
}

// Degraded says in words what keeps redis from being what we need.
func (s *Store) Degraded() []string {
	s.mu.Lock()
	found := slices.Clone(s.degraded)
	s.mu.Unlock()
	if time.Since(time.Unix(0, s.forbidden.Load())) < 2*inspectEvery {
		found = append(found, "redis forbids its user something that we need: see the log")
	}
	if !s.up.Load() {
		found = slices.Insert(found, 0, "redis does not answer")
	}
	return found
}

// inspect looks at version and eviction, which no command of ours would show.
func (s *Store) inspect(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	var mu sync.Mutex
	var found []string
	if err := s.masters(ctx, func(ctx context.Context, node *redis.Client) error {
		text, err := node.Info(ctx, "server", "memory").Result()
		mu.Lock()
		defer mu.Unlock()
		found = append(found, shortcomings(text)...)
		return err
	}); err != nil {
		return // an ACL may forbid it
	}
	slices.Sort(found)
	found = slices.Compact(found)
	s.mu.Lock()
	news := !slices.Equal(found, s.degraded)
	s.degraded = found
	s.mu.Unlock()
	if news && len(found) > 0 {
		s.log.Warn("redis is not what we need", "problems", found)
	}
}

// shortcomings reads what INFO says.
func shortcomings(text string) (found []string) {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		info[name] = value
	}
	if v := info["redis_version"]; v != "" && older(v, 6, 2) {
		found = append(found, "redis is "+v+", expected 6.2 or newer")
	}
	if p := info["maxmemory_policy"]; strings.HasPrefix(p, "allkeys-") {
		found = append(found, "redis evicts with "+p+": it may drop revocations, expected noeviction or a volatile policy")
	}
	return found
}

func older(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	have, err1 := strconv.Atoi(parts[0])
	next, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && (have < major || have == major && next < minor)
}
