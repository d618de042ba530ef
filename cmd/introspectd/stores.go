package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"

	"introspectd/internal/config"
	"introspectd/internal/filestore"
	"introspectd/internal/introspect"
	"introspectd/internal/redisstore"
	"introspectd/internal/revoke"
	"introspectd/internal/seal"
)

// stores are where this process keeps what outlives a configuration, and what
// it shares with other replicas.
type stores struct {
	log         *slog.Logger
	box         *seal.Box         // nil without redis
	file        *filestore.Store  // nil for none
	redis       *redisstore.Store // nil for none
	feed        *redisstore.Feed  // nil without redis
	revocations *revoke.List
	digestKey   []byte
	// dropped is called when a key was withdrawn, once there is anybody to tell.
	dropped atomic.Pointer[func()]
}

// onDrop has tell called whenever a key was withdrawn.
func (s *stores) onDrop(tell func()) { s.dropped.Store(&tell) }

func (s *stores) keyDropped() {
	if tell := s.dropped.Load(); tell != nil {
		(*tell)()
	}
}

// problems says in words what keeps redis from being what we need.
func (s *stores) problems() []string {
	if s.redis == nil {
		return nil
	}
	return s.redis.Degraded()
}

// openStores opens what cfg names. Redis is not asked yet: it may be away.
func openStores(cfg *config.Config, log *slog.Logger, meter metric.Meter) (*stores, error) {
	s := &stores{log: log, digestKey: introspect.NewDigestKey()}
	if err := s.open(cfg, meter); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stores) open(cfg *config.Config, meter metric.Meter) error {
	if cfg.Redis.Set {
		if err := s.openRedis(cfg.Redis, meter); err != nil {
			return err
		}
	}
	if cfg.State.Path != "" {
		if err := s.openFile(cfg.State.Path); err != nil {
			return err
		}
	}
	return s.openRevocations(cfg.Revocation, meter)
}

func (s *stores) openRedis(cfg redisstore.Config, meter metric.Meter) error {
	keys, err := cfg.Keys()
	if err != nil {
		return fmt.Errorf("redis.seal_keys: %w", err)
	}
	if s.box, err = seal.New(cfg.Prefix, keys...); err != nil {
		return fmt.Errorf("redis.seal_keys: %w", err)
	}
	if s.redis, err = redisstore.Open(cfg, s.box, redisstore.Options{Log: s.log, Meter: meter}); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if s.feed, err = s.redis.Feed(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	// Replicas find each other's verdicts under the same names.
	s.digestKey = s.box.DigestKey()
	return nil
}

func (s *stores) openFile(path string) (err error) {
	o := filestore.Options{Log: s.log}
	if s.box != nil {
		o.Seal = func(name string, plain []byte) []byte { return s.box.Seal(seal.State, name, plain) }
		o.Unseal = func(name string, sealed []byte) ([]byte, error) { return s.box.Open(seal.State, name, sealed) }
	}
	if s.file, err = filestore.Open(path, o); err != nil {
		return fmt.Errorf("state.path: %w", err)
	}
	return nil
}

// openRevocations makes the list and fills it with what the file kept.
func (s *stores) openRevocations(cfg revoke.Config, meter metric.Meter) (err error) {
	o := revoke.Options{Config: cfg, Dropped: s.keyDropped, Log: s.log, Meter: meter}
	if s.feed != nil {
		o.Shared = s.feed
	}
	if s.file != nil {
		o.File, o.Replaced = s.file.Records(), s.file.Replaced
	}
	if s.revocations, err = revoke.New(o); err != nil || s.file == nil {
		return err
	}
	aside := s.file.SetAside()
	if err := s.revocations.Load(s.file.Records().Each, len(aside) > 0); err != nil {
		s.log.Error("some revocations can't be read from the state file", "cause", err.Error())
	}
	return nil
}

// tell says at start what will be there after it, and what other replicas know.
func (s *stores) tell(state string) {
	if s.file != nil {
		s.log.Info("last-good keys survive a restart", "state", state)
	} else {
		s.log.Info("last-good keys are lost at a restart: state.path names no file")
	}
	switch {
	case s.redis != nil:
		s.log.Info("keys, verdicts and revocations are shared through redis")
	case s.file != nil:
		s.log.Info("revocations survive a restart, and reach no other replica: there is no redis")
	default:
		s.log.Warn("nothing can be revoked: there is neither redis nor state.path to keep revocations")
	}
	if aside := s.setAside(); len(aside) > 0 && s.redis == nil {
		s.log.Error("revocations may be lost: look at what was set aside, revoke anew what has to be, remove the files and send SIGHUP; until then revocation.on_outage decides", "aside", aside)
	}
}

func (s *stores) setAside() []string {
	if s.file == nil {
		return nil
	}
	return s.file.SetAside()
}

// reconsider takes an operator's word, given by SIGHUP, that the list is whole:
// nothing is set aside any more.
func (s *stores) reconsider() {
	if s.redis != nil || s.file == nil || s.revocations.Held() || len(s.setAside()) > 0 {
		return
	}
	s.revocations.Complete()
	s.log.Warn("the list of revocations counts as complete again: nothing is set aside any more", "audit", true)
}

// run keeps the stores at work until ctx ends, and returns when they are.
func (s *stores) run(ctx context.Context, pace func() redisstore.Pace) {
	var all sync.WaitGroup
	all.Go(func() { s.revocations.Run(ctx) })
	if s.redis != nil {
		all.Go(func() { s.redis.Run(ctx) })
		all.Go(func() { s.feed.Run(ctx, s.revocations, pace) })
	}
	all.Wait()
}

// close gives everything back; what is asked afterwards is an error.
func (s *stores) close() {
	var errs []error
	if s.redis != nil {
		errs = append(errs, s.redis.Close())
	}
	if s.file != nil {
		errs = append(errs, s.file.Close())
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Warn("a store was not closed in order", "cause", err.Error())
	}
}
