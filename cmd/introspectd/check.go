package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/metric/noop"

	"introspectd/internal/config"
	"introspectd/internal/introspect"
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
			report := showStores
			if online {
				report = checkKeys
			}
			if err := report(c.Context(), t, cfg); err != nil {
				return err
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
		showStore(t, row.Name, keys[n])
	}
	if failed > 0 {
		return failure{exitFailed, fmt.Errorf("the keys of %d issuers can't be had", failed)}
	}
	return nil
}

// showStores reports the keys that need no network: what is in trust stores,
// and what is to be said of those in files.
func showStores(_ context.Context, t terminal, cfg *config.Config) error {
	for _, row := range cfg.Issuers {
		if len(row.Keys.Files) == 0 && row.Keys.TrustStore.IsZero() {
			continue
		}
		k, err := keysOf(t, row)
		if err != nil {
			return err
		}
		showStore(t, row.Name, k)
	}
	return nil
}

// showStore warns of an issuer's keys, and lists its trust store if it has one.
func showStore(t terminal, name string, k *jwks.Keys) {
	for _, warning := range k.Warnings() {
		fmt.Fprintf(t.err, "warning: %s: %s\n", name, warning)
	}
	s := k.State().TrustStore
	if s == nil {
		return
	}
	fmt.Fprintf(t.out, "%s: trust store %s (%s), %d entries\n", name, s.Path, s.Format, len(s.Entries))
	for _, e := range s.Entries {
		use := "not bound"
		switch {
		case e.Skipped != "":
			use = "left out"
		case e.Bound && e.Outside(time.Now()) && s.CertificateDates == jwks.Enforce:
			use = "out of date"
		case e.Bound:
			use = "signs"
		}
		line := fmt.Sprintf("  %-11s %q", use, e.Alias)
		if e.Alias == s.NoKidAlias {
			line += " and for tokens without a kid"
		}
		if !e.NotAfter.IsZero() {
			line += fmt.Sprintf(", from %s to %s", e.NotBefore.UTC().Format(time.DateOnly), e.NotAfter.UTC().Format(time.DateOnly))
		}
		if e.Skipped != "" {
			line += strings.TrimSuffix(": "+e.Skipped+", "+e.Detail, ", ")
		}
		fmt.Fprintln(t.out, line)
	}
}

// keysOf makes the keys of one issuer, as for a look at them.
func keysOf(t terminal, row introspect.IssuerConfig) (*jwks.Keys, error) {
	k, err := jwks.New(row.Keys, jwks.Options{Name: row.Name, Issuer: row.Issuer, Log: quiet(t), Meter: noop.Meter{}})
	if err != nil {
		return nil, failure{exitUsage, fmt.Errorf("keys of issuer %s: %w", row.Name, err)}
	}
	return k, nil
}

// fetchAll makes the keys of every issuer and fetches them once, side by side.
// The errors are per issuer; err is about the configuration.
func fetchAll(ctx context.Context, t terminal, cfg *config.Config) (keys []*jwks.Keys, errs []error, err error) {
	for _, row := range cfg.Issuers {
		k, err := keysOf(t, row)
		if err != nil {
			return nil, nil, err
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
