package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"introspectd/internal/redistest"
)

// world is everything that a run starts: an issuer, Redis, replicas, and the
// load on them.
type world struct {
	dir    string
	secret string // of the caller
	issuer *issuer
	// redis is nil in embedded mode.
	redis    *redistest.Server
	replicas []*replica
	deck     *deck
	drive    *drive
	// row is that of the step which is measured.
	row *row
	// planted are the keys in Redis that were replaced, huge how many of them
	// by much.
	planted map[string]bool
	huge    int
}

// settings are what every mode of the tool is told.
type settings struct {
	binary      string // path of introspectd; empty: built from this tree
	connections int
	noRedis     bool
	replicas    int
}

// newWorld starts everything but the load. close ends it, whatever the error.
func newWorld(ctx context.Context, s settings) (*world, error) {
	w := &world{secret: rand.Text(), planted: map[string]bool{}}
	return w, w.start(ctx, s)
}

func (w *world) start(ctx context.Context, s settings) (err error) {
	if w.dir, err = os.MkdirTemp("", "introspectd-loadtest-"); err != nil {
		return err
	}
	if s.binary == "" {
		s.binary = filepath.Join(w.dir, "introspectd")
		if err := build(ctx, s.binary); err != nil {
			return err
		}
	}
	if w.issuer, err = newIssuer("ES256", "RS256"); err != nil {
		return err
	}
	if !s.noRedis {
		if w.redis, err = redistest.Start(w.dir); err != nil {
			return fmt.Errorf("%w (--no-redis leaves out what needs it)", err)
		}
	}
	w.deck = newDeck(w.issuer.Issuer, s.replicas)
	if err := w.startReplicas(ctx, s); err != nil {
		return err
	}
	w.drive = &drive{replicas: w.replicas, deck: w.deck, secret: w.secret}
	return nil
}

// build makes introspectd as it is shipped.
func build(ctx context.Context, path string) error {
	c := exec.CommandContext(ctx, "go", "build", "-tags", "nomsgpack", "-o", path, "introspectd/cmd/introspectd")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("building introspectd: %w\n%s", err, out)
	}
	return nil
}

// configuration is that of replica n. All share the caller, the issuer and,
// where there is one, Redis; without it each keeps its state in a file.
func (w *world) configuration(n int) string {
	c := fmt.Sprintf(`
server: {shutdown_delay: 500ms}
telemetry: {log: {level: warn}}
callers:
  - id: %s
    secrets: [{file: %s}]
    may: [introspect, revoke, operate]
    any_issuer: true
    any_audience: true
issuers:
  - name: load
    issuer: %s
    keys: {jwks_url: %s/jwks.json}
    leeway: %s
`, callerID, filepath.Join(w.dir, "secret"), w.issuer.url(), w.issuer.url(), leeway)
	if w.redis == nil {
		return c + fmt.Sprintf("state: {path: %s}\n", filepath.Join(w.dir, fmt.Sprint("state-", n)))
	}
	// Redis is asked before each first verification, so that it is on the way
	// of requests. The times of revocation are the defaults, on which the
	// promises rest.
	return c + fmt.Sprintf(`
redis: {mode: standalone, addresses: [%s], seal_keys: [{file: %s}]}
cache: {verdicts: {shared: always}}
revocation: {max_delay: 1s, grace: 5m, on_outage: deny}
`, w.redis.Addr, filepath.Join(w.dir, "seal"))
}

func (w *world) startReplicas(ctx context.Context, s settings) error {
	var seal [32]byte
	_, _ = rand.Read(seal[:]) // never fails
	for name, text := range map[string]string{"secret": w.secret, "seal": base64.StdEncoding.EncodeToString(seal[:])} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	for n := range s.replicas {
		listen, err := freeAddress()
		if err != nil {
			return err
		}
		admin, err := freeAddress()
		if err != nil {
			return err
		}
		r := &replica{
			name: fmt.Sprint("replica ", n+1), binary: s.binary, listen: listen, admin: admin,
			config: filepath.Join(w.dir, fmt.Sprintf("config-%d.yaml", n)),
		}
		if err := os.WriteFile(r.config, []byte(w.configuration(n)), 0o600); err != nil {
			return err
		}
		w.replicas = append(w.replicas, r)
		if err := r.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// ask asks a replica about a token, beside the load.
func (w *world) ask(ctx context.Context, r *replica, t token) ending {
	e := ending{asked: time.Now()}
	e.status, e.body, e.err = send(ctx, "http://"+r.listen+"/introspect", w.secret, url.Values{"token": {t.text}})
	e.answered = time.Now()
	return e
}

// each calls f for all replicas at once.
func (w *world) each(f func(*replica)) {
	done := make(chan struct{})
	for _, r := range w.replicas {
		go func() {
			f(r)
			done <- struct{}{}
		}()
	}
	for range w.replicas {
		<-done
	}
}

// remember asks every replica about the known tokens, and has those revoked
// that are to be. It notes how long that took to reach all replicas.
func (w *world) remember(ctx context.Context) error {
	for _, r := range w.replicas {
		for _, t := range append(append([]token(nil), w.deck.known...), w.deck.revoked...) {
			if e := w.ask(ctx, r, t); e.err != nil || e.status != http.StatusOK || !t.rightly(e.body, e.asked, e.answered) {
				return fmt.Errorf("%s, a good token: got %d %s, %w; want it active", r.name, e.status, e.body, e.err)
			}
		}
	}
	return w.revoke(ctx)
}

// revoke revokes at one replica, and waits until all know. An embedded program
// that keeps no revocations is loaded without; one with Redis has to.
func (w *world) revoke(ctx context.Context) error {
	first := w.replicas[0]
	for i := range w.deck.revoked {
		t := &w.deck.revoked[i]
		status, body, err := send(ctx, "http://"+first.listen+"/revoke", w.secret, url.Values{"token": {t.text}})
		switch {
		case err == nil && status == http.StatusOK:
			*t = never(*t)
		case i == 0 && err == nil && w.redis == nil:
			w.row.note("POST /revoke answers %d, so no revoked token is asked about", status)
			w.deck.revoked = nil
			return nil
		default:
			return fmt.Errorf("POST /revoke: got %d %s, %w; want 200", status, body, err)
		}
	}
	began := time.Now()
	for _, r := range w.replicas {
		for _, t := range w.deck.revoked {
			for string(w.ask(ctx, r, t).body) != inactive {
				if time.Since(began) > 10*time.Second {
					return errors.New("10 s, and a revoked token is still active at " + r.name)
				}
			}
		}
	}
	w.row.note("revoked tokens are inactive everywhere %s after the last was revoked", time.Since(began).Round(time.Millisecond))
	return nil
}

// refresh asks every replica to fetch the issuer's keys.
func (w *world) refresh(ctx context.Context) {
	w.each(func(r *replica) {
		// What comes of it is the matter of the step: it may fail or hang.
		_, _, _ = send(ctx, "http://"+r.admin+"/issuers/load/refresh", w.secret, url.Values{})
	})
}

// usage adds up the CPU of all replicas; rss is the largest one's, in bytes.
func (w *world) usage() (cpu time.Duration, rss int64, err error) {
	for _, r := range w.replicas {
		c, m, err := r.usage()
		if err != nil {
			return 0, 0, err
		}
		cpu, rss = cpu+c, max(rss, m)
	}
	return cpu, rss, nil
}

// close ends everything, the load first.
func (w *world) close() {
	for _, r := range w.replicas {
		r.stop()
	}
	if w.redis != nil {
		w.redis.Resume()
		w.redis.Stop()
	}
	if w.issuer != nil {
		w.issuer.down()
	}
	if w.dir != "" && strings.Contains(w.dir, "introspectd-loadtest-") {
		_ = os.RemoveAll(w.dir)
	}
}
