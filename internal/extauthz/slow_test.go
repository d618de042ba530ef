package extauthz_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"introspectd/internal/extauthz"
	"introspectd/internal/listen"
)

// piped is a listener of one connection in memory.
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
func (piped) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9191} }

func TestAConnectionThatTakesNothingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		l, ended := piped{make(chan net.Conn), new(sync.Once)}, make(chan error)
		go func() {
			server := extauthz.New(extauthz.Options{Log: slog.New(slog.DiscardHandler)})
			ended <- listen.Serve(ctx, 0, listen.Running{Server: server, Listener: l})
		}()
		client, server := net.Pipe()
		l.accepted <- server

		began := time.Now()
		go func() { // the beginning is read, or else it would end within 5 s
			_ = client.SetReadDeadline(began.Add(time.Second))
			_, _ = io.Copy(io.Discard, client)
		}()
		_, err := io.WriteString(client, http2.ClientPreface)
		f := http2.NewFramer(client, client)
		for err = errors.Join(err, f.WriteSettings()); err == nil && time.Since(began) < time.Hour; {
			time.Sleep(10 * time.Second)
			err = f.WritePing(false, [8]byte{})
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it was there for %v, want about 40 s", took)
		}
		_ = client.Close()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}
