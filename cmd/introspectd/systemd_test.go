package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// deployed reads a file of deploy/ and makes the edits. One whose text the file
// doesn't have fails the test: it would test nothing.
func deployed(t *testing.T, name string, edits ...edit) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, e := range edits {
		if !strings.Contains(text, e.old) {
			t.Fatalf("%s has no %q", name, e.old)
		}
		text = strings.ReplaceAll(text, e.old, e.with)
	}
	return text
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "i")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// unitFile writes the unit as systemd-analyze can read it here: it wants the
// program to be there.
func unitFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "introspectd.service")
	writeFile(t, path, deployed(t, "systemd/introspectd.service", edit{"/usr/local/bin/introspectd", need(t, "introspectd")}))
	return path
}

func TestTheUnitIsOneThatSystemdUnderstands(t *testing.T) {
	analyze, unit := need(t, "systemd-analyze"), unitFile(t)
	said, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, said)
	}
	answer, err := exec.CommandContext(t.Context(), analyze, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`^systemd (\d+)`).FindSubmatch(answer)
	if version == nil {
		t.Fatalf("systemd-analyze --version: got %s", answer)
	}
	old, _ := strconv.Atoi(string(version[1]))
	for line := range strings.Lines(string(said)) {
		if old < 253 && strings.HasSuffix(line, "Failed to parse service type, ignoring: notify-reload\n") {
			continue // the line before it stands, as the unit says
		}
		t.Errorf("systemd-analyze verify (systemd %d): %s", old, line)
	}
}

// TestTheUnitLetsTheServiceDoLittle holds the unit to systemd's own measure of
// exposure, from 0 to 10.
func TestTheUnitLetsTheServiceDoLittle(t *testing.T) {
	said, err := exec.CommandContext(t.Context(), need(t, "systemd-analyze"), "security", "--offline=true", "--threshold=15", "--no-pager", unitFile(t)).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v, want an exposure of 1.5 at most\n%s", err, said)
	}
}

func TestTheServiceHasAUserOfItsOwn(t *testing.T) {
	program, root := need(t, "systemd-sysusers"), t.TempDir()
	for _, dir := range []string{"etc", "usr/lib/sysusers.d"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(root, "etc/passwd"), "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n")
	writeFile(t, filepath.Join(root, "etc/group"), "www-data:x:33:\n")
	writeFile(t, filepath.Join(root, "usr/lib/sysusers.d/introspectd.conf"), deployed(t, "systemd/introspectd.sysusers"))
	if said, err := exec.CommandContext(t.Context(), program, "--root="+root).CombinedOutput(); err != nil {
		t.Fatalf("systemd-sysusers: %v\n%s", err, said)
	}
	users, err := os.ReadFile(filepath.Join(root, "etc/passwd"))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^introspectd:[^:]*:[1-9]\d*:.*:/usr/sbin/nologin$`).Match(users) {
		t.Errorf("users: got %s, want introspectd among them, without a shell", users)
	}
	groups, err := os.ReadFile(filepath.Join(root, "etc/group"))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^introspectd:[^:]*:\d+:www-data$`).Match(groups) {
		t.Errorf("groups: got %s, want www-data in introspectd", groups)
	}
}

// TestOneHost runs nginx in front of introspectd on a unix socket, with the
// files that the runbook names and by the command in it.
func TestOneHost(t *testing.T) {
	need(t, "nginx")
	issuer, iss := newIssuer(t)
	dir, metrics := shortDir(t), freeAddress(t)
	config := deployed(t, "systemd/introspectd.yaml",
		edit{"/run/introspectd", dir}, edit{"/var/lib/introspectd", dir},
		edit{"127.0.0.1:8082", metrics}, edit{"https://idp.example/realms/corp", iss})
	s := launch(t, config, "--listen", "unix:"+dir+"/http.sock", "--admin", "unix:"+dir+"/admin.sock")
	s.eventually("it is ready", func() bool { return s.status("http://"+metrics+"/readyz") == http.StatusOK })

	from, to := runbookSed(t)
	if to != "server unix:/run/introspectd/http.sock;" {
		t.Fatalf("the runbook's sed writes %q", to)
	}
	if strings.Count(deployed(t, "nginx/auth_request.conf"), from) != 1 {
		t.Fatalf("the runbook's sed looks for %q, which nginx/auth_request.conf must have once", from)
	}
	n := startNginx(t, "unix:"+dir+"/http.sock", newBackend(t).Listener.Addr().String())

	good := map[string]any{"aud": "https://api.example", "sub": "u-1"}
	for _, tt := range []struct {
		name, line, token string
		status            int
	}{
		{"ATH-01 a good token", "GET /", issuer.Mint(good), 200},
		{"ATH-02 no token", "GET /", "", 401},
		{"ATH-05 another audience", "GET /", issuer.Mint(map[string]any{"aud": "https://other.example"}), 401},
		{"ATH-06 a missing scope", "GET /reports/1", issuer.Mint(good), 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var headers []string
			if tt.token != "" {
				headers = append(headers, bearer(tt.token))
			}
			got := n.send(tt.line, append(headers, "X-Auth-Subject: root")...)
			if got.Status != tt.status {
				t.Errorf("got %d, want %d", got.Status, tt.status)
			}
			if got.Status == 200 && got.Arrival.Header.Get("X-Auth-Subject") != "u-1" {
				t.Errorf("X-Auth-Subject at the backend: got %q, want u-1", got.Arrival.Header.Values("X-Auth-Subject"))
			}
		})
	}
	t.Run("the sockets are for owner and group", func(t *testing.T) {
		for _, name := range []string{"http.sock", "admin.sock"} {
			if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o660 {
				t.Errorf("%s: got %v, %v; want mode 0660", name, info, err)
			}
		}
	})
	t.Run("healthcheck asks the socket of the configuration", func(t *testing.T) {
		said, err := exec.CommandContext(t.Context(), "introspectd", "healthcheck", "--config", s.Config).Output()
		if err != nil || !json.Valid(said) {
			t.Errorf("got %v and %q, want exit status 0", err, said)
		}
	})
	t.Run("a killed one is replaced and knows what it knew", func(t *testing.T) {
		s.kill()
		if got := n.send("GET /", bearer(issuer.Mint(good))); got.Status != 500 {
			t.Errorf("while it is away: got %d, want 500", got.Status)
		}
		again := launch(t, config, "--listen", "unix:"+dir+"/http.sock", "--admin", "unix:"+dir+"/admin.sock")
		again.eventually("it is ready", func() bool { return again.status("http://"+metrics+"/readyz") == http.StatusOK })
		if got := n.send("GET /", bearer(issuer.Mint(good))); got.Status != 200 {
			t.Errorf("after it: got %d, want 200", got.Status)
		}
	})
}

// runbookSed is what the runbook's line for one host replaces, and by what.
func runbookSed(t *testing.T) (from, to string) {
	t.Helper()
	found := regexp.MustCompile(`sed 's\|([^|]+)\|([^|]+)\|' nginx/auth_request\.conf`).FindStringSubmatch(deployed(t, "README.md"))
	if found == nil {
		t.Fatal("the runbook has no sed for nginx/auth_request.conf")
	}
	return found[1], found[2]
}
