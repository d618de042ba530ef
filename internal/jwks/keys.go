// Package jwks owns one issuer's public keys and has them always at hand: it
// fetches, judges, holds and ages them, and says which one may verify a
// signature. It never looks at a token and never verifies one.
//
// # Decisions
//
// One Keys per issuer. Context: a pooled set verifies issuer B's tokens with
// issuer A's key where their kids meet. Choice: New takes exactly one source,
// and nothing here spans two. Cost: issuers that share an address fetch it
// twice.
//
// We choose, keyfunc resolves. Context: keyfunc tries every key for a token
// without kid, ignores use and key_ops, and reports an outage as the token's
// fault. Choice: we pick one candidate out of an immutable snapshot and ask
// keyfunc for just that one by a slot id made of thumbprint and algorithm, so
// that its own alg comparison is a second, independent check. Cost: a key
// without alg takes a slot for each algorithm it may verify.
//
// Our own flight in place of singleflight. Context: a request with an unknown
// kid must join a fetch that is running without starting one. Choice: one
// pointer under a mutex. Cost: twenty lines that a library nearly has.
//
// A fresh connection for every fetch. Context: what may be dialled differs
// between an address from the configuration and one that discovery told us,
// and names change their meaning over time. Choice: a transport per request
// that holds its own rule and checks each resolved address. Cost: a TLS
// handshake every few minutes.
//
// A saved set is believed as far as its file is. Context: an issuer that is
// away must not keep a restarted service from judging. Choice: the bytes that
// the issuer sent are saved with their address and time, and judged anew when
// they are taken back: issuer, address and roots must be the configured ones,
// the time within max_stale by the wall clock, the keys as good as fetched
// ones. The issuer is asked at once all the same. Cost: whoever can write the
// file can plant keys, and so can whoever can turn the clock back keep old
// ones; filestore refuses a file that others can write. A key that is no
// longer trusted is left out while Dropped tells of it.
//
// A set is as old as the request for it. Context: sets of several replicas
// meet in a fleet, and a key may be withdrawn while an answer with it is on
// its way. Choice: what is compared is the wall clock at the start of the
// request; the age of what is held goes by the monotonic clock. A set from up
// to a minute ahead is taken with the age of one of now, and keeps its time
// where it is compared with other sets; one from further ahead is refused.
// Cost: replicas whose clocks differ may take a set for newer that is older by
// that difference, at most a minute.
//
// What a fleet says is advice. Context: one replica should ask the issuer for
// all, through a store that may lie, hang or be away. Choice: a set from there
// is judged like a saved one and taken only when it is newer than ours; a
// claim is respected until our set is nearly 2 x Refresh old; a process asks
// the issuer once before it relies on others, and whoever can't reach the
// fleet goes on alone. No more than one call is under way, which nobody waits
// for longer than half a second, beside the one that puts and releases. Cost:
// one fetch per replica at its start, and a removed key may live for up to
// 2 x Refresh where the store is against us.
//
// A key that an operator withdrew is judged by time, not remembered. Context:
// an old set must not bring it back, while an issuer that still lists it is
// the authority. Choice: a key is left out of every set whose request began no
// later than the withdrawal, ours included, and what would make the next
// answer "unchanged" is forgotten with it. When a request began is said by
// whoever made it, and for a set that we hold, by our clock less its age where
// that is earlier. Keys from files and trust stores are never left out. Cost: a
// replica whose clock is behind that of the operator's leaves it out for longer
// by as much, and where the clock of one that reads for others is ahead, a key
// that was withdrawn within that difference after its request, at most a minute,
// can come back with that set until the next.
//
// A reload loses no key. Context: an operator may change how keys are fetched
// while their issuer is away. Choice: the Keys of a new configuration begin with
// the set of those before, if issuer, source and address are the same. Cost: that
// also goes for what was fetched under another ca, which a Store would not give
// back: those keys verify until the source answers under the new roots, or until
// max_stale.
//
// A certificate's dates are those of its key, as of the time that the token is
// judged at. Context: a certificate may end while its key is in use, and an
// operator explains a verdict of last year. Choice: Find is told the time and
// Holds looks at the clock, so that nothing is current because it was when it
// was read; keys.files always enforces them, a trust store by
// certificate_dates. Cost: an operator whose certificate has ended has to name
// the public key alone, or say warn or ignore.
//
// A key whose private half is public is set apart, not dropped. Context: anyone
// can sign with it, wherever it was read from, and an operator has to see why
// such tokens fail. Choice: it is beside the set, where Find never looks, and
// Refuses tells that a kid named it; with allow_known_public_keys it is a key
// like others, and a warning. Cost: an issuer that has no other is never ready.
//
// A trust store that can't be read changes nothing, for good. Context: it is
// the operator's own file, copied over while it is read. Choice: the last good
// keys stay, the log and State tell, and max_stale is not for files; an alias
// that is gone from a readable one is a key withdrawn. Cost: a store that was
// broken by a slip is as it was until somebody looks.
package jwks

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"golang.org/x/net/http/httpproxy"
	"golang.org/x/time/rate"
)

// ErrUnavailable says that no usable key set is at hand, so that nothing can
// be said about a token: neither that it is genuine nor that it is not.
var ErrUnavailable = errors.New("no usable keys are at hand")

// Options are what a Keys needs beside its Config.
type Options struct {
	// Name is the issuer's word in logs and metric labels, Issuer its
	// identifier, byte for byte as in iss.
	Name, Issuer string
	// Log takes changes, not polls; nil discards them.
	Log *slog.Logger
	// Meter takes the instruments; nil measures nothing.
	Meter metric.Meter
	// Before is the Keys of the configuration before, whose set is taken over
	// with its age where issuer, source and address are the same, also if it was
	// fetched under another CA; nil otherwise.
	Before *Keys
	// Transport replaces the guarded transport, and with it the check of
	// dialled addresses. For tests; nil otherwise.
	Transport http.RoundTripper
	// Now tells the wall clock for what Holds and Warnings make of certificate
	// dates, for clock skew and the times in the Store and the Fleet; nil means
	// time.Now. The age of a set is
	// measured on the monotonic clock.
	Now func() time.Time
	// Store keeps the set over a restart; nil keeps none.
	Store Store
	// Fleet shares the set with other replicas; nil shares none.
	Fleet Fleet
	// Dropped tells when an operator withdrew the key with this thumbprint;
	// zero means never. It is called under a lock and must answer from memory,
	// concurrently; nil means that no key was. After each change Prune has to
	// be called.
	Dropped func(Thumbprint) time.Time
}

// Key is one public key that may verify signatures of its issuer. Its fields
// are shared: read them only.
type Key struct {
	// Kid is empty when the source gave none.
	Kid string
	// Algs are the algorithms it may verify, Ed25519 under its name EdDSA.
	Algs   []string
	Public crypto.PublicKey
	// Thumbprint is that of RFC 7638 with SHA-256.
	Thumbprint Thumbprint
	// NotBefore and NotAfter are those of the certificate that the key came in;
	// zero without one, and where its dates are not enforced.
	NotBefore, NotAfter time.Time
	// Set is the Digest of the set that it was found in.
	Set [32]byte
}

// Keys are the public keys of one issuer. All methods may be called
// concurrently; Run at most once.
type Keys struct {
	cfg  Config
	name string
	log  *slog.Logger
	now  func() time.Time

	issuer    string
	source    string
	transport http.RoundTripper
	proxy     func(*url.URL) (*url.URL, error)
	tls       *tls.Config

	held    atomic.Pointer[held]
	resolve keyfunc.Keyfunc
	skew    atomic.Pointer[time.Duration]
	meter   instruments

	store   Store
	saveAs  string     // its name in Store and Fleet; empty without either
	unsaved chan saved // the latest set that is to be saved

	fleet    Fleet
	asking   chan struct{} // full while the fleet is asked
	unshared chan leavings // what the fleet is still to be told
	dropped  func(Thumbprint) time.Time

	limiter *rate.Limiter // of fetches that unknown kids cause
	looks   *rate.Limiter // of their looks at the fleet
	places  chan struct{}
	unknown unknownKids
	woken   chan struct{} // tells Run that the set is due earlier, or at once

	mu      sync.Mutex
	running *flight
	stopped bool
	url     string
	lastErr string
	warned  []string // what was said of the present set

	// changing is held by whoever replaces the set: a flight, or Prune.
	changing sync.Mutex
	prunes   int // times that Prune took keys away; under changing

	// What one flight leaves for the next. Only the running flight touches it,
	// and what tells of the set only under changing.
	memory memory
}

// held is the present set and when it was last known to be what the source
// says. It is immutable; a renewed age is a new one.
type held struct {
	set *set
	// read is when the source was asked for it, on the monotonic clock:
	// its age. fetched is the same by the wall clock of the replica that
	// asked: what is compared with the sets of others.
	read, fetched time.Time
	due           time.Time // when it is to be renewed, on the monotonic clock
	from          origin
	// unconfirmed says that the source is to be asked at once, whatever the
	// fleet says: it has not answered since Run began or since Prune.
	unconfirmed bool
	// left is how many keys were left out of it as withdrawn, before Prune was
	// told of that.
	left int
}

// origin is who handed us a set.
type origin int

const (
	fromSource origin = iota
	fromState         // saved before a restart
	fromFleet         // read by another replica
)

// New prepares the keys of one issuer. It reads files and the Store, and never
// the network or the Fleet; keys from the Store are usable at once.
// Zero Refresh and MaxStale mean their defaults. The error names every fault
// of cfg that Check would report.
func New(cfg Config, o Options) (*Keys, error) {
	cfg = cfg.withTimes()
	var faults []error
	cfg.Check(o.Issuer, func(key, problem string) {
		faults = append(faults, fmt.Errorf("keys.%s: %s", key, problem))
	})
	if len(faults) > 0 {
		return nil, fmt.Errorf("keys of issuer %s: %w", o.Name, errors.Join(faults...))
	}
	k := &Keys{
		cfg: cfg, name: o.Name, issuer: o.Issuer, source: cfg.source(),
		log: o.Log, now: o.Now, transport: o.Transport,
		proxy:   httpproxy.FromEnvironment().ProxyFunc(),
		limiter: rate.NewLimiter(rate.Every(cooldown), 1),
		looks:   rate.NewLimiter(rate.Every(lookEvery), 1),
		places:  make(chan struct{}, maxWaiting),
		woken:   make(chan struct{}, 1),
		dropped: o.Dropped,
		url:     cfg.JWKSURL,
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	k.log = k.log.With("issuer", k.name)
	if k.now == nil {
		k.now = time.Now
	}
	if o.Meter == nil {
		o.Meter = noop.Meter{}
	}
	var err error
	if k.meter, err = newInstruments(o.Meter, k.name); err != nil {
		return nil, fmt.Errorf("keys of issuer %s: %w", k.name, err)
	}
	if k.resolve, err = keyfunc.New(keyfunc.Options{Storage: newView(&k.held)}); err != nil {
		return nil, fmt.Errorf("keys of issuer %s: %w", k.name, err)
	}
	roots, ca, err := cfg.roots()
	if err != nil {
		return nil, fmt.Errorf("keys of issuer %s: %w", k.name, err)
	}
	k.tls = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if cfg.local() {
		return k, k.hold()
	}
	if b := o.Before; b != nil && b.issuer == k.issuer && b.source == k.source && b.cfg.JWKSURL == cfg.JWKSURL {
		k.inherit(b)
	}
	if o.Fleet != nil {
		k.fleet, k.saveAs = o.Fleet, k.savedName(ca)
		k.asking, k.unshared = make(chan struct{}, 1), make(chan leavings, 1)
	}
	if o.Store != nil {
		k.store, k.saveAs, k.unsaved = o.Store, k.savedName(ca), make(chan saved, 1)
		if k.held.Load() == nil { // what the process holds is no older
			k.restore()
		}
	}
	return k, nil
}

// inherit takes over what b holds, and that nothing older may be taken.
func (k *Keys) inherit(b *Keys) {
	b.changing.Lock()
	if h := b.held.Load(); h != nil {
		taken := *h
		taken.set = h.set.apart(k.cfg.AllowKnownPublicKeys)
		k.held.Store(&taken)
		k.warn(taken.set)
	}
	k.memory.known.FetchedAt = b.memory.known.FetchedAt
	b.changing.Unlock()
	k.prune(func() {}) // Run asks
}

// hold takes the keys of the configured files as the set: those of a trust
// store until it is read again, others for good.
func (k *Keys) hold() error {
	if k.source == sourceStore {
		if err := k.Reread(); err != nil {
			return fmt.Errorf("keys of issuer %s: %w", k.name, err)
		}
		return nil
	}
	s, err := loadFiles(k.cfg.Files)
	if err != nil {
		return fmt.Errorf("keys of issuer %s: %w", k.name, err)
	}
	s = s.apart(k.cfg.AllowKnownPublicKeys)
	k.held.Store(&held{set: s, read: time.Now(), fetched: k.now()})
	k.meter.skip(s.skipped)
	k.warn(s)
	return nil
}

// Find returns the one key that kid names and that may verify alg at the given
// time. An empty kid means that the token had none. A nil key without error is
// a refusal: the issuer has no such key, or more than one that fits. The error,
// always an ErrUnavailable, means that there is no usable set to tell from.
//
// With mayFetch an unknown kid may cause one fetch per 30 s, and one question to
// discovery with it, of all replicas where they share a Fleet, and one look there
// per second; Find waits for what is under way for at most 1 s, and that only for
// 256 callers at a time. Without it, Find answers at once from what is at hand.
func (k *Keys) Find(ctx context.Context, kid, alg string, at time.Time, mayFetch bool) (*Key, error) {
	alg = canonical(alg)
	key, found := k.look(kid, alg, at)
	if mayFetch && !k.cfg.local() && (found == unknownKid || found == noSet) {
		proven := k.await(ctx, kid, alg, found)
		if key, found = k.look(kid, alg, at); found == unknownKid && proven {
			k.unknown.remember(kid, time.Now())
		}
	}
	if found == noSet {
		return nil, fmt.Errorf("issuer %s: %w", k.name, ErrUnavailable)
	}
	return key, nil
}

// AtHand is Find without a wait. Where it is not ok, Find might know more.
func (k *Keys) AtHand(kid, alg string, at time.Time, mayFetch bool) (key *Key, ok bool) {
	alg = canonical(alg)
	key, found := k.look(kid, alg, at)
	if found == unknownKid && mayFetch && !k.cfg.local() {
		if k.seekable(kid) {
			return nil, false
		}
		key, found = k.look(kid, alg, at) // a flight may have brought it since
	}
	return key, found != noSet
}

// Strange says that no key has to do with kid, for no algorithm and at no time, and
// that Find would not look for one now. Where it says no, Find might know better.
func (k *Keys) Strange(kid string) bool {
	h := k.usable()
	return h != nil && h.set.strange(kid) && (k.cfg.local() || !k.seekable(kid)) &&
		k.held.Load() == h // else a flight may have brought it since
}

// Refuses tells why Find gave no key, where that is because the private half
// of the key that kid names is public.
func (k *Keys) Refuses(kid, alg string) bool {
	h := k.usable()
	return h != nil && h.set.refuses(kid, canonical(alg), k.cfg.KidRequired)
}

// look answers from the present set alone.
func (k *Keys) look(kid, alg string, at time.Time) (*Key, lookup) {
	h := k.usable()
	if h == nil {
		return nil, noSet
	}
	e, found := h.set.choose(kid, alg, k.cfg.KidRequired, at)
	if e == nil {
		return nil, found
	}
	// The slot is read from the set that is present now. A key that went away
	// since the choice is not found, and one cannot stand in for another,
	// because the slot's id is the key's thumbprint.
	public, err := k.resolve.Keyfunc(e.question(alg))
	switch {
	case err != nil && k.held.Load() != h:
		return k.look(kid, alg, at) // by the set that is there instead, if any is
	case err != nil:
		return nil, settled
	}
	key := e.key
	key.Public, key.Set = public, h.set.digest
	return &key, settled
}

// usable is the present set, or nil when there is none or it is too old.
func (k *Keys) usable() *held {
	h := k.held.Load()
	if h == nil || !k.cfg.local() && time.Since(h.read) > k.cfg.MaxStale {
		return nil
	}
	return h
}

// Holds tells whether the key with this thumbprint may still verify alg: it is
// in the present, not too old set, and its certificate, if it has one, is
// current. It takes no lock and allocates nothing.
func (k *Keys) Holds(t Thumbprint, alg string) bool {
	h := k.usable()
	return h != nil && h.set.holds(t, canonical(alg), k.now)
}

// Digest identifies the present set: it changes when a key is added, removed
// or renamed. It is zero while no usable set is at hand.
func (k *Keys) Digest() [32]byte {
	if h := k.usable(); h != nil {
		return h.set.digest
	}
	return [32]byte{}
}

// Local tells whether the keys are configuration: in files or in a trust store.
// They are never fetched, and only the operator takes one away.
func (k *Keys) Local() bool { return k.cfg.local() }

// Ready tells whether a usable set with a key that may verify is at hand.
func (k *Keys) Ready() bool {
	h := k.usable()
	return h != nil && len(h.set.entries) > 0
}
