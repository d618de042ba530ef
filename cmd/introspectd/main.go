// Command introspectd judges JWT access tokens of many issuers for whoever has
// to know whether they are good.
//
// # Decisions
//
// For the pace of garbage collection the caches don't count. Context: the runtime
// lets a heap double before it collects, and a cache is heap that is there at
// once; with the 128 MiB of the default, 128 MiB of garbage come together, which
// the process then keeps. Choice: collections are as far apart as they would be
// if the caches weren't heap, at least 32 MiB, since what is left without them is
// a few MiB, and up to 192 MiB eight times what is there beyond those: with 1,000
// issuers collections took 8 % of a hit's CPU where they came as often as with one,
// and 5 % more than with one where they came at 72 MiB. A cache holds no pointers,
// so that a collection takes as long with it as without. With 10,000 remembered
// tokens under load, resident memory is 86 MiB in place of 190, and CPU per hit the
// same from 16 to 128 MiB of garbage (2026-11-27, 2 vCPU, Go 1.26.8). Cost: what
// the runtime is told follows a heap that grows by some seconds, and a thousand
// issuers take 290 MiB in place of 210. GOGC in the environment is obeyed instead,
// and GOMEMLIMIT, which the runtime reads by itself, works beside it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"introspectd/internal/config"
)

// Exit statuses.
const (
	exitOK       = 0
	exitFailed   = 1 // while running
	exitUsage    = 2 // wrong usage or configuration
	exitInactive = 3 // explain: the token is not active
)

func main() {
	// After the first signal the default is restored, so that a second one ends
	// the process at once. That comes before anything learns of the first:
	// whoever sees us drain may send the second.
	signalled, restore := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	ctx, drain := context.WithCancel(context.Background())
	context.AfterFunc(signalled, func() {
		restore()
		drain()
	})
	os.Exit(run(ctx, os.Args[1:], terminal{os.Stdin, os.Stdout, os.Stderr, os.Environ()}))
}

// terminal is what a command reads and writes.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	env      []string
}

// failure is an error with the exit status it means.
type failure struct {
	status int
	err    error
}

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

// run runs one command and returns its exit status.
func run(ctx context.Context, args []string, t terminal) int {
	root := &cobra.Command{
		Use:           "introspectd",
		Short:         "Judges JWT access tokens of many issuers: introspection, claim transformation, gateway auth",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetArgs(args)
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	root.AddCommand(serveCommand(t), devCommand(t), checkCommand(t), explainCommand(t), schemaCommand(t), healthcheckCommand(t), versionCommand(t), wso2Command(t))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var f failure
	if !errors.As(err, &f) {
		f = failure{exitUsage, err} // cobra's own errors are about usage
	}
	if f.err != nil {
		fmt.Fprintln(t.err, "introspectd: "+f.Error())
	}
	return f.status
}

// configFile is where a command's configuration comes from.
const configFile = "/etc/introspectd/config.yaml"

// settings are the flags that commands with a configuration have in common.
type settings struct {
	file          string
	listen, admin string
}

func (s *settings) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.file, "config", "", "configuration file (YAML, TOML or JSON); else $INTROSPECTD_CONFIG, else "+configFile)
}

func (s *settings) addresses(c *cobra.Command) {
	c.Flags().StringVar(&s.listen, "listen", "", "overrides server.listen")
	c.Flags().StringVar(&s.admin, "admin", "", "overrides server.admin")
}

// path returns the file that is meant.
func (s *settings) path(t terminal) string {
	if s.file != "" {
		return s.file
	}
	for _, entry := range t.env {
		if path, ok := strings.CutPrefix(entry, "INTROSPECTD_CONFIG="); ok && path != "" {
			return path
		}
	}
	return configFile
}

// load reads the configuration that is meant; faults mean exit status 2, and
// leave a Config that is good for its Files alone.
func (s *settings) load(t terminal) (*config.Config, error) {
	flags := map[string]string{}
	if s.listen != "" {
		flags["server.listen"] = s.listen
	}
	if s.admin != "" {
		flags["server.admin"] = s.admin
	}
	cfg, err := config.Load(s.path(t), config.Options{Flags: flags, Env: t.env})
	if err != nil {
		return cfg, failure{exitUsage, fmt.Errorf("the configuration is at fault:\n%w", err)}
	}
	return cfg, nil
}
