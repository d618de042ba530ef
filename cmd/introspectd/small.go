package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"introspectd/internal/config"
)

// version is set by the linker in releases.
var version = "dev"

// commit is the revision that the binary was built from, as far as the build
// recorded it.
func commit() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

func versionCommand(t terminal) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print version, commit and Go version", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			fmt.Fprintf(t.out, "introspectd %s (commit %s, %s)\n", version, commit(), runtime.Version())
		},
	}
}

func schemaCommand(t terminal) *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of the configuration, for editors", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			schema, err := config.Schema()
			if err != nil {
				return failure{exitFailed, err}
			}
			_, err = fmt.Fprintf(t.out, "%s\n", strings.TrimSpace(string(schema)))
			return err
		},
	}
}

func healthcheckCommand(t terminal) *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use: "healthcheck", Short: "Exit with 0 if the admin listener says ready", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if s.admin == "" {
				cfg, err := s.load(t)
				if err != nil {
					return err
				}
				s.admin = cfg.Server.Admin
			}
			return healthcheck(c.Context(), t, s.admin)
		},
	}
	s.flags(c)
	c.Flags().StringVar(&s.admin, "admin", "", "address of the admin listener; else server.admin of the configuration")
	return c
}

// healthcheck asks /readyz of the admin listener at addr.
func healthcheck(ctx context.Context, t terminal, addr string) error {
	if addr == "" {
		return failure{exitUsage, fmt.Errorf("the admin listener is off")}
	}
	ctx, stop := context.WithTimeout(ctx, 3*time.Second)
	defer stop()
	network, path := "tcp", addr
	if socket, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, path = "unix", socket
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, path)
		},
		DisableKeepAlives: true,
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/readyz", nil)
	if err != nil {
		return failure{exitFailed, err}
	}
	answer, err := client.Do(r)
	if err != nil {
		return failure{exitFailed, fmt.Errorf("asking the admin listener: %w", err)}
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10)) // only shown
	fmt.Fprintf(t.out, "%s\n", body)
	if answer.StatusCode != http.StatusOK {
		return failure{exitFailed, fmt.Errorf("not ready")}
	}
	return nil
}
