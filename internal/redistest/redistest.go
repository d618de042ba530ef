// Package redistest runs real redis servers on loopback, for tests and for the
// load tool: alone, as a cluster, and under sentinels, with the faults that such
// servers have. It never leaves one behind: they end with whoever started them.
package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startTime is for anything that is waited for.
const startTime = 20 * time.Second

// Find says which program is missing; nil when none is.
func Find() error {
	// It runs as a sentinel too, and Do speaks for itself.
	if _, err := exec.LookPath("redis-server"); err != nil {
		return errors.New("redis-server")
	}
	return nil
}

// Server is one redis-server or sentinel.
type Server struct {
	// Addr is its host:port; it stays over a Restart.
	Addr string
	args []string
	log  string // file

	mu      sync.Mutex
	command *exec.Cmd
	ended   chan struct{}
}

// Start runs a redis-server that keeps nothing on disk, with further arguments,
// and waits until it answers. dir is where it works.
func Start(dir string, args ...string) (*Server, error) {
	for range 20 {
		addr, err := FreeAddress()
		if err != nil {
			return nil, err
		}
		_, port, _ := net.SplitHostPort(addr)
		s := &Server{Addr: addr, log: filepath.Join(dir, "redis-"+port+".log")}
		s.args = append([]string{
			"--port", port, "--bind", "127.0.0.1", "--dir", dir, "--logfile", s.log, "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0",
		}, args...)
		err = s.Restart()
		if err == nil {
			return s, nil
		}
		s.Stop()
		if !s.portTaken() {
			return nil, err
		}
	}
	return nil, errors.New("twenty ports were free, and taken a moment later")
}

// portTaken says whether another took the port between the choice and the
// start.
func (s *Server) portTaken() bool { return strings.Contains(s.lastWords(), "Address already in use") }

// lastWords is the end of the server's log, which says why it ended.
func (s *Server) lastWords() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-500):])
}

// Restart runs the server, which was killed or stopped before, on its address.
func (s *Server) Restart() error {
	s.Kill()
	// Of settings that it does not take, redis speaks before it has a log.
	early, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("the log of redis-server: %w", err)
	}
	defer early.Close()
	s.mu.Lock()
	s.command, s.ended = exec.Command("redis-server", s.args...), make(chan struct{})
	s.command.SysProcAttr, s.command.Stdout, s.command.Stderr = dieWithParent(), early, early
	command, ended := s.command, s.ended
	err = command.Start()
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("starting redis-server: %w", err)
	}
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	return wait("redis answers at "+s.Addr, func() (bool, error) {
		select {
		case <-ended:
			return false, errors.New("it ended at once: " + s.lastWords())
		default:
		}
		return s.answers(command.Process.Pid), nil
	})
}

// answers says whether it is our process that answers, not another that took
// the port a moment before ours could.
func (s *Server) answers(pid int) bool {
	info, err := s.Do("INFO", "server")
	if err != nil {
		text := err.Error() // of a server that wants a password, no more can be had
		return strings.HasPrefix(text, "NOAUTH") || strings.HasPrefix(text, "NOPERM")
	}
	return strings.Contains(info, fmt.Sprintf("process_id:%d\r\n", pid))
}

// Kill ends the server as a crash would. It may be gone already.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.command == nil || s.command.Process == nil {
		return
	}
	_ = s.command.Process.Kill() // it may have ended
	<-s.ended
	s.command = nil
}

// Stop ends the server for good.
func (s *Server) Stop() { s.Kill() }

// Pause keeps the server from running at all; its connections stay open.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.command != nil {
		_ = s.command.Process.Signal(sig) // it may have ended
	}
}

// Do runs one command on a connection of its own, and returns what is answered:
// texts and numbers as they are, lists as lines. An error that redis answers is
// one, with its text.
func (s *Server) Do(args ...string) (string, error) {
	c, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	var request strings.Builder
	fmt.Fprintf(&request, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&request, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(c, request.String()); err != nil {
		return "", err
	}
	return reply(bufio.NewReader(c))
}

// reply reads one reply of RESP2.
func reply(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("an empty reply")
	}
	n, _ := strconv.Atoi(line[1:]) // of kinds that have a number
	switch line[0] {
	case '-':
		return "", errors.New(line[1:])
	case '$':
		if n < 0 {
			return "", nil
		}
		text := make([]byte, n+2)
		_, err := io.ReadFull(r, text)
		return string(text[:n]), err
	case '*':
		var lines []string
		for range n {
			one, err := reply(r)
			if err != nil {
				return "", err
			}
			lines = append(lines, one)
		}
		return strings.Join(lines, "\n"), nil
	}
	return line[1:], nil
}

// wait polls until holds says so, or fails.
func wait(what string, holds func() (bool, error)) error {
	for end := time.Now().Add(startTime); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		ok, err := holds()
		if err != nil {
			return fmt.Errorf("waiting until %s: %w", what, err)
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("%s and not yet: %s", startTime, what)
}

var given sync.Map // addresses

// FreeAddress is one that nobody listens on, another each time. It lies below
// the ports that the kernel gives to connections, and so does that of a
// cluster's bus, 10,000 above.
func FreeAddress() (string, error) {
	for range 200 {
		port := 10_000 + rand.IntN(10_000)
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if _, taken := given.LoadOrStore(addr, true); taken {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return "", err
		}
		return addr, nil
	}
	return "", errors.New("no free port among two hundred")
}
