// Command loadtest shows how introspectd behaves under load, on this machine:
// it starts everything that it needs, on loopback, and ends it again. It never
// sends to a service that it did not start.
//
// # Decisions
//
// Ratios, not figures. A machine is twice as slow as another, and as itself an
// hour ago, so that speed is shown as a ratio against a bare server that this
// program starts too: each lane has its turn in every round, forth and back,
// and the median over the rounds of one lane's CPU per request against the
// other's is what is told. CPU per request, not requests per second: it is what
// a core is paid for, and steady where latency is at the mercy of the machine.
//
// A closed loop by default: each connection sends its next request when the last
// is answered. A service that stalls is then asked less, so that percentiles
// look better than they would for callers who don't wait; at a fixed rate
// latency counts from when a request was due. faults stays with a closed loop,
// as it compares with a baseline of the same run.
//
// A verdict is forgotten by an edit of its issuer and SIGHUP, so that a first
// sight can be measured again and again with ten thousand tokens. Minting a
// token takes ten times as long as judging it. Cost: in all rounds but the
// first, a verdict takes the place of one that is no longer believed.
//
// The client is written on a bare connection. The one of net/http takes more
// CPU than the service for each request, and sends some again by itself: what
// was lost has to be seen.
//
// Every answer is held against what is known of its token. A load that only
// counts statuses would call a service that lets everybody in a fast one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // something was seen that must not be, or the run broke off
	exitUsage  = 2
)

// mode is one thing that the tool shows.
type mode struct {
	name, about string
	run         func(ctx context.Context, args []string, stdout, stderr io.Writer) (status int, err error)
}

var modes = []mode{
	benchMode("hit", "remembered verdicts, against bare gin and net/http", (*bench).hit),
	benchMode("miss", "tokens seen for the first time, against the signature check alone", (*bench).miss),
	benchMode("refuse", "tokens that are refused without a signature check", (*bench).refuse),
	benchMode("mix", "what callers send: most of it known, some new, some bad", (*bench).mix),
	benchMode("rate", "latency at a fixed rate", (*bench).atRate),
	benchMode("redis", "verdicts in redis, and redis away", (*bench).inRedis),
	benchMode("herd", "many askers of one new token at once", (*bench).herd),
	benchMode("flood", "cheap tokens beside a flood of dear ones", (*bench).flood),
	benchMode("memory", "memory of remembered verdicts, and its collection", (*bench).memory),
	benchMode("scale", "how cost grows with issuers, callers, verdicts and revocations", (*bench).scale),
	benchMode("peers", "HAProxy, mod_auth_openidc, fastify, express and OPA on the same tokens", (*bench).peers),
	benchMode("soak", "a load that goes on, and whether anything grows", (*bench).soak),
	benchMode("goals", "every goal that this machine can show", (*bench).goals),
	{"faults", "what callers notice when Redis, an issuer or a replica fails", runFaults},
	{"yardstick", "a bare server, which the others start", runYardstick},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	for _, m := range modes {
		if len(args) == 0 || args[0] != m.name {
			continue
		}
		status, err := m.run(ctx, args[1:], stdout, stderr)
		switch {
		case errors.Is(err, flag.ErrHelp):
			return exitOK
		case err != nil:
			fmt.Fprintln(stderr, "loadtest:", err)
		}
		return status
	}
	fmt.Fprintln(stderr, "usage: go run ./loadtest MODE [flags]; --help after a mode lists its flags")
	for _, m := range modes {
		fmt.Fprintf(stderr, "  %-10s %s\n", m.name, m.about)
	}
	return exitUsage
}
