package listen_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"introspectd/internal/listen"
)

// piped is a listener of connections in memory, whose time is the test's.
type piped struct {
	accepted chan net.Conn
	once     *sync.Once
}

func (p piped) Accept() (net.Conn, error) {
	if c, ok := <-p.accepted; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p piped) Close() error { p.once.Do(func() { close(p.accepted) }); return nil }
func (piped) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

// connected calls test with the client's end of a connection to h, in a bubble.
func connected(t *testing.T, name string, h http.HandlerFunc, test func(*testing.T, net.Conn)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := piped{make(chan net.Conn), new(sync.Once)}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() {
				ended <- listen.Serve(ctx, 0, listen.Running{Server: listen.NewServer(h, slog.New(slog.DiscardHandler), nil), Listener: l})
			}()
			client, server := net.Pipe()
			l.accepted <- server
			test(t, client)
			_ = client.Close()
			stop()
			if err := <-ended; err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	})
}

// cutOff reads until the connection ends, and says after how long that was.
func cutOff(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("reading to the end: %v", err)
	}
	return time.Since(began)
}

func ask(t *testing.T, c net.Conn, request string) {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatalf("sending: %v", err)
	}
}

// unread asks once over HTTP/2 and goes on sending, without ever reading, until the
// connection ends or the time is over.
func unread(t *testing.T, c net.Conn, long time.Duration) {
	t.Helper()
	ask(t, c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	var head bytes.Buffer
	fields := hpack.NewEncoder(&head)
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}} {
		_ = fields.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}) // to memory
	}
	err := errors.Join(f.WriteSettings(),
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true, EndStream: true}))
	for began := time.Now(); err == nil && time.Since(began) < long; {
		time.Sleep(700 * time.Millisecond)
		err = f.WriteWindowUpdate(0, 1)
	}
}

const whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

func TestDeadlines(t *testing.T) {
	answers := func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusBadRequest)
		}
	}
	answered := func(t *testing.T, c net.Conn) {
		t.Helper()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("got %v, %v, want 200", res, err)
		}
	}
	is := func(t *testing.T, got, want time.Duration) {
		t.Helper()
		if got != want {
			t.Errorf("cut off after %v, want %v", got, want)
		}
	}

	connected(t, "a header that doesn't end", answers, func(t *testing.T, c net.Conn) {
		ask(t, c, "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
		is(t, cutOff(t, c), 5*time.Second)
	})
	connected(t, "a header that comes by drops", answers, func(t *testing.T, c net.Conn) {
		began := time.Now()
		go io.Copy(io.Discard, c) //nolint:errcheck // what it is told, if anything
		for time.Since(began) < time.Minute {
			if _, err := io.WriteString(c, "x"); err != nil {
				break
			}
			time.Sleep(700 * time.Millisecond)
		}
		if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("cut off after %v, want 5 s", took)
		}
	})
	connected(t, "the second request's header", answers, func(t *testing.T, c net.Conn) {
		ask(t, c, whole)
		answered(t, c)
		time.Sleep(80 * time.Second)
		ask(t, c, "GET / HTTP/1.1\r\nHost: a\r\n")
		is(t, cutOff(t, c), 5*time.Second)
	})
	connected(t, "a body that doesn't come", answers, func(t *testing.T, c net.Conn) {
		ask(t, c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
		is(t, cutOff(t, c), 15*time.Second)
	})
	connected(t, "a connection that nobody uses any more", answers, func(t *testing.T, c net.Conn) {
		ask(t, c, whole)
		answered(t, c)
		is(t, cutOff(t, c), 90*time.Second)
	})
	connected(t, "a connection that is used now and then", answers, func(t *testing.T, c net.Conn) {
		for range 100 {
			ask(t, c, whole)
			answered(t, c)
			time.Sleep(4900 * time.Millisecond)
		}
		is(t, cutOff(t, c), 90*time.Second-4900*time.Millisecond)
	})

	var failed error
	var took time.Duration
	connected(t, "an answer that nobody takes", func(w http.ResponseWriter, _ *http.Request) {
		began := time.Now()
		_, failed = io.WriteString(w, strings.Repeat("x", 1<<20))
		took = time.Since(began)
	}, func(t *testing.T, c net.Conn) {
		ask(t, c, whole)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !errors.Is(failed, os.ErrDeadlineExceeded) || took != 30*time.Second {
			t.Errorf("got %v after %v, want a deadline that has passed, after 30 s", failed, took)
		}
	})
	connected(t, "answers over HTTP/2 that nobody takes", answers, func(t *testing.T, c net.Conn) {
		began := time.Now()
		unread(t, c, 10*time.Minute)
		if took := time.Since(began); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("cut off after %v, want 30 s", took)
		}
	})
	connected(t, "a client that goes away", func(_ http.ResponseWriter, r *http.Request) {
		began := time.Now()
		<-r.Context().Done()
		took = time.Since(began)
	}, func(t *testing.T, c net.Conn) {
		ask(t, c, whole)
		time.Sleep(20 * time.Second) // longer than any limit on reading
		_ = c.Close()
		synctest.Wait()
		if took != 20*time.Second {
			t.Errorf("the handler knew after %v, want at once, after 20 s", took)
		}
	})
}

// What a connection does after each of these is what one of package net does.
func TestDeadlinesAreThoseOfConnections(t *testing.T) {
	past := time.Unix(1, 0)
	type step struct {
		after time.Duration // since the last step
		set   time.Duration // from now; none and over are special
	}
	const none, over = 0, -1
	tests := []struct {
		name  string
		steps []step
		want  time.Duration // until a read that began at first is cut off
	}{
		{"set once", []step{{0, 3 * time.Second}}, 3 * time.Second},
		{"moved away", []step{{0, 3 * time.Second}, {time.Second, 9 * time.Second}}, 10 * time.Second},
		{"moved away again and again", []step{{0, 3 * time.Second}, {2 * time.Second, 3 * time.Second}, {2 * time.Second, 3 * time.Second}, {2 * time.Second, 3 * time.Second}}, 9 * time.Second},
		{"moved nearer", []step{{0, 9 * time.Second}, {time.Second, 2 * time.Second}}, 3 * time.Second},
		{"taken away and set again", []step{{0, 3 * time.Second}, {time.Second, none}, {9 * time.Second, time.Second}}, 11 * time.Second},
		{"set while it was none for long", []step{{0, time.Second}, {500 * time.Millisecond, none}, {5 * time.Second, 4 * time.Second}}, 9500 * time.Millisecond},
		{"over", []step{{time.Second, over}}, time.Second},
		{"over before anything reads", []step{{0, over}}, 0},
		{"over and none again", []step{{0, over}, {0, none}, {0, 2 * time.Second}}, 2 * time.Second},
		{"just over", []step{{0, 3 * time.Second}, {time.Second, -time.Millisecond}}, time.Second},
	}
	for _, tt := range tests {
		for _, kind := range []string{"net.Pipe", "ours"} {
			t.Run(fmt.Sprint(tt.name, "/", kind), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					far, near := net.Pipe()
					defer far.Close()
					if kind == "ours" {
						near = listen.Lazy(near)
					}
					defer near.Close()
					began := time.Now()
					took := make(chan time.Duration)
					set := func(s step) {
						time.Sleep(s.after)
						at := time.Now().Add(s.set)
						switch s.set {
						case none:
							at = time.Time{}
						case over:
							at = past
						}
						if err := near.SetReadDeadline(at); err != nil {
							t.Errorf("SetReadDeadline: %v", err)
						}
					}
					now := 0
					for ; now < len(tt.steps) && tt.steps[now].after == 0; now++ {
						set(tt.steps[now])
					}
					go func() {
						_, err := near.Read(make([]byte, 1))
						if !errors.Is(err, os.ErrDeadlineExceeded) {
							t.Errorf("Read: got %v, want a deadline that has passed", err)
						}
						took <- time.Since(began)
					}()
					for ; now < len(tt.steps); now++ {
						set(tt.steps[now])
					}
					if got := <-took; got != tt.want {
						t.Errorf("cut off after %v, want %v", got, tt.want)
					}
				})
			})
		}
	}

	for _, kind := range []string{"net.Pipe", "ours"} {
		t.Run("what is just over lets nothing be read that waits/"+kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				far, near := net.Pipe()
				go far.Write([]byte("x")) //nolint:errcheck // nobody takes it
				defer far.Close()
				if kind == "ours" {
					near = listen.Lazy(near)
				}
				defer near.Close()
				synctest.Wait()
				_ = near.SetReadDeadline(time.Now().Add(-time.Millisecond))
				if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v, want a deadline that has passed", err)
				}
			})
		})
	}

	t.Run("writing has its own", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			far, near := net.Pipe()
			defer far.Close()
			c := listen.Lazy(near)
			defer c.Close()
			began := time.Now()
			_ = c.SetDeadline(began.Add(9 * time.Second))
			_ = c.SetWriteDeadline(began.Add(2 * time.Second))
			if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 2*time.Second {
				t.Errorf("Write: got %v after %v, want to be cut off after 2 s", err, time.Since(began))
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 9*time.Second {
				t.Errorf("Read: got %v after %v, want to be cut off after 9 s", err, time.Since(began))
			}
		})
	})

	t.Run("a connection is told of what interrupts a read, and of nothing else", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			far, near := net.Pipe()
			defer far.Close()
			told := &counting{Conn: near}
			c := listen.Lazy(told)
			defer c.Close()
			_ = c.SetReadDeadline(past)
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Read after an interruption: got %v, want a deadline that has passed", err)
			}
			_ = c.SetReadDeadline(time.Time{})
			if told.times != 0 {
				t.Errorf("it was told %d times though nobody waited", told.times)
			}

			read := make(chan error)
			go func() {
				_, err := c.Read(make([]byte, 1))
				read <- err
			}()
			synctest.Wait()
			_ = c.SetReadDeadline(past)
			if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Read while interrupted: got %v, want a deadline that has passed", err)
			}
			_ = c.SetReadDeadline(time.Time{})
			if told.times != 2 {
				t.Errorf("it was told %d times, want 2: that it is over, and no longer", told.times)
			}
			go far.Write([]byte("x")) //nolint:errcheck // Read tells
			if n, err := c.Read(make([]byte, 2)); n != 1 || err != nil {
				t.Errorf("Read afterwards: got %d, %v, want a byte", n, err)
			}

			_ = c.SetReadDeadline(past)
			_ = c.Close()
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("Read after Close: got %v, want that it is closed", err)
			}
		})
	})

	t.Run("nothing is left of a closed one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			far, near := net.Pipe()
			told := &counting{Conn: near}
			c := listen.Lazy(told)
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_ = c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Second / 2))
			time.Sleep(time.Minute)
			synctest.Wait()
			if told.times != 0 {
				t.Errorf("it was told of %d deadlines after its end", told.times)
			}
			_ = far.Close()
		})
	})
}

// counting counts the deadlines that it is told.
type counting struct {
	net.Conn
	times int
}

func (c *counting) SetReadDeadline(t time.Time) error { c.times++; return c.Conn.SetReadDeadline(t) }

func (c *counting) SetWriteDeadline(t time.Time) error { c.times++; return c.Conn.SetWriteDeadline(t) }
