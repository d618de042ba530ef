package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"introspectd/internal/config"
	"introspectd/internal/devissuer"
	"introspectd/internal/listen"
)

const (
	devCaller = "dev"
	devSecret = "dev-secret"
)

func devCommand(t terminal) *cobra.Command {
	s := settings{listen: "127.0.0.1:8080", admin: "127.0.0.1:8081"}
	c := &cobra.Command{
		Use: "dev", Short: "Run the service with nothing to prepare: an issuer, a caller and a policy to try it with", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return dev(c.Context(), t, s) },
	}
	c.Flags().StringVar(&s.listen, "listen", s.listen, "loopback address of the service")
	c.Flags().StringVar(&s.admin, "admin", s.admin, "loopback address of the admin listener")
	return c
}

// dev runs serve with a configuration of its own, in which the development
// issuer is one issuer like any other: its keys come over HTTP, by discovery.
func dev(ctx context.Context, t terminal, s settings) error {
	for _, addr := range []string{s.listen, s.admin} {
		if strings.HasPrefix(addr, "unix:") || addr != "" && !listen.Loopback(addr) {
			return failure{exitUsage, fmt.Errorf("dev takes loopback addresses alone, not %q: its secrets are public", addr)}
		}
	}
	socket, err := listen.Open(s.listen)
	if err != nil {
		return failure{exitFailed, err}
	}
	dir, err := os.MkdirTemp("", "introspectd-dev-")
	if err != nil {
		_ = socket.Close()
		return failure{exitFailed, err}
	}
	defer os.RemoveAll(dir)
	base := "http://" + socket.Addr().String()
	load := func() (*config.Config, error) { return devConfig(socket.Addr().String(), s.admin, dir) }
	cfg, err := load()
	if err != nil {
		_ = socket.Close()
		return failure{exitUsage, err}
	}
	issuer := devissuer.New(base + "/dev")
	return serve(ctx, cfg, serving{
		t: t, load: load, seen: contentOf(cfg.Files()), socket: socket,
		wrap: func(next http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("/dev/", issuer.Handler())
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/dev/") {
					mux.ServeHTTP(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		started: func(ctx context.Context, p *process) { greet(ctx, t, p, base, issuer) },
	})
}

// devConfig is the configuration of dev, with its files in dir: what a file would
// say, given as flags.
func devConfig(addr, admin, dir string) (*config.Config, error) {
	digest := sha256.Sum256([]byte(devSecret))
	base := "http://" + addr
	return config.Load("", config.Options{
		Flags: map[string]string{
			"server.listen":     addr,
			"server.admin":      admin,
			"server.public_url": base,
			"state.path":        filepath.Join(dir, "state"),
			"signing.generate":  filepath.Join(dir, "signing.pem"),
			"issuers":           fmt.Sprintf("[{name: dev, issuer: %q, keys: {discover: true}}]", base+"/dev"),
			"profiles":          "[{name: wso2, shape: wso2, assertion: {audience: [\"https://backend.example/dev\"]}}]",
			"callers": fmt.Sprintf("[{id: %s, secrets: [{sha256: %s}], may: [introspect, transform, auth, operate, explain, revoke, revoke_broad], any_audience: true, profiles: [wso2]}]",
				devCaller, hex.EncodeToString(digest[:])),
			"policies":             "[{name: default, any_audience: true}]",
			"telemetry.log.format": "text",
		},
	})
}

// greet prints what to try, once the service can answer it.
func greet(ctx context.Context, t terminal, p *process, base string, issuer *devissuer.Issuer) {
	for !p.current.Load().hasKeys()["dev"] {
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	token := issuer.Mint(map[string]any{"scope": "read write"})
	fmt.Fprintf(t.out, `introspectd listens on %[1]s. A token of its development issuer, good for an hour:

TOKEN=%[2]s

Is it good, and what does it say?

curl -s -u %[3]s:%[4]s -d "token=$TOKEN" %[1]s/introspect

The same with the claims in an object of their own, then as WSO2's backends know
them, signed; and as a gateway asks:

curl -s -u %[3]s:%[4]s -d "token=$TOKEN" %[1]s/transform
curl -s -u %[3]s:%[4]s -d "token=$TOKEN" -d profile=wso2 -d output=jwt %[1]s/transform
curl -si -H "Authorization: Bearer $TOKEN" %[1]s/auth

Another token:

curl -s -d grant_type=client_credentials -d client_id=dev -d client_secret=dev-secret -d scope=read %[1]s/dev/token

`, base, token, devCaller, devSecret)
}
