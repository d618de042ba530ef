package revoke

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

// State is a picture of the list for people and probes.
type State struct {
	// Entries is how many revocations are live.
	Entries int
	// Complete says that a complete list was read once; Current that its feed
	// lives.
	Complete, Current bool
	// Lag is the time since the list was known to be current.
	Lag time.Duration
	// Denies says that tokens are answered with an error for it.
	Denies bool
}

// Problem is what is wrong, in words; empty when nothing is.
func (s State) Problem() string {
	switch {
	case s.Current:
		return ""
	case !s.Complete:
		return "revocations: no complete list was read yet"
	default:
		return fmt.Sprintf("revocations: the list is %s old", s.Lag.Round(time.Second))
	}
}

// lateness is by how many max_delay a list may be behind and still be current:
// a heartbeat is written every half of one.
const lateness = 2

// State returns a picture of the moment.
func (l *List) State() State {
	s := State{Entries: int(l.live.Load()), Complete: l.held.Load(), Lag: l.lag(), Denies: !l.reliable()}
	s.Current = s.Complete && s.Lag <= lateness*l.cfg.Load().MaxDelay
	return s
}

type metrics struct {
	file metric.Int64Counter
}

func newMetrics(m metric.Meter, l *List) (out metrics, err error) {
	if m == nil {
		m = noop.Meter{}
	}
	if out.file, err = m.Int64Counter("introspectd.revocation.file_writes",
		metric.WithUnit("{record}"), metric.WithDescription("Records of revocations that were written to the state file, by result.")); err != nil {
		return out, err
	}
	if _, err = m.Int64ObservableGauge("introspectd.revocations",
		metric.WithDescription("Live revocations in this process."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(l.State().Entries))
			return nil
		})); err != nil {
		return out, err
	}
	_, err = m.Float64ObservableGauge("introspectd.revocation.lag",
		metric.WithUnit("s"), metric.WithDescription("Time since the list of revocations was known to be current."),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(l.State().Lag.Seconds())
			return nil
		}))
	return out, err
}

var (
	done   = metric.WithAttributes(attribute.String("result", "done"))
	failed = metric.WithAttributes(attribute.String("result", "failed"))
)

// asOfName is where a file keeps when its list was last complete.
var asOfName = Name{}

// asOfAhead is by how much that may lie ahead, where the clock was put right by
// a little. Of a list that seems to come from later it can't be told how old it
// is: the clock was set back, and it may be weeks.
const asOfAhead = time.Minute

// Load takes in what a file kept: each calls its argument for every record. An
// error of each means that some may be missing. Beside a shared store the list
// counts as once complete, and as old as it says itself, unless that lies ahead;
// alone it is complete unless damaged says that records may have been lost.
func (l *List) Load(each func(func(name Name, value []byte, expires time.Time)) error, damaged bool) error {
	var asOf time.Time
	var faults []error
	err := each(func(name Name, value []byte, expires time.Time) {
		if name == asOfName {
			if r, err := decode(name, value, expires); err == nil && r.Kind == currentAt {
				asOf = r.NotBefore
			}
			return
		}
		if err := l.Merge(name, value, expires); err != nil {
			faults = append(faults, err)
		}
	})
	l.mu.Lock()
	clear(l.pending) // they come from there
	l.mu.Unlock()
	err = errors.Join(append(faults, err)...)
	if l.shared == nil && (err != nil || damaged) {
		l.Incomplete()
	}
	if err != nil || damaged {
		return err
	}
	if l.shared == nil || asOf.IsZero() {
		return nil
	}
	age := l.now().Sub(asOf)
	if age < -asOfAhead {
		l.log.Warn("the list of revocations in the state file is of a time to come: how old it is can't be told, and it is not relied on", "as_of", asOf)
		return nil
	}
	l.asOf.Store(int64(time.Now().Add(-max(0, age)).Sub(l.start)))
	l.held.Store(true)
	return nil
}

const (
	sweepEvery = time.Second
	sweepRows  = 20_000
	// saveAsOf is how often a file is told that the list is current.
	saveAsOf = 15 * time.Second
)

// Run takes out what is over and writes to the file what it lacks, until ctx
// ends; what is left then is written before it returns.
func (l *List) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var row int32
	var told time.Time
	failing := false
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			row = l.sweep(row)
			l.renew() // first: of a file that lacks records no age is told
			if failing {
				failing = !l.save(ctx)
			}
			if l.shared != nil && time.Since(told) >= saveAsOf && l.noteAge(ctx) {
				told = time.Now()
			}
		case <-l.unsaved:
			failing = !l.save(ctx)
		}
	}
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	l.renew()
	for again := true; again; again = l.renew() { // that it was replaced may be found out just now
		l.save(last)
		if l.shared != nil {
			l.noteAge(last)
		}
	}
}

// renew has all records written to the file again, if it was replaced.
func (l *List) renew() bool {
	now := l.replaced()
	if now == l.renewed {
		return false
	}
	l.renewed = now
	l.Resave()
	return true
}

func (l *List) sweep(from int32) int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.index.sweep(from, sweepRows, l.now().Unix())
	l.count()
	return next
}

// noteAge tells the file when the list was last complete. It returns false where
// that isn't true of the file now, because it lacks records: a restart would
// answer from it for as long as grace.
func (l *List) noteAge(ctx context.Context) bool {
	if l.file == nil || !l.held.Load() {
		return true
	}
	lag := l.lag() // before the look at what is lacking: more may come, and count, in between
	l.mu.RLock()
	lacking := len(l.pending)
	l.mu.RUnlock()
	if lacking > 0 {
		return false
	}
	r := Revocation{Name: asOfName, Kind: currentAt, IDs: []ID{{}}, NotBefore: l.now().Add(-lag), Created: l.now(), Expires: Forever}
	err := l.file.Append(ctx, r.Name, encode(r), r.Expires)
	same := l.replaced() == l.renewed
	if !same { // the one that took it may be empty but for that
		r.NotBefore = time.Time{} // of no time
		err = l.file.Append(ctx, r.Name, encode(r), r.Expires)
	}
	if err != nil {
		l.log.Warn("the age of the revocations can't be saved", "error", err.Error())
	}
	return same
}

// save writes to the file what it lacks; false when something is left.
func (l *List) save(ctx context.Context) bool {
	l.mu.RLock()
	lacking := maps.Clone(l.pending)
	l.mu.RUnlock()
	for name, note := range lacking {
		l.mu.RLock()
		n, there := l.index.byName[name]
		var r Revocation
		if there {
			r = l.index.read(n)
		}
		l.mu.RUnlock()
		if there {
			if err := l.file.Append(ctx, name, encode(r), r.Expires); err != nil {
				l.metrics.file.Add(ctx, 1, failed)
				l.log.Warn("revocations can't be saved; a restart may find fewer", "error", err.Error())
				return false
			}
			l.metrics.file.Add(ctx, 1, done)
		}
		l.mu.Lock()
		if l.pending[name] == note { // else it may be in a file that was set aside meanwhile
			delete(l.pending, name)
		}
		l.mu.Unlock()
	}
	return true
}

// Resave writes all records to the file again: it was replaced by an empty one.
func (l *List) Resave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.index.byName {
		l.wait(name)
	}
}
