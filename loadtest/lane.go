package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// lane is one thing that is measured: what is sent to one server.
type lane struct {
	name   string
	server *server
	// besides are its other replicas: each has an equal share of a round.
	besides  []*server
	requests [][]byte
	right    func(n int, a answer) bool
	// once: each request is sent once and then the server is made to forget by
	// reset, again and again until the time of the round is over. The time of
	// reset is not measured.
	once  bool
	reset func(context.Context) error
	// onward: a round begins with the request after the last of the one before.
	onward bool
	next   int
	// optional lanes that break off are left out, and said.
	optional bool
	failed   error
	// work, in place of a server, is done on the server's processor.
	work func()
}

// figure is what was measured of a lane, over all rounds.
type figure struct {
	Lane     string  `json:"lane"`
	Requests uint64  `json:"requests"`
	Wrong    uint64  `json:"wrong"`
	PerSec   float64 `json:"requests_per_second"` // median of the rounds
	// CPU is that of the server's process tree, user and system, per request in
	// µs: the median of the rounds; the rounds themselves follow.
	CPU       float64   `json:"cpu_us_per_request,omitempty"`
	CPURounds []float64 `json:"cpu_us_per_request_by_round,omitempty"`
	Latency   quantiles `json:"latency_us"`
	// RSS is the resident memory of the process tree in the end, in bytes.
	RSS     int64  `json:"rss_bytes,omitempty"`
	Example string `json:"wrong_answer,omitempty"`

	perSec    []float64
	latencies histogram
}

type quantiles struct {
	P50  int64 `json:"p50"`
	P90  int64 `json:"p90"`
	P99  int64 `json:"p99"`
	P999 int64 `json:"p99_9"`
	Max  int64 `json:"max"`
}

func quantilesOf(h *histogram) quantiles {
	us := func(q float64) int64 { return h.quantile(q).Microseconds() }
	return quantiles{us(0.5), us(0.9), us(0.99), us(0.999), h.most.Microseconds()}
}

// measure gives every lane its turn in each round, forth and back, so that
// what else the machine does strikes all alike.
func (b *bench) measure(ctx context.Context, lanes ...*lane) (map[string]*figure, []*figure, error) {
	byName := map[string]*figure{}
	var all []*figure
	for _, l := range lanes {
		f := &figure{Lane: l.name}
		byName[l.name], all = f, append(all, f)
		if err := l.may(b.warm(ctx, l)); err != nil {
			return nil, nil, err
		}
	}
	for round := range b.rounds {
		order := slices.Clone(lanes)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, l := range order {
			if l.failed != nil {
				continue
			}
			if err := l.may(b.turn(ctx, l, byName[l.name])); err != nil {
				return nil, nil, err
			}
		}
		b.say("round %d of %d:%s", round+1, b.rounds, lastRound(all))
	}
	for _, l := range lanes {
		if l.failed != nil {
			all = slices.DeleteFunc(all, func(f *figure) bool { return f.Lane == l.name })
			delete(byName, l.name)
		}
	}
	for _, f := range all {
		f.finish()
	}
	for _, l := range lanes {
		if err := b.profile(ctx, l); err != nil {
			return byName, all, err
		}
	}
	return byName, all, nil
}

// may is what becomes of an error in this lane: nil where the others go on.
func (l *lane) may(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", l.name, err)
	if !l.optional || errors.Is(err, context.Canceled) {
		return err
	}
	l.failed = err
	return nil
}

func lastRound(all []*figure) (text string) {
	for _, f := range all {
		if len(f.CPURounds) == 0 {
			continue
		}
		text += fmt.Sprintf("  %s %.1f µs", f.Lane, f.CPURounds[len(f.CPURounds)-1])
	}
	return text
}

func (f *figure) finish() {
	f.CPU, f.PerSec, f.Latency = median(f.CPURounds), median(f.perSec), quantilesOf(&f.latencies)
}

func median(of []float64) float64 {
	if len(of) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(of))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// warm asks once for everything, and sees to it that the answers are right
// before anything is measured.
func (b *bench) warm(ctx context.Context, l *lane) error {
	if l.work != nil {
		l.work()
		return nil
	}
	for _, r := range l.replicas() {
		// Few at a time: remembering is what is wanted, not speed.
		sent, err := load{
			address: r.address, connections: min(b.connections, 8), requests: l.requests, once: true, right: l.right,
		}.run(ctx, b.loadCPU)
		if err == nil {
			err = sent.allRight()
		}
		if err != nil {
			return err
		}
	}
	return b.use(ctx, l)
}

const (
	// wellUsed is how many requests a process has seen before it is measured; a
	// first sight counts for four. A heap that has not been through a collection
	// takes each page from the kernel: half as much again as a hit takes
	// otherwise, and with a cache of 128 MiB in it that is 128 MiB long. What is
	// compiled while it runs is compiled by then, too.
	wellUsed = 100_000
	// mostUse bounds the time that this takes, of servers that are slow; it is
	// never more than twice the time of measuring.
	mostUse, mostUseOfPeers = 4 * time.Second, 1500 * time.Millisecond
)

// use sends the requests of a lane until its server is well used.
func (b *bench) use(ctx context.Context, l *lane) error {
	warming := *b
	warming.rate, warming.seconds = 0, 0.25
	longest := min(mostUse, time.Duration(2*b.seconds*float64(b.rounds)*float64(time.Second)))
	if l.optional {
		longest = min(longest, mostUseOfPeers)
	}
	for began := time.Now(); l.server.seen < wellUsed && time.Since(began) < longest; {
		f := &figure{}
		if err := errors.Join(warming.turn(ctx, l, f), f.allRight()); err != nil {
			return err
		}
		each := 1
		if l.once {
			each = 4
		}
		l.server.seen += each * int(f.Requests)
	}
	return nil
}

// turn measures one lane in one round.
func (b *bench) turn(ctx context.Context, l *lane, f *figure) error {
	length := time.Duration(b.seconds * float64(time.Second))
	if l.work != nil {
		n, cpu := onThisCPU(b.cpu, length, l.work)
		f.add(seen{requests: n, lasted: cpu}, cpu)
		return nil
	}
	var sum seen
	var spent time.Duration
	for first := true; first || l.once && sum.lasted < length; first = false {
		if l.reset != nil {
			if err := l.reset(ctx); err != nil {
				return err
			}
		}
		before, _, err := l.usage()
		if err != nil {
			return err
		}
		s, err := b.ask(ctx, l, length)
		if err != nil {
			return err
		}
		after, rss, err := l.usage()
		if err != nil {
			return err
		}
		if l.onward {
			l.next += int(s.requests)
		}
		f.RSS, spent = rss, spent+after-before
		sum.merge(s)
	}
	f.add(sum, spent)
	return nil
}

// ask loads every replica of a lane in turn.
func (b *bench) ask(ctx context.Context, l *lane, length time.Duration) (sum seen, err error) {
	replicas := l.replicas()
	for _, r := range replicas {
		s, err := load{
			address: r.address, connections: b.connections, requests: l.requests, once: l.once, right: l.right,
			length: length / time.Duration(len(replicas)), rate: b.rate, from: l.next,
			awake: b.loadCPU >= 0 && len(b.redises) == 0, // which share its processor
		}.run(ctx, b.loadCPU)
		if err != nil {
			return sum, fmt.Errorf("%w\n%s", err, &r.log)
		}
		sum.merge(s)
	}
	return sum, nil
}

func (l *lane) replicas() []*server { return append([]*server{l.server}, l.besides...) }

// usage is that of all replicas together.
func (l *lane) usage() (cpu time.Duration, rss int64, err error) {
	for _, r := range l.replicas() {
		c, m, err := r.usage()
		if err != nil {
			return 0, 0, err
		}
		cpu, rss = cpu+c, rss+m
	}
	return cpu, rss, nil
}

func (f *figure) add(s seen, cpu time.Duration) {
	f.count(s)
	f.CPURounds = append(f.CPURounds, float64(cpu.Nanoseconds())/1000/float64(max(s.requests, 1)))
}

// count is add where the server's CPU is not that of these requests alone.
func (f *figure) count(s seen) {
	f.Requests, f.Wrong = f.Requests+s.requests, f.Wrong+s.wrong
	if s.example != "" {
		f.Example = s.example
	}
	f.perSec = append(f.perSec, float64(max(s.requests, 1))/s.lasted.Seconds())
	f.latencies.merge(&s.latencies)
}

// allRight is that of a load, for what is not told of otherwise.
func (f *figure) allRight() error {
	s := seen{requests: f.Requests, wrong: f.Wrong, example: f.Example}
	return s.allRight()
}

// ratio is the median over the rounds of one figure's CPU per request against
// another's in the same round.
func ratio(f, against *figure) float64 {
	var all []float64
	for i := range min(len(f.CPURounds), len(against.CPURounds)) {
		all = append(all, f.CPURounds[i]/against.CPURounds[i])
	}
	return median(all)
}

// profile takes a CPU profile of the server under a lane's load, where one is
// wanted.
func (b *bench) profile(ctx context.Context, l *lane) error {
	if b.profiles == "" || l.server == nil || l.server.admin == "" {
		return nil
	}
	var body []byte
	var err error
	var taken sync.WaitGroup
	seconds := max(int(b.seconds), 3)
	load, stop := context.WithCancel(ctx)
	defer stop()
	taken.Go(func() {
		body, err = l.server.operate(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds), b.secret)
		stop()
	})
	for load.Err() == nil {
		ignored := &figure{}
		err := b.turn(load, l, ignored)
		if err != nil && load.Err() != nil {
			err = nil // it was ended, as the profile is there
		}
		if err = errors.Join(err, ignored.allRight()); err != nil {
			stop()
			taken.Wait()
			return fmt.Errorf("%s, for its profile: %w", l.name, err)
		}
	}
	taken.Wait()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.profiles, 0o750); err != nil {
		return err
	}
	name := strings.NewReplacer("/", "", " ", "-", ",", "").Replace(l.name)
	if b.profiled[name]++; b.profiled[name] > 1 { // goals has a lane in several modes
		name += fmt.Sprintf("-%d", b.profiled[name])
	}
	name += ".pprof"
	b.say("profile of %s: %s", l.name, filepath.Join(b.profiles, name))
	return os.WriteFile(filepath.Join(b.profiles, name), body, 0o600)
}

// onCPU calls f on a thread of one processor.
func onCPU[T any](cpu int, f func() (T, error)) (T, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer pin(cpu)()
	return f()
}

// onThisCPU repeats work for a while, and returns how often it was done and
// the CPU that its thread took.
func onThisCPU(cpu int, length time.Duration, work func()) (n uint64, took time.Duration) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer pin(cpu)()
	began := time.Now()
	before := threadCPU()
	for time.Since(began) < length {
		work()
		n++
	}
	return n, threadCPU() - before
}

// forget has an introspectd believe none of its verdicts any more: its issuer
// is edited.
func (b *bench) forget(s *server, v variant) func(context.Context) error {
	return func(ctx context.Context) error {
		s.passes++
		if err := os.WriteFile(s.config, []byte(b.configuration(v, s.passes)), 0o600); err != nil {
			return err
		}
		_ = s.process.Process.Signal(syscall.SIGHUP)
		for range 2000 {
			// A policy that is not there is 503, one that is wants a token.
			if status, _, err := send(ctx, fmt.Sprintf("http://%s/auth/pass-%d", s.address, s.passes), "", nil); err == nil && status == http.StatusUnauthorized {
				return nil
			}
			time.Sleep(2 * time.Millisecond)
		}
		return fmt.Errorf("%s has not taken its configuration anew:\n%s", s.name, &s.log)
	}
}

// introspect are requests to POST /introspect, of the path given.
func introspectRequests(address, path, secret string, tokens []token) (all [][]byte) {
	for _, t := range tokens {
		all = append(all, introspectRequest(address, path, basic(callerID, secret), t))
	}
	return all
}

func introspectRequest(address, path, authorization string, t token) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n"+
		"Content-Type: application/x-www-form-urlencoded\r\nAccept: application/json\r\nContent-Length: %d\r\n\r\ntoken=%s",
		path, address, authorization, len("token=")+len(t.text), t.text)
}

// authRequests are requests of a gateway, with three headers of the client's
// beside the token.
func authRequests(address, path string, tokens []token) (all [][]byte) {
	for _, t := range tokens {
		all = append(all, fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"+
			"Accept: */*\r\nUser-Agent: loadtest\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n", path, address, t.text))
	}
	return all
}

// tells is an answer that tells of the very token which was asked about.
func tells(tokens []token) func(int, answer) bool {
	jtis := make([][]byte, len(tokens))
	for i, t := range tokens {
		jtis[i] = []byte(`"jti":"` + t.jti + `"`)
	}
	return func(n int, a answer) bool {
		return a.status == http.StatusOK && bytes.HasPrefix(a.body, []byte(`{"active":true,`)) && bytes.Contains(a.body, jtis[n])
	}
}

func tellsActive(_ int, a answer) bool {
	return a.status == http.StatusOK && bytes.HasPrefix(a.body, []byte(`{"active":true,`))
}

func refused(_ int, a answer) bool { return a.status == http.StatusOK && string(a.body) == inactive }

// status is an answer with that status.
func status(want int) func(int, answer) bool {
	return func(_ int, a answer) bool { return a.status == want }
}

// tellsSubject is a gateway's answer, with the identity of who has the very
// token which was asked about.
func tellsSubject(tokens []token) func(int, answer) bool {
	return func(n int, a answer) bool {
		return a.status == http.StatusOK && string(header(a.head, "x-auth-subject")) == subject(tokens[n].jti)
	}
}
