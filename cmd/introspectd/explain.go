package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"introspectd/internal/callers"
	"introspectd/internal/config"
	"introspectd/internal/httpapi"
	"introspectd/internal/introspect"
	"introspectd/internal/verify"
)

// question is what explain is asked.
type question struct {
	settings
	at             string
	asJSON         bool
	caller, policy string
}

func explainCommand(t terminal) *cobra.Command {
	var q question
	c := &cobra.Command{
		Use: "explain [TOKEN or -]", Short: "Show step by step how a token is judged; exit status 0 active, 3 inactive", Args: cobra.MaximumNArgs(1),
		Long: "Show step by step how a token is judged; exit status 0 active, 3 inactive.\n\n" +
			"Keys are fetched anew. What has been revoked is not looked at: a running service knows, by POST /explain on its admin listener.",
		RunE: func(c *cobra.Command, args []string) error {
			token, err := tokenOf(args, t.in)
			if err != nil {
				return failure{exitUsage, err}
			}
			return explain(c.Context(), t, q, token)
		},
	}
	q.flags(c)
	c.Flags().StringVar(&q.at, "at", "", "the time to judge at, such as 2020-10-13T09:30:00Z; else now")
	c.Flags().BoolVar(&q.asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&q.caller, "caller", "", "also hold the token against this caller's issuers and audiences")
	c.Flags().StringVar(&q.policy, "policy", "", "also hold the token against this policy")
	return c
}

func tokenOf(args []string, in io.Reader) (string, error) {
	if len(args) == 1 && args[0] != "-" {
		return args[0], nil
	}
	text, err := io.ReadAll(io.LimitReader(in, 4*verify.MaxToken))
	return strings.TrimSpace(string(text)), err
}

func explain(ctx context.Context, t terminal, q question, token string) error {
	at := time.Now()
	if q.at != "" {
		var err error
		if at, err = time.Parse(time.RFC3339, q.at); err != nil {
			return failure{exitUsage, fmt.Errorf("--at: %w", err)}
		}
	}
	cfg, err := q.load(t)
	if err != nil {
		return err
	}
	demands, err := q.demands(cfg)
	if err != nil {
		return failure{exitUsage, err}
	}
	keys, errs, err := fetchAll(ctx, t, cfg)
	if err != nil {
		return err
	}
	var issuers []introspect.Issuer
	for n, row := range cfg.Issuers {
		if errs[n] != nil {
			fmt.Fprintf(t.err, "warning: keys of issuer %s: %v\n", row.Name, errs[n])
		}
		issuers = append(issuers, introspect.Issuer{Config: row, Verifier: verify.NewIssuer(row.Config, keys[n])})
	}
	in, err := introspect.New(issuers, introspect.Options{Cache: cfg.Cache})
	if err != nil {
		return failure{exitUsage, err}
	}
	x := in.Explain(ctx, token, at, demands...)
	if err := show(t.out, x, q.asJSON); err != nil {
		return failure{exitFailed, err}
	}
	if !x.Active {
		return failure{status: exitInactive}
	}
	return nil
}

// demands are what the named caller and policy ask of a token.
func (q question) demands(cfg *config.Config) (out []introspect.For, err error) {
	if q.caller != "" {
		n := slices.IndexFunc(cfg.Callers, func(c callers.Config) bool { return c.ID == q.caller })
		if n < 0 {
			return nil, fmt.Errorf("no caller %q is configured", q.caller)
		}
		out = append(out, introspect.For{Who: "caller " + q.caller, Demand: httpapi.CallerDemand(cfg.Callers[n])})
	}
	if q.policy != "" {
		n := slices.IndexFunc(cfg.Policies, func(p httpapi.Policy) bool { return p.Name == q.policy })
		if n < 0 {
			return nil, fmt.Errorf("no policy %q is configured", q.policy)
		}
		out = append(out, introspect.For{Who: "policy " + q.policy, Demand: httpapi.PolicyDemand(cfg.Policies[n])})
	}
	return out, nil
}

func show(w io.Writer, x introspect.Explanation, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(x)
	}
	var b strings.Builder
	for _, rung := range x.Steps {
		line := fmt.Sprintf("%-11s %-12s %s", rung.Step, rung.Result, rung.Detail)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		for _, did := range rung.Lines {
			fmt.Fprintf(&b, "            %s\n", did)
		}
	}
	if x.Active {
		fmt.Fprintf(&b, "active%s (token_ref %s)\n%s\n", unchecked(x.Steps), x.TokenRef, x.Answer)
	} else {
		fmt.Fprintf(&b, "inactive: %s (token_ref %s)\n", x.Reason, x.TokenRef)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// unchecked names the steps that were not looked at, so that the last line is not
// read as a promise about them.
func unchecked(steps []introspect.Rung) string {
	var names []string
	for _, rung := range steps {
		if rung.Result == introspect.NotChecked {
			names = append(names, rung.Step)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return ", but not checked: " + strings.Join(names, ", ")
}

// quiet is the log of commands that report by themselves.
func quiet(t terminal) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.err, &slog.HandlerOptions{Level: slog.LevelError}))
}
