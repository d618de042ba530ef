package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"introspectd/internal/devissuer"
)

// inRedis is P4, P6 with Redis and P16.
func (b *bench) inRedis(ctx context.Context) ([]section, error) {
	defer b.stopServers()
	lanes, err := b.redisLanes(ctx)
	if err != nil {
		return nil, err
	}
	f, all, err := b.measure(ctx, lanes...)
	s := section{Mode: "redis", Figures: all}
	if err != nil {
		return []section{s}, err
	}
	s.Goals = []goal{
		atLeast("P4", "hit in redis, POST: our CPU, capacity against bare gin", 0.50, ratio(f[ginPost], f[redisHit])),
		atMost("P6", "all tokens distinct: caches on, with redis, against caches off", 1.25, ratio(f[redisUp+firstWord], f[noCache])),
	}
	for _, away := range []string{redisHung, redisGone} {
		added := f[away+firstWord].Latency.P99 - f[redisUp+firstWord].Latency.P99
		s.Goals = append(s.Goals,
			atMost("P16", away+", hits: CPU against redis up", 1.05, ratio(f[away+hitWord], f[redisUp+hitWord])),
			atMost("P16", away+", first sights: CPU against redis up", 1.05, ratio(f[away+firstWord], f[redisUp+firstWord])),
			atMost("P16", away+", first sights: added p99", 5, float64(added)/1000).in("ms"))
	}
	return []section{s}, nil
}

// redisLanes are those of P4, which has no process cache, so that every hit is
// one in Redis, and of three services with a Redis each, of which one hangs and
// one is gone once the service has begun.
func (b *bench) redisLanes(ctx context.Context) ([]*lane, error) {
	r, err := b.redis()
	if err != nil {
		return nil, err
	}
	lanes, err := b.hits(ctx, variant{name: redisHit, size: "0KiB", redis: r.Addr, shared: "always"}, redisHit, "")
	if err != nil {
		return nil, err
	}
	if err := b.size(ctx, lanes[0].server); err != nil {
		return nil, err
	}
	bare, err := b.yardsticks(ctx, ginPost)
	if err != nil {
		return nil, err
	}
	off, err := b.firstSights(ctx, noCache, variant{name: "no cache", size: "0KiB"})
	if err != nil {
		return nil, err
	}
	lanes = append(lanes, append(bare, off)...)
	for _, state := range []string{redisUp, redisHung, redisGone} {
		r, err := b.redis()
		if err != nil {
			return nil, err
		}
		v := variant{name: state, redis: r.Addr}
		first, err := b.firstSights(ctx, state+firstWord, v)
		if err != nil {
			return nil, err
		}
		hit := *first
		hit.name, hit.once = state+hitWord, false
		// It was made to forget by the other lane.
		hit.reset = func(ctx context.Context) error { return b.warm(ctx, first) }
		lanes = append(lanes, first, &hit)
		switch state {
		case redisHung:
			r.Pause()
		case redisGone:
			r.Kill()
		}
	}
	return lanes, nil
}

// herd is P14: every connection asks about one new token by ES512 at once.
func (b *bench) herd(ctx context.Context) ([]section, error) {
	defer b.stopServers()
	s, err := b.introspectd(ctx, variant{name: "off"})
	if err != nil {
		return nil, err
	}
	const each = 8
	tokens := b.deck.mint("ES512", 2*each*b.rounds)
	requests := introspectRequests(s.address, "/introspect", b.secret, tokens)
	known, greeted := introspectRequests(s.address, "/introspect", b.secret, b.deck.good[:1])[0], tells(b.deck.good[:1])
	// ask sends one request on some connections and returns the CPU of it all.
	ask := func(n, connections int) (seen, time.Duration, error) {
		before, _, err := s.usage()
		if err != nil {
			return seen{}, 0, err
		}
		all := slices.Repeat(requests[n:n+1], connections)
		one := tells(tokens[n : n+1])
		got, err := load{
			address: s.address, connections: connections, greeting: known, requests: all, once: true,
			greeted: func(a answer) bool { return greeted(0, a) },
			right:   func(_ int, a answer) bool { return one(0, a) }, awake: b.loadCPU >= 0,
		}.run(ctx, b.loadCPU)
		if err != nil {
			return seen{}, 0, err
		}
		if err := got.allRight(); err != nil {
			return seen{}, 0, err
		}
		after, _, err := s.usage()
		return got, after - before, err
	}
	var alone, crowd, again, wait, first, remembered []float64
	for n := 0; n < len(tokens); n += 2 {
		one, cpuOne, err := ask(n, 1)
		if err != nil {
			return nil, err
		}
		many, cpuMany, err := ask(n+1, b.connections)
		if err != nil {
			return nil, err
		}
		hits, cpuHits, err := ask(n+1, b.connections) // all remembered now
		if err != nil {
			return nil, err
		}
		alone, crowd, again = append(alone, micros(cpuOne)), append(crowd, micros(cpuMany)), append(again, micros(cpuHits))
		first, wait = append(first, micros(one.latencies.quantile(0.5))), append(wait, micros(many.latencies.quantile(0.5)))
		remembered = append(remembered, micros(hits.latencies.quantile(0.5)))
	}
	out := section{Mode: "herd"}
	verifications := (median(crowd) - median(again)) / median(alone)
	out.note("one new ES512 token: %.0f µs of CPU alone, %.0f on %d connections at once, %.0f on as many once it is remembered", median(alone), median(crowd), b.connections, median(again))
	out.note("p50: %.0f µs alone, %.0f for each of %d, %.0f once it is remembered", median(first), median(wait), b.connections, median(remembered))
	out.Goals = []goal{
		atMost("P14", fmt.Sprintf("%d connections, one new ES512 token: verifications, by CPU", b.connections), 1.5, verifications).in("verifications"),
		atMost("P14", "the same: p50 less that of as many hits, against one that is alone", 1.2, (median(wait)-median(remembered))/median(first)),
	}
	return []section{out}, nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// memory is P15.
func (b *bench) memory(ctx context.Context) ([]section, error) {
	defer b.stopServers()
	s, err := b.introspectd(ctx, variant{name: "off", size: fmt.Sprintf("%dMiB", max(b.verdicts*2/1000, 64))})
	if err != nil {
		return nil, err
	}
	_, idle, err := s.usage()
	if err != nil {
		return nil, err
	}
	b.say("minting %d tokens", b.verdicts)
	tokens := b.deck.mint("EdDSA", b.verdicts)
	few := len(tokens) / 10
	var rss [2]int64
	for i, part := range [][]token{tokens[:few], tokens[few:]} {
		got, err := load{
			address: s.address, connections: b.connections, requests: introspectRequests(s.address, "/introspect", b.secret, part), once: true, right: tells(part),
		}.run(ctx, b.loadCPU)
		if err := errors.Join(err, got.allRight()); err != nil {
			return nil, fmt.Errorf("filling the cache: %w", err)
		}
		if _, err := s.operate(ctx, "/debug/pprof/heap?gc=1", b.secret); err != nil {
			return nil, err
		}
		if _, rss[i], err = s.usage(); err != nil {
			return nil, err
		}
		rss[i] -= b.unreturned(ctx, s)
		b.say("%d verdicts: %d MiB", b.verdicts*(1+9*i)/10, rss[i]>>20)
	}
	body, err := b.one(ctx, s, introspectRequests(s.address, "/introspect", b.secret, tokens[:1])[0])
	if err != nil {
		return nil, err
	}
	payload, err := b.payload(ctx, tokens[0])
	if err != nil {
		return nil, fmt.Errorf("finding out how long a remembered verdict is: %w", err)
	}
	collected, err := b.collection(ctx, s)
	if err != nil {
		return nil, err
	}
	each := float64(rss[1]-rss[0]) / float64(len(tokens)-few)
	out := section{Mode: "memory"}
	out.note("%d remembered verdicts: %.0f bytes each; an entry has %d of them, the answer in it %d", b.verdicts, each, payload, body)
	out.Goals = []goal{
		atMost("P15", "memory per remembered verdict, against its entry", 1.25, each/float64(payload)),
		atMost("P15", "idle resident memory", 25, float64(idle)/(1<<20)).in("MiB"),
		atMost("P15", fmt.Sprintf("CPU of a forced collection with %d verdicts", b.verdicts), 60, collected).in("ms"),
	}
	return []section{out}, nil
}

// payload is how many bytes are remembered of a verdict: what lies in Redis,
// less the seal (41) and the time it ends (8).
func (b *bench) payload(ctx context.Context, t token) (int, error) {
	r, err := b.redis()
	if err != nil {
		return 0, err
	}
	s, err := b.introspectd(ctx, variant{name: "sharing", redis: r.Addr, shared: "always"})
	if err != nil {
		return 0, err
	}
	if _, err := b.one(ctx, s, introspectRequests(s.address, "/introspect", b.secret, []token{t})[0]); err != nil {
		return 0, err
	}
	for range 500 { // it is written behind the answer
		found, err := r.Do("SCAN", "0", "MATCH", "*:verdict:*", "COUNT", "1000")
		if err != nil {
			return 0, err
		}
		if _, key, ok := strings.Cut(found, "\n"); ok && strings.TrimSpace(key) != "" {
			length, err := r.Do("STRLEN", strings.TrimSpace(key))
			if err != nil {
				return 0, err
			}
			n, err := strconv.Atoi(length)
			return n - 41 - 8, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, errors.New("no verdict in redis after 5 s")
}

// unreturned is memory that the runtime keeps at hand with nothing in it: a
// heap with a large cache in it may grow by as much again between collections.
func (b *bench) unreturned(ctx context.Context, s *server) int64 {
	r := replica{admin: s.admin}
	idle, _ := r.metric(ctx, "go_memstats_heap_idle_bytes")
	released, _ := r.metric(ctx, "go_memstats_heap_released_bytes")
	return int64(idle - released)
}

// collection is the CPU of a forced collection in ms: that of a heap profile
// with one before it, less that of one without.
func (b *bench) collection(ctx context.Context, s *server) (float64, error) {
	cost := func(query string) (float64, error) {
		var all []float64
		for range 5 {
			before, _, err := s.usage()
			if err != nil {
				return 0, err
			}
			if _, err := s.operate(ctx, "/debug/pprof/heap?"+query, b.secret); err != nil {
				return 0, err
			}
			after, _, err := s.usage()
			if err != nil {
				return 0, err
			}
			all = append(all, micros(after-before)/1000)
		}
		return median(all), nil
	}
	with, err := cost("gc=1")
	if err != nil {
		return 0, err
	}
	without, err := cost("gc=0")
	return max(with-without, 0), err
}

// often is how many RS256 tokens come in a second beside a flood.
const often = 200

// flood shows what others wait while tokens that are dear to verify come as fast
// as they are answered: those that are cheap, and those that are as dear, of
// another issuer and of the same.
func (b *bench) flood(ctx context.Context) ([]section, error) {
	defer b.stopServers()
	other, err := newIssuer("ES512")
	if err != nil {
		return nil, err
	}
	defer other.down()
	private, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		return nil, err
	}
	large := &devissuer.Key{Kid: "rsa-4096", Alg: "RS256", Signer: private}
	b.issuer.AddKey(large)
	defer b.issuer.RemoveKey(large)
	v := variant{name: "off", issuers: fmt.Sprintf("  - {name: other, issuer: %s, keys: {jwks_url: %s/jwks.json}, max_lifetime: 25h}\n", other.url(), other.url())}
	s, err := b.introspectd(ctx, v)
	if err != nil {
		return nil, err
	}
	length := time.Duration(b.seconds * float64(time.Second))
	to := func(tokens []token, rate float64, length time.Duration) load {
		return load{
			address: s.address, connections: b.connections, requests: introspectRequests(s.address, "/introspect", b.secret, tokens), right: tells(tokens),
			rate: rate, length: length,
		}
	}
	const seldom, ahead = 10, 100 * time.Millisecond
	b.say("minting the floods")
	longer := length + 2*ahead
	checking := longer.Seconds() * float64(max(runtime.NumCPU()/2, 1)) // as many processors check the dear
	es512 := to(b.deck.mint("ES512", int(2000*checking)), 0, longer)
	rsa4096 := to(b.deck.mintBy(large, int(6000*checking), nil), 0, longer)
	few := int(seldom*b.seconds) + 1
	cheap := to(b.deck.good, often, length)
	alike := to(b.deck.mint("ES512", few*b.rounds), seldom, length)
	apart := to((&benchDeck{issuer: other.Issuer}).mint("ES512", few*b.rounds), seldom, length)

	byES512, byRSA := &figure{Lane: "the floods of ES512"}, &figure{Lane: "the flood of RSA-4096"}
	calm, calmApart := &figure{Lane: "RS256, 200/s, alone"}, &figure{Lane: "ES512, 10/s, alone"}
	besideES512, besideRSA := &figure{Lane: "RS256, 200/s, beside a flood of ES512"}, &figure{Lane: "RS256, 200/s, beside a flood of RSA-4096"}
	elsewhere, same := &figure{Lane: "ES512, 10/s, of another issuer, beside one"}, &figure{Lane: "ES512, 10/s, of the same issuer, beside one"}
	forget := b.forget(s, v)
	for round := range b.rounds {
		for _, row := range []struct {
			f     *figure
			quiet load
			loud  load
			flood *figure // nil: none
		}{
			{calm, cheap, load{}, nil},
			{besideES512, cheap, es512, byES512},
			{besideRSA, cheap, rsa4096, byRSA},
			{calmApart, alike, load{}, nil},
			{elsewhere, apart, es512, byES512},
			{same, alike, es512, byES512},
		} {
			if err := forget(ctx); err != nil {
				return nil, err
			}
			flooded := make(chan error, 1)
			go func() {
				if row.flood == nil {
					flooded <- nil
					return
				}
				got, err := row.loud.run(ctx, b.loadCPU)
				if n := len(row.loud.requests); err == nil && got.requests > uint64(n) {
					err = fmt.Errorf("%d new tokens are too few for a flood: %d were answered", n, got.requests)
				}
				row.flood.count(got)
				flooded <- err
			}()
			time.Sleep(ahead) // so that the first come into it, too
			// On from the round before: the other issuer's verdicts are not forgotten.
			row.quiet.from = round * few
			got, err := row.quiet.run(ctx, b.loadCPU)
			if err := errors.Join(err, <-flooded); err != nil {
				return nil, err
			}
			row.f.count(got)
		}
		b.say("round %d of %d", round+1, b.rounds)
	}
	out := section{Mode: "flood", Figures: []*figure{calm, besideES512, besideRSA, calmApart, elsewhere, same, byES512, byRSA}}
	for _, f := range out.Figures {
		f.finish()
	}
	for _, pair := range [][2]*figure{{besideES512, calm}, {besideRSA, calm}, {elsewhere, calmApart}, {same, elsewhere}} {
		f, against := pair[0].Latency, pair[1].Latency
		out.note("%s: p50 is %.1f times that of %s, p99 %.1f times", pair[0].Lane, float64(f.P50)/float64(max(against.P50, 1)), pair[1].Lane, float64(f.P99)/float64(max(against.P99, 1)))
	}
	return []section{out}, nil
}

// soak is a load that goes on, in intervals of --seconds, --rounds of them, and
// shows whether anything grows. Every interval the server is made to forget, as
// an edited configuration does.
func (b *bench) soak(ctx context.Context) ([]section, error) {
	defer b.stopServers()
	if b.rate == 0 {
		b.rate = 1000
	}
	v := variant{name: "default", telemetry: true}
	s, err := b.introspectd(ctx, v)
	if err != nil {
		return nil, err
	}
	bad := b.deck.bad("bad signature", len(b.deck.good)/20)
	tokens := append(slices.Clone(b.deck.good), bad...)
	good := tells(tokens)
	l := &lane{
		name: "soak", server: s, requests: introspectRequests(s.address, "/introspect", b.secret, tokens), reset: b.forget(s, v),
		right: func(n int, a answer) bool {
			if n >= len(b.deck.good) {
				return refused(n, a)
			}
			return good(n, a)
		},
	}
	var all []*figure
	var rss []float64
	out := section{Mode: "soak"}
	for n := range b.rounds {
		f := &figure{Lane: fmt.Sprintf("interval %d", n+1)}
		if err := b.turn(ctx, l, f); err != nil {
			return []section{{Mode: "soak", Figures: all}}, err
		}
		f.finish()
		all, rss = append(all, f), append(rss, float64(f.RSS))
		b.say("interval %d of %d: %.0f requests/s, %.1f µs of CPU each, p99 %d µs, %d MiB, %d wrong", n+1, b.rounds, f.PerSec, f.CPU, f.Latency.P99, f.RSS>>20, f.Wrong)
	}
	out.Figures = all
	if quarter := len(rss) / 4; quarter > 0 {
		out.note("resident memory: the last quarter has %.2f times that of the second", median(rss[3*quarter:])/median(rss[quarter:2*quarter]))
	}
	return []section{out}, b.profile(ctx, l)
}

// goalModes are the modes that show a goal, and which.
var goalModes = []struct {
	shows string
	run   func(*bench, context.Context) ([]section, error)
}{
	{"P1 P2 P3", (*bench).hit},
	{"P5 P6 P12", (*bench).miss},
	{"P11", (*bench).refuse},
	{"P13", (*bench).atRate},
	{"P14", (*bench).herd},
	{"P15", (*bench).memory},
	{"P4 P6 P16", (*bench).inRedis},
	{"P7 P8 P9", (*bench).peers},
}

// goals runs every mode that shows one, and what is wanted of them. What lacks a
// program is left out; where a mode breaks off otherwise the others are shown, and
// then the run fails.
func (b *bench) goals(ctx context.Context) ([]section, error) {
	var all []section
	var failed error
	for _, m := range goalModes {
		if !b.wanted(m.shows) {
			continue
		}
		b.say("%s", m.shows)
		sections, err := m.run(b, ctx)
		all = append(all, sections...)
		if err != nil && ctx.Err() != nil {
			return all, err
		}
		if err != nil {
			if !errors.Is(err, exec.ErrNotFound) { // such as redis-server
				failed = errors.Join(failed, fmt.Errorf("%s: %w", m.shows, err))
			}
			all = append(all, section{Mode: m.shows, Notes: []string{"NOT SHOWN: " + m.shows + ": " + err.Error()}})
		}
		runtime.GC()
	}
	return all, failed
}

func (f *benchFlags) wanted(shows string) bool {
	if f.only == "" {
		return true
	}
	return slices.ContainsFunc(strings.Split(f.only, ","), func(id string) bool { return slices.Contains(strings.Fields(shows), id) })
}
