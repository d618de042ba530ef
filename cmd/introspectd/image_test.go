package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// builder is Debian's buildah with a store of its own.
type builder struct {
	t       *testing.T
	program string
	dir     string
}

// newBuilder ends the test where containers can't be built: loudly, but as no
// failure where CI runs, because a CI that is a container itself may forbid it.
func newBuilder(t *testing.T) *builder {
	t.Helper()
	b := &builder{t, need(t, "buildah"), t.TempDir()}
	t.Cleanup(func() {
		// What is mounted in there is in the way of the directory's end.
		_, _ = b.try("umount", "--all")
		_, _ = b.try("rm", "--all")
		_, _ = b.try("rmi", "--all", "--force")
	})
	return b
}

// try runs buildah and returns what it prints.
func (b *builder) try(command string, args ...string) (string, error) {
	all := []string{"--root", b.dir + "/root", "--runroot", b.dir + "/run", "--storage-driver", "vfs", command}
	out, err := exec.Command(b.program, append(all, args...)...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("buildah %s: %w\n%s", command, err, failed.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// must is try where an error ends the test.
func (b *builder) must(command string, args ...string) string {
	b.t.Helper()
	out, err := b.try(command, args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// golang stands for the image that the Dockerfile begins with, where there is no
// registry to get it from: a shell, this machine's certificates, and its Go,
// which is mounted when something runs. It proves that a container can run here.
func (b *builder) golang(name string) {
	b.t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		missing(b.t, "busybox (busybox-static)")
	}
	rootfs := filepath.Join(b.dir, "rootfs")
	for _, dir := range []string{"bin", "etc/ssl/certs", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	for from, to := range map[string]string{busybox: "bin/sh", "/etc/ssl/certs/ca-certificates.crt": "etc/ssl/certs/ca-certificates.crt"} {
		content, err := os.ReadFile(from)
		if err != nil {
			missing(b.t, from)
		}
		if err := os.WriteFile(filepath.Join(rootfs, to), content, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	container, err := b.try("from", "scratch")
	if err == nil {
		b.must("copy", container, rootfs, "/")
		_, err = b.try("run", "--isolation", "chroot", container, "--", "/bin/sh", "-c", "true")
	}
	if err != nil {
		b.t.Skipf("SKIPPED, NOT PASSED: no container can run on this machine: %v", err)
	}
	b.must("config", "--env", "PATH=/usr/local/go/bin:/bin", "--env", "GOPATH=/go", "--env", "GOCACHE=/root/.cache/go-build", "--env", "GOTOOLCHAIN=local",
		"--env", "GOPROXY=off", "--env", "GOFLAGS=-mod=mod -buildvcs=false", container)
	b.must("commit", "-q", container, name)
}

// TestTheImageIsBuiltAndRuns builds the Dockerfile as it stands and runs what
// comes out. Two things are not a registry's and an engine's: the image of Go is
// this machine's Go, and a container has a root of its own and no network of its
// own.
func TestTheImageIsBuiltAndRuns(t *testing.T) {
	b := newBuilder(t)
	base := strings.Fields(of(stages(t)[0], "FROM")[0])[0]
	b.golang("docker.io/library/" + base)

	var mounts []string
	for inside, variable := range map[string]string{"/usr/local/go:ro": "GOROOT", "/go/pkg/mod": "GOMODCACHE", "/root/.cache/go-build": "GOCACHE"} {
		path, err := exec.CommandContext(t.Context(), need(t, "go"), "env", variable).Output()
		if err != nil {
			t.Fatal(err)
		}
		mounts = append(mounts, "--volume", strings.TrimSpace(string(path))+":"+inside)
	}
	b.must("bud", append(mounts, "--isolation", "chroot", "--format", "docker", "--pull-never", "--build-arg", "VERSION=9.8.7-test", "--tag", "introspectd", "../..")...)

	var image struct {
		Docker struct {
			Config struct {
				User            string
				Cmd, Entrypoint []string
				ExposedPorts    map[string]any
				Healthcheck     struct{ Test []string }
				Volumes         map[string]any
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(b.must("inspect", "--type", "image", "introspectd")), &image); err != nil {
		t.Fatal(err)
	}
	c := image.Docker.Config
	if c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/introspectd"}) || !slices.Equal(c.Cmd, []string{"serve"}) ||
		!slices.Equal(c.Healthcheck.Test, []string{"CMD", "/introspectd", "healthcheck"}) || c.ExposedPorts["8080/tcp"] == nil || len(c.Volumes) > 0 {
		t.Errorf("the image's configuration: got %+v", c)
	}

	container := b.must("from", "--pull-never", "introspectd")
	root := b.must("mount", container)
	var files []string
	for _, pattern := range []string{"*", "*/*", "*/*/*", "*/*/*/*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
				files = append(files, strings.TrimPrefix(path, root))
			}
		}
	}
	if want := []string{"/introspectd", "/etc/ssl/certs/ca-certificates.crt"}; !slices.Equal(files, want) {
		t.Errorf("files of the image: got %q, want %q", files, want)
	}
	if got := b.must("run", "--isolation", "chroot", container, "--", "/introspectd", "version"); !strings.HasPrefix(got, "introspectd 9.8.7-test ") {
		t.Errorf("version: got %q", got)
	}

	issuer, iss := newIssuer(t)
	listen, admin := freeAddress(t), freeAddress(t)
	config := filepath.Join(b.dir, "config.yaml")
	writeFile(t, config, fmt.Sprintf("server: {listen: %q, admin: %q}\n", listen, admin)+callerAndPolicy+"issuers:\n"+row("idp", iss))
	if err := os.Chmod(config, 0o644); err != nil { // the image's user is not this one
		t.Fatal(err)
	}
	volume := config + ":/etc/introspectd/config.yaml:ro"
	run := exec.Command(b.program, "--root", b.dir+"/root", "--runroot", b.dir+"/run", "--storage-driver", "vfs",
		"run", "--isolation", "chroot", "--volume", volume, container, "--", "/introspectd", "serve")
	s := &service{t: t, URL: "http://" + listen, Admin: "http://" + admin, client: newClient(t, &http.Transport{}), command: run, log: &syncBuffer{}, ended: make(chan struct{})}
	run.Stdout, run.Stderr = s.log, s.log
	run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = run.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-run.Process.Pid, syscall.SIGKILL)
		<-s.ended
		if t.Failed() {
			t.Logf("the container's log:\n%s", s.log)
		}
	})
	s.eventually("it is ready", func() bool { return s.status(s.Admin+"/readyz") == http.StatusOK })
	if got := s.introspect(issuer.Mint(nil)); got["active"] != true {
		t.Errorf("a good token: got %v, want it active", got)
	}
	health := b.must("run", "--isolation", "chroot", "--volume", volume, container, "--", "/introspectd", "healthcheck")
	if !json.Valid([]byte(health)) {
		t.Errorf("healthcheck: got %q", health)
	}
	if got := userOf(t, "/introspectd\x00serve\x00"); got != "65532" {
		t.Errorf("it runs as user %q, want 65532", got)
	}
}

// userOf is the effective user of the process with this command line.
func userOf(t *testing.T, commandLine string) string {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		if line, err := os.ReadFile(path); err != nil || string(line) != commandLine {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(path), "status"))
		if err != nil {
			t.Fatal(err)
		}
		_, uids, _ := strings.Cut(string(status), "\nUid:")
		return strings.Fields(uids)[1]
	}
	return ""
}
