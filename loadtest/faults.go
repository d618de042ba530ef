package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// fault is something that goes wrong under load, in one or more steps; the
// last of them puts it right again.
type fault struct {
	name       string
	needsRedis bool
	steps      []step
}

// step is one line of the table.
type step struct {
	name string
	// begin changes the world at the start of the step; its error ends the
	// run. What must not be is a broken promise of the row.
	begin func(context.Context, *world) error
	// during, where set, goes on until the time of the step is over.
	during func(context.Context, *world) error
	// settled, where set, is waited for before the step ends.
	settled func(context.Context, *world) error
	promise promise
}

// The goals of "Faults and figures".
var (
	redisAway  = promise{first: 50 * time.Millisecond, after: 5 * time.Millisecond}
	issuerAway = promise{first: time.Second, after: time.Second}
	replicaEnd = promise{mayLose: true}
)

// faults are all, in the order in which they happen. The death of a replica
// comes after those of Redis: what it then finds there is what others have
// written back.
var faults = []fault{
	{"redis-killed", true, []step{
		{name: "redis-killed", begin: killRedis, promise: redisAway},
		{name: "redis-stays-down", promise: redisAway},
		{name: "redis-back-empty", begin: restartRedis, settled: redisUsed, promise: redisAway},
	}},
	{"redis-hung", true, []step{
		{name: "redis-hung", begin: pauseRedis, promise: redisAway},
		{name: "redis-goes-on", begin: resumeRedis, settled: redisUsed, promise: redisAway},
	}},
	{"redis-flushed", true, []step{
		{name: "redis-flushed", begin: command("FLUSHALL"), settled: redisUsed, promise: redisAway},
	}},
	{"redis-read-only", true, []step{
		{name: "redis-read-only", begin: demoteRedis, promise: redisAway},
		{name: "redis-master-again", begin: command("REPLICAOF NO ONE"), settled: redisUsed, promise: redisAway},
	}},
	{"redis-oom", true, []step{
		// One byte, as an empty server needs less than a megabyte.
		{name: "redis-oom", begin: command("CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"), promise: redisAway},
		{name: "redis-has-memory", begin: command("CONFIG SET maxmemory 0"), settled: redisUsed, promise: redisAway},
	}},
	{"redis-evicts", true, []step{
		{name: "redis-evicts", begin: squeezeRedis, settled: countEvicted, promise: redisAway},
		{name: "redis-keeps", begin: command("CONFIG SET maxmemory 0", "CONFIG SET maxmemory-policy noeviction"), settled: redisUsed, promise: redisAway},
	}},
	{"redis-garbage", true, []step{
		{name: "redis-garbage", during: spoil, promise: redisAway},
		{name: "redis-clean", begin: unspoil, settled: redisUsed, promise: redisAway},
	}},
	{"issuer-down", false, []step{
		{name: "issuer-down", begin: issuerDown, during: withoutIssuer, promise: issuerAway},
		{name: "issuer-back", begin: issuerUp, promise: issuerAway},
	}},
	{"issuer-hangs", false, []step{
		{name: "issuer-hangs", begin: issuerHangs, during: withoutIssuer, promise: issuerAway},
		{name: "issuer-answers", begin: issuerUp, promise: issuerAway},
	}},
	{"replica-killed", false, []step{
		{name: "replica-killed", begin: killReplica, promise: replicaEnd},
	}},
	{"replica-drained", false, []step{
		{name: "replica-drained", begin: drainReplica},
	}},
}

// faultsFlags are what `loadtest faults` is told.
type faultsFlags struct {
	settings
	seconds float64 // per step
	json    string  // path; empty: none
	chosen  []fault
}

func parseFaults(args []string, stderr io.Writer) (f faultsFlags, err error) {
	flags := flag.NewFlagSet("loadtest faults", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Float64Var(&f.seconds, "seconds", 4, "how long each step is measured after it has begun")
	flags.IntVar(&f.connections, "connections", 32, "connections, each with one request on its way")
	flags.IntVar(&f.replicas, "replicas", 0, "introspectd processes: 1 or 2 (default 2 with Redis, 1 without)")
	flags.BoolVar(&f.noRedis, "no-redis", false, "embedded mode: one process with a state file, and only what needs no Redis")
	flags.StringVar(&f.binary, "binary", "", "path of an introspectd to test (default: built from this tree)")
	flags.StringVar(&f.json, "json", "", "path of a file for the figures as JSON")
	names := flags.String("phases", "", "comma-separated faults (default: all): "+strings.Join(namesOf(faults), ", "))
	if err := flags.Parse(args); err != nil {
		return f, err
	}
	if f.replicas == 0 {
		f.replicas = 2
		if f.noRedis {
			f.replicas = 1
		}
	}
	switch {
	case flags.NArg() > 0:
		return f, fmt.Errorf("unexpected %q", flags.Arg(0))
	case f.seconds <= 0 || f.connections < 1 || f.replicas < 1 || f.replicas > 2:
		return f, errors.New("expected more than 0 seconds, at least 1 connection, and 1 or 2 replicas")
	case f.noRedis && f.replicas > 1:
		return f, errors.New("without Redis replicas share nothing: expected --replicas 1")
	}
	f.chosen, err = choose(*names, f.noRedis)
	return f, err
}

// choose picks faults by name, in the order in which they happen.
func choose(names string, noRedis bool) ([]fault, error) {
	possible := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return noRedis && f.needsRedis })
	if names == "" {
		return possible, nil
	}
	wanted := strings.Split(names, ",")
	for _, name := range wanted {
		if !slices.Contains(namesOf(possible), name) {
			return nil, fmt.Errorf("--phases: no %q among %s", name, strings.Join(namesOf(possible), ", "))
		}
	}
	return slices.DeleteFunc(possible, func(f fault) bool { return !slices.Contains(wanted, f.name) }), nil
}

func namesOf(faults []fault) (names []string) {
	for _, f := range faults {
		names = append(names, f.name)
	}
	return names
}

// runFaults is `loadtest faults`.
func runFaults(ctx context.Context, args []string, stdout, stderr io.Writer) (status int, err error) {
	f, err := parseFaults(args, stderr)
	if err != nil {
		return exitUsage, err
	}
	r := &faultsRun{faultsFlags: f, progress: stderr}
	err = r.run(ctx)
	if len(r.report.Rows) > 0 {
		err = errors.Join(err, r.report.write(stdout), r.save())
	}
	if err != nil || r.report.broken() {
		return exitFailed, err
	}
	return exitOK, nil
}
