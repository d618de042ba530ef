package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"sync"
	"time"
)

// baseline is the step that others are compared with.
const baseline = "baseline"

// faultsRun is one run of faults.
type faultsRun struct {
	faultsFlags
	progress io.Writer
	world    *world
	report   report
}

func (r *faultsRun) run(ctx context.Context) error {
	r.report = report{Date: time.Now(), Machine: machine(), Settings: map[string]string{
		"seconds": fmt.Sprint(r.seconds), "connections": fmt.Sprint(r.connections), "replicas": fmt.Sprint(r.replicas), "redis": fmt.Sprint(!r.noRedis),
	}}
	fmt.Fprintln(r.progress, "starting introspectd, its issuer and what it needs")
	var err error
	r.world, err = newWorld(ctx, r.settings)
	defer r.world.close()
	if err != nil {
		return err
	}
	warmUp := r.next("warm-up", promise{})
	if err := r.world.remember(ctx); err != nil {
		return err
	}
	load, stop := context.WithCancel(ctx)
	r.world.drive.start(load, r.connections)
	err = r.steps(ctx, warmUp)
	stop()
	r.world.drive.wait()
	for _, line := range r.report.Rows {
		line.finish()
	}
	return err
}

// next begins a line of the report, to which the load counts from now on.
func (r *faultsRun) next(name string, p promise) *row {
	line := &row{Step: name, promise: p, recording: r.world.drive.record(r.connections)}
	r.world.row = line
	r.report.Rows = append(r.report.Rows, line)
	return line
}

// steps measures one step after the other under the load that goes on.
func (r *faultsRun) steps(ctx context.Context, warmUp *row) error {
	if err := r.measure(ctx, warmUp, step{settled: redisUsed}); err != nil {
		return err
	}
	all := []step{{name: baseline}}
	for _, f := range r.chosen {
		all = append(all, f.steps...)
	}
	for _, s := range append(all, step{name: "baseline-again"}) {
		if err := r.measure(ctx, r.next(s.name, s.promise), s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// measure lets a step happen and adds to its row what the replicas used.
func (r *faultsRun) measure(ctx context.Context, line *row, s step) error {
	w := r.world
	cpu, _, err := w.usage()
	if err != nil {
		return err
	}
	hits := w.redisHits(ctx)
	if err := r.happen(ctx, line, s); err != nil {
		return err
	}
	line.Seconds = time.Since(line.recording.began).Seconds()
	after, rss, err := w.usage()
	line.cpu, line.RSS, line.redisHits = after-cpu, rss, w.redisHits(ctx)-hits
	return err
}

// happen runs the acts of a step, and returns when they are over and its time,
// which counts from the end of the first, is too.
func (r *faultsRun) happen(ctx context.Context, line *row, s step) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var beside sync.WaitGroup
	defer beside.Wait()
	defer stop()
	beside.Go(func() { r.show(ctx, line) })

	if s.begin != nil {
		if err := s.begin(ctx, r.world); err != nil {
			return err
		}
	}
	during := make(chan error, 1)
	meanwhile, end := context.WithCancel(ctx)
	defer end()
	beside.Go(func() {
		if s.during == nil {
			during <- nil
			return
		}
		during <- s.during(meanwhile, r.world)
	})
	select {
	case <-time.After(time.Duration(r.seconds * float64(time.Second))):
	case <-ctx.Done():
		return ctx.Err()
	}
	end()
	if err := <-during; err != nil || s.settled == nil {
		return err
	}
	return s.settled(ctx, r.world)
}

// show prints a line of progress each second until ctx ends, and one then.
func (r *faultsRun) show(ctx context.Context, line *row) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for more := true; more; {
		select {
		case <-ctx.Done():
			more = false
		case <-tick.C:
		}
		now, passed := line.recording.sum(), time.Since(line.recording.began).Seconds()
		all := now.first
		all.merge(&now.after)
		fmt.Fprintf(r.progress, "%-20s %5.1fs  %8.0f req/s  p99 %6s ms  wrong %d  5xx %d  lost %d\n",
			line.Step, passed, float64(now.requests())/passed, ms(all.quantile(0.99).Microseconds()), now.wrong, now.refused, now.lost)
	}
}

func (r *faultsRun) save() error {
	if r.json == "" {
		return nil
	}
	file, err := os.Create(r.json)
	if err != nil {
		return err
	}
	return errors.Join(r.report.writeJSON(file), file.Close())
}

// cpuModel finds the kind of processor, as Linux names it.
var cpuModel = regexp.MustCompile(`(?m)^model name\s*: (.*)$`)

func machine() string {
	kind := "kind not known"
	if all, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := cpuModel.FindSubmatch(all); m != nil {
			kind = string(m[1])
		}
	}
	return fmt.Sprintf("%s/%s, %d CPUs (%s), %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), kind, runtime.Version())
}
