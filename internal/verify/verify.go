// Package verify decides whether a token is genuine, current and from an
// issuer we trust. It is the only package that looks inside an unverified
// token, and it never says why to anyone but its caller.
//
// # Decisions
//
// The library's parser is not used, its signing methods are. golang-jwt v5.3.1
// ignores crit, accepts line feeds inside a signature, lets the last of two
// equal members win and reads dates that wrap around; our own single pass
// refuses all that, and a second pass would only cost time. What is left to
// the library is what it is best at: the signature over exact bytes.
//
// A token is read only until it is known to be nobody's of ours, by none of its
// issuer's algorithms, or by none of its keys while none may be looked for: a flood of
// those costs 5 to 8 % less. Cost: that it is malformed behind its iss as well, nobody
// is told but, where only the key is unknown, whoever asks for an explanation.
//
// Everything that needs no key is looked at before the key: a token that would
// be refused anyway costs no signature check and no fetch (RFC 8725 section
// 3.10). Read is that part alone, for those who would ask elsewhere before they
// pay for a signature. Dates are judged after the signature, so that "expired"
// is only ever said of a genuine token.
//
// Headers are known by their whole segments. An issuer's tokens have the same
// header for as long as it signs by one key, and reading it costs a microsecond
// and a dozen objects. What a segment says is a function of its text alone, and
// genuine tokens alone add to the 256 that are known. Cost: a quarter of a MiB at
// most, and a hash of each header.
//
// New memory is cold, which is 4 % of a refusal, so that a token is read into
// memory that another was read into. Cost: a Reading, and the claims of its
// verdict, have an owner who must be done with them.
//
// Dear signatures are checked in turns. A check by ES512 or RSA-4096 takes ten to
// fifty times as long as one by RS256, and whoever has such a token, or the
// kid for a forged one, can send for as many as there are processors. So half of
// them is the most that dear checks get, issuers take turns, and what has no turn
// within a second is an error: we could not tell. Others never wait. On one
// processor it is half of the time: a dear check that follows another sooner than
// that one took first lets everything else run that is ready, and what has
// arrived. Cost: with nothing else to do,
// half of the processors stay idle in a flood of dear tokens; and a token that is
// forged under an issuer's dear key takes turns of that issuer's good ones.
package verify

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"

	"introspectd/internal/claims"
	"introspectd/internal/jwks"
)

// MaxToken is the length in bytes beyond which a token is not looked at.
const MaxToken = 16 << 10

// Step is how far the judgement of a token came.
type Step uint8

// The steps in the order in which they are taken.
const (
	Spelling Step = iota
	Header
	Payload
	IssuerKnown
	Algorithm
	Type
	Claims
	KeyFound
	Signature
	Times
	Done
)

// Verdict is the judgement of one token. The zero value is inactive.
type Verdict struct {
	// Active is true for a token that is genuine, current and from Issuer.
	Active bool
	// Reason, Step and Detail say why not, and where it showed; Detail is
	// fixed text that holds nothing of the token.
	Reason Reason
	Step   Step
	Detail string

	// Alg, Kid and Typ are what the header said, verified or not.
	Alg, Kid, Typ string
	// ClaimedIssuer is what iss said, verified or not.
	ClaimedIssuer string
	// Issuer is the configured issuer that iss named, nil when none.
	Issuer *Issuer
	// Key is the key that fitted kid and alg as of KeyAsOf, nil when none did.
	Key     *jwks.Key
	KeyAsOf time.Time

	// Claims is the verified map, only when Active.
	Claims claims.Set
	// Expires, NotBefore and IssuedAt are in seconds since 1970, rounded as
	// RFC 7662 answers them: exp and iat down, nbf up; 0 where absent.
	Expires, NotBefore, IssuedAt int64
}

// Verifier knows the trusted issuers. They never change, and it is safe for
// concurrent use.
type Verifier struct {
	issuers map[string]*Issuer
	turns   *Turns
	headers *headers
}

// New returns a Verifier that trusts the given issuers, whose iss differ, and
// takes the given turns.
func New(turns *Turns, issuers ...*Issuer) (*Verifier, error) {
	v := &Verifier{issuers: make(map[string]*Issuer, len(issuers)), turns: turns, headers: &headers{seed: maphash.MakeSeed()}}
	for _, i := range issuers {
		if i.config.Issuer == "" || v.issuers[i.config.Issuer] != nil {
			return nil, fmt.Errorf("issuer %q is empty or configured twice", i.config.Issuer)
		}
		v.issuers[i.config.Issuer] = i
	}
	return v, nil
}

// Verify judges token as of now. An error means that we could not tell: its
// issuer has no usable keys (jwks.ErrUnavailable), or its signature had no turn
// to be checked (ErrOverloaded). ctx ends the wait for a turn alone: that for
// keys has its own limit, and others may share it.
func (v *Verifier) Verify(ctx context.Context, token string, now time.Time) (Verdict, error) {
	r := Reading{verifier: v}
	r.verdict = r.read(v, token, true)
	return r.Verify(ctx, now)
}

// Reading is a token of which all was looked at that needs neither a key nor
// the time. What it says, and the claims of its verdict, are good until another
// token is read into it. It is not safe for concurrent use.
type Reading struct {
	room      room
	verdict   Verdict // final where it has a reason
	claims    claims.Set
	verifier  *Verifier
	head      string
	header    header
	method    jwt.SigningMethod
	input     string // header.payload
	signature string
}

// Refused says that the token is refused for what was found out until now.
func (r *Reading) Refused() bool { return r.verdict.Reason != NoReason }

// Forget leaves nothing of the token that was read, but room for the next: who
// still holds what it said holds nothing.
func (r *Reading) Forget() {
	r.room.clear()
	*r = Reading{room: r.room}
}

// Read takes token apart, into the Reading given, and refuses what no key could
// save. A token for whose kid there is no key, nor may be now, it refuses for that,
// where Verify might have found something else in what follows iss.
func (v *Verifier) Read(token string, into *Reading) {
	*into = Reading{room: into.room, verifier: v}
	into.verdict = into.read(v, token, false)
}

// read reads token, and whole where it may be one of an issuer of ours.
func (r *Reading) read(v *Verifier, token string, whole bool) Verdict {
	var out Verdict
	if !WellSpelled(token) {
		return out.refuse(Malformed, Spelling, "not three base64url segments within the size limit")
	}
	head, payload, signature := cut(token)
	r.input, r.signature = token[:len(head)+1+len(payload)], signature

	h, known := v.headers.find(head)
	problem := ""
	if !known {
		h, problem = r.room.readHeader(head)
	}
	r.head, r.header = head, h
	out.Alg, out.Kid, out.Typ = h.alg, h.kid, h.typ
	if problem != "" {
		return out.refuse(Malformed, Header, problem)
	}
	set, ok, err := r.room.decode(payload, func(name []byte, value jsontext.Value) bool {
		return string(name) == "iss" && v.stranger(value, &out, whole)
	})
	switch {
	case out.Reason != NoReason:
		return out
	case !ok:
		return out.refuse(Malformed, Payload, "the payload is not canonical base64url")
	case err != nil:
		out.Issuer, out.ClaimedIssuer = nil, "" // it may name several
		return out.refuse(Malformed, Payload, "the payload is not one strict JSON object")
	case out.Issuer == nil:
		return out.refuse(MissingClaim, Payload, "iss is absent or not a string")
	}
	r.claims = set
	issuer := out.Issuer
	r.method = issuer.algorithms[h.alg]
	if problem := issuer.wrongType(h, set); problem != "" {
		return out.refuse(WrongType, Type, problem)
	}
	if reason, problem := issuer.readRegistered(set, &out); reason != NoReason {
		return out.refuse(reason, Claims, problem)
	}
	return out
}

// stranger notes whose a token with this iss claims to be, and says whether it is
// refused for that: it is nobody's, not by one of the issuer's algorithms, or by none
// of its keys unless it has to be read whole. No more is read of such a token.
func (v *Verifier) stranger(value jsontext.Value, out *Verdict, whole bool) bool {
	iss, ok := claims.String(value)
	if !ok || iss == "" {
		return false
	}
	out.ClaimedIssuer = iss
	switch out.Issuer = v.issuers[iss]; {
	case out.Issuer == nil:
		*out = out.refuse(UnknownIssuer, IssuerKnown, "iss is not configured")
	case out.Issuer.algorithms[out.Alg] == nil:
		*out = out.refuse(AlgorithmNotAllowed, Algorithm, "alg is absent or not allowed for this issuer")
	case !whole && out.Issuer.keys.Strange(out.Kid):
		*out = out.refuse(UnknownKey, KeyFound, noKey)
	}
	return out.Reason != NoReason
}

// Look takes the key as of now, or refuses the token for it, if that can be told
// without a wait.
func (r *Reading) Look(now time.Time) {
	if r.Refused() {
		return
	}
	asOf, mayFetch := r.keyAsOf(now)
	if key, ok := r.verdict.Issuer.keys.AtHand(r.verdict.Kid, r.verdict.Alg, asOf, mayFetch); ok {
		r.verdict = r.verdict.found(key, asOf)
	}
}

// keyAsOf is the time at which the key has to be good, and whether it is worth a
// fetch. An expired token never causes one, whatever kid it invents. It is held
// against the keys of its own end: a certificate that has ended since must not
// make "unknown" of what is refused as expired anyway.
func (r *Reading) keyAsOf(now time.Time) (asOf time.Time, mayFetch bool) {
	if r.verdict.Expires <= r.verdict.Issuer.past(now) {
		return time.Unix(r.verdict.Expires, 0), false
	}
	return now, true
}

// found notes the key that fits kid and alg, nil for none.
func (v Verdict) found(key *jwks.Key, asOf time.Time) Verdict {
	v.Key, v.KeyAsOf = key, asOf
	switch {
	case key != nil:
		return v
	case v.Issuer.keys.Refuses(v.Kid, v.Alg):
		return v.refuse(KnownPublicKey, KeyFound, "the private half of the key is public, so anyone can sign with it")
	}
	return v.refuse(UnknownKey, KeyFound, noKey)
}

const noKey = "no key of this issuer fits kid and alg"

// Verify judges what was read, as Verifier.Verify does.
func (r *Reading) Verify(ctx context.Context, now time.Time) (Verdict, error) {
	if r.Refused() {
		return r.verdict, nil
	}
	out, issuer := r.verdict, r.verdict.Issuer
	if out.Key == nil {
		asOf, mayFetch := r.keyAsOf(now)
		key, err := issuer.keys.Find(context.WithoutCancel(ctx), out.Kid, out.Alg, asOf, mayFetch)
		if err != nil {
			out.Step, out.KeyAsOf = KeyFound, asOf
			return out, fmt.Errorf("looking for a key of issuer %s: %w", issuer.config.Name, err)
		}
		if out = out.found(key, asOf); key == nil {
			return out, nil
		}
	}
	sig, ok := r.room.behind(r.signature) // the claims lie in the payload
	if !ok {
		return out.refuse(Malformed, Spelling, "the signature is not canonical base64url"), nil
	}
	genuine, err := r.genuine(ctx, sig, out.Key)
	if err != nil {
		out.Step = Signature
		return out, err
	}
	if !genuine {
		return out.refuse(BadSignature, Signature, "the signature does not match"), nil
	}
	r.verifier.headers.keep(r.head, r.header)

	if reason, problem := issuer.judgeTimes(out.Expires, out.NotBefore, out.IssuedAt, now); reason != NoReason {
		return out.refuse(reason, Times, problem), nil
	}
	out.Active, out.Step, out.Claims = true, Done, r.claims
	return out, nil
}

// genuine says whether the signature is that of key, in its turn where it is dear
// to check.
func (r *Reading) genuine(ctx context.Context, signature []byte, key *jwks.Key) (bool, error) {
	if dear(r.verdict.Alg, key.Public) {
		issuer := r.verdict.Issuer.config.Name
		end, err := r.verifier.turns.Take(ctx, issuer)
		if err != nil {
			return false, fmt.Errorf("checking a signature of issuer %s: %w", issuer, err)
		}
		defer end()
	}
	return r.method.Verify(r.input, signature, key.Public) == nil, nil
}

func (v Verdict) refuse(r Reason, s Step, detail string) Verdict {
	v.Active, v.Claims = false, nil
	v.Reason, v.Step, v.Detail = r, s, detail
	return v
}

// WellSpelled says whether token is three non-empty segments of base64url
// characters joined by dots and no longer than MaxToken. It is asked before
// anything is hashed or parsed: a token has one spelling, or none.
func WellSpelled(token string) bool {
	if len(token) > MaxToken {
		return false
	}
	head, payload, signature := cut(token)
	return len(head)+len(payload)+len(signature)+2 == len(token) &&
		base64urlText(head) && base64urlText(payload) && base64urlText(signature)
}

// base64urlText says whether s is some characters of base64url and nothing else.
func base64urlText(s string) bool {
	if s == "" {
		return false
	}
	foreign := byte(0)
	for ; len(s) >= 4; s = s[4:] { // a third faster than one by one
		foreign |= notBase64url[s[0]] | notBase64url[s[1]] | notBase64url[s[2]] | notBase64url[s[3]]
	}
	for i := range len(s) {
		foreign |= notBase64url[s[i]]
	}
	return foreign == 0
}

// notBase64url is 1 for what is not in the alphabet: a sum over a segment needs
// no branch for each of its characters.
var notBase64url = func() (t [256]byte) {
	for c := range t {
		t[c] = 1
	}
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		t[c] = 0
	}
	return t
}()

// cut splits a well-spelled token at its dots.
func cut(token string) (head, payload, signature string) {
	head, rest, _ := strings.Cut(token, ".")
	payload, signature, _ = strings.Cut(rest, ".")
	return head, payload, signature
}

// SigningInput is the SHA-256 digest of header.payload, which names a token
// without its signature: ECDSA has two signatures for one signing input. Of
// text that is no token it is the digest of what stands before the last dot.
func SigningInput(token string) [sha256.Size]byte {
	if i := strings.LastIndexByte(token, '.'); i >= 0 {
		token = token[:i]
	}
	var room [2048]byte // for all but the largest, so that nothing is allocated
	return sha256.Sum256(append(room[:0], token...))
}
