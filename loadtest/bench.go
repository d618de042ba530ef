package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"introspectd/internal/redistest"
)

// benchFlags are what every mode that measures is told.
type benchFlags struct {
	seconds     float64 // per lane and round
	rounds      int
	connections int
	tokens      int
	rate        float64
	binary      string
	json, svg   string // paths; empty: none
	profiles    string // directory; empty: none
	noPin       bool
	only        string // goals, in `goals`
	verdicts    int    // in `memory`
	most        int    // verdicts, and revocations, in `scale`
}

func (f *benchFlags) parse(mode string, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("loadtest "+mode, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Float64Var(&f.seconds, "seconds", 2, "how long each lane is measured in each round")
	flags.IntVar(&f.rounds, "rounds", 5, "rounds, in each of which every lane has its turn")
	flags.IntVar(&f.connections, "connections", 64, "connections, kept alive")
	flags.IntVar(&f.tokens, "tokens", 10_000, "distinct RS256 tokens")
	flags.StringVar(&f.binary, "binary", "", "path of an introspectd to test (default: built from this tree)")
	flags.StringVar(&f.json, "json", "", "path of a file for the figures as JSON")
	// A mode takes no plot, profile or rate that it would leave out.
	if mode != "herd" && mode != "memory" {
		flags.StringVar(&f.svg, "svg", "", "path of a file for the plot")
		if mode != "flood" { // which has rates of its own
			flags.Float64Var(&f.rate, "rate", 0, "requests a second, with latency from the time each was due; 0 is a closed loop (in rate: 2000, in soak: 1000)")
			flags.StringVar(&f.profiles, "cpuprofile", "", "directory for a CPU profile of each introspectd lane, taken in a round of its own")
		}
	}
	flags.BoolVar(&f.noPin, "no-pin", false, "leave servers and load to the scheduler")
	var names []string // that --only may give
	if mode == "goals" {
		for _, m := range goalModes {
			names = append(names, strings.Fields(m.shows)...)
		}
		slices.SortFunc(names, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) }) // P2 before P11
		flags.StringVar(&f.only, "only", "", "comma-separated goals, such as P1,P5 (default: all)")
	}
	if mode == "goals" || mode == "memory" {
		flags.IntVar(&f.verdicts, "verdicts", 60_000, "verdicts to be remembered for P15")
	}
	if mode == "scale" {
		for _, axis := range axes {
			names = append(names, axis.name)
		}
		flags.StringVar(&f.only, "only", "", "comma-separated axes: "+strings.Join(names, ", ")+" (default: all)")
		flags.IntVar(&f.most, "most", 100_000, "verdicts, and revocations, at the end of their axes; a million takes some minutes")
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case mode == "scale" && f.most < 10:
		return errors.New("expected at least 10 at the end of an axis")
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected %q", flags.Arg(0))
	case !(f.seconds > 0) || math.IsInf(f.seconds, 0) || f.rounds < 1 || f.connections < 1 || f.tokens < 100 || f.rate < 0:
		return errors.New("expected more than 0 seconds, at least 1 round, 1 connection and 100 tokens, and no negative rate")
	case (mode == "goals" || mode == "memory") && f.verdicts < 10:
		return errors.New("expected at least 10 verdicts")
	case mode == "scale" && f.tokens < mostIssuers && f.wanted("issuers"):
		return fmt.Errorf("expected at least %d tokens, so that each issuer has one", mostIssuers)
	case mode == "flood" && float64(f.tokens) < often*f.seconds:
		return fmt.Errorf("expected a token for each request at %d a second: %.0f", often, math.Ceil(often*f.seconds))
	}
	if f.only == "" {
		return nil
	}
	for only := range strings.SplitSeq(f.only, ",") {
		if !slices.Contains(names, only) {
			return fmt.Errorf("--only: there is no %q; there are %s", only, strings.Join(slices.Compact(names), ", "))
		}
	}
	return nil
}

// bench is one run of a mode that measures.
type bench struct {
	benchFlags
	dir      string
	secret   string // of the caller
	issuer   *issuer
	deck     *benchDeck
	self     string // path of this program
	answer   int    // bytes in an answer of introspectd; 0: not known yet
	servers  []*server
	redises  []*redistest.Server
	sink     *collector
	profiled map[string]int // how many, by name
	cpu      int            // of the servers; -1: any
	loadCPU  int
	progress io.Writer
}

// section is what one mode has measured.
type section struct {
	Mode    string    `json:"mode"`
	Figures []*figure `json:"figures,omitempty"`
	Goals   []goal    `json:"goals,omitempty"`
	Notes   []string  `json:"notes,omitempty"`
}

func (s *section) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// benchMode runs f as a mode of its own.
func benchMode(name, about string, f func(*bench, context.Context) ([]section, error)) mode {
	run := func(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
		b := &bench{progress: stderr, profiled: map[string]int{}}
		if err := b.parse(name, args, stderr); err != nil {
			return exitUsage, err
		}
		if err := writable(b.json, b.svg); err != nil {
			return exitUsage, err
		}
		defer b.close()
		if err := b.prepare(ctx); err != nil {
			return exitFailed, err
		}
		sections, err := f(b, ctx)
		out := figures{Date: time.Now(), Machine: machine(), Command: "go run ./loadtest " + strings.Join(append([]string{name}, args...), " "), Sections: sections}
		if len(sections) > 0 {
			err = errors.Join(err, out.write(stdout), out.save(b.json, b.svg))
		}
		if err != nil || out.wrong() {
			return exitFailed, err
		}
		return exitOK, nil
	}
	return mode{name, about, run}
}

// writable tries the files that are written when all is measured.
func writable(paths ...string) error {
	for _, path := range paths {
		if path == "" {
			continue
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_ = f.Close() // nothing was written
	}
	return nil
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.progress, format+"\n", args...) }

// prepare makes what every mode needs: a directory, a binary, an issuer, tokens.
func (b *bench) prepare(ctx context.Context) (err error) {
	b.secret = rand.Text()
	b.cpu, b.loadCPU = -1, -1
	if !b.noPin {
		b.cpu, b.loadCPU = twoCPUs()
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "introspectd-loadtest-"); err != nil {
		return err
	}
	if b.binary == "" {
		b.say("building introspectd")
		b.binary = filepath.Join(b.dir, "introspectd")
		if err := build(ctx, b.binary); err != nil {
			return err
		}
	}
	if b.issuer, err = newIssuer("RS256", "EdDSA", "ES512"); err != nil {
		return err
	}
	if b.sink, err = newCollector(); err != nil {
		return err
	}
	var seal [32]byte
	_, _ = rand.Read(seal[:]) // never fails
	for name, text := range map[string]string{"secret": b.secret, "seal": base64.StdEncoding.EncodeToString(seal[:])} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	b.say("minting %d tokens", b.tokens)
	b.deck = newBenchDeck(b.issuer.Issuer, b.tokens)
	b.say("tokens have %d bytes", len(b.deck.good[0].text))
	return nil
}

func (b *bench) close() {
	b.stopServers()
	if b.issuer != nil {
		b.issuer.down()
	}
	b.sink.close()
	if b.dir != "" && strings.Contains(b.dir, "introspectd-loadtest-") {
		_ = os.RemoveAll(b.dir)
	}
}

// stopServers ends all that were started until now.
func (b *bench) stopServers() {
	for _, s := range b.servers {
		s.stop()
	}
	for _, r := range b.redises {
		r.Resume()
		r.Stop()
	}
	b.servers, b.redises = nil, nil
}

// variant is how an introspectd that is measured is configured.
type variant struct {
	name string
	// telemetry is the shipped default: metrics, access log (to the null
	// device), one of a hundred requests traced (to a collector that drops it).
	// Otherwise there is no access log and no exporter; metrics can't be
	// switched off.
	telemetry bool
	size      string // of the process cache; empty: the default
	redis     string // address; empty: none
	shared    string // of verdicts; empty: the default
	more      string // further sections
	issuers   string // further rows
	callers   string // further rows
}

// introspectd starts one.
func (b *bench) introspectd(ctx context.Context, v variant) (*server, error) {
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(b.dir, strings.NewReplacer(" ", "-", "/", "").Replace(v.name)+"-"+rand.Text()[:6]+".yaml")
	if err := os.WriteFile(path, []byte(b.configuration(v, 0)), 0o600); err != nil {
		return nil, err
	}
	c := recipe{
		name: v.name, address: listen, loud: v.telemetry, path: "/readyz",
		argv: []string{b.binary, "serve", "--config", path, "--listen", listen, "--admin", admin},
	}
	if v.telemetry {
		c.env = []string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + b.sink.address}
	}
	s, err := start(ctx, c, b.cpu)
	if err != nil {
		return nil, err
	}
	s.admin, s.config = admin, path
	b.servers = append(b.servers, s)
	return s, nil
}

// configuration is that of a variant after it was made to forget its verdicts
// a number of times: those of an issuer that was edited are not believed.
func (b *bench) configuration(v variant, passes int) string {
	level, cache, redis := "error", "", ""
	if v.telemetry {
		level = "info"
	}
	if v.size != "" {
		cache = "size: " + v.size
	}
	if v.redis != "" {
		redis = fmt.Sprintf("redis: {mode: standalone, addresses: [%s], prefix: %q, seal_keys: [{file: %s}]}\n",
			v.redis, filepath.Base(b.dir)+":", filepath.Join(b.dir, "seal"))
		if v.shared != "" {
			cache = strings.TrimPrefix(cache+", shared: "+v.shared, ", ")
		}
	}
	if cache != "" {
		cache = "cache: {verdicts: {" + cache + "}}\n"
	}
	return fmt.Sprintf(`# %s
server: {pprof: true}
telemetry: {log: {level: %s}}
%s%s%s
policies:
  - name: default
    any_audience: true
    any_issuer: true
    headers: {X-Auth-Subject: sub, X-Auth-Issuer: iss, X-Auth-Client-Id: client_id, X-Auth-Scope: scope}
  - {name: pass-%d, any_audience: true, any_issuer: true}
callers:
  - id: %s
    secrets: [{file: %s}]
    may: [introspect, revoke, revoke_broad, operate]
    any_issuer: true
    any_audience: true
%s
issuers:
  - name: load
    issuer: %s
    keys: {jwks_url: %s/jwks.json}
    max_lifetime: %dh
%s`, v.name, level, cache, redis, v.more, passes, callerID, filepath.Join(b.dir, "secret"), v.callers, b.issuer.url(), b.issuer.url(), 100_000+passes, v.issuers)
}

// yardstick starts one: gin or net/http.
func (b *bench) yardstick(ctx context.Context, kind string) (*server, error) {
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s, err := start(ctx, recipe{
		name: "bare " + kind, address: listen, path: "/readyz",
		argv: []string{b.self, "yardstick", "--kind", kind, "--listen", listen, "--size", fmt.Sprint(max(b.answer, 2))},
	}, b.cpu)
	if err == nil {
		b.servers = append(b.servers, s)
	}
	return s, err
}

// redis starts a redis-server on the processor of the load.
func (b *bench) redis() (*redistest.Server, error) {
	dir, err := os.MkdirTemp(b.dir, "redis-")
	if err != nil {
		return nil, err
	}
	r, err := onCPU(b.loadCPU, func() (*redistest.Server, error) { return redistest.Start(dir) })
	if err == nil {
		b.redises = append(b.redises, r)
	}
	return r, err
}
