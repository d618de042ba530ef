package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	startPatience = 30 * time.Second // for a replica to be ready
	drainPatience = 25 * time.Second // for its end after SIGTERM
)

// replica is one introspectd, over all the processes that it was.
type replica struct {
	name          string
	binary        string
	config        string // path of its configuration
	listen, admin string

	// up says that requests may be sent to it: it is ready, and not draining.
	up atomic.Bool
	// life counts its processes; a connection belongs to one.
	life atomic.Int64

	mu      sync.Mutex
	process *exec.Cmd
	ended   chan struct{}
	spent   time.Duration // CPU of the processes that ended
	log     tail
}

// start runs a process and waits until it is ready.
func (r *replica) start(ctx context.Context) error {
	if err := r.launch(); err != nil {
		return err
	}
	return r.ready(ctx)
}

func (r *replica) launch() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Not CommandContext: a run that is interrupted ends its replicas itself.
	p := exec.Command(r.binary, "serve", "--config", r.config, "--listen", r.listen, "--admin", r.admin)
	p.Stdout, p.Stderr, p.Env = &r.log, &r.log, environment(os.Environ())
	if err := p.Start(); err != nil {
		return err
	}
	r.process, r.ended = p, make(chan struct{})
	r.life.Add(1)
	go func(ended chan struct{}) {
		_ = p.Wait() // the state is looked at
		r.mu.Lock()
		r.spent += p.ProcessState.UserTime() + p.ProcessState.SystemTime()
		r.process = nil
		r.mu.Unlock()
		close(ended)
	}(r.ended)
	return nil
}

// ready waits until requests may be sent, and lets them come.
func (r *replica) ready(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, startPatience)
	defer stop()
	for {
		if status, _, _ := send(ctx, "http://"+r.listen+"/readyz", "", nil); status == http.StatusOK {
			r.up.Store(true)
			return nil
		}
		select {
		case <-r.ended:
			return fmt.Errorf("%s ended instead of getting ready:\n%s", r.name, &r.log)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s:\n%s", r.name, startPatience, &r.log)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// kill ends the process as a crash would. What was sent to it is lost.
func (r *replica) kill() {
	r.signal(syscall.SIGKILL)
	r.up.Store(false)
	<-r.ended
}

// terminate asks the process to end, and keeps requests from it as soon as it
// says that it drains, as a load balancer does. It returns its exit status.
func (r *replica) terminate(ctx context.Context) (int, error) {
	r.mu.Lock()
	p := r.process
	r.mu.Unlock()
	if p == nil {
		return 0, errors.New(r.name + " is not running")
	}
	r.signal(syscall.SIGTERM)
	end := time.After(drainPatience)
	for {
		if status, _, err := send(ctx, "http://"+r.listen+"/readyz", "", nil); err != nil || status != http.StatusOK {
			r.up.Store(false)
		}
		select {
		case <-r.ended:
			r.up.Store(false)
			return p.ProcessState.ExitCode(), nil
		case <-end:
			return 0, fmt.Errorf("%s has not ended %s after SIGTERM:\n%s", r.name, drainPatience, &r.log)
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (r *replica) signal(s syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process != nil {
		_ = r.process.Process.Signal(s) // it may have ended by itself
	}
}

// stop ends whatever runs.
func (r *replica) stop() {
	r.up.Store(false)
	if r.ended == nil {
		return
	}
	r.signal(syscall.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(5 * time.Second):
		r.kill()
	}
}

// usage is the CPU that all its processes took, and the resident memory of the
// one that runs, in bytes.
func (r *replica) usage() (cpu time.Duration, rss int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil {
		return r.spent, 0, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.process.Process.Pid))
	if err != nil {
		return 0, 0, fmt.Errorf("CPU of %s: %w", r.name, err)
	}
	cpu, rss, err = parseStat(string(stat))
	return r.spent + cpu, rss, err
}

// parseStat reads user and system time and the resident memory out of
// /proc/PID/stat (proc(5)).
func parseStat(stat string) (cpu time.Duration, rss int64, err error) {
	// The second field is a name in parentheses, with any bytes in it.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 22 {
		return 0, 0, fmt.Errorf("/proc/PID/stat: got %q", stat)
	}
	var numbers [3]int64
	for i, field := range []string{fields[11], fields[12], fields[21]} {
		if numbers[i], err = strconv.ParseInt(field, 10, 64); err != nil {
			return 0, 0, fmt.Errorf("/proc/PID/stat: %w", err)
		}
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
	return time.Duration(numbers[0]+numbers[1]) * tick, numbers[2] * int64(os.Getpagesize()), nil
}

// metric adds up the series of /metrics that begin with a prefix; ok is false
// where there is none.
func (r *replica) metric(ctx context.Context, prefix string) (sum float64, ok bool) {
	status, body, _ := send(ctx, "http://"+r.admin+"/metrics", "", nil)
	if status != http.StatusOK {
		return 0, false
	}
	lines := bufio.NewScanner(bytes.NewReader(body))
	for lines.Scan() {
		series, value, cut := strings.Cut(lines.Text(), " ")
		if !cut || !strings.HasPrefix(series, prefix) {
			continue
		}
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			sum, ok = sum+n, true
		}
	}
	return sum, ok
}

// oneOff is for what is asked beside the load: no connection is kept, as the
// process at its other end may be gone.
var oneOff = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}

// send asks once, by GET where there is no form and as the caller of the load
// where there is one.
func send(ctx context.Context, url, secret string, form url.Values) (status int, body []byte, err error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	if form != nil {
		q.Method, q.Body = http.MethodPost, io.NopCloser(strings.NewReader(form.Encode()))
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.SetBasicAuth(callerID, secret)
	}
	answer, err := oneOff.Do(q)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	return answer.StatusCode, body, err
}

// freeAddress is a loopback address that nobody listens on. It lies below the
// ports that the kernel gives to connections, which could take it meanwhile.
func freeAddress() (string, error) {
	var err error
	for range 100 {
		var l net.Listener
		address := fmt.Sprintf("127.0.0.1:%d", 15_000+rand.IntN(15_000))
		if l, err = new(net.ListenConfig).Listen(context.Background(), "tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("no free port among a hundred: %w", err)
}

// tail is a writer that keeps the last of what it is given.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

// mostTail is how much a tail keeps, in bytes.
const mostTail = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - mostTail; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
