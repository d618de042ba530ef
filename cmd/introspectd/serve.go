package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"introspectd/internal/config"
	"introspectd/internal/listen"
	"introspectd/internal/telemetry"
)

func serveCommand(t terminal) *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use: "serve", Short: "Run the service", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load(t)
			if err != nil {
				return err
			}
			seen := contentOf(cfg.Files())
			socket, err := listen.Open(cfg.Server.Listen)
			if err != nil {
				return failure{exitFailed, err}
			}
			return serve(c.Context(), cfg, serving{t: t, load: func() (*config.Config, error) { return s.load(t) }, seen: seen, socket: socket})
		},
	}
	s.flags(c)
	s.addresses(c)
	return c
}

// serving is what differs between serve and dev.
type serving struct {
	t terminal
	// load reads the configuration anew.
	load func() (*config.Config, error)
	// seen is the content of the configuration's files when it was read. A start
	// may take long, as it waits for the state of the process before, and a change
	// in the meantime is one like any other.
	seen [sha256.Size]byte
	// socket is the public listener, open already.
	socket net.Listener
	// wrap, when set, stands before the public handler.
	wrap func(http.Handler) http.Handler
	// started, when set, is called once everything listens.
	started func(ctx context.Context, p *process)
}

// serve runs the service until ctx ends, and drains it: telemetry, stores,
// keys, verdicts, handlers, listeners, and back.
func serve(ctx context.Context, cfg *config.Config, s serving) error {
	hardenProcess()
	// From here until the end: while nobody listens for it, SIGHUP ends a process,
	// as it does while the configuration is read for the first time.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	tel, err := telemetry.New(ctx, cfg.Telemetry, telemetry.Options{Env: s.t.env, LogTo: s.t.err, Version: version, Commit: commit()})
	if err != nil {
		return failure{exitFailed, err}
	}
	defer flush(tel)
	log := tel.Log

	var certificates *listen.Certificates
	if cfg.Server.TLS.Certificate != "" {
		if certificates, err = listen.LoadCertificates(cfg.Server.TLS); err != nil {
			return failure{exitUsage, err}
		}
	}
	kept, err := openStores(cfg, log, tel.Meter)
	if err != nil {
		return failure{exitUsage, err}
	}
	defer kept.close()
	p, err := newProcess(tel, certificates, kept)
	if err != nil {
		return failure{exitFailed, err}
	}
	p.systemd = newNotifier(s.t.env)
	_, absent := os.Stat(cfg.Signing.Generate)
	if err := p.adopt(cfg); err != nil {
		p.stop()
		return failure{exitUsage, err}
	}
	if cfg.Signing.Generate != "" && absent != nil {
		s.seen = contentOf(cfg.Files()) // a key that we just made is no change
	}
	kept.tell(cfg.State.Path)
	// They end after the last fetch of keys and the last request, which use them.
	defer p.keep()()
	defer p.stop()
	for _, warning := range cfg.Warnings() {
		log.Warn(warning)
	}

	public := p.handler(func(w *world) http.Handler { return w.api })
	if s.wrap != nil {
		public = s.wrap(public)
	}
	running := []listen.Running{{Server: listen.NewServer(public, log, certificates), Listener: s.socket}}
	for addr, pick := range map[string]func(*world) http.Handler{
		cfg.Server.Admin:   func(w *world) http.Handler { return w.admin },
		cfg.Server.Metrics: func(w *world) http.Handler { return w.metrics },
	} {
		if addr == "" {
			continue
		}
		socket, err := listen.Open(addr)
		if err != nil {
			return failure{exitFailed, err}
		}
		// Beyond this machine the admin listener speaks TLS, as the public one
		// does. What a cluster scrapes stays plain.
		var encrypted *listen.Certificates
		if addr == cfg.Server.Admin && !listen.Loopback(addr) {
			encrypted = certificates
		}
		running = append(running, listen.Running{Server: listen.NewServer(p.handler(pick), log, encrypted), Listener: socket})
	}
	if addr := cfg.Server.ExtAuthzGRPC; addr != "" {
		socket, err := listen.Open(addr)
		if err != nil {
			return failure{exitFailed, err}
		}
		running = append(running, listen.Running{Server: p.envoy(), Listener: socket})
	}
	for _, r := range running {
		log.Info("listening", "address", r.Listener.Addr().String())
	}

	var beside sync.WaitGroup
	defer beside.Wait()
	besideCtx, stop := context.WithCancel(ctx)
	defer stop()
	beside.Go(func() {
		<-besideCtx.Done()
		p.gate.Drain()
		p.told(p.systemd.stopping())
	})
	p.told(p.systemd.ready("serving"))
	beside.Go(func() { p.watch(besideCtx, hangups, s.load, s.seen) })
	if collectsByItself(s.t.env) {
		beside.Go(func() { (&collecting{caches: p.caches}).run(besideCtx) })
	}
	if s.started != nil {
		beside.Go(func() { s.started(besideCtx, p) })
	}
	if err := listen.Serve(ctx, cfg.Server.ShutdownDelay, running...); err != nil {
		return failure{exitFailed, err}
	}
	log.Info("stopped")
	return nil
}

// flush gives telemetry a moment to leave.
func flush(tel *telemetry.Telemetry) {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	if err := tel.Shutdown(ctx); err != nil {
		tel.Log.Warn("telemetry was lost at shutdown", "cause", err)
	}
}

// tryAgain is the time between two readings of a configuration that is refused
// for what lies in no file, such as a directory that can't be written.
const tryAgain = 30 * time.Second

// watch reloads on a hangup, which also fetches every issuer's keys, and when
// the content of a file that was read has changed from what was seen, until ctx
// ends. After a refusal that goes for the files of the refused configuration as
// well.
func (p *process) watch(ctx context.Context, hangups <-chan os.Signal, load func() (*config.Config, error), seen [sha256.Size]byte) {
	var fetches sync.WaitGroup // an issuer that hangs holds up no reload
	defer fetches.Wait()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	var last *refusal // nil after a reload that went well
	for {
		hungUp := false
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			hungUp = true
		case <-tick.C:
		}
		now := contentOf(last.with(p.config().Files()))
		if now == seen && !hungUp && !last.due() {
			continue
		}
		// What was seen is older than what is read now: a change in between,
		// or a file that is new to us, is a change at the next tick.
		seen = now
		if hungUp {
			last = nil // whoever asks is told, also of what is no news
		}
		last = p.reload(load, last)
		if hungUp {
			p.kept.reconsider()
			w := p.current.Load()
			fetches.Go(func() { w.refreshAll(ctx) })
		}
	}
}

// refusal is a reload that was refused; nil is none.
type refusal struct {
	config *config.Config // as far as it could be read
	cause  string
	at     time.Time
}

// with adds the files of the refused configuration, each once.
func (r *refusal) with(files []string) []string {
	if r == nil {
		return files
	}
	files = append(files, r.config.Files()...)
	slices.Sort(files)
	return slices.Compact(files)
}

// due says whether the time has come to try again.
func (r *refusal) due() bool { return r != nil && time.Since(r.at) >= tryAgain }

// reload builds the new world beside the old one and swaps them; where it
// can't be built, the old one goes on. What was refused before for the same
// cause, as last says, is not told once more.
func (p *process) reload(load func() (*config.Config, error), last *refusal) *refusal {
	p.told(p.systemd.reloading())
	// Whatever becomes of the configuration: a certificate that was renewed in
	// time must not expire because of a fault elsewhere.
	renewed := p.certificates.Reload()
	cfg, err := load()
	if err == nil {
		if keys := p.config().RestartNeeded(cfg); len(keys) > 0 {
			err = fmt.Errorf("a change of %v needs a restart", keys)
		}
	}
	if err = errors.Join(err, renewed); err == nil {
		err = p.adopt(cfg)
	}
	if err != nil {
		p.reloaded.Store(0)
		if last == nil || last.cause != err.Error() {
			p.log.Error("reload refused; what runs goes on", "cause", err.Error())
		}
		p.reread()
		p.told(p.systemd.ready("reload refused; what ran before goes on"))
		return &refusal{cfg, err.Error(), time.Now()}
	}
	p.reloaded.Store(1)
	p.told(p.systemd.ready("serving"))
	p.log.Info("reloaded", slog.Int("issuers", len(cfg.Issuers)), slog.Int("callers", len(cfg.Callers)), slog.Int("policies", len(cfg.Policies)))
	for _, warning := range cfg.Warnings() {
		p.log.Warn(warning)
	}
	return nil
}

// told logs that systemd could not be told something. The service goes on; it
// is systemd that may give up on it.
func (p *process) told(err error) {
	if err != nil {
		p.log.Warn("systemd does not hear us", "cause", err.Error())
	}
}
