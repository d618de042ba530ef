package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// run sends the load and waits for its end. All connections are served by one
// thread, on processor cpu unless that is negative.
//
// A goroutine for each connection, with the poller of net behind it, takes as
// much CPU as the servers that are measured, and then it is the load that is
// measured. This loop takes a third to a half of what a bare net/http server
// does.
func (l load) run(ctx context.Context, cpu int) (seen, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer pin(cpu)()
	p, err := newLoop(l)
	defer p.close()
	if err != nil {
		return seen{}, err
	}
	if err = p.greet(ctx); err == nil {
		err = p.run(ctx)
	}
	return p.seen, err
}

// pin keeps the calling thread, and what it starts, to one processor, until the
// function it returns is called. Where it can't be had nothing is changed.
func pin(cpu int) (unpin func()) {
	var before, one unix.CPUSet
	if cpu < 0 || unix.SchedGetaffinity(0, &before) != nil || !before.IsSet(cpu) {
		return func() {}
	}
	one.Set(cpu)
	if unix.SchedSetaffinity(0, &one) != nil {
		return func() {}
	}
	return func() { _ = unix.SchedSetaffinity(0, &before) }
}

// twoCPUs are a processor for the server and another for the load; both are -1
// where there is only one.
func twoCPUs() (server, generator int) {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil || set.Count() < 2 {
		return -1, -1
	}
	var first []int
	for cpu := 0; len(first) < 2; cpu++ {
		if set.IsSet(cpu) {
			first = append(first, cpu)
		}
	}
	return first[0], first[1]
}

// dieWithParent has a process ended when this one is.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// loop is a load while it runs.
type loop struct {
	load
	seen    seen
	poll    int // file descriptor
	conns   []*connection
	idle    []*connection // of a fixed rate
	started time.Time
	next    int // request, counted from the start
	onWay   int
}

// connection has at most one request on its way.
type connection struct {
	index  int32 // in loop.conns
	fd     int
	unsent []byte
	in     []byte
	n      int // the request
	asked  time.Time
}

// mostAnswer bounds the size of a response, in bytes.
const mostAnswer = 64 << 10

func newLoop(l load) (p *loop, err error) {
	p = &loop{load: l, poll: -1, next: l.from}
	if p.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return p, fmt.Errorf("epoll: %w", err)
	}
	for range l.connections {
		c := &connection{index: int32(len(p.conns)), fd: -1, in: make([]byte, 0, mostAnswer)}
		p.conns, p.idle = append(p.conns, c), append(p.idle, c)
		if err := p.connect(c); err != nil {
			return p, err
		}
	}
	return p, nil
}

// connect opens a connection, or opens it again.
func (p *loop) connect(c *connection) error {
	to, err := net.ResolveTCPAddr("tcp4", p.address)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c.fd = fd
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
		return fmt.Errorf("connecting to %s: %w", p.address, err)
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetNonblock(fd, true),
		unix.EpollCtl(p.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.index}))
}

func (p *loop) close() {
	for _, c := range p.conns {
		if c.fd >= 0 {
			_ = unix.Close(c.fd)
		}
	}
	if p.poll >= 0 {
		_ = unix.Close(p.poll)
	}
}

// greet has the greeting answered once on each connection, and counts nothing.
func (p *loop) greet(ctx context.Context) error {
	if p.greeting == nil {
		return nil
	}
	asked := p.load
	p.load = load{
		address: asked.address, requests: slices.Repeat([][]byte{asked.greeting}, len(p.conns)), once: true, awake: asked.awake,
		right: func(_ int, a answer) bool { return asked.greeted(a) },
	}
	p.next = 0
	err := p.run(ctx)
	if err == nil {
		err = p.seen.allRight()
	}
	p.load, p.next, p.seen = asked, asked.from, seen{}
	return err
}

func (p *loop) run(ctx context.Context) error {
	p.started = time.Now()
	end := p.started.Add(p.length)
	if p.rate == 0 {
		for _, c := range p.conns {
			if err := p.send(c, time.Now(), end); err != nil {
				return err
			}
		}
	}
	events := make([]unix.EpollEvent, len(p.conns))
	answered := time.Now()
	for p.onWay > 0 || p.rate > 0 && p.due(end) {
		if err := p.sendDue(end); err != nil {
			return err
		}
		n, err := unix.EpollWait(p.poll, events, p.patience())
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			answered = time.Now()
			if err := p.receive(p.conns[e.Fd], end); err != nil {
				return err
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case p.onWay > 0 && time.Since(answered) > patience:
			return fmt.Errorf("%s: no answer for %s", p.address, patience)
		}
	}
	p.seen.lasted = time.Since(p.started)
	return nil
}

// patience is how long to wait for events, in ms. At a fixed rate that is not
// at all: a thread that sleeps until the next is due wakes up some 60 µs late,
// which is more than what is measured.
func (p *loop) patience() int {
	if p.rate > 0 || p.awake {
		return 0
	}
	return 100
}

// due says whether a request of the fixed rate is still to come before end.
func (p *loop) due(end time.Time) bool {
	return (!p.once || p.next < len(p.requests)) && p.dueAt().Before(end)
}

func (p *loop) dueAt() time.Time {
	return p.started.Add(time.Duration(float64(p.next-p.from) / p.rate * float64(time.Second)))
}

// sendDue sends what is due by now, as far as connections are free.
func (p *loop) sendDue(end time.Time) error {
	if p.rate == 0 {
		return nil
	}
	for now := time.Now(); len(p.idle) > 0; {
		at := p.dueAt()
		if at.After(now) || !p.due(end) {
			return nil
		}
		// In turn: one that is left alone for long is closed by the server.
		c := p.idle[0]
		p.idle = slices.Delete(p.idle, 0, 1)
		if err := p.send(c, at, time.Time{}); err != nil {
			return err
		}
	}
	return nil
}

// send sends the next request, asked at a time, unless there is none or end, if
// any, is over.
func (p *loop) send(c *connection, asked, end time.Time) error {
	if p.once && p.next >= len(p.requests) || !p.once && !end.IsZero() && asked.After(end) {
		return nil
	}
	c.n, c.asked = p.next%len(p.requests), asked
	c.unsent = p.requests[c.n]
	p.next++
	p.onWay++
	return p.flush(c)
}

func (p *loop) flush(c *connection) error {
	for len(c.unsent) > 0 {
		n, err := unix.Write(c.fd, c.unsent)
		switch {
		case errors.Is(err, unix.EAGAIN):
			// A request is smaller than a socket's buffer: it has room soon.
			runtime.Gosched()
		case err != nil:
			return fmt.Errorf("%s: %w", p.address, err)
		}
		c.unsent = c.unsent[max(n, 0):]
	}
	return nil
}

// receive reads what has come, and goes on once an answer is whole.
func (p *loop) receive(c *connection, end time.Time) error {
	n, err := unix.Read(c.fd, c.in[len(c.in):cap(c.in)])
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case n <= 0 && p.rate > 0 && slices.Contains(p.idle, c):
		// Servers close what is idle for long.
		err = unix.Close(c.fd)
		c.fd = -1
		return errors.Join(err, p.connect(c))
	case err != nil:
		return fmt.Errorf("%s: %w", p.address, err)
	case n == 0:
		return fmt.Errorf("%s has closed a connection", p.address)
	}
	c.in = c.in[:len(c.in)+n]
	a, size, err := readAnswer(c.in)
	switch {
	case err != nil || size == 0 && len(c.in) == cap(c.in):
		return fmt.Errorf("%s: %w: %.300q", p.address, errAnswer, c.in)
	case size == 0:
		return nil
	case size != len(c.in):
		return fmt.Errorf("%s sent more than one answer: %.300q", p.address, c.in)
	}
	now := time.Now()
	p.count(c.n, a, now.Sub(c.asked))
	c.in = c.in[:0]
	p.onWay--
	if p.rate > 0 {
		p.idle = append(p.idle, c)
		return nil
	}
	return p.send(c, now, end)
}

func (p *loop) count(n int, a answer, latency time.Duration) {
	p.seen.requests++
	p.seen.latencies.add(latency)
	if p.right(n, a) {
		return
	}
	p.seen.wrong++
	if p.seen.example == "" {
		p.seen.example = fmt.Sprintf("%d %.300s", a.status, a.body)
	}
}

// threadCPU is the CPU that this thread has taken.
func threadCPU() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &u) // can't fail with these arguments
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
