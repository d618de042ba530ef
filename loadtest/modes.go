package main

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// The names of lanes that goals are about.
const (
	ginPost, ginAuth, httpPost    = "bare gin, POST", "bare gin, GET /auth", "bare net/http, POST"
	hitPost, hitPostDefault       = "hit, POST, telemetry off", "hit, POST, default telemetry"
	hitAuth, hitAuthDefault       = "hit, GET /auth, telemetry off", "hit, GET /auth, default telemetry"
	rawVerify                     = "raw RS256 verification"
	firstSight, firstSightDefault = "first sight, telemetry off", "first sight, default telemetry"
	noCache, firstSightRedis      = "first sight, caches off", "first sight, with redis"
	smallCache                    = "large tokens in turn, 2 × the process cache"
	mixOff, mixDefault            = "mix, telemetry off", "mix, default telemetry"
	largeFirst                    = "large tokens, first sight"
	redisHit                      = "hit in redis, POST"
	redisUp, redisHung, redisGone = "redis up", "redis hung", "redis gone"
	hitWord, firstWord            = ": hit", ": first sight"
)

// yardsticks starts the bare servers, and has lanes for them that carry the
// same tokens.
func (b *bench) yardsticks(ctx context.Context, names ...string) (lanes []*lane, err error) {
	started := map[string]*server{}
	for _, name := range names {
		if name != ginAuth && b.answer == 0 {
			return nil, errors.New("it is not known how much a bare server has to answer")
		}
		kind := "gin"
		if name == httpPost {
			kind = "net/http"
		}
		s := started[kind]
		if s == nil {
			if s, err = b.yardstick(ctx, kind); err != nil {
				return nil, err
			}
			started[kind] = s
		}
		l := &lane{name: name, server: s, requests: introspectRequests(s.address, "/introspect", b.secret, b.deck.good), right: status(200)}
		if name == ginAuth {
			l.requests = authRequests(s.address, "/auth", b.deck.good)
		}
		lanes = append(lanes, l)
	}
	return lanes, nil
}

// hits are lanes of an introspectd that remembers all tokens.
func (b *bench) hits(ctx context.Context, v variant, post, auth string) (lanes []*lane, err error) {
	s, err := b.introspectd(ctx, v)
	if err != nil {
		return nil, err
	}
	if post != "" {
		lanes = append(lanes, &lane{name: post, server: s, requests: introspectRequests(s.address, "/introspect", b.secret, b.deck.good), right: tells(b.deck.good)})
	}
	if auth != "" {
		lanes = append(lanes, &lane{name: auth, server: s, requests: authRequests(s.address, "/auth", b.deck.good), right: tellsSubject(b.deck.good)})
	}
	return lanes, nil
}

// firstSights is a lane in which every token is new.
func (b *bench) firstSights(ctx context.Context, name string, v variant) (*lane, error) {
	s, err := b.introspectd(ctx, v)
	if err != nil {
		return nil, err
	}
	return &lane{
		name: name, server: s, requests: introspectRequests(s.address, "/introspect", b.secret, b.deck.good), right: tells(b.deck.good),
		once: true, reset: b.forget(s, v),
	}, nil
}

// size finds out how many bytes introspectd answers, for the yardsticks.
func (b *bench) size(ctx context.Context, s *server) (err error) {
	b.answer, err = b.one(ctx, s, introspectRequests(s.address, "/introspect", b.secret, b.deck.good[:1])[0])
	return err
}

// one sends one request and returns the size of the body.
func (b *bench) one(ctx context.Context, s *server, request []byte) (size int, err error) {
	_, err = load{address: s.address, connections: 1, requests: [][]byte{request}, once: true, right: func(_ int, a answer) bool {
		size = len(a.body)
		return true
	}}.run(ctx, b.loadCPU)
	return size, err
}

// hit is P1, P2 and P3.
func (b *bench) hit(ctx context.Context) ([]section, error) {
	defer b.stopServers()
	off, err := b.hits(ctx, variant{name: "off"}, hitPost, hitAuth)
	if err != nil {
		return nil, err
	}
	if err := b.size(ctx, off[0].server); err != nil {
		return nil, err
	}
	on, err := b.hits(ctx, variant{name: "default", telemetry: true}, hitPostDefault, hitAuthDefault)
	if err != nil {
		return nil, err
	}
	bare, err := b.yardsticks(ctx, ginPost, ginAuth, httpPost)
	if err != nil {
		return nil, err
	}
	f, all, err := b.measure(ctx, append(append(bare, off...), on...)...)
	s := section{Mode: "hit", Figures: all}
	if err == nil {
		s.Goals = []goal{
			atLeast("P1", "hit, POST /introspect, telemetry off: capacity against bare gin", 0.80, ratio(f[ginPost], f[hitPost])),
			atLeast("P2", "hit, POST /introspect, default telemetry: the same", 0.65, ratio(f[ginPost], f[hitPostDefault])),
			atLeast("P3", "hit, GET /auth, telemetry off: capacity against bare gin", 0.82, ratio(f[ginAuth], f[hitAuth])),
			atLeast("P3", "hit, GET /auth, default telemetry: the same", 0.65, ratio(f[ginAuth], f[hitAuthDefault])),
		}
	}
	return []section{s}, err
}

// miss is P5, P6 without Redis, and P12.
func (b *bench) miss(ctx context.Context) ([]section, error) {
	defer b.stopServers()
	verify, err := b.rawVerification()
	if err != nil {
		return nil, err
	}
	lanes := []*lane{verify}
	for _, row := range []struct {
		name string
		variant
	}{
		{firstSight, variant{name: "off"}},
		{firstSightDefault, variant{name: "default", telemetry: true}},
		{noCache, variant{name: "no cache", size: "0KiB"}},
	} {
		l, err := b.firstSights(ctx, row.name, row.variant)
		if err != nil {
			return nil, err
		}
		lanes = append(lanes, l)
	}
	large, err := b.beyondTheCache(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.size(ctx, lanes[1].server); err != nil {
		return nil, err
	}
	bare, err := b.yardsticks(ctx, ginPost)
	if err != nil {
		return nil, err
	}
	f, all, err := b.measure(ctx, append(append(lanes, large...), bare...)...)
	s := section{Mode: "miss", Figures: all}
	if err == nil {
		s.Goals = []goal{
			atMost("P5", "first sight of an RS256 token: CPU as a multiple of the raw verification", 2.1, ratio(f[firstSight], f[rawVerify])),
			atMost("P6", "all tokens distinct: caches on against caches off", 1.05, ratio(f[firstSight], f[noCache])),
			atMost("P12", "a working set beyond the process cache, against plain first sight", 1.08, ratio(f[smallCache], f[largeFirst])),
		}
		floor := f[ginPost].CPU + f[rawVerify].CPU
		s.note("first sight against bare gin and the raw verification together, below which it can't go: %.2f, and P5 would be %.2f there", f[firstSight].CPU/floor, floor/f[rawVerify].CPU)
	}
	return []section{s}, err
}

// beyondTheCache asks about twice as many tokens as the smallest process cache
// holds, in turn: every look-up is in vain, and every verdict takes the place
// of another. Ten times as many would do the same, and take longer to mint. The
// tokens are large, so that they are few. Beside it is a lane of the same
// tokens in which nothing is thrown away.
func (b *bench) beyondTheCache(ctx context.Context) ([]*lane, error) {
	const many, few = 36_000, 3000
	tokens := b.deck.mintBy(b.issuer.Key("EdDSA"), many, map[string]any{"note": strings.Repeat("x", 3000)})
	small, err := b.introspectd(ctx, variant{name: "small", size: "64MiB"})
	if err != nil {
		return nil, err
	}
	v := variant{name: "large"}
	large, err := b.introspectd(ctx, v)
	if err != nil {
		return nil, err
	}
	return []*lane{
		{name: smallCache, server: small, requests: introspectRequests(small.address, "/introspect", b.secret, tokens), right: tells(tokens), onward: true},
		{
			name: largeFirst, server: large, requests: introspectRequests(large.address, "/introspect", b.secret, tokens[:few]), right: tells(tokens[:few]),
			once: true, reset: b.forget(large, v),
		},
	}, nil
}

// rawVerification is what crypto/rsa and the digest take, and nothing else.
func (b *bench) rawVerification() (*lane, error) {
	public := b.issuer.Key("RS256").Signer.Public().(*rsa.PublicKey)
	at := strings.LastIndexByte(b.deck.good[0].text, '.')
	input := []byte(b.deck.good[0].text[:at])
	signature, err := base64.RawURLEncoding.DecodeString(b.deck.good[0].text[at+1:])
	if err != nil {
		return nil, err
	}
	return &lane{name: rawVerify, work: func() {
		digest := sha256.Sum256(input)
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil {
			panic("loadtest: a good signature: " + err.Error())
		}
	}}, nil
}

// refuse is P11.
func (b *bench) refuse(ctx context.Context) ([]section, error) {
	defer b.stopServers()
	s, err := b.introspectd(ctx, variant{name: "off"})
	if err != nil {
		return nil, err
	}
	defer func(was int) { b.answer = was }(b.answer)
	b.answer = len(inactive)
	lanes, err := b.yardsticks(ctx, ginPost)
	if err != nil {
		return nil, err
	}
	for _, kind := range append(refusals, "bad signature") {
		tokens := b.deck.bad(kind, 2000)
		lanes = append(lanes, &lane{name: kind, server: s, requests: introspectRequests(s.address, "/introspect", b.secret, tokens), right: refused})
	}
	before := b.issuer.Requests()
	f, all, err := b.measure(ctx, lanes...)
	fetched := b.issuer.Requests() - before
	out := section{Mode: "refuse", Figures: all}
	if err == nil {
		for _, kind := range refusals {
			out.Goals = append(out.Goals, atMost("P11", "refusing, "+kind+": CPU against bare gin", 1.35, ratio(f[kind], f[ginPost])))
		}
		n := float64(max(f["unknown kid"].Requests, 1))
		out.Goals = append(out.Goals, atMost("P11", "key fetches per thousand requests with an unknown kid", 1, float64(fetched)*1000/n))
		out.note("the issuer was asked for its keys %d times", fetched)
	}
	return []section{out}, err
}

// mix is a load as callers send it: 92 % again and again, 5 % new, 3 % bad.
func (b *bench) mix(ctx context.Context) ([]section, error) {
	defer b.stopServers()
	known := b.deck.good[:len(b.deck.good)*9/10]
	fresh := b.deck.good[len(known):]
	bad := b.deck.bad("unknown kid", len(fresh)/2)
	var tokens []token
	for i := range len(fresh) * 100 / 5 {
		t := known[i*7919%len(known)]
		switch {
		case i%20 == 3:
			t = fresh[i/20]
		case i%100 >= 97:
			t = bad[i%len(bad)]
		}
		tokens = append(tokens, t)
	}
	var lanes []*lane
	good := tells(tokens)
	for _, v := range []variant{{name: mixOff}, {name: mixDefault, telemetry: true}} {
		s, err := b.introspectd(ctx, v)
		if err != nil {
			return nil, err
		}
		requests := introspectRequests(s.address, "/introspect", b.secret, tokens)
		lanes = append(lanes, &lane{
			name: v.name, server: s, once: true, requests: requests,
			reset: b.forgetAllBut(s, v, known),
			right: func(n int, a answer) bool {
				if tokens[n].kind == forged {
					return refused(n, a)
				}
				return good(n, a)
			},
		})
	}
	if err := b.size(ctx, lanes[0].server); err != nil {
		return nil, err
	}
	bare, err := b.yardsticks(ctx, ginPost)
	if err != nil {
		return nil, err
	}
	f, all, err := b.measure(ctx, append(bare, lanes...)...)
	s := section{Mode: "mix", Figures: all}
	if err == nil {
		s.note("capacity against bare gin: %.2f with telemetry off, %.2f by default", ratio(f[ginPost], f[mixOff]), ratio(f[ginPost], f[mixDefault]))
	}
	return []section{s}, err
}

// forgetAllBut has a server forget all and then see some tokens again.
func (b *bench) forgetAllBut(s *server, v variant, known []token) func(context.Context) error {
	forget, requests := b.forget(s, v), introspectRequests(s.address, "/introspect", b.secret, known)
	return func(ctx context.Context) error {
		if err := forget(ctx); err != nil {
			return err
		}
		got, err := load{address: s.address, connections: 8, requests: requests, once: true, right: tells(known)}.run(ctx, b.loadCPU)
		return errors.Join(err, got.allRight())
	}
}

// atRate is P13: what a caller waits at a rate that leaves most of a processor
// idle.
func (b *bench) atRate(ctx context.Context) ([]section, error) {
	defer b.stopServers()
	defer func(was float64) { b.rate = was }(b.rate)
	if b.rate == 0 {
		b.rate = 2000
	}
	off, err := b.hits(ctx, variant{name: "off"}, hitPost, "")
	if err != nil {
		return nil, err
	}
	if err := b.size(ctx, off[0].server); err != nil {
		return nil, err
	}
	on, err := b.hits(ctx, variant{name: "default", telemetry: true}, hitPostDefault, "")
	if err != nil {
		return nil, err
	}
	lanes, err := b.yardsticks(ctx, ginPost)
	if err != nil {
		return nil, err
	}
	f, all, err := b.measure(ctx, append(append(lanes, off...), on...)...)
	s := section{Mode: fmt.Sprintf("rate, %.0f/s", b.rate), Figures: all}
	if err == nil {
		over := func(v, base int64) float64 { return float64(v) / float64(max(base, 1)) }
		bare, ours := f[ginPost].Latency, f[hitPost].Latency
		s.Goals = []goal{
			atMost("P13", "hit at a fixed rate: p50 against bare gin", 1.10, over(ours.P50, bare.P50)),
			atMost("P13", "hit at a fixed rate: p99 against bare gin", 1.5, over(ours.P99, bare.P99)),
		}
	}
	return []section{s}, err
}
