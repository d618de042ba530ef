package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"
	"time"
)

// peerFiles are the configurations of peers.
//
//go:embed peers/*.cfg peers/*.conf peers/*.rego peers/node/*.mjs peers/node/*.json
var peerFiles embed.FS

// opaVersion is the one that is built where there is no opa.
const opaVersion = "v1.22.2"

// The lanes of peers.
const (
	haproxy, fastify, fastifyNoCache = "haproxy", "fastify + fast-jwt, cache", "fastify + fast-jwt, no cache"
	apache, expressAuth, expressPost = "mod_auth_openidc", "express + jose, GET", "express + jose, POST"
	opa                              = "opa"
)

// peer is another program that judges tokens, as its users would set it up.
type peer struct {
	name string
	// from says where it comes from, for those who lack it.
	from string
	// recipe says how it is started; an error that is errMissing leaves it out.
	recipe func(in *peerRun, ctx context.Context, address string) (recipe, error)
	// requests and its two kinds of answers.
	requests func(address, secret string, tokens []token) [][]byte
	good     func(tokens []token) func(n int, a answer) bool
	evil     func(n int, a answer) bool
}

// peerRun is what peers are given.
type peerRun struct {
	*bench
	dir                                string // others can read it
	Dir, Address, Issuer, Kid, Modules string
	PublicKey, Certificate             string // paths
	Root                               bool
	nodeModules                        string // with the modules of peers/node; empty: not yet
}

// peerRows are all peers that can be had without a download by hand, for so many
// tokens.
func peerRows(tokens int) []peer {
	auth := func(address, _ string, tokens []token) [][]byte { return authRequests(address, "/auth", tokens) }
	form := func(address, secret string, tokens []token) [][]byte {
		return introspectRequests(address, "/introspect", secret, tokens)
	}
	node := func(script string, env ...string) func(*peerRun, context.Context, string) (recipe, error) {
		return func(in *peerRun, ctx context.Context, address string) (recipe, error) {
			return in.node(ctx, address, script, env...)
		}
	}
	// Apache tells the subject to who is behind it, and not to who asks.
	passes := func([]token) func(int, answer) bool { return status(http.StatusOK) }
	const npm = "npm: " + "npm ci in loadtest/peers/node, which this mode does by itself where there is an npm"
	return []peer{
		{haproxy, "apt install haproxy (2.5 or newer)", (*peerRun).haproxy, auth, tellsSubject, status(401)},
		{apache, "apt install apache2 libapache2-mod-auth-openidc", (*peerRun).apache, auth, passes, status(401)},
		{fastify, npm, node("fastify.mjs", fmt.Sprintf("CACHE=%d", max(20_000, 2*tokens))), auth, tellsSubject, status(401)},
		{fastifyNoCache, npm, node("fastify.mjs"), auth, tellsSubject, status(401)},
		{expressAuth, npm, node("express.mjs"), auth, tellsSubject, status(401)},
		{expressPost, npm, node("express.mjs"), form, tells, refused},
		{opa, "go install github.com/open-policy-agent/opa@" + opaVersion + ", which this mode does by itself", (*peerRun).opa, opaRequests, opaAllows, opaRefuses},
	}
}

// peers is P7, P8 and P9, as far as the peers can be had here.
func (b *bench) peers(ctx context.Context) ([]section, error) {
	defer b.stopServers()
	s := section{Mode: "peers"}
	lanes, err := b.ours(ctx)
	if err != nil {
		return nil, err
	}
	bare, err := b.yardsticks(ctx, ginAuth)
	if err != nil {
		return nil, err
	}
	lanes = append(lanes, bare...)
	in, err := b.peerRun()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(in.dir)
	for _, p := range peerRows(b.tokens) {
		l, err := in.start(ctx, p)
		if err != nil {
			b.say("%s is left out: %v", p.name, err)
			s.note("NOT RUN: %s: %v (%s)", p.name, err, p.from)
			continue
		}
		lanes = append(lanes, l)
	}
	f, all, err := b.measure(ctx, lanes...)
	s.Figures = all
	for _, l := range lanes {
		if l.failed != nil {
			s.note("BROKE OFF: %v", l.failed)
		}
	}
	if err == nil {
		s.Goals = peerGoals(f)
		for _, p := range peerRows(b.tokens) {
			if f[p.name] != nil {
				s.note("bare gin, which judges nothing, against %s: %.2f", p.name, ratio(f[p.name], f[ginAuth]))
			}
		}
	}
	return []section{s}, err
}

// ours are the lanes that peers are held against.
func (b *bench) ours(ctx context.Context) ([]*lane, error) {
	off, err := b.hits(ctx, variant{name: "off"}, "", hitAuth)
	if err != nil {
		return nil, err
	}
	on, err := b.hits(ctx, variant{name: "default", telemetry: true}, "", hitAuthDefault)
	if err != nil {
		return nil, err
	}
	first, err := b.firstSights(ctx, firstSight, variant{name: "first"})
	return append(append(off, on...), first), err
}

// peerGoals are those about peers that were measured.
func peerGoals(f map[string]*figure) (goals []goal) {
	for _, row := range []struct {
		id, peer, ours string
		want           float64
	}{
		{"P7", fastify, hitAuthDefault, 1.05},
		{"P7", fastify, hitAuth, 1.3},
		{"P8", haproxy, hitAuthDefault, 1.8},
		{"P8", apache, hitAuthDefault, 3.6},
		{"P8", opa, hitAuthDefault, 6.6},
		{"P9", apache, firstSight, 1.5},
		{"P9", opa, firstSight, 2.7},
		{"P9", expressPost, firstSight, 3.7},
		{"P9", haproxy, firstSight, 0.72},
	} {
		if f[row.peer] != nil {
			goals = append(goals, atLeast(row.id, row.ours+": capacity against "+row.peer, row.want, ratio(f[row.peer], f[row.ours])))
		}
	}
	return goals
}

// peerRun makes what peers read: the issuer's key as a key and as a
// certificate. Some of them don't run as root, so others may read it.
func (b *bench) peerRun() (*peerRun, error) {
	dir, err := os.MkdirTemp("", "introspectd-loadtest-peers-")
	if err != nil {
		return nil, err
	}
	key := b.issuer.Key("RS256")
	in := &peerRun{
		bench: b, dir: dir, Dir: dir, Issuer: b.issuer.url(), Kid: key.Kid, Modules: "/usr/lib/apache2/modules", Root: os.Getuid() == 0,
		PublicKey: filepath.Join(dir, "key.pem"), Certificate: filepath.Join(dir, "certificate.pem"),
	}
	public, err := x509.MarshalPKIXPublicKey(key.Signer.Public())
	if err != nil {
		return nil, err
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "loadtest"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, about, about, key.Signer.Public(), key.Signer)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "htdocs"), 0o755)); err != nil { //nolint:gosec // public keys
		return nil, err
	}
	for path, text := range map[string][]byte{
		in.PublicKey:                         pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		in.Certificate:                       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
		filepath.Join(dir, "htdocs", "auth"): nil,
	} {
		if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // public keys
			return nil, err
		}
	}
	return in, nil
}

// start starts a peer, and sees to it that it judges: a good token passes, one
// with a bad signature, one of yesterday and one of another issuer don't.
func (in *peerRun) start(ctx context.Context, p peer) (*lane, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	r, err := p.recipe(in, ctx, address)
	if err != nil {
		return nil, err
	}
	r.name, r.address, r.path = p.name, address, "/"
	s, err := start(ctx, r, in.cpu)
	if err != nil {
		return nil, err
	}
	in.servers = append(in.servers, s)
	yesterday := in.deck.mintBy(in.issuer.Key("RS256"), 1, map[string]any{"iat": time.Now().Add(-48 * time.Hour).Unix(), "nbf": time.Now().Add(-48 * time.Hour).Unix(), "exp": time.Now().Add(-24 * time.Hour).Unix()})
	stranger := in.deck.mintBy(in.issuer.Key("RS256"), 1, map[string]any{"iss": "https://elsewhere.example"})
	for _, check := range []struct {
		what   string
		tokens []token
		right  func(int, answer) bool
	}{
		{"a good token", in.deck.good[:1], p.good(in.deck.good)},
		{"a bad signature", in.deck.bad("bad signature", 1), p.evil},
		{"an expired token", yesterday, p.evil},
		{"another issuer's token", stranger, p.evil},
	} {
		got, err := load{address: address, connections: 1, requests: p.requests(address, in.secret, check.tokens), once: true, right: check.right}.run(ctx, -1)
		if err == nil && got.wrong > 0 {
			err = errors.New("it answers " + got.example)
		}
		if err != nil {
			return nil, fmt.Errorf("it doesn't judge as it should: %s: %w", check.what, err)
		}
	}
	return &lane{name: p.name, server: s, requests: p.requests(address, in.secret, in.deck.good), right: p.good(in.deck.good), optional: true}, nil
}

// file writes a configuration of peers/, filled in for an address, and returns
// its path.
func (in *peerRun) file(name, address string) (string, error) {
	t, err := template.ParseFS(peerFiles, "peers/"+name)
	if err != nil {
		return "", err
	}
	filled := *in
	filled.Address = address
	var text bytes.Buffer
	if err := t.Execute(&text, &filled); err != nil {
		return "", err
	}
	path := filepath.Join(in.dir, name)
	return path, os.WriteFile(path, text.Bytes(), 0o644) //nolint:gosec // no secret is in it
}

// program finds one on the PATH or where Debian keeps servers.
func program(name string) (string, error) {
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", errMissing
}

func (in *peerRun) haproxy(_ context.Context, address string) (recipe, error) {
	path, err := program("haproxy")
	if err != nil {
		return recipe{}, err
	}
	config, err := in.file("haproxy.cfg", address)
	return recipe{argv: []string{path, "-db", "-f", config}}, err
}

func (in *peerRun) apache(_ context.Context, address string) (recipe, error) {
	path, err := program("apache2")
	if err != nil {
		return recipe{}, err
	}
	if _, err := os.Stat(filepath.Join(in.Modules, "mod_auth_openidc.so")); err != nil {
		return recipe{}, errMissing
	}
	config, err := in.file("apache.conf", address)
	return recipe{argv: []string{path, "-DFOREGROUND", "-f", config}}, err
}

func (in *peerRun) node(ctx context.Context, address, script string, env ...string) (recipe, error) {
	path, err := program("node")
	if err != nil {
		return recipe{}, err
	}
	if err := in.npm(ctx); err != nil {
		return recipe{}, err
	}
	_, port, err := net.SplitHostPort(address)
	env = append(env, "NODE_ENV=production", "PORT="+port, "PUBLIC_KEY="+in.PublicKey, "ISSUER="+in.Issuer)
	return recipe{argv: []string{path, script}, dir: in.nodeModules, env: env}, err
}

// npm installs what peers/node names, once, in the user's cache directory.
func (in *peerRun) npm(ctx context.Context) error {
	if in.nodeModules != "" {
		return nil
	}
	path, err := program("npm")
	if err != nil {
		return err
	}
	dir, err := cached("node")
	if err != nil {
		return err
	}
	lock := filepath.Join(dir, "package-lock.json")
	installed, _ := os.ReadFile(lock) // it may not be there yet
	files, err := peerFiles.ReadDir("peers/node")
	if err != nil {
		return err
	}
	for _, f := range files {
		text, err := peerFiles.ReadFile("peers/node/" + f.Name())
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name()), text, 0o600); err != nil {
			return err
		}
	}
	wanted, err := os.ReadFile(lock)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil || !bytes.Equal(installed, wanted) {
		in.say("installing the packages of loadtest/peers/node")
		if out, err := exec.CommandContext(ctx, path, "ci", "--prefix", dir, "--no-audit", "--no-fund", "--loglevel=error").CombinedOutput(); err != nil {
			return errors.Join(fmt.Errorf("npm ci: %w: %.300s", err, out), os.Remove(lock)) // so that the next run tries again
		}
	}
	in.nodeModules = dir
	return nil
}

// cached is a directory that outlives the run.
func cached(name string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "introspectd-loadtest", name)
	return dir, os.MkdirAll(dir, 0o750)
}

func (in *peerRun) opa(ctx context.Context, address string) (recipe, error) {
	path, err := program("opa")
	if err != nil {
		if path, err = in.buildOPA(ctx); err != nil {
			return recipe{}, err
		}
	}
	policy, err := in.file("opa.rego", address)
	if err != nil {
		return recipe{}, err
	}
	data, err := json.Marshal(map[string]any{"load": map[string]any{"jwks": string(in.issuer.JWKS()), "issuer": in.Issuer, "audience": "https://api.example/dev"}})
	if err != nil {
		return recipe{}, err
	}
	known := filepath.Join(in.dir, "data.json")
	return recipe{argv: []string{path, "run", "--server", "--addr", address, "--log-level", "error", "--skip-version-check", policy, known}},
		os.WriteFile(known, data, 0o600)
}

func (in *peerRun) buildOPA(ctx context.Context) (string, error) {
	dir, err := cached("bin")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "opa")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	in.say("building opa, which takes minutes")
	build := exec.CommandContext(ctx, "go", "install", "github.com/open-policy-agent/opa@"+opaVersion)
	build.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install: %w: %.300s", err, out)
	}
	return path, nil
}

func opaRequests(address, _ string, tokens []token) (all [][]byte) {
	for _, t := range tokens {
		body := `{"input":{"token":"` + t.text + `"}}`
		all = append(all, fmt.Appendf(nil, "POST /v1/data/authz HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", address, len(body), body))
	}
	return all
}

func opaAllows(tokens []token) func(int, answer) bool {
	return func(n int, a answer) bool {
		return a.status == http.StatusOK && bytes.Contains(a.body, []byte(`{"allow":true,"sub":"`+subject(tokens[n].jti)+`"}`))
	}
}

func opaRefuses(_ int, a answer) bool {
	return a.status == http.StatusOK && bytes.Contains(a.body, []byte(`{"allow":false}`))
}
