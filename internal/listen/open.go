package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// socketMode lets the owner and the group of the process connect.
const socketMode = 0o660

// Open listens on host:port or on unix:/path. A socket file that is left from
// an earlier process is replaced if nobody answers on it; anything else at the
// path is an error. The file is removed when the listener is closed.
func Open(addr string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		l, err := openUnix(path)
		if err != nil {
			return nil, fmt.Errorf("listening on %s: %w", addr, err)
		}
		return l, nil
	}
	return net.Listen("tcp", addr) // its error names the address
}

func openUnix(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return unixListener{l}, nil
}

// unixListener names every client of a unix socket "@". A client may bind its own
// end to a path, which would otherwise be its address: one named like an IP
// address would pass for that address.
type unixListener struct{ net.Listener }

// Accept implements net.Listener.
func (l unixListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if u, ok := c.(*net.UnixConn); ok {
		return unnamed{u}, err
	}
	return c, err
}

type unnamed struct{ *net.UnixConn }

// RemoteAddr implements net.Conn.
func (unnamed) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "@", Net: "unix"} }

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file that is no socket")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(errors.New("another process answers there"), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err // busy or forbidden is not stale
	}
	return os.Remove(path)
}
