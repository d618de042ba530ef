package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"introspectd/internal/devissuer"
)

// leeway is the issuer's, in the configuration of the replicas.
const leeway = time.Second

// token is one that is asked about, with what is the right answer.
type token struct {
	kind kind
	text string
	jti  string
	// from and until bound the time in which it is good; both zero: never.
	from, until time.Time
}

// inactive is the one answer to a token that is not good.
const inactive = `{"active":false}`

// rightly says whether body is a right answer to a question that was asked
// and answered at these times. An answer about another token is as wrong as
// one that takes a bad token for good.
func (t token) rightly(body []byte, asked, answered time.Time) bool {
	if string(body) == inactive {
		return t.until.IsZero() || asked.Before(t.from) || !answered.Before(t.until)
	}
	good := !t.until.IsZero() && !answered.Before(t.from.Add(-leeway)) && !asked.After(t.until.Add(leeway))
	return good && bytes.HasPrefix(body, []byte(`{"active":true,`)) && bytes.Contains(body, []byte(`"jti":"`+t.jti+`"`))
}

// kind is what a token is to those who judge it.
type kind int

const (
	known     kind = iota // asked about again and again: remembered
	elsewhere             // another replica was asked about it lately: in Redis, if anywhere
	fresh                 // never seen before
	passing               // begins and ends to be good while it is remembered
	forged                // signed by somebody else, under a published kid
	expired
	revoked
)

func (k kind) String() string {
	return [...]string{"known", "elsewhere", "fresh", "passing", "forged", "expired", "revoked"}[k]
}

// shares are those of the kinds, in a hundred.
var shares = [...]struct {
	kind  kind
	share int
}{{known, 66}, {elsewhere, 10}, {fresh, 12}, {passing, 4}, {forged, 3}, {expired, 2}, {revoked, 3}}

// claims make a token about as long as those of real issuers, 900 bytes.
var claims = map[string]any{
	"scope": "orders:read orders:write invoices:read profile email", "preferred_username": "amy.pond@customer.example",
	"email": "amy.pond@customer.example", "email_verified": true, "azp": "storefront", "sid": "8f14e45f-ceea-467f-a0e6-0a1b2c3d4e5f",
	"groups": []string{"customers", "newsletter", "beta-testers"}, "tenant": "customer-0042", "locale": "en-GB", "auth_time": 1_790_000_000,
}

// deck holds the tokens of a run and deals them out. dealt is safe for
// concurrent use.
type deck struct {
	issuer                  *devissuer.Issuer
	forger                  *devissuer.Key
	known, expired, revoked []token
	// lately has, for each replica, what it was the first to be asked about.
	lately []latest
}

// latest is a ring of tokens.
type latest struct {
	next   atomic.Uint64
	tokens [2048]atomic.Pointer[token]
}

// newDeck mints what is asked about more than once. The issuer signs by ES256,
// which is cheap enough to mint new tokens under load, and RS256.
func newDeck(issuer *devissuer.Issuer, replicas int) *deck {
	d := &deck{issuer: issuer, forger: devissuer.NewKey("ES256"), lately: make([]latest, replicas)}
	d.forger.Kid = issuer.Key("ES256").Kid
	rs256, now := issuer.Key("RS256"), time.Now()
	for range 256 {
		d.known = append(d.known, d.mint(known, rs256, now, now.Add(time.Hour)))
	}
	for range 64 {
		old := d.mint(expired, rs256, now.Add(-2*time.Hour), now.Add(-time.Hour))
		d.expired = append(d.expired, never(old))
		d.revoked = append(d.revoked, d.mint(revoked, issuer.Key("ES256"), now, now.Add(time.Hour)))
	}
	return d
}

// never is a token that is not good at any time.
func never(t token) token {
	t.from, t.until = time.Time{}, time.Time{}
	return t
}

// mint makes a token that is good from one whole second until another.
func (d *deck) mint(k kind, key *devissuer.Key, from, until time.Time) token {
	from, until = from.Truncate(time.Second), until.Truncate(time.Second)
	t := token{kind: k, jti: rand.Text(), from: from, until: until}
	own := maps.Clone(claims)
	own["jti"], own["nbf"], own["exp"] = t.jti, from.Unix(), until.Unix()
	own["iat"] = min(from.Unix(), time.Now().Unix())
	t.text = d.issuer.MintBy(key, own)
	return t
}

// deal is the next token that a worker asks the replica about; own are the
// passing tokens of that worker.
func (d *deck) deal(random *mrand.Rand, replica int, own []token) token {
	now := time.Now()
	switch k := pick(random); k {
	case elsewhere:
		other := &d.lately[(replica+1)%len(d.lately)]
		if t := other.tokens[random.IntN(len(other.tokens))].Load(); t != nil {
			again := *t
			again.kind = elsewhere
			return again
		}
	case fresh:
		t := d.mint(fresh, d.issuer.Key("ES256"), now, now.Add(time.Hour))
		own := &d.lately[replica]
		own.tokens[own.next.Add(1)%uint64(len(own.tokens))].Store(&t)
		return t
	case passing:
		t := &own[random.IntN(len(own))]
		if now.After(t.until.Add(2 * leeway)) {
			begins := time.Duration(random.IntN(4)) * time.Second
			lives := time.Duration(2+random.IntN(4)) * time.Second
			*t = d.mint(passing, d.issuer.Key("ES256"), now.Add(begins), now.Add(begins+lives))
		}
		return *t
	case forged:
		return never(d.mint(forged, d.forger, now, now.Add(time.Hour)))
	case expired:
		return d.expired[random.IntN(len(d.expired))]
	case revoked:
		if len(d.revoked) > 0 {
			return d.revoked[random.IntN(len(d.revoked))]
		}
	}
	return d.known[random.IntN(len(d.known))]
}

func pick(random *mrand.Rand) kind {
	n := random.IntN(100)
	for _, s := range shares {
		if n < s.share {
			return s.kind
		}
		n -= s.share
	}
	panic("loadtest: the shares are not a hundred")
}

// stranger is a token under a kid that the issuer never published.
func (d *deck) stranger() token {
	key := devissuer.NewKey("ES256")
	return never(d.mint(forged, key, time.Now(), time.Now().Add(time.Hour)))
}

// issuer is a development issuer on loopback that can be taken away.
type issuer struct {
	*devissuer.Issuer
	address string
	server  *http.Server
}

func newIssuer(algs ...string) (*issuer, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	i := &issuer{Issuer: devissuer.New("http://"+address, algs...), address: address}
	return i, i.up()
}

// url is its identifier, and where its keys are.
func (i *issuer) url() string { return "http://" + i.address }

// up lets it listen where it did before.
func (i *issuer) up() error {
	socket, err := new(net.ListenConfig).Listen(context.Background(), "tcp", i.address)
	if err != nil {
		return fmt.Errorf("the issuer can't listen: %w", err)
	}
	i.server = &http.Server{Handler: i.Handler(), ReadHeaderTimeout: 5 * time.Second}
	go func(s *http.Server) { _ = s.Serve(socket) }(i.server) // ends with down
	return nil
}

// down ends its connections; from then on they are refused.
func (i *issuer) down() { _ = i.server.Close() }
