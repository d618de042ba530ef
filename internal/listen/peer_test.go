package listen_test

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"introspectd/internal/listen"
)

// A client of a unix socket names its own end; it must not pass for a TCP peer.
func TestUnixClientCanNotNameItsAddress(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	l, err := listen.Open("unix:" + filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := listen.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.RemoteAddr)
	}), slog.New(slog.DiscardHandler), nil)
	go func() { _ = s.Serve(l) }()
	defer s.Close()

	const forged = "127.0.0.1:80"
	defer os.Remove(forged)
	conn, err := net.DialUnix("unix", &net.UnixAddr{Name: forged}, &net.UnixAddr{Name: filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || string(body) != "@" {
		t.Errorf("RemoteAddr: got %q, %v, want @", body, err)
	}
}
