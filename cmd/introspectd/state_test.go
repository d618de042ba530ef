package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"introspectd/internal/devissuer"
	"introspectd/internal/filestore"
	"introspectd/internal/jwks"
)

// mortalIssuer is a development issuer that can be taken away. Its address
// stays: what is there afterwards is up to the test.
type mortalIssuer struct {
	*devissuer.Issuer
	iss    string
	server *httptest.Server

	mu    sync.Mutex
	hangs chan struct{} // when set, requests wait until it is closed
}

func newMortalIssuer(t *testing.T) *mortalIssuer {
	t.Helper()
	m := &mortalIssuer{}
	var issue http.Handler
	m.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		hangs := m.hangs
		m.mu.Unlock()
		if hangs != nil {
			<-hangs
			return
		}
		issue.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		m.mu.Lock()
		if m.hangs != nil {
			close(m.hangs)
		}
		m.mu.Unlock()
		m.server.Close()
	})
	m.iss = m.server.URL + "/idp"
	m.Issuer = devissuer.New(m.iss)
	issue = m.Handler()
	return m
}

func (m *mortalIssuer) hang() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hangs = make(chan struct{})
}

func (m *mortalIssuer) discovered(name string) string {
	return "  - name: " + name + "\n    issuer: " + m.iss + "\n    keys: {discover: true}\n"
}

// openStore opens a state file as the service does.
func openStore(t *testing.T, path string) *filestore.Store {
	t.Helper()
	store, err := filestore.Open(path, filestore.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// saveKeys puts an issuer's keys into a state file as if they had been fetched
// a while ago.
func saveKeys(t *testing.T, path, iss string, ago time.Duration) {
	t.Helper()
	store := openStore(t, path)
	defer store.Close()
	keys, err := jwks.New(jwks.Config{JWKSURL: iss + "/jwks.json", MaxStale: 10_000 * time.Hour}, jwks.Options{
		Name: "crafted", Issuer: iss, Store: store, Now: func() time.Time { return time.Now().Add(-ago) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		keys.Run(ctx)
	}()
	if err := keys.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
}

// saved waits until the state has the keys of so many issuers.
func (s *service) saved(issuers int) {
	s.t.Helper()
	s.eventually("the keys are saved", func() bool {
		done := 0
		for _, name := range []string{"one", "two"} {
			if s.metric(`introspectd_jwks_state_total{issuer="`+name+`",operation="save",result="done"}`) != "" {
				done++
			}
		}
		return done == issuers
	})
}

func TestKeysSurviveAKillWhileEveryIssuerIsAway(t *testing.T) {
	for _, row := range []struct {
		name string
		take func(m *mortalIssuer)
	}{
		{"refuses connections", func(m *mortalIssuer) { m.server.Close() }},
		{"hangs", (*mortalIssuer).hang},
	} {
		t.Run("the issuer "+row.name, func(t *testing.T) {
			one, two := newMortalIssuer(t), newMortalIssuer(t)
			path := filepath.Join(t.TempDir(), "state")
			config := callerAndPolicy + "state: {path: " + path + "}\nissuers:\n" + row2(one, two)
			s := start(t, config)
			tokens := []string{one.Mint(nil), two.Mint(nil)}
			s.saved(2)
			s.kill()
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("the state file: got %v, %v, want mode 0600", info, err)
			}
			row.take(one)
			row.take(two)

			began := time.Now()
			s = launch(t, config)
			s.listens()
			if got := s.status(s.Admin + "/readyz"); got != http.StatusOK {
				t.Errorf("/readyz at the start: got %d, want 200", got)
			}
			for _, token := range tokens {
				if got := s.introspect(token); got["active"] != true {
					t.Errorf("a good token: got %v, want it active", got)
				}
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("from the start to the answers: got %s, want at most 2 s", took)
			}
			if got := s.introspect(tokens[0] + "x"); got["active"] != false {
				t.Errorf("a spoilt token: got %v, want it inactive", got)
			}
			if lines := s.wrote("last-good keys survive a restart", 1); len(lines) != 1 || lines[0]["state"] != path {
				t.Errorf("log about the state file: got %v, want one line with %s", lines, path)
			}
			if lines := s.wrote("keys taken from the state", 2); len(lines) != 2 {
				t.Errorf("log about the keys: got %v, want a line for each issuer", lines)
			}
			s.signal(os.Interrupt)
			if got := s.exit(); got != exitOK {
				t.Errorf("exit status: got %d, want %d", got, exitOK)
			}
		})
	}
}

// row2 are two issuers, one of each kind of source.
func row2(one, two *mortalIssuer) string { return row("one", one.iss) + two.discovered("two") }

func TestKeysBeyondMaxStaleAreNotUsedAfterARestart(t *testing.T) {
	for _, c := range []struct {
		name  string
		ago   time.Duration
		ready int
	}{
		{"within max_stale", 23 * time.Hour, http.StatusOK},
		{"beyond max_stale", 25 * time.Hour, http.StatusServiceUnavailable},
		{"from the future", -2 * time.Hour, http.StatusServiceUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMortalIssuer(t)
			path := filepath.Join(t.TempDir(), "state")
			saveKeys(t, path, m.iss, c.ago)
			token := m.Mint(nil)
			m.server.Close()
			s := launch(t, callerAndPolicy+"state: {path: "+path+"}\nissuers:\n"+row("one", m.iss))
			s.listens()
			if got := s.status(s.Admin + "/readyz"); got != c.ready {
				t.Errorf("/readyz: got %d, want %d", got, c.ready)
			}
			if got, body := s.post("/introspect", map[string][]string{"token": {token}}); got != c.ready {
				t.Errorf("/introspect: got %d %s, want %d", got, body, c.ready)
			}
		})
	}
}

func TestDamagedStateFileDoesNotKeepTheServiceFromStarting(t *testing.T) {
	m := newMortalIssuer(t)
	path := filepath.Join(t.TempDir(), "state")
	saveKeys(t, path, m.iss, time.Hour)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, content string }{
		{"no database", "once upon a time"},
		{"cut off", string(content[:len(content)/2])},
		{"overwritten", string(content[:2*os.Getpagesize()]) + strings.Repeat("x", len(content))},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			writeFile(t, path, c.content)
			// Revocations may have been in it: see TestEmbeddedRevocations.
			config := callerAndPolicy + "state: {path: " + path + "}\nrevocation: {on_outage: allow}\nissuers:\n" + row("one", m.iss)
			s := start(t, config)
			if got := s.introspect(m.Mint(nil)); got["active"] != true {
				t.Errorf("a good token: got %v, want it active", got)
			}
			aside, err := filepath.Glob(path + ".corrupt-*")
			if err != nil || len(aside) != 1 {
				t.Fatalf("files set aside: got %q, %v, want one", aside, err)
			}
			if got, err := os.ReadFile(aside[0]); err != nil || string(got) != c.content {
				t.Errorf("what was set aside: got %d bytes, %v, want the %d of before", len(got), err, len(c.content))
			}
			lines := s.wrote("the state file is damaged: it is set aside, and an empty one takes its place", 1)
			if len(lines) != 1 || lines[0]["level"] != "ERROR" || lines[0]["aside"] != aside[0] {
				t.Errorf("log: got %v, want one error that names %s", lines, aside[0])
			}
			// The new one is as good as any.
			s.saved(1)
			s.kill()
			s = start(t, config)
			if len(s.wrote("keys taken from the state", 1)) != 1 {
				t.Error("after another start: got no keys from the state, want them")
			}
		})
	}
}

func TestStateFileThatCannotBeUsedEndsTheStart(t *testing.T) {
	_, iss := newIssuer(t)
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, path string)
		want    string
	}{
		{"others can write it", func(t *testing.T, path string) {
			writeFile(t, path, "")
			if err := os.Chmod(path, 0o606); err != nil {
				t.Fatal(err)
			}
		}, "others can write it (mode 0606)"},
		{"another process has it", func(t *testing.T, path string) {
			store := openStore(t, path)
			t.Cleanup(func() { _ = store.Close() })
		}, "in use by another process"},
		{"a socket", func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}, "not a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "s") // a socket's path is short
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			path := filepath.Join(dir, "state")
			c.prepare(t, path)
			s := launch(t, callerAndPolicy+"state: {path: "+path+"}\nissuers:\n"+row("one", iss))
			if got := s.exit(); got != exitUsage {
				t.Errorf("exit status: got %d, want %d", got, exitUsage)
			}
			if log := s.log.String(); !strings.Contains(log, "state.path: ") || !strings.Contains(log, path) || !strings.Contains(log, c.want) {
				t.Errorf("got %s, want state.path, %s and %q", log, path, c.want)
			}
		})
	}
}

func TestWithoutAStateFileTheStartSaysSo(t *testing.T) {
	_, iss := newIssuer(t)
	s := start(t, callerAndPolicy+"issuers:\n"+row("one", iss))
	if lines := s.wrote("last-good keys are lost at a restart: state.path names no file", 1); len(lines) != 1 {
		t.Errorf("log about the state file: got %v, want one line", lines)
	}
}

func TestReloadKeepsToTheStateFileOfTheStart(t *testing.T) {
	one, two := newMortalIssuer(t), newMortalIssuer(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	config := callerAndPolicy + "state: {path: " + path + "}\nissuers:\n"
	s := start(t, config+row("one", one.iss))
	s.saved(1)

	s.write(strings.Replace(config, path, path+"2", 1) + row("one", one.iss))
	s.eventually("the reload is refused", func() bool { return len(s.lines("reload refused; what runs goes on")) == 1 })
	if cause := s.lines("reload refused; what runs goes on")[0]["cause"]; cause != "a change of [state.path] needs a restart" {
		t.Errorf("cause: got %v, want that state.path needs a restart", cause)
	}
	if _, err := os.Stat(path + "2"); err == nil {
		t.Error("the other file: got it made, want none")
	}

	// A new issuer's keys go to the file that is open, and an edited issuer
	// keeps its own.
	s.write(config + row("one", one.iss, "    leeway: 20s\n") + two.discovered("two"))
	s.eventually("the reload is done", func() bool { return len(s.lines("reloaded")) == 1 })
	s.saved(2)
	one.server.Close()
	s.write(config + strings.Replace(row("one", one.iss), "keys: {", "keys: {refresh: 1m, ", 1) + two.discovered("two"))
	s.eventually("the second reload is done", func() bool { return len(s.lines("reloaded")) == 2 })
	if got := s.introspect(one.Mint(nil)); got["active"] != true {
		t.Errorf("a good token after its issuer was edited while away: got %v, want it active", got)
	}
}

func TestDevLeavesNoStateBehind(t *testing.T) {
	dir, admin, log := t.TempDir(), freeAddress(t), &syncBuffer{}
	command := exec.Command("introspectd", "dev", "--listen", freeAddress(t), "--admin", admin)
	command.Env = append(os.Environ(), "TMPDIR="+dir)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	s := &service{t: t, Admin: "http://" + admin, command: command, log: log, ended: make(chan struct{})}
	go func() {
		_ = command.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-s.ended
	})
	s.eventually("dev is ready", func() bool { return s.status(s.Admin+"/readyz") == http.StatusOK })
	if found, _ := filepath.Glob(filepath.Join(dir, "introspectd-dev-*", "state")); len(found) != 1 {
		t.Errorf("state files while it runs: got %q, want one", found)
	}
	s.signal(os.Interrupt)
	if got := s.exit(); got != exitOK {
		t.Errorf("exit status: got %d, want %d", got, exitOK)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "introspectd-dev-*")); len(found) > 0 {
		t.Errorf("after the end: got %q, want nothing", found)
	}
}
