package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/metric/noop"

	"introspectd/internal/config"
	"introspectd/internal/jwks"
)

func checkCommand(t terminal) *cobra.Command {
	var s settings
	var online bool
	c := &cobra.Command{
		Use: "check", Short: "Check a configuration, and with --online its key sources", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load(t)
			if err != nil {
				return err
			}
			for _, warning := range cfg.Warnings() {
				fmt.Fprintln(t.err, "warning: "+warning)
			}
			for n, changed := range cfg.Presets() {
				if len(changed) == 0 {
					continue
				}
				fmt.Fprintf(t.out, "%s: preset %s\n", cfg.Issuers[n].Name, cfg.Issuers[n].Claims.Preset)
				for _, line := range changed {
					fmt.Fprintln(t.out, "  "+line)
				}
			}
			if online {
				if err := checkKeys(c.Context(), t, cfg); err != nil {
					return err
				}
			}
			fmt.Fprintf(t.out, "%s is fine: %d issuers, %d callers, %d policies\n", s.path(t), len(cfg.Issuers), len(cfg.Callers), len(cfg.Policies))
			return nil
		},
	}
	s.flags(c)
	s.addresses(c)
	c.Flags().BoolVar(&online, "online", false, "also fetch every issuer's keys and report them")
	return c
}

// checkKeys fetches the keys of all issuers and reports them.
func checkKeys(ctx context.Context, t terminal, cfg *config.Config) error {
	keys, errs, err := fetchAll(ctx, t, cfg)
	if err != nil {
		return err
	}
	failed := 0
	for n, row := range cfg.Issuers {
		state := keys[n].State()
		if errs[n] != nil {
			failed++
			fmt.Fprintf(t.out, "%s: %v\n", row.Name, errs[n])
		} else {
			from := state.Source // files have no address and no age
			if state.URL != "" {
				age := time.Duration(state.AgeSeconds * float64(time.Second)).Round(time.Second)
				from += fmt.Sprintf(" %s, read %s ago", state.URL, age)
			}
			fmt.Fprintf(t.out, "%s: %d keys from %s\n", row.Name, len(state.Keys), from)
		}
		for _, k := range state.Keys {
			fmt.Fprintf(t.out, "  kid %q %s %v\n", k.Kid, k.Kty, k.Algs)
		}
		for _, reason := range slices.Sorted(maps.Keys(state.Skipped)) {
			fmt.Fprintf(t.out, "  skipped %d: %s\n", state.Skipped[reason], reason)
		}
	}
	if failed > 0 {
		return failure{exitFailed, fmt.Errorf("the keys of %d issuers can't be had", failed)}
	}
	return nil
}

// fetchAll makes the keys of every issuer and fetches them once, side by side.
// The errors are per issuer; err is about the configuration.
func fetchAll(ctx context.Context, t terminal, cfg *config.Config) (keys []*jwks.Keys, errs []error, err error) {
	for _, row := range cfg.Issuers {
		k, err := jwks.New(row.Keys, jwks.Options{Name: row.Name, Issuer: row.Issuer, Log: quiet(t), Meter: noop.Meter{}})
		if err != nil {
			return nil, nil, failure{exitUsage, fmt.Errorf("keys of issuer %s: %w", row.Name, err)}
		}
		keys = append(keys, k)
	}
	errs = make([]error, len(keys))
	ctx, stop := context.WithTimeout(ctx, 15*time.Second)
	defer stop()
	var wg sync.WaitGroup
	for n, k := range keys {
		wg.Go(func() { errs[n] = k.Refresh(ctx) })
	}
	wg.Wait()
	return keys, errs, nil
}
