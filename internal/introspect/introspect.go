// Package introspect has one judgement for each token: made once, remembered
// while what made it still holds, the same for whoever asks. It never says
// anything that depends on who asks; audiences, issuers and scopes are demands
// that are held against a finished answer, before any byte of it is shown.
//
// # Decisions
//
// An answer is the bytes it is remembered as. A fresh verdict is rendered,
// encoded, and read back the way a remembered one is, so that the two can't
// differ.
//
// A remembered verdict is bound to the digest of the token, to the fingerprint
// of the issuer's configuration, and to the key that verified it: a positive
// one lives only while the present key set holds that key, a negative one only
// while the set is the same. A new key costs nothing, a removed one ends
// exactly what it signed.
//
// What is remembered is what would hold without revocations. Whether a token is
// revoked is looked up on each request, by what it was signed with and never by
// what a map made of it, so that a revocation acts at once and so does its
// deletion. Cost: the identities of a token are digested once, at its first
// sight, and lie beside each remembered active verdict: 112 bytes.
//
// Replicas share active verdicts alone. A refused token costs little to judge
// again, and a flood of them must reach no store that others depend on. Cost:
// each replica checks a forged signature for itself.
//
// What comes from another replica is believed as far as what is remembered
// here, by the same function, and kept as the bytes that it is, for what is left
// of its time. So it says what this process would have said, and nothing is
// lengthened on its way. Cost: replicas with other settings for an issuer share
// nothing, which a rollout shows as verifications.
//
// Whether asking the others is worth its while is measured, not configured: a
// round trip costs more than an RS256 check on most networks, and less than an
// ES512 one. The time of good tokens is kept by the text of their header, which
// names algorithm and key before anything is decoded; good tokens alone add to
// it. A token whose header is not there is read before others are asked
// (`always`), or verified (`auto`), so that garbage stays here. Cost: garbage
// under the header of good tokens costs a look-up where those do; the first
// token of each key is verified in each replica, and one in 32 afterwards; and
// a look-up each second keeps the measurement of an idle way.
//
// Only what cost a signature check is remembered. All else is cheaper to judge
// again than to keep, and garbage can't fill a store that it never enters.
package introspect

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"
	"go.opentelemetry.io/otel/metric/noop"

	"introspectd/internal/revoke"
	"introspectd/internal/transform"
	"introspectd/internal/verify"
)

// Key names a remembered verdict: a keyed digest of the whole token.
type Key = [sha256.Size]byte

// Cache keeps values for a time. It may forget or lose anything at any moment;
// what it returns is checked before it is believed.
type Cache interface {
	// Get returns a copy of what was last put under key, nil when there is
	// nothing or it can't be had. The copy may lie in room.
	Get(ctx context.Context, key Key, room []byte) []byte
	// Put keeps value for at most lifetime. Values of refused tokens never
	// take the place of others.
	Put(ctx context.Context, key Key, value []byte, lifetime time.Duration, refused bool)
}

// Issuer is one trusted issuer with the meaning of its claims.
type Issuer struct {
	Config   IssuerConfig
	Verifier *verify.Issuer
}

// issuer is an Issuer compiled.
type issuer struct {
	verify      *verify.Issuer
	rules       *transform.Rules
	fingerprint [sha256.Size]byte
	iss         string
	identity    revoke.ID     // of all its tokens
	maxLifetime time.Duration // 0: no bound
	maxStale    time.Duration // of its keys
}

// Options are what an Introspector works with.
type Options struct {
	Cache CacheConfig
	// Store remembers verdicts; nil means that none are.
	Store Cache
	// Shared is where replicas find each other's verdicts; nil means nowhere. Its
	// Put must not wait, and its Get not for long. Run measures the way to it.
	Shared Cache
	// DigestKey keys the digests that tokens are remembered under; the same
	// for as long as Store is, and wherever Shared is. Empty means a random one.
	DigestKey []byte
	// Revocations is what has been withdrawn; nil means that nothing ever is.
	Revocations *revoke.List
	// Turns are those of the process at checking dear signatures; nil means its
	// own.
	Turns *verify.Turns
	// Metrics are those of the process; nil means ones that nobody reads.
	Metrics *Metrics
	// Now is the clock that dates are held against; nil means time.Now.
	Now func() time.Time
}

// Introspector judges tokens. It is safe for concurrent use.
type Introspector struct {
	verifier      *verify.Verifier
	byVerifier    map[*verify.Issuer]*issuer
	byFingerprint map[[sha256.Size]byte]*issuer
	byName        map[string]*issuer
	limits        VerdictsConfig
	store         Cache
	shared        *shared // nil for none
	revocations   *revoke.List
	flights       flights
	digestKey     []byte
	texts         sync.Pool // of *[]byte, for what is digested or copied
	readings      sync.Pool // of *verify.Reading
	now           func() time.Time
	metrics       *Metrics
}

// New returns an Introspector that trusts the given issuers.
func New(issuers []Issuer, o Options) (*Introspector, error) {
	in := &Introspector{
		byVerifier:    make(map[*verify.Issuer]*issuer, len(issuers)),
		byFingerprint: make(map[[sha256.Size]byte]*issuer, len(issuers)),
		byName:        make(map[string]*issuer, len(issuers)),
		limits:        o.Cache.Verdicts,
		store:         o.Store,
		shared:        newShared(o.Shared, o.Cache.Verdicts.Shared),
		revocations:   o.Revocations,
		metrics:       o.Metrics,
		now:           o.Now,
	}
	if in.now == nil {
		in.now = time.Now
	}
	var verifiers []*verify.Issuer
	for _, row := range issuers {
		i, err := newIssuer(row)
		if err != nil {
			return nil, err
		}
		in.byVerifier[i.verify], in.byFingerprint[i.fingerprint], in.byName[i.verify.Name()] = i, i, i
		verifiers = append(verifiers, row.Verifier)
	}
	var err error
	if o.Turns == nil {
		if o.Turns, err = verify.NewTurns(0, noop.Meter{}); err != nil {
			return nil, err
		}
	}
	if in.verifier, err = verify.New(o.Turns, verifiers...); err != nil {
		return nil, err
	}
	if in.digestKey = o.DigestKey; len(in.digestKey) == 0 {
		in.digestKey = NewDigestKey()
	}
	in.texts.New = func() any { return new(make([]byte, 0, 2048)) }
	in.readings.New = func() any { return new(verify.Reading) }
	if in.metrics == nil {
		in.metrics, err = NewMetrics(noop.Meter{})
	}
	return in, err
}

func newIssuer(row Issuer) (*issuer, error) {
	c := row.Config
	fingerprint, err := fingerprintOf(c)
	return &issuer{
		verify: row.Verifier, rules: transform.New(c.Claims), fingerprint: fingerprint,
		iss: c.Issuer, identity: revoke.Of(revoke.Issuer, c.Issuer, ""),
		maxLifetime: c.MaxLifetime, maxStale: cmp.Or(c.Keys.MaxStale, 24*time.Hour), // as jwks.New
	}, err
}

// NewDigestKey returns a random key for Options.DigestKey.
func NewDigestKey() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails: crypto/rand
	return key
}

// fingerprintOf digests everything that decides how an issuer's tokens are
// judged and what they mean. A key that a later release adds changes nothing
// while it isn't set: releases that run side by side share verdicts.
func fingerprintOf(c IssuerConfig) (sum [sha256.Size]byte, err error) {
	text, err := json.Marshal(c, json.OmitZeroStructFields(true), jsonv1.FormatDurationAsNano(true))
	if err != nil {
		return sum, fmt.Errorf("fingerprint of issuer %s: %w", c.Name, err)
	}
	return sha256.Sum256(text), nil
}

// Introspect judges token. An error means that we could not tell, and then the
// answer names only the token and, as far as it was read, its issuer: the keys of
// the issuer, or the list of revocations, can't be relied on, or there was no turn
// to check a signature (see Unavailable). The token is not kept; the answer may lie
// in room, and is then good until that is used again.
func (in *Introspector) Introspect(ctx context.Context, token, room []byte) (Answer, error) {
	start := in.now()
	if len(token) > verify.MaxToken {
		return malformed(string(token)), nil
	}
	key, ended := in.digest(token), in.flights.ended.Load()
	if a, ok := in.recall(ctx, key, start, room); ok {
		in.metrics.judged(ctx, pathHit, in.now().Sub(start))
		return in.unrevoked(a, start)
	}
	return in.find(ctx, string(token), key, start, ended)
}

// find judges a token that was asked about at start and of which nothing was
// remembered when so many flights had ended.
func (in *Introspector) find(ctx context.Context, token string, key Key, start time.Time, ended uint64) (Answer, error) {
	w := in.shared.way(token)
	if w.asks == yes && !verify.WellSpelled(token) {
		w.asks = no // garbage reaches no store that others depend on
	}
	var reading *verify.Reading // nil where it may turn out that nobody has to read the token
	if w.asks != yes && !in.flights.has(key) {
		// What is refused without a look at its signature was never remembered, and
		// is told faster than others could wait for it.
		reading = in.read(token)
		defer in.forget(reading)
		if reading.Look(start); reading.Refused() {
			l, err := in.verify(ctx, token, key, w, reading, start)
			in.metrics.judged(ctx, l.path, in.now().Sub(start))
			return l.answer, err
		}
	}
	l, err := in.flights.do(ctx, key, func() (landed, error) {
		if in.flights.ended.Load() != ended { // one of this token may have, between our look and this flight
			if a, ok := in.recall(ctx, key, in.now(), nil); ok { // in nobody's room: others share it
				return landed{a, pathVerified}, nil
			}
		}
		return in.judge(ctx, token, key, w, reading)
	})
	in.metrics.judged(ctx, l.path, in.now().Sub(start))
	if err != nil {
		l.answer.ref = Ref{token: token}
		return l.answer, err
	}
	return in.unrevoked(l.answer, in.now())
}

func malformed(token string) Answer {
	return Answer{reason: verify.Malformed, ref: Ref{token: token}}
}

// read reads token. Who is done with the reading, and with all that it says, has it
// forgotten.
func (in *Introspector) read(token string) *verify.Reading {
	r := in.readings.Get().(*verify.Reading)
	in.verifier.Read(token, r)
	return r
}

func (in *Introspector) forget(r *verify.Reading) {
	r.Forget()
	in.readings.Put(r)
}

// judge finds out about a token of which nothing is remembered: from the other
// replicas, where that is the better way, or else by verifying it.
func (in *Introspector) judge(ctx context.Context, token string, key Key, w way, reading *verify.Reading) (landed, error) {
	if w.asks != no {
		if a, ok := in.ask(ctx, token, key); ok {
			return landed{a, pathShared}, nil
		}
	}
	if reading == nil {
		reading = in.read(token)
		defer in.forget(reading)
	}
	l, err := in.verify(ctx, token, key, w, reading, in.now())
	if a := l.answer; err == nil && a.entry != nil && a.issuer.outdated(a.entry, in.now()) {
		// Its time or its key was over before its turn came, or the keys did, or what
		// it is refused for has passed, and some who get this answer asked after that.
		in.verifier.Read(token, reading)
		return in.verify(ctx, token, key, w, reading, in.now())
	}
	return l, err
}

// verify judges what was read of token as of now, and remembers what that cost.
func (in *Introspector) verify(ctx context.Context, token string, key Key, w way, reading *verify.Reading, now time.Time) (landed, error) {
	began := in.shared.clock()
	verdict, err := reading.Verify(ctx, now)
	if err != nil {
		return landed{Answer{issuer: in.byVerifier[verdict.Issuer]}, pathVerified}, err
	}
	a, lifetime := in.answer(ctx, token, verdict, now)
	if a.entry != nil {
		in.remember(ctx, key, a.entry, lifetime, !a.Active())
	}
	if a.Active() {
		in.shared.verified(w, began)
		in.shared.put(ctx, key, a.entry, lifetime)
	}
	return landed{a, pathVerified}, nil
}

// remember keeps an entry in this process.
func (in *Introspector) remember(ctx context.Context, key Key, entry []byte, lifetime time.Duration, refused bool) {
	if in.store != nil {
		in.store.Put(ctx, key, entry, lifetime, refused)
	}
}

// answer turns a verdict into the answer; one with an entry may be remembered for
// lifetime.
func (in *Introspector) answer(ctx context.Context, token string, v verify.Verdict, now time.Time) (a Answer, lifetime time.Duration) {
	i := in.byVerifier[v.Issuer]
	if v.Step < verify.Signature {
		return Answer{issuer: i, reason: v.Reason, ref: Ref{token: token}}, 0
	}
	e := entryHead{fingerprint: i.fingerprint, input: verify.SigningInput(token), reason: v.Reason}
	if v.Active {
		meaning, problem := i.rules.Apply(v.Claims)
		if problem == nil {
			in.metrics.dropped(ctx, i.verify.Name(), "scope", meaning.DroppedScopes)
			text := in.texts.Get().(*[]byte)
			defer in.texts.Put(text)
			doc := render(*text, meaning, v)
			*text = doc.body
			for _, name := range doc.dropped {
				in.metrics.dropped(ctx, i.verify.Name(), name, 1)
			}
			if len(doc.body) <= maxBody {
				e.marks = marksOf(i, v, meaning.ClientID)
				return in.active(i, e, v, doc, now)
			}
		}
		e.reason = verify.BadClaims
		if problem != nil {
			e.note = problem.Note
			if problem.ByRule {
				e.reason = verify.RuleFailed
			}
		}
	}
	until := now.Add(in.limits.InactiveTTL)
	if v.Reason == verify.NotYetValid {
		until = earliest(until, i.verify.Begins(v.NotBefore, v.IssuedAt))
		e.expires, e.notBefore, e.issuedAt = v.Expires, v.NotBefore, v.IssuedAt
	}
	e.bound = v.Key.Set
	e.until = until.Unix()
	return i.written(e.encode(v.Alg, document{})), until.Sub(now)
}

func (in *Introspector) active(i *issuer, e entryHead, v verify.Verdict, doc document, now time.Time) (Answer, time.Duration) {
	e.active = true
	e.bound = v.Key.Thumbprint
	e.expires, e.notBefore, e.issuedAt = v.Expires, v.NotBefore, v.IssuedAt
	until := earliest(now.Add(in.limits.TTL), i.verify.Ends(v.Expires))
	if !v.Key.NotAfter.IsZero() {
		until = earliest(until, v.Key.NotAfter)
	}
	e.until = until.Unix()
	return i.written(e.encode(v.Alg, doc)), until.Sub(now)
}

// written is the answer in an entry that was just made.
func (i *issuer) written(e entry) Answer {
	if !e.sound() {
		panic("introspect: an entry that was just written can't be read")
	}
	return Answer{issuer: i, entry: e}
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// recall returns the answer that this process remembers under key, in room if it
// fits.
func (in *Introspector) recall(ctx context.Context, key Key, now time.Time, room []byte) (Answer, bool) {
	if in.store == nil {
		return Answer{}, false
	}
	return in.believe(in.store.Get(ctx, key, room), now)
}

// believe returns the answer in what was remembered if all that made it still
// holds: the issuer's configuration, the key that verified it or the set that
// didn't, and the dates (contract INT-26: on every hit, not by lifetime alone).
// The answer lies in e, which must not be changed afterwards.
func (in *Introspector) believe(e entry, now time.Time) (Answer, bool) {
	if !e.sound() {
		return Answer{}, false
	}
	i := in.byFingerprint[e.fingerprint()]
	if i == nil || now.Unix() >= e.until() || !i.holds(e, now) {
		return Answer{}, false
	}
	return Answer{issuer: i, entry: e}, true
}

// holds says whether the keys and dates that made an entry of i still do.
func (i *issuer) holds(e entry, now time.Time) bool {
	keys := i.verify.Keys()
	if !e.active() {
		set := keys.Digest()
		return set == e.bound() && set != [sha256.Size]byte{} // without keys we can't tell
	}
	_, current := i.verify.Current(e.expires(), e.notBefore(), e.issuedAt(), now)
	return current && keys.Holds(e.bound(), string(e.alg()))
}

// outdated says whether an entry of i that was just made would be another by now.
func (i *issuer) outdated(e entry, now time.Time) bool {
	reason, _ := i.verify.Current(e.expires(), e.notBefore(), e.issuedAt(), now)
	return !i.holds(e, now) || e.reason() == verify.NotYetValid && reason != verify.NotYetValid
}

// digest is what token is remembered under, and what its flight is called: a
// collision of either would give one token the answer of another. It is SHA-256
// of the key, the token's length and the token: with its length before it no
// text is the beginning of another, so that nothing can be appended to one, and
// HMAC would only be a second digest.
func (in *Introspector) digest(token []byte) Key {
	text := in.texts.Get().(*[]byte)
	*text = append((*text)[:0], in.digestKey...)
	*text = binary.BigEndian.AppendUint64(*text, uint64(len(token)))
	*text = append(*text, token...)
	sum := sha256.Sum256(*text)
	in.texts.Put(text)
	return sum
}
