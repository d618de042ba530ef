package listen

import (
	"net"
	"os"
	"sync"
	"time"
)

// lazyListener has its connections put off their deadlines; see the package's
// decisions.
type lazyListener struct{ net.Listener }

// Accept implements net.Listener.
func (l lazyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return lazy(c), nil
}

// writesListener ends connections that take nothing, for a Server that has no limit
// of its own: grpc-go waits for ever for whoever does not read, whatever the age of
// the connection, and goes on reading where a write has failed.
type writesListener struct{ net.Listener }

// Accept implements net.Listener.
func (l writesListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return writesConn{c}, nil
}

type writesConn struct{ net.Conn }

// Write implements net.Conn.
func (c writesConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(longestWrite)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

func lazy(c net.Conn) *lazyConn {
	l := &lazyConn{Conn: c}
	l.read.set, l.write.set = c.SetReadDeadline, c.SetWriteDeadline
	l.write.waiting = 1 // as far as we know: Write doesn't say when it waits
	return l
}

// lazyConn is a connection whose deadlines reach it when they have come.
type lazyConn struct {
	net.Conn
	read, write lazyDeadline
}

// Read implements net.Conn.
func (c *lazyConn) Read(p []byte) (int, error) {
	if !c.read.wait() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := c.Conn.Read(p)
	c.read.waited()
	return n, err
}

// SetDeadline implements net.Conn.
func (c *lazyConn) SetDeadline(t time.Time) error {
	if err := c.read.move(t); err != nil {
		return err
	}
	return c.write.move(t)
}

// SetReadDeadline implements net.Conn.
func (c *lazyConn) SetReadDeadline(t time.Time) error { return c.read.move(t) }

// SetWriteDeadline implements net.Conn.
func (c *lazyConn) SetWriteDeadline(t time.Time) error { return c.write.move(t) }

// Close implements net.Conn.
func (c *lazyConn) Close() error {
	c.read.end()
	c.write.end()
	return c.Conn.Close()
}

// CloseWrite shuts down the sending side: net/http does so before it closes a
// connection from which it has not read everything, so that the answer arrives.
func (c *lazyConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// lazyDeadline is a deadline for one direction. A timer looks whether it has
// come, never later than at its time. To move it further away costs a
// comparison, and the timer finds out when it looks.
type lazyDeadline struct {
	set func(time.Time) error // of the connection

	mu      sync.Mutex
	until   time.Time // zero for none
	looks   time.Time // when the timer does; zero for never
	timer   *time.Timer
	over    bool // it has come
	told    bool // so the connection has been told
	waiting int  // how many may wait at the connection
	closed  bool
}

// wait says that somebody is about to wait at the connection, which waited ends.
// It returns false where the deadline has come: there is nothing to wait for then.
func (d *lazyDeadline) wait() bool {
	d.mu.Lock()
	may := !d.over || d.told || d.closed // what knows, or is closed, answers for itself
	if may {
		d.waiting++
	}
	d.mu.Unlock()
	return may
}

func (d *lazyDeadline) waited() {
	d.mu.Lock()
	d.waiting--
	d.mu.Unlock()
}

// tell has the connection know of a deadline that has come, or no longer has. A
// connection at which nobody waits need not: who comes next looks here first.
func (d *lazyDeadline) tell() error {
	switch {
	case d.over && d.waiting > 0:
		d.told = true
		return d.set(d.until)
	case !d.over && d.told:
		d.told = false
		return d.set(time.Time{})
	}
	return nil
}

// move sets the deadline to t, or to none. One that has come already interrupts
// what waits, which net/http makes use of for each request.
func (d *lazyDeadline) move(t time.Time) error {
	d.mu.Lock() // without defer: this is called eight times for each request
	d.until, d.over = t, !t.IsZero() && t.Before(longAgo)
	if !d.over && !t.IsZero() && !d.closed && (d.looks.IsZero() || t.Before(d.looks)) {
		if d.over = !time.Now().Before(t); !d.over {
			d.lookAt(t)
		}
	}
	err := d.tell()
	d.mu.Unlock()
	return err
}

// longAgo is before everything that is a deadline and not an interruption. Where
// clocks begin in 1970 no deadline is put off.
var longAgo = time.Unix(1<<20, 0)

// lookAt has the timer look at t.
func (d *lazyDeadline) lookAt(t time.Time) {
	d.looks = t
	if d.timer == nil {
		d.timer = time.AfterFunc(time.Until(t), d.look)
		return
	}
	d.timer.Reset(time.Until(t))
}

// look tells the connection of a deadline that has come.
func (d *lazyDeadline) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looks = time.Time{}
	switch {
	case d.closed || d.over || d.until.IsZero():
	case time.Now().Before(d.until):
		d.lookAt(d.until)
	default:
		d.over = true
		_ = d.tell() // fails for what is closed
	}
}

// end leaves nothing behind.
func (d *lazyDeadline) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.timer != nil {
		d.timer.Stop()
	}
}
