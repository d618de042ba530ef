package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"introspectd/internal/devissuer"
)

// systemd is the end of the notify protocol that systemd holds.
type systemd struct {
	t    *testing.T
	conn *net.UnixConn
}

// newSystemd listens at a path, or in the abstract namespace where it begins
// with @, and has the services that are started from now on told of it.
func newSystemd(t *testing.T, socket string) *systemd {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", socket)
	return &systemd{t, conn}
}

// hears waits for a datagram and returns its assignments.
func (s *systemd) hears() map[string]string {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := s.conn.Read(b)
	if err != nil {
		s.t.Fatal(err)
	}
	said := map[string]string{}
	for line := range strings.Lines(string(b[:n])) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok {
			s.t.Fatalf("systemd was told %q, which is no assignment", b[:n])
		}
		said[key] = value
	}
	return said
}

// wants holds the next datagram to one assignment of it.
func (s *systemd) wants(key, value string) map[string]string {
	s.t.Helper()
	said := s.hears()
	if said[key] != value {
		s.t.Fatalf("systemd was told %v, want %s=%s", said, key, value)
	}
	return said
}

func TestSystemdIsToldOfStartReloadAndStop(t *testing.T) {
	for name, socket := range map[string]string{
		"a path":                 filepath.Join(t.TempDir(), "notify"),
		"the abstract namespace": "@introspectd-test-" + strconv.Itoa(os.Getpid()),
	} {
		t.Run(name, func(t *testing.T) {
			issuer, iss := newIssuer(t)
			// That an issuer is away is no reason for a unit to fail.
			issuer.Fail(devissuer.Refuse500)
			pid1 := newSystemd(t, socket)
			config := callerAndPolicy + "issuers:\n" + row("idp", iss)
			s := launch(t, config)
			pid1.wants("READY", "1")
			if got := s.status(s.URL + "/livez"); got != 200 {
				t.Errorf("/livez once systemd was told that we are ready: got %d, want 200", got)
			}

			// systemd takes the next READY for that of its own SIGHUP only if the
			// time is not before the one at which it sent it.
			before, err := monotonic()
			if err != nil {
				t.Fatal(err)
			}
			s.signal(syscall.SIGHUP)
			at, err := strconv.ParseInt(pid1.wants("RELOADING", "1")["MONOTONIC_USEC"], 10, 64)
			after, _ := monotonic()
			if err != nil || at < before.Microseconds() || at > after.Microseconds() {
				t.Errorf("MONOTONIC_USEC: got %d (%v), want it between %d and %d", at, err, before.Microseconds(), after.Microseconds())
			}
			if got := pid1.wants("READY", "1")["STATUS"]; got != "serving" {
				t.Errorf("the status after a reload: got %q, want serving", got)
			}

			// A reload that is refused ends as well, or systemd would wait for it,
			// and then kill what serves.
			s.hangup("issuers: []", refused)
			pid1.wants("RELOADING", "1")
			if got := pid1.wants("READY", "1")["STATUS"]; !strings.Contains(got, "refused") {
				t.Errorf("the status after a refused reload: got %q, want it to say so", got)
			}

			s.signal(syscall.SIGTERM)
			pid1.wants("STOPPING", "1")
			if got := s.exit(); got != exitOK {
				t.Errorf("exit status: got %d, want 0", got)
			}
		})
	}
}

func TestASystemdThatIsGoneStopsNothing(t *testing.T) {
	_, iss := newIssuer(t)
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	s := start(t, callerAndPolicy+"issuers:\n"+row("idp", iss))
	if got := s.wrote("systemd does not hear us", 1); len(got) != 1 {
		t.Errorf("log lines of it: got %d, want one", len(got))
	}
}

func TestWithoutSystemdNobodyIsTold(t *testing.T) {
	if got := newNotifier([]string{"HOME=/", "NOTIFY_SOCKET_X=/x"}); got != (notifier{}) {
		t.Errorf("got %v, want nobody to tell", got)
	}
	for _, err := range []error{notifier{}.ready(""), notifier{}.reloading(), notifier{}.stopping()} {
		if err != nil {
			t.Error(err)
		}
	}
}
