package introspect

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"introspectd/internal/claims"
	"introspectd/internal/revoke"
	"introspectd/internal/verify"
)

// Marks are the identities of an active token beside its digest and its issuer's,
// 16 bytes each, zeros where it has none. The first is its own, the others it
// shares with more.
const (
	markJTI = iota
	markSubject
	markSession
	markClient // as it was signed
	markMapped // as callers see it, where that differs
	markKid    // of the header
	markKey    // that verified it
	markCount
)

const (
	markSize  = len(revoke.ID{})
	marksSize = markCount * markSize
)

// markWords are what explanations call the marks.
var markWords = [markCount]string{
	markJTI: "jti", markSubject: "sub", markSession: "sid", markClient: "client_id", markMapped: "client_id as mapped",
	markKid: "kid", markKey: "its key",
}

// marksOf digests what revocations may know an active token by: its claims as
// they were signed, because a map may be edited while a revocation lives.
func marksOf(i *issuer, v verify.Verdict, clientID string) []byte {
	marks := make([]byte, marksSize)
	put := func(mark int, kind revoke.Kind, value string) {
		if value != "" {
			id := revoke.Of(kind, i.iss, value)
			copy(marks[mark*markSize:], id[:])
		}
	}
	put(markJTI, revoke.JTI, text(v.Claims, "jti"))
	put(markSubject, revoke.Subject, text(v.Claims, "sub"))
	put(markSession, revoke.Session, text(v.Claims, "sid"))
	signed := i.rules.SignedClientID(v.Claims)
	put(markClient, revoke.Client, signed)
	if clientID != signed {
		put(markMapped, revoke.Client, clientID)
	}
	put(markKid, revoke.KeyID, v.Kid)
	key := revoke.OfKey(i.iss, v.Key.Thumbprint)
	copy(marks[markKey*markSize:], key[:])
	return marks
}

// text is the string that a claim is, empty where it is none.
func text(set claims.Set, name string) string {
	v, _ := set.Find(name)
	s, _ := claims.String(v)
	return s
}

// Unavailable is the label of an error of Introspect: what could not be relied
// on. It is never a verdict's reason.
func Unavailable(err error) string {
	switch {
	case errors.Is(err, revoke.ErrUnavailable):
		return "revocation_unavailable"
	case errors.Is(err, verify.ErrOverloaded):
		return "overloaded"
	}
	return "keys_unavailable"
}

// unrevoked is what is left of an answer once revocations are looked at. The
// error wraps revoke.ErrUnavailable.
func (in *Introspector) unrevoked(a Answer, now time.Time) (Answer, error) {
	if in.revocations == nil || !a.Active() {
		return a, nil
	}
	ids := a.identities()
	is, err := in.revocations.Revoked(now, a.entry.issuedAt(), ids[:ownSize], ids[ownSize:])
	switch {
	case err != nil:
		return Answer{issuer: a.issuer, ref: a.Ref()}, fmt.Errorf("a token of issuer %s: %w", a.Issuer(), err)
	case is:
		return Answer{issuer: a.issuer, reason: verify.Revoked, ref: a.Ref()}, nil
	}
	return a, nil
}

// ownSize is how much of its identities is an active token's alone: its digest
// and its jti.
const ownSize = 2 * markSize

// identities are all that revocations may know an active token by.
func (a Answer) identities() (ids [markSize + marksSize + markSize]byte) {
	token := revoke.OfToken([sha256.Size]byte(a.entry.input()))
	copy(ids[:], token[:])
	copy(ids[markSize:], a.entry.marks())
	copy(ids[markSize+marksSize:], a.issuer.identity[:])
	return ids
}

// withdrawnBy names the identities of a by which it is revoked, for people.
func (in *Introspector) withdrawnBy(a Answer, now time.Time) []string {
	var by []string
	ids := a.identities()
	words := slices.Concat([]string{"the token itself"}, markWords[:], []string{"its issuer"})
	for n, word := range words {
		own, shared := ids[n*markSize:][:markSize], []byte(nil)
		if n*markSize >= ownSize {
			own, shared = shared, own
		}
		if is, _ := in.revocations.Revoked(now, a.entry.issuedAt(), own, shared); is {
			by = append(by, word)
		}
	}
	return by
}

// Candidate is a token that somebody wants revoked.
type Candidate struct {
	// Answer is what anyone would be told now.
	Answer Answer
	// ClientID is the token's client as callers see it, also where the token is
	// not yet valid; empty unless it is Revocable.
	ClientID string
	// Doubt wraps revoke.ErrUnavailable where Answer could not be held against the
	// list of revocations; Answer is inactive then.
	Doubt error

	genuine Answer // without revocations, as of a time when it is valid
}

// Revocable says whether revoking the token means anything: it is genuine, makes
// a sound identity, and its time is not over.
func (c Candidate) Revocable() bool { return c.genuine.Active() }

// Candidate judges token for its revocation, past everything remembered. The
// error means that its issuer's keys can't be had, and then Answer names only
// the token and its issuer.
func (in *Introspector) Candidate(ctx context.Context, token string) (Candidate, error) {
	now := in.now()
	v, err := in.verifier.Verify(ctx, token, now)
	unjudged := Candidate{Answer: Answer{issuer: in.byVerifier[v.Issuer], ref: Ref{token: token}}}
	if err != nil {
		return unjudged, err
	}
	genuine, _ := in.answer(ctx, token, v, now)
	c := Candidate{Answer: genuine, genuine: genuine}
	if v.Reason == verify.NotYetValid {
		// What it says is only told of a valid one; one whose exp lies before
		// its beginning never becomes that.
		begins := v.Issuer.Begins(v.NotBefore, v.IssuedAt)
		if v, err = in.verifier.Verify(ctx, token, begins); err != nil {
			return unjudged, err
		}
		c.genuine, _ = in.answer(ctx, token, v, begins)
	}
	c.ClientID, _ = claims.String(c.genuine.Find("client_id"))
	c.Answer, c.Doubt = in.unrevoked(c.Answer, now)
	return c, nil
}

// ErrNotRevocable says that revoking a token would mean nothing.
var ErrNotRevocable = errors.New("the token is not one that can be revoked")

// afterlife is how long a revocation outlives the exp of what it withdraws: the
// largest leeway there is, since the present one may change (contract REV-06).
const afterlife = 300 * time.Second

// Revoke withdraws a token, asked by the caller of that id. Errors are those of
// revoke.List.Add; ErrNotRevocable for one that is not.
func (in *Introspector) Revoke(ctx context.Context, c Candidate, by string) (revoke.Revocation, error) {
	if !c.Revocable() {
		return revoke.Revocation{}, ErrNotRevocable
	}
	ids := []revoke.ID{revoke.OfToken([sha256.Size]byte(c.genuine.entry.input()))}
	if jti := revoke.ID(c.genuine.entry.marks()[markJTI*markSize:]); jti != (revoke.ID{}) {
		ids = append(ids, jti)
	}
	return in.add(ctx, revoke.Revocation{
		Kind: revoke.Token, IDs: ids, Issuer: c.genuine.issuer.iss, By: by,
		Expires: time.Unix(c.genuine.Expires(), 0).Add(afterlife),
	})
}

func (in *Introspector) add(ctx context.Context, r revoke.Revocation) (revoke.Revocation, error) {
	if in.revocations == nil {
		return r, revoke.ErrNoStore
	}
	return in.revocations.Add(ctx, r)
}

// Why a withdrawal is refused, beside the errors of revoke.List.Add.
var (
	// ErrNoIssuer says that no issuer is configured under the name.
	ErrNoIssuer = errors.New("there is no such issuer")
	// ErrNoTarget says that it is not said what is to be withdrawn.
	ErrNoTarget = errors.New("expected a jti, sub, sid, client_id or kid with its value, or an issuer")
)

// Withdrawal is what an operator takes back from an issuer's tokens (contract
// REV-07).
type Withdrawal struct {
	// Issuer is a configured name.
	Issuer string
	// Kind is one of JTI, Subject, Session, Client, KeyID and Issuer; Value is
	// what an issuer's tokens say there, and nothing for Issuer. A KeyID may also
	// be named by its thumbprint.
	Kind  revoke.Kind
	Value string
	// NotBefore spares tokens issued at or after it. The zero time means now,
	// but for a KeyID, of which nothing is spared then. A JTI has none.
	NotBefore time.Time
	// Expires ends a JTI's; the zero time means as late as a token can live whose
	// iat is good by now. One whose iat lies further ahead is not known here, and
	// needs an end that covers it, or to be revoked itself.
	Expires time.Time
	// By is the caller that asked.
	By string
}

// Withdraw adds the revocations that w asks for and returns them. Errors are
// ErrNoIssuer, ErrNoTarget and those of revoke.List.Add; with one that is not
// durable the others are added all the same.
func (in *Introspector) Withdraw(ctx context.Context, w Withdrawal) ([]revoke.Revocation, error) {
	i := in.byName[w.Issuer]
	if i == nil {
		return nil, ErrNoIssuer
	}
	now := in.now()
	r := revoke.Revocation{Kind: w.Kind, Issuer: i.iss, Value: w.Value, By: w.By}
	switch w.Kind {
	case revoke.JTI:
		r.Expires = w.Expires
		if r.Expires.IsZero() {
			r.Expires = i.lastOf(now.Add(afterlife)) // by the leeway, iat may be ahead
		}
	case revoke.Subject, revoke.Session, revoke.Client, revoke.Issuer:
		r.NotBefore = w.NotBefore
		if r.NotBefore.IsZero() {
			r.NotBefore = now
		}
		r.Expires = i.lastOf(r.NotBefore)
	case revoke.KeyID:
		r.NotBefore, r.Expires = w.NotBefore, revoke.Forever
		if !r.NotBefore.IsZero() {
			r.Expires = i.lastOf(r.NotBefore)
		}
	default:
		return nil, ErrNoTarget
	}
	if w.Kind == revoke.Issuer {
		r.Value = ""
	} else if w.Value == "" {
		return nil, ErrNoTarget
	}
	r.IDs = []revoke.ID{revoke.Of(w.Kind, i.iss, r.Value)}
	if w.Kind == revoke.KeyID {
		return in.addAll(ctx, i.withKeys(r, now))
	}
	return in.addAll(ctx, []revoke.Revocation{r})
}

// lastOf is when the last token that was issued until then is over.
func (i *issuer) lastOf(then time.Time) time.Time {
	if i.maxLifetime == 0 {
		return revoke.Forever
	}
	return then.Add(i.maxLifetime + afterlife)
}

// withKeys is the revocation of a kid for each present key that has it: a key
// can be published again under another. None of them may come back out of a
// store.
func (i *issuer) withKeys(r revoke.Revocation, now time.Time) []revoke.Revocation {
	var all, dropped []revoke.Revocation
	for _, k := range i.verify.Keys().State().Keys {
		if k.Kid == r.Value || k.Thumbprint.String() == r.Value {
			one := r
			one.IDs = []revoke.ID{r.IDs[0], revoke.OfKey(i.iss, k.Thumbprint)}
			all, dropped = append(all, one), append(dropped, i.dropped(k.Thumbprint, k.Thumbprint.String(), r.By, now))
		}
	}
	if len(all) == 0 {
		return []revoke.Revocation{r}
	}
	return append(all, dropped...)
}

// dropped keeps stores from bringing a key back that was fetched before now.
func (i *issuer) dropped(thumbprint [32]byte, name, by string, now time.Time) revoke.Revocation {
	return revoke.Revocation{
		Kind: revoke.DroppedKey, IDs: []revoke.ID{revoke.OfDroppedKey(i.iss, thumbprint)}, Issuer: i.iss, Value: name, By: by,
		NotBefore: now, Expires: now.Add(i.maxStale),
	}
}

// DropKeys keeps every store from bringing back the keys that an issuer has
// now; only the issuer itself can. Errors are those of Withdraw.
func (in *Introspector) DropKeys(ctx context.Context, issuer, by string) error {
	i := in.byName[issuer]
	if i == nil {
		return ErrNoIssuer
	}
	var all []revoke.Revocation
	for _, k := range i.verify.Keys().State().Keys {
		all = append(all, i.dropped(k.Thumbprint, k.Thumbprint.String(), by, in.now()))
	}
	_, err := in.addAll(ctx, all)
	return err
}

// addAll adds each of the revocations, as long as they hold at least here.
func (in *Introspector) addAll(ctx context.Context, all []revoke.Revocation) (added []revoke.Revocation, err error) {
	for _, r := range all {
		r, fault := in.add(ctx, r)
		err = errors.Join(err, fault)
		if fault != nil && !errors.Is(fault, revoke.ErrNotDurable) {
			break
		}
		added = append(added, r)
	}
	return added, err
}
