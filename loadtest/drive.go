package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// patience is how long a request may take before it counts as lost.
	patience = 10 * time.Second
	// callerID is who asks.
	callerID = "loadtest"
	// mostExamples bounds what is kept of answers that should not have been.
	mostExamples = 5
)

// drive asks about tokens in a closed loop: each connection has one request on
// its way, and sends the next when that is answered.
type drive struct {
	replicas []*replica
	deck     *deck
	secret   string
	current  atomic.Pointer[recording]
	workers  sync.WaitGroup
}

// start begins the load, which goes on until ctx ends; wait waits for its end.
// There has to be a recording.
func (d *drive) start(ctx context.Context, connections int) {
	for n := range connections {
		d.workers.Go(func() {
			w := worker{drive: d, n: n, random: rand.New(rand.NewPCG(uint64(n), 0)), passing: make([]token, 32)}
			w.loop(ctx)
		})
	}
}

func (d *drive) wait() { d.workers.Wait() }

// record begins a new recording and ends the last. A request belongs to the one
// in which it ends: what is on its way when something happens is what notices.
func (d *drive) record(connections int) *recording {
	r := &recording{began: time.Now(), shards: make([]shard, connections)}
	d.current.Store(r)
	return r
}

// recording is what was seen of the requests that ended in some time.
type recording struct {
	began  time.Time
	shards []shard // one per worker, so that none waits for another
	mu     sync.Mutex
	// examples are some of the answers that should not have been.
	examples []string
}

type shard struct {
	mu sync.Mutex
	tally
}

// tally counts requests by how they ended.
type tally struct {
	right, wrong, refused, lost uint64
	// first has the latencies of what was sent before the first second was
	// over, after those of the rest.
	first, after histogram
}

// sum is what all workers have seen until now.
func (r *recording) sum() *tally {
	var sum tally
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		sum.right += s.right
		sum.wrong += s.wrong
		sum.refused += s.refused
		sum.lost += s.lost
		sum.first.merge(&s.first)
		sum.after.merge(&s.after)
		s.mu.Unlock()
	}
	return &sum
}

func (t *tally) requests() uint64 { return t.right + t.wrong + t.refused + t.lost }

// ending is how a request ended: where err is nil, with an answer.
type ending struct {
	asked, answered time.Time
	status          int
	body            []byte
	err             error
}

// add counts what came of asking about t.
func (r *recording) add(worker int, t token, to *replica, e ending) {
	s := &r.shards[worker]
	s.mu.Lock()
	defer s.mu.Unlock()
	if latency := e.answered.Sub(e.asked); e.asked.Sub(r.began) < time.Second {
		s.first.add(latency)
	} else {
		s.after.add(latency)
	}
	switch {
	case e.err != nil:
		s.lost++
		r.example("%s: token (%s): %v", to.name, t.kind, e.err)
	case e.status >= 500:
		s.refused++
		r.example("%s: token (%s): %d %s", to.name, t.kind, e.status, e.body)
	case e.status != http.StatusOK:
		s.lost++ // such as 401 or 429: nothing that this load asks for
		r.example("%s: token (%s): %d %s", to.name, t.kind, e.status, e.body)
	case !t.rightly(e.body, e.asked, e.answered):
		s.wrong++
		r.example("%s: WRONG: token (%s), asked about %s after its nbf and answered %s before its exp: %s",
			to.name, t.kind, e.asked.Sub(t.from).Round(time.Millisecond), t.until.Sub(e.answered).Round(time.Millisecond), e.body)
	default:
		s.right++
	}
}

func (r *recording) example(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.examples) < mostExamples {
		r.examples = append(r.examples, fmt.Sprintf(format, args...))
	}
}

// worker is one connection of the load.
type worker struct {
	drive   *drive
	n       int
	random  *rand.Rand
	passing []token

	conn net.Conn // nil where there is none
	in   *bufio.Reader
	to   *replica
	life int64 // of the process at its other end
	out  bytes.Buffer
	body bytes.Buffer
}

func (w *worker) loop(ctx context.Context) {
	defer w.hangUp()
	for ctx.Err() == nil {
		target := w.target()
		if target < 0 {
			time.Sleep(time.Millisecond) // no replica takes requests
			continue
		}
		t := w.drive.deck.deal(w.random, target, w.passing)
		to := w.drive.replicas[target]
		e := ending{asked: time.Now()}
		e.status, e.body, e.err = w.ask(to, t.text)
		e.answered = time.Now()
		w.drive.current.Load().add(w.n, t, to, e)
		if e.err != nil {
			w.hangUp()
			time.Sleep(time.Millisecond)
		}
	}
}

// target is the replica that the worker sends to: its own, or the next that
// takes requests; -1 where none does.
func (w *worker) target() int {
	all := w.drive.replicas
	for i := range all {
		if n := (w.n + i) % len(all); all[n].up.Load() {
			return n
		}
	}
	return -1
}

// ask sends one request and reads its answer. The body is valid until the next.
func (w *worker) ask(to *replica, text string) (status int, body []byte, err error) {
	if err := w.reach(to); err != nil {
		return 0, nil, err
	}
	if err := w.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, nil, err
	}
	w.out.Reset()
	fmt.Fprintf(&w.out, "POST /introspect HTTP/1.1\r\nHost: %s\r\nAuthorization: Basic %s\r\n"+
		"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\ntoken=%s",
		to.listen, base64.StdEncoding.EncodeToString([]byte(callerID+":"+w.drive.secret)), len("token=")+len(text), text)
	if _, err := w.conn.Write(w.out.Bytes()); err != nil {
		return 0, nil, err
	}
	answer, err := http.ReadResponse(w.in, nil)
	if err != nil {
		return 0, nil, err
	}
	w.body.Reset()
	_, err = w.body.ReadFrom(io.LimitReader(answer.Body, 1<<20))
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		return 0, nil, err
	}
	if answer.Close {
		w.hangUp()
	}
	return answer.StatusCode, w.body.Bytes(), nil
}

// reach connects to the process that the replica is now, unless the worker is.
func (w *worker) reach(to *replica) error {
	life := to.life.Load()
	if w.conn != nil && w.to == to && w.life == life {
		return nil
	}
	w.hangUp()
	conn, err := net.DialTimeout("tcp", to.listen, patience)
	if err != nil {
		return err
	}
	w.conn, w.in, w.to, w.life = conn, bufio.NewReader(conn), to, life
	return nil
}

func (w *worker) hangUp() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}
