package listen

import (
	"net"
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

func lazy(c net.Conn) *lazyConn {
	l := &lazyConn{Conn: c}
	l.read.set, l.write.set = c.SetReadDeadline, c.SetWriteDeadline
	return l
}

// lazyConn is a connection whose deadlines reach it when they have come.
type lazyConn struct {
	net.Conn
	read, write lazyDeadline
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

	mu     sync.Mutex
	until  time.Time // zero for none
	looks  time.Time // when the timer does; zero for never
	timer  *time.Timer
	over   bool // the connection has been told of one that has come
	closed bool
}

// move sets the deadline to t, or to none. One that has come already interrupts
// what waits, which net/http makes use of for each request.
func (d *lazyDeadline) move(t time.Time) error {
	d.mu.Lock() // without defer: this is called eight times for each request
	was := d.over
	d.until, d.over = t, !t.IsZero() && t.Before(longAgo)
	if !d.over && !t.IsZero() && !d.closed && (d.looks.IsZero() || t.Before(d.looks)) {
		if d.over = !time.Now().Before(t); !d.over {
			d.lookAt(t)
		}
	}
	var err error
	if d.over {
		err = d.set(t)
	} else if was {
		err = d.set(time.Time{})
	}
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
		_ = d.set(d.until) // fails for what is closed
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
