package listen_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"introspectd/internal/listen"
)

func TestUnixSocketMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listen.Open("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got.Type() != os.ModeSocket || got.Perm() != 0o660 {
		t.Errorf("mode: got %v, want a socket with 0660", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after Close: got %v, want the file gone", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	crashed, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	crashed.SetUnlinkOnClose(false) // as kill -9 leaves it
	crashed.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("the stale file: %v", err)
	}

	l, err := listen.Open("unix:" + path)
	if err != nil {
		t.Fatalf("opening over a stale socket: %v", err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("dialling the new one: %v", err)
	}
	c.Close()
}

func TestSocketInUseIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := listen.Open("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if l, err := listen.Open("unix:" + path); err == nil {
		l.Close()
		t.Fatal("a socket that another listener answers on was taken over")
	} else if !strings.Contains(err.Error(), "another process answers") || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want it to say that the path is in use", err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first listener: %v", err)
	}
	c.Close()
}

func TestFileThatIsNoSocketIsLeftAlone(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "s"), []byte("precious"))
	if l, err := listen.Open("unix:" + path); err == nil {
		l.Close()
		t.Fatal("opened over a regular file")
	}
	if got, err := os.ReadFile(path); string(got) != "precious" {
		t.Errorf("the file: got %q, %v, want it untouched", got, err)
	}
}

func TestPortInUseIsAnError(t *testing.T) {
	l, err := listen.Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if second, err := listen.Open(l.Addr().String()); err == nil {
		second.Close()
		t.Errorf("opened %s twice", l.Addr())
	} else if !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("got %v, want it to name %s", err, l.Addr())
	}
}
