package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
)

// axes are those along which cost may grow.
var axes = []struct {
	name string
	run  func(*bench, context.Context) (section, error)
}{
	{"issuers", (*bench).byIssuers},
	{"callers", (*bench).byCallers},
	{"verdicts", (*bench).byTokens},
	{"revocations", (*bench).byRevocations},
	{"replicas", (*bench).byReplicas},
}

// scale shows how cost grows: each axis, with all else as it is by default.
func (b *bench) scale(ctx context.Context) ([]section, error) {
	var all []section
	for _, axis := range axes {
		if !b.wanted(axis.name) {
			continue
		}
		s, err := axis.run(b, ctx)
		b.stopServers()
		all = append(all, s)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// along measures hits of variants along an axis, and holds them against the
// first.
func (b *bench) along(ctx context.Context, axis string, lanes []*lane) (section, error) {
	f, all, err := b.measure(ctx, lanes...)
	s := section{Mode: "scale: " + axis, Figures: all}
	for _, l := range lanes[1:] {
		if err == nil {
			s.Goals = append(s.Goals, atMost("scale", l.name+": CPU of a hit against "+lanes[0].name, 1.10, ratio(f[l.name], f[lanes[0].name])))
		}
	}
	return s, err
}

// mostIssuers is the end of their axis.
const mostIssuers = 1000

// byIssuers asks about tokens of all issuers, in no order.
func (b *bench) byIssuers(ctx context.Context) (section, error) {
	var lanes []*lane
	for _, n := range []int{1, 10, 100, mostIssuers} {
		var rows strings.Builder
		var tokens []token
		for i := range n {
			iss := fmt.Sprintf("%s/other/%03d", b.issuer.url(), i)
			fmt.Fprintf(&rows, "  - {name: other-%d, issuer: %s, keys: {jwks_url: %s/jwks.json}}\n", i, iss, b.issuer.url())
			tokens = append(tokens, b.deck.mintBy(b.issuer.Key("EdDSA"), b.tokens/n, map[string]any{"iss": iss})...)
		}
		rand.Shuffle(len(tokens), func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })
		name := fmt.Sprintf("%d issuers", n)
		more, err := b.hits(ctx, variant{name: name, issuers: rows.String()}, name, "")
		if err != nil {
			return section{}, err
		}
		more[0].requests, more[0].right = introspectRequests(more[0].server.address, "/introspect", b.secret, tokens), tells(tokens)
		lanes = append(lanes, more...)
	}
	return b.along(ctx, "issuers", lanes)
}

// byCallers has all callers ask, in turn.
func (b *bench) byCallers(ctx context.Context) (section, error) {
	var lanes []*lane
	for _, n := range []int{1, 100, 10_000} {
		var rows strings.Builder
		callers := make([]string, n) // as HTTP Basic has it: each id is its own secret
		for i := range n {
			id := fmt.Sprintf("app-%028d", i)
			callers[i] = basic(id, id)
			fmt.Fprintf(&rows, "  - {id: %s, secrets: [{sha256: \"%x\"}], may: [introspect], any_issuer: true, any_audience: true}\n", id, sha256.Sum256([]byte(id)))
		}
		name := fmt.Sprintf("%d callers", n)
		more, err := b.hits(ctx, variant{name: name, callers: rows.String()}, name, "")
		if err != nil {
			return section{}, err
		}
		more[0].requests = nil
		for i, t := range b.deck.good {
			more[0].requests = append(more[0].requests, introspectRequest(more[0].server.address, "/introspect", callers[i%n], t))
		}
		lanes = append(lanes, more...)
	}
	return b.along(ctx, "callers", lanes)
}

// byTokens asks about the same tokens beside ever more others. Beyond a hundred
// thousand, cost is in misses of the processor's own cache.
func (b *bench) byTokens(ctx context.Context) (section, error) {
	size := fmt.Sprintf("%dMiB", max(b.most*2/1000, 256))
	var lanes []*lane
	for _, n := range []int{0, b.most / 10, b.most} {
		name := fmt.Sprintf("%d more verdicts", n)
		more, err := b.hits(ctx, variant{name: name, size: size}, name, "")
		if err != nil {
			return section{}, err
		}
		if err := b.fill(ctx, more[0].server, "/introspect", n, tellsActive); err != nil {
			return section{}, fmt.Errorf("filling the cache: %w", err)
		}
		lanes = append(lanes, more...)
	}
	return b.along(ctx, "remembered verdicts", lanes)
}

// byRevocations has ever more tokens revoked that are not asked about.
func (b *bench) byRevocations(ctx context.Context) (section, error) {
	var lanes []*lane
	for _, n := range []int{0, b.most / 10, b.most} {
		name := fmt.Sprintf("%d revocations", n)
		v := variant{name: name, more: fmt.Sprintf("state: {path: %s/state-%d}\n", b.dir, n)}
		more, err := b.hits(ctx, v, name, "")
		if err != nil {
			return section{}, err
		}
		if err := b.fill(ctx, more[0].server, "/revoke", n, status(http.StatusOK)); err != nil {
			return section{}, fmt.Errorf("revoking: %w", err)
		}
		lanes = append(lanes, more...)
	}
	return b.along(ctx, "revocations", lanes)
}

// batch is how many tokens are minted at once for filling.
const batch = 20_000

// fill asks once about each of n new tokens.
func (b *bench) fill(ctx context.Context, s *server, path string, n int, right func(int, answer) bool) error {
	for done := 0; done < n; done += batch {
		tokens := b.deck.mint("EdDSA", min(batch, n-done))
		got, err := load{
			address: s.address, connections: 64, requests: introspectRequests(s.address, path, b.secret, tokens), once: true, right: right,
		}.run(ctx, b.loadCPU)
		if err := errors.Join(err, got.allRight()); err != nil {
			return err
		}
		b.say("%s %s: %d of %d", s.name, path, done+len(tokens), n)
	}
	return nil
}

// byReplicas has ever more replicas on one redis-server, each with an equal
// share of the requests; the CPU is that of all of them. They share one
// processor, so that it shows what a replica costs the others, not how far
// more of them go.
func (b *bench) byReplicas(ctx context.Context) (section, error) {
	var lanes []*lane
	for _, n := range []int{1, 2, 4} {
		r, err := b.redis()
		if err != nil {
			return section{}, err
		}
		word := "replicas"
		if n == 1 {
			word = "replica"
		}
		var l *lane
		for i := range n {
			v := variant{name: fmt.Sprintf("%d of %d %s", i+1, n, word), redis: r.Addr, size: "64MiB"}
			more, err := b.hits(ctx, v, fmt.Sprintf("%d %s", n, word), "")
			if err != nil {
				return section{}, err
			}
			if l == nil {
				l = more[0]
			} else {
				l.besides = append(l.besides, more[0].server)
			}
		}
		lanes = append(lanes, l)
	}
	return b.along(ctx, "replicas", lanes)
}
