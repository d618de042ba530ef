package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// server is a process that is measured: introspectd, a yardstick or a peer.
type server struct {
	name    string
	address string // host:port
	admin   string // of introspectd
	config  string // its path, of introspectd
	passes  int    // how often it was made to forget
	seen    int    // requests, before it was measured

	process *exec.Cmd
	ended   chan struct{}
	log     tail
}

// recipe is how a server is started.
type recipe struct {
	name, address string
	argv          []string
	env           []string // beside ours
	dir           string
	// loud means that its log is too much to read: it goes to the null device,
	// as it would go to a file.
	loud bool
	// path is asked until there is an answer.
	path string
}

// start runs a server on a processor and waits until it answers.
func start(ctx context.Context, c recipe, cpu int) (*server, error) {
	s := &server{name: c.name, address: c.address, ended: make(chan struct{})}
	s.process = exec.Command(c.argv[0], c.argv[1:]...) //nolint:noctx // stop ends it, in order
	s.process.Dir, s.process.SysProcAttr = c.dir, dieWithParent()
	s.process.Env = append(environment(os.Environ()), c.env...)
	s.process.Stdout, s.process.Stderr = &s.log, &s.log
	if c.loud {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		defer null.Close()
		s.process.Stdout, s.process.Stderr = null, null
	}
	if err := s.launch(cpu); err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.name, err)
	}
	go func() {
		_ = s.process.Wait() // that it ended is what counts
		close(s.ended)
	}()
	if err := s.answers(ctx, c.path); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// environment is that of a server: ours, without what sets up telemetry and
// introspectd, which would change what is measured, or send it elsewhere.
func environment(ours []string) (env []string) {
	for _, entry := range ours {
		if !strings.HasPrefix(entry, "OTEL_") && !strings.HasPrefix(entry, "INTROSPECTD_") {
			env = append(env, entry)
		}
	}
	return env
}

// launch starts the process on a processor: what a pinned thread starts is
// pinned.
func (s *server) launch(cpu int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer pin(cpu)()
	return s.process.Start()
}

func (s *server) answers(ctx context.Context, path string) error {
	ctx, stop := context.WithTimeout(ctx, startPatience)
	defer stop()
	for {
		if status, _, err := send(ctx, "http://"+s.address+path, "", nil); err == nil && status != http.StatusServiceUnavailable {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("%s ended instead of answering:\n%s", s.name, &s.log)
		case <-ctx.Done():
			return fmt.Errorf("%s has not answered within %s:\n%s", s.name, startPatience, &s.log)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop ends the process; it may have ended.
func (s *server) stop() {
	if s == nil {
		return
	}
	_ = s.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(5 * time.Second):
		_ = s.process.Process.Kill()
		<-s.ended
	}
}

func (s *server) usage() (cpu time.Duration, rss int64, err error) {
	return treeUsage(s.process.Process.Pid)
}

// operate asks the admin listener as the caller of the load.
func (s *server) operate(ctx context.Context, path, secret string) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+path, nil)
	if err != nil {
		return nil, err
	}
	q.Header.Set("Authorization", basic(callerID, secret))
	answer, err := patient.Do(q)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", path, answer.Status, body)
	}
	return body, err
}

// patient is for profiles, which take as long as they were asked to.
var patient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Minute}

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

var errMissing = errors.New("not installed")
