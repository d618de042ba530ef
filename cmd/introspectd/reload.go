package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"introspectd/internal/config"
)

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
		hungUp, at := false, time.Time{}
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			hungUp, at = true, time.Now()
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
			fetches.Go(func() { w.refreshAll(ctx, at) })
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

// maxWatched is how much of a file is looked at for changes: more than any that
// we use has.
const maxWatched = 16 << 20

// contentOf digests the content of files; one that can't be read counts as
// empty, and so does what is no file: a refused configuration may name a pipe or
// a device, whose reading would never end.
func contentOf(paths []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, path := range paths {
		fmt.Fprintf(h, "%d %s\n", len(path), path)
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if f, err := os.Open(path); err == nil {
			fmt.Fprintf(h, "%d\n", info.Size())
			_, _ = io.Copy(h, io.LimitReader(f, maxWatched)) // a half-read file has another digest when it is whole
			_ = f.Close()
		}
	}
	h.Sum(sum[:0])
	return sum
}
