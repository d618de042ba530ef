// Package revoke knows which rights have been withdrawn: one list in this
// process that every hit looks at, fed by a store where replicas meet or where
// a restart finds it. It never sees a token, only digests of what tokens are
// known by, and it never says active.
//
// # Decisions
//
// The list is a set that only grows, with expiry. Context: a store that lost
// its data (a flush, a failover that dropped writes) must not give back what
// was withdrawn. Choice: a record leaves by its end or by a deletion, which is
// a record as well, and never because a store no longer has it; what is missing
// there is written back. Merging is therefore the same in any order and any
// number of times. Cost: a deletion has to be kept as long as what it deletes.
//
// A record stays for an hour past its end, and looks at its end wherever it is
// asked. Context: a clock that jumped ahead, or is ahead when the process starts,
// and is put right would make good again what was dropped meanwhile. Choice: only
// what has been over for so long is dropped, or not taken. Cost: what is over
// counts towards max_entries for that hour; a clock that is further ahead loses
// revocations.
//
// What is added holds here at once, whatever the store says. Context: a write
// whose answer was lost may have reached the others. Choice: Add tells whether
// the record is durable, and where it isn't, the right is withdrawn in this
// process all the same and written again until it is. Cost: a caller that is
// told 503 may find the token inactive.
//
// What is revoked anew gets a new record. Context: a deletion of the one before
// may be on its way, from another replica or although it was said to have failed,
// and would take the new right to rely on it along. Choice: with a shared store a
// repetition is a record of its own, until four live ones say the same: then the
// latest of them is written again. With a file alone all deletions are made here,
// and a record is used again unless its deletion was ever begun. Cost: up to four
// records where somebody repeats a revocation, each to be deleted by whoever takes
// it back; and a repetition is lost where all four are being deleted elsewhere at
// that moment. Without an end to them, one token would fill the list.
//
// Identities are unkeyed digests. Context: keyed ones would lose every
// revocation at a change of keys. Choice: plain SHA-256 of kind, iss and value,
// cut to 128 bits; stores seal what they are given. Cost: who can read this
// process's memory can test guesses.
//
// A token's own identities are kept apart from those that it shares. Context: all
// of them looked for among a million cost a hit some 3 µs of waiting for
// memory. Choice: its digest and its jti are looked for among revoked tokens, and
// the rest among what is broader, of which there is little. Cost: who asks has to
// say which is which.
//
// Records have no pointers. Context: a million of them must not cost the
// collector. Choice: rows in chunks, linked by number, and maps from 16 bytes to
// 4. Measured with a million revoked tokens of two identities (2026-11-26, 2 vCPU,
// Go 1.26.8; BenchmarkMillion, BenchmarkRevoked): 230 bytes each, 5 ms for a
// forced collection, 46 ns to ask about one token again and again and 200 about
// many in turn. Cost: the arithmetic of links in index.
package revoke

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// Why the list does not do what it is asked.
var (
	// ErrUnavailable says that the list is too old, or never was complete, so
	// that it can't be told whether a token is revoked.
	ErrUnavailable = errors.New("the list of revocations is not current")
	// ErrNotDurable says that a record holds in this process, but may be lost.
	ErrNotDurable = errors.New("the revocation is not durable")
	// ErrNoStore says that nothing would keep a revocation.
	ErrNoStore = errors.New("there is neither redis nor state.path to keep revocations")
	// ErrFull says that max_entries are there.
	ErrFull = errors.New("the list of revocations is full")
	// ErrNotFound says that no live revocation has the name.
	ErrNotFound = errors.New("there is no such revocation")
)

// Store keeps records beyond the process.
type Store interface {
	// Append keeps value under name until expires; nil means that it is
	// durable. The same record may be appended again.
	Append(ctx context.Context, name Name, value []byte, expires time.Time) error
}

// Options are what a List works with.
type Options struct {
	Config Config
	// Shared is where replicas meet; nil means that there is only this one,
	// and that what File holds is everything.
	Shared Store
	// File keeps the list over a restart; nil for none.
	File Store
	// Replaced is how often File was replaced by one that may lack what was written;
	// nil means never.
	Replaced func() int
	// Dropped, when set, is called after a record of DroppedKey was added.
	Dropped func()
	Log     *slog.Logger
	Meter   metric.Meter
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
}

// List is all revocations. It is safe for concurrent use.
type List struct {
	shared, file Store
	replaced     func() int
	dropped      func()
	log          *slog.Logger
	now          func() time.Time
	cfg          atomic.Pointer[Config]

	mu    sync.RWMutex
	index *index
	kept  atomic.Int64 // what index has, so that a look-up passes without the lock
	live  atomic.Int64 // what of it withdraws something

	// Reliance, by the monotonic clock since start.
	start time.Time
	held  atomic.Bool  // a complete list was read once, here or before a restart
	asOf  atomic.Int64 // ns: all that the store had then is here

	unsaved chan struct{}   // wakes Run: there is something for File
	pending map[Name]uint64 // under mu: not yet in File, and when that was noted
	notes   uint64          // under mu: how often something was
	renewed int             // by Run alone: how often the file was, when all was last noted for it
	metrics metrics
}

// New returns an empty List. Without a shared store it is complete, unless
// Incomplete says otherwise; with one it is not until Current was called.
func New(o Options) (*List, error) {
	l := &List{
		shared: o.Shared, file: o.File, replaced: o.Replaced, dropped: o.Dropped, log: o.Log, now: o.Now,
		index: newIndex(), start: time.Now(), unsaved: make(chan struct{}, 1), pending: map[Name]uint64{},
	}
	if l.now == nil {
		l.now = time.Now
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.replaced == nil {
		l.replaced = func() int { return 0 }
	}
	l.renewed = l.replaced()
	l.Configure(o.Config)
	if o.Shared == nil {
		l.Complete()
	}
	var err error
	l.metrics, err = newMetrics(o.Meter, l)
	return l, err
}

// Configure takes over the settings of a reload.
func (l *List) Configure(c Config) { l.cfg.Store(&c) }

// always is the asOf of a list that has no feed to lose.
const always = math.MaxInt64

// Complete says that the list is whole and has no feed: there is nobody else.
func (l *List) Complete() {
	l.asOf.Store(always)
	l.held.Store(true)
}

// Incomplete says that records may be missing and nobody can bring them: what
// was kept has been damaged.
func (l *List) Incomplete() {
	l.held.Store(false)
	l.asOf.Store(0)
}

// Current says that everything which the shared store had at t is here. It
// never goes back.
func (l *List) Current(t time.Time) {
	if ns := int64(t.Sub(l.start)); ns > l.asOf.Load() {
		l.asOf.Store(ns)
	}
	if !l.held.Swap(true) {
		l.log.Info("the list of revocations is complete", "revocations", l.State().Entries)
	}
}

// Held says whether a complete list was ever read.
func (l *List) Held() bool { return l.held.Load() }

// Revoked says whether a token that was issued at iat (0: it does not say) falls
// under a revocation. Identities are 16 bytes each, zeros where it has none: own
// are those that no other token has, by OfToken and by JTI, and shared are all
// others. The error is ErrUnavailable; it is returned only for what is not known
// to be revoked.
func (l *List) Revoked(now time.Time, iat int64, own, shared []byte) (bool, error) {
	if l.kept.Load() > 0 && l.withdrawn(now.Unix(), iat, own, shared) {
		return true, nil
	}
	if !l.reliable() {
		return false, ErrUnavailable
	}
	return false, nil
}

func (l *List) withdrawn(now, iat int64, own, shared []byte) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.index.withdraws(l.index.single, own, iat, now) || l.index.withdraws(l.index.broad, shared, iat, now)
}

// reliable says whether the list may be answered from.
func (l *List) reliable() bool {
	if l.asOf.Load() == always {
		return true
	}
	c := l.cfg.Load()
	return c.OnOutage == Allow || l.held.Load() && l.lag() <= c.Grace
}

// lag is the time since the list was current.
func (l *List) lag() time.Duration {
	asOf := l.asOf.Load()
	if asOf == always {
		return 0
	}
	return max(0, time.Since(l.start)-time.Duration(asOf))
}

// DroppedKey is when a key of an issuer was last withdrawn, by its thumbprint;
// the zero time for never.
func (l *List) DroppedKey(iss string, thumbprint [32]byte) (at time.Time) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	now := l.now().Unix()
	for _, w := range l.index.of(DroppedKey, OfDroppedKey(iss, thumbprint)) {
		if t := instant(w.notBefore); w.kind == DroppedKey && now < w.expires && t.After(at) {
			at = t
		}
	}
	return at
}

// OfDroppedKey is the identity of a record of DroppedKey.
func OfDroppedKey(iss string, thumbprint [32]byte) ID {
	return Of(DroppedKey, iss, string(thumbprint[:]))
}

// Each yields every live record as a store keeps it, deletions among them, in
// no order. What is added meanwhile may be left out.
func (l *List) Each(yield func(name Name, value []byte, expires time.Time) bool) {
	now := l.now()
	for r := range l.records() {
		if now.Before(r.Expires) && !yield(r.Name, encode(r), r.Expires) {
			return
		}
	}
}

// records yields all records, without holding the lock for long: a writer that
// waits would hold up every look-up.
func (l *List) records() func(yield func(Revocation) bool) {
	const step = 512
	return func(yield func(Revocation) bool) {
		some := make([]Revocation, 0, step)
		for from := int32(1); ; from += step {
			some = some[:0]
			l.mu.RLock()
			end := min(from+step, l.index.rows)
			for n := from; n < end; n++ {
				if r := l.index.read(n); r.Kind != 0 {
					some = append(some, r)
				}
			}
			last := end == l.index.rows
			l.mu.RUnlock()
			for _, r := range some {
				if !yield(r) {
					return
				}
			}
			if last {
				return
			}
		}
	}
}

// Live is how many records, deletions among them, are not over at now.
func (l *List) Live(now time.Time) int {
	live, at := 0, now.Unix()
	for from := int32(1); from != 0; {
		l.mu.RLock()
		var n int
		n, from = l.index.current(from, sweepRows, at)
		l.mu.RUnlock()
		live += n
	}
	return live
}

// Page returns at most limit live revocations in the order of their names,
// those behind after, that keep says yes to.
func (l *List) Page(after Name, limit int, keep func(Revocation) bool) []Revocation {
	now := l.now()
	var page []Revocation
	byName := func(a, b Revocation) int { return slices.Compare(a.Name[:], b.Name[:]) }
	for r := range l.records() {
		if r.Kind == deletion || !now.Before(r.Expires) || slices.Compare(r.Name[:], after[:]) <= 0 || !keep(r) {
			continue
		}
		page = append(page, r)
		if len(page) >= 2*limit { // keeps a page of a million small
			slices.SortFunc(page, byName)
			page = page[:limit]
		}
	}
	slices.SortFunc(page, byName)
	return page[:min(limit, len(page))]
}

// Find returns the live revocation of a name.
func (l *List) Find(name Name) (Revocation, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n, there := l.index.byName[name]
	if !there {
		return Revocation{}, false
	}
	r := l.index.read(n)
	return r, r.Kind != deletion && l.now().Before(r.Expires)
}
