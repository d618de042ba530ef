package verify

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// ErrOverloaded says that a signature was not checked, because too many that are
// as dear wait for the same: nothing is known of the token.
var ErrOverloaded = errors.New("there was no turn to check a signature that is dear to check")

const (
	// maxLine is how many may wait for an issuer's next turn.
	maxLine = 256
	// maxTurnWait is the longest that one waits.
	maxTurnWait = time.Second
)

// Why one that wanted a turn had none. They are metric labels: the set is
// closed.
const (
	lineFull = "full"
	tooLate  = "late"
	askerOff = "left"
)

// dear says whether a signature by alg and key takes hundreds of microseconds to
// check and more, where the others take tens (go1.26, amd64): Go has no fast
// arithmetic for P-384, P-521 and RSA beyond 2048 bits.
func dear(alg string, key any) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() > 2048
	default:
		return alg == "ES384" || alg == "ES512"
	}
}

// Turns has dear signatures checked a few at a time: half as many as there are
// processors, at least one. Issuers take turns, so that one issuer's flood
// is one token between two of another. One Turns serves a whole process, over
// all its configurations. It is safe for concurrent use.
type Turns struct {
	places int // 0: half of the processors of the moment
	poll   poll

	mu    sync.Mutex
	ended time.Time     // of the last turn, where there is one processor
	took  time.Duration // that turn
	taken int
	lines map[string]*line // by issuer, those with somebody in it
	round []*line          // the same, the next one first

	givenUp metric.Int64Counter
}

// line is who waits for an issuer's turns, in the order in which they came.
type line struct {
	issuer  string
	waiting []chan struct{} // closed when the turn has come
}

// NewTurns returns the turns of a process. With places more than 0 that many
// signatures are checked at once.
func NewTurns(places int, meter metric.Meter) (*Turns, error) {
	t := &Turns{places: places, lines: map[string]*line{}, poll: newPoll()}
	var err error
	if t.givenUp, err = meter.Int64Counter("introspectd.verifications.given_up",
		metric.WithUnit("{verification}"), metric.WithDescription("Dear signature checks that had no turn, by issuer and cause: full, late, or left by who asked.")); err != nil {
		return nil, fmt.Errorf("turns of verification: %w", err)
	}
	if _, err = meter.Int64ObservableGauge("introspectd.verifications.waiting",
		metric.WithUnit("{verification}"), metric.WithDescription("Dear signature checks that wait for their turn."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(t.Waiting()))
			return nil
		})); err != nil {
		return nil, fmt.Errorf("turns of verification: %w", err)
	}
	return t, nil
}

// Waiting is how many wait for a turn now.
func (t *Turns) Waiting() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.round {
		n += len(l.waiting)
	}
	return n
}

// Take waits for a turn of the issuer of that name, until ctx ends or for a
// second, and returns what ends the turn. The error is ErrOverloaded, also for
// one who left.
func (t *Turns) Take(ctx context.Context, issuer string) (end func(), err error) {
	turn, cause := t.ask(issuer)
	if turn != nil {
		cause = t.await(ctx, issuer, turn)
	}
	if cause != "" {
		t.givenUp.Add(ctx, 1, metric.WithAttributes(attribute.String("issuer", issuer), attribute.String("cause", cause)))
		return nil, fmt.Errorf("%w (%s)", ErrOverloaded, cause)
	}
	return t.begin(), nil
}

// ask takes a turn at once, or else returns what tells that it has come.
func (t *Turns) ask(issuer string) (turn chan struct{}, cause string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken < t.most() {
		t.taken++
		return nil, ""
	}
	l := t.lines[issuer]
	switch {
	case l == nil:
		l = &line{issuer: issuer}
		t.lines[issuer] = l
		t.round = append(t.round, l)
	case len(l.waiting) >= maxLine:
		return nil, lineFull
	}
	turn = make(chan struct{})
	l.waiting = append(l.waiting, turn)
	return turn, ""
}

func (t *Turns) await(ctx context.Context, issuer string, turn chan struct{}) (cause string) {
	limit := time.NewTimer(maxTurnWait)
	defer limit.Stop()
	select {
	case <-turn:
		return ""
	case <-limit.C:
		cause = tooLate
	case <-ctx.Done():
		cause = askerOff
	}
	if !t.leave(issuer, turn) {
		return "" // it came in the same moment, and is not to be wasted
	}
	return cause
}

// leave takes one out of its line; false when it has its turn.
func (t *Turns) leave(issuer string, turn chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lines[issuer]
	if l == nil {
		return false
	}
	n := slices.Index(l.waiting, turn)
	if n < 0 {
		return false
	}
	l.waiting = slices.Delete(l.waiting, n, n+1)
	if len(l.waiting) == 0 {
		delete(t.lines, issuer)
		t.round = slices.DeleteFunc(t.round, func(other *line) bool { return other == l })
	}
	return true
}

// end gives a turn back, to the first of the next issuer's line.
func (t *Turns) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
	for t.taken < t.most() && len(t.round) > 0 {
		l := t.round[0]
		close(l.waiting[0])
		l.waiting = slices.Delete(l.waiting, 0, 1)
		t.taken++
		t.round = slices.Delete(t.round, 0, 1)
		if len(l.waiting) > 0 {
			t.round = append(t.round, l)
		} else {
			delete(t.lines, l.issuer)
		}
	}
}

func (t *Turns) most() int {
	if t.places > 0 {
		return t.places
	}
	return max(1, runtime.GOMAXPROCS(0)/2)
}

// begin begins a turn. Where the turns could leave nothing of the processors, it
// first lets everything else run that can, unless the last turn is over for as
// long as it took: then half of the time was left.
func (t *Turns) begin() (end func()) {
	if runtime.GOMAXPROCS(0) > t.most() {
		return t.end
	}
	t.mu.Lock()
	soon := time.Since(t.ended) < t.took
	t.mu.Unlock()
	if soon {
		t.poll.giveWay()
	}
	began := time.Now()
	return func() {
		t.mu.Lock()
		t.ended = time.Now()
		t.took = t.ended.Sub(began)
		t.mu.Unlock()
		t.end()
	}
}

// poll is a way through the runtime's network poller. On one processor, requests
// that have arrived are looked for only when nothing else can run: with dear
// checks without end that is never, but for a look in 10 ms.
type poll struct{ in, out *os.File }

// newPoll returns a poll that only yields where there are no pipes left.
func newPoll() poll {
	out, in, err := os.Pipe()
	if err != nil {
		return poll{}
	}
	return poll{in: in, out: out}
}

// giveWay returns after what could run when it was called, and after what had
// arrived by then.
func (p poll) giveWay() {
	if p.in != nil {
		// Written once this goroutine waits for it, so that it has to be polled.
		go func() { _, _ = p.in.Write([]byte{0}) }()
		_, _ = p.out.Read(make([]byte, 1))
	}
	runtime.Gosched() // behind those that came with it
}
