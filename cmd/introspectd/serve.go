package main

import (
	"context"
	"crypto/sha256"
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
			load := func() (*config.Config, error) { return s.load(t) }
			cfg, seen, err := readFirst(load)
			if err != nil {
				return err
			}
			socket, err := listen.Open(cfg.Server.Listen)
			if err != nil {
				return failure{exitFailed, err}
			}
			return serve(c.Context(), cfg, serving{t: t, load: load, seen: seen, socket: socket})
		},
	}
	s.flags(c)
	s.addresses(c)
	return c
}

// readFirst reads the configuration that a service starts with, and the content of
// its files as it was before: which they are is known once they were read, and so
// they are read again. Else what changed meanwhile would count as seen.
func readFirst(load func() (*config.Config, error)) (cfg *config.Config, seen [sha256.Size]byte, err error) {
	if cfg, err = load(); err != nil {
		return cfg, seen, err
	}
	seen = contentOf(cfg.Files())
	if slices.ContainsFunc(cfg.Files(), isPipe) {
		return cfg, seen, nil // which says what it has once
	}
	cfg, err = load()
	return cfg, seen, err
}

func isPipe(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}

// serving is what differs between serve and dev.
type serving struct {
	t terminal
	// load reads the configuration anew.
	load func() (*config.Config, error)
	// seen is the content of the configuration's files before it was read. A start
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

// told logs that systemd could not be told something. The service goes on; it
// is systemd that may give up on it.
func (p *process) told(err error) {
	if err != nil {
		p.log.Warn("systemd does not hear us", "cause", err.Error())
	}
}
