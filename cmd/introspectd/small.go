package main

import (
	"context"
	"crypto/tls"
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
	"introspectd/internal/listen"
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
			if s.admin != "" && s.file == "" {
				return healthcheck(c.Context(), t, s.admin, nil)
			}
			cfg, err := s.load(t)
			if err != nil {
				return err
			}
			encrypted, err := toItself(cfg.Server)
			if err != nil {
				return failure{exitFailed, err}
			}
			return healthcheck(c.Context(), t, cfg.Server.Admin, encrypted)
		},
	}
	s.flags(c)
	c.Flags().StringVar(&s.admin, "admin", "", "address of the admin listener, in plaintext unless --config says otherwise; else server.admin of the configuration")
	return c
}

// toItself is for TLS with our own admin listener, nil where that is plaintext.
// Whose certificate it has is not looked at: its names are those that others
// know it by, nothing secret is said, and whoever could answer in its place on
// this machine could as well end the process. Where it wants one of its clients,
// it is shown its own.
func toItself(s config.Server) (*tls.Config, error) {
	if s.TLS.Certificate == "" || listen.Loopback(s.Admin) {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true} //nolint:gosec // it is this very machine
	if s.TLS.ClientCA == "" {
		return c, nil
	}
	pair, err := tls.LoadX509KeyPair(s.TLS.Certificate, s.TLS.Key)
	if err != nil {
		return nil, fmt.Errorf("reading our own certificate: %w", err)
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return c, nil
}

// healthcheck asks /readyz of the admin listener at addr, which speaks TLS unless
// encrypted is nil.
func healthcheck(ctx context.Context, t terminal, addr string, encrypted *tls.Config) error {
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
		TLSClientConfig:   encrypted,
		DisableKeepAlives: true,
	}}
	scheme := "http"
	if encrypted != nil {
		scheme = "https"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://localhost/readyz", nil)
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
