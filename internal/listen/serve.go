// Package listen opens the sockets the service answers on, keeps their
// certificates current and drains them. It never looks at what is asked there.
//
// # Decisions
//
// Draining does not begin with http.Server.Shutdown. From that call on net/http
// drops, without an answer, a request that it has read on a connection which
// was accepted before, and closes idle connections into which a client may be
// writing just then. So Serve first only makes answers end their connections,
// then closes the listeners, lets what is connected be used for one more second
// and calls Shutdown last. The cost is a second at the end while an idle
// connection is open. A client that writes into a connection after a longer
// silence can still meet its end; no server can prevent that (RFC 9112
// section 9.5).
//
// A connection that the kernel has queued and Serve has not accepted when the
// listener closes is reset. server.shutdown_delay is the cure: it lets a load
// balancer see /readyz fail first.
//
// Certificates are looked up at each handshake rather than on a timer of this
// package: who watches files calls Reload, and this package starts no goroutine
// that outlives Serve.
//
// A connection's deadlines are put off. Context: net/http sets eight for each
// request, all but two of them to be moved on before they come, and each takes the
// locks of the poller and moves a timer. Choice: one timer for each direction,
// which looks now and then whether the latest has come and tells the connection of
// that alone. Nor is it told of an interruption, with which net/http ends each
// request, where nobody reads: who comes next asks here first. Cost: connections are
// no *net.TCPConn to net/http, which then copies no files by sendfile (we serve
// none), and a read takes a lock. Limits hold to the instant, as before.
//
// A unix socket has the mode that the umask leaves for the moment between bind
// and chmod. To narrow the umask would act on every other goroutine's files.
package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lingering is how long connections may be used on after the listener
	// closed.
	lingering = time.Second
	// longestWrite is how long nothing of what is written may be taken.
	longestWrite = 30 * time.Second
	// drainLimit is for the requests that are still being answered then.
	drainLimit = 20 * time.Second
)

// NewServer is an http.Server with every limit set, for h over HTTP/1, HTTP/2
// and, without certificates, HTTP/2 by prior knowledge (RFC 9113 section 3.3).
// `Upgrade: h2c` is ignored, as net/http does: behind a proxy that forwards it,
// the upgraded connection would carry requests that the proxy never saw.
// Requests that break off or aren't HTTP are logged at debug.
func NewServer(h http.Handler, log *slog.Logger, certificates *Certificates) *http.Server {
	s := &http.Server{
		Handler:           wholeStreams(h),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          128,
			MaxReceiveBufferPerStream:     128 << 10, // bodies end at 64 KiB
			MaxReceiveBufferPerConnection: 1 << 20,
			// WriteTimeout ends a stream, which takes a frame: whoever reads nothing
			// would keep connection and handlers for ever.
			WriteByteTimeout: longestWrite,
		},
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	if certificates != nil {
		s.TLSConfig = certificates.Config()
	}
	return s
}

// wholeStreams has a request over HTTP/2 end before its answer does, where the end
// comes within a moment. net/http resets a stream that is answered first, which
// RFC 9113 section 8.1 permits, and some clients (libcurl 7.88) then lose the
// answer. The end may come after all of the body, in a frame of its own.
func wholeStreams(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		if r.ProtoMajor == 1 || r.ContentLength == 0 && r.Header["Content-Length"] == nil {
			return
		}
		if http.NewResponseController(w).SetReadDeadline(time.Now().Add(moment)) == nil {
			_, _ = io.CopyN(io.Discard, r.Body, mostDropped)
		}
	})
}

const (
	// moment is how long an answer over HTTP/2 waits for a body that nobody wants,
	// and mostDropped how much of that it takes, in bytes.
	moment      = 100 * time.Millisecond
	mostDropped = 256 << 10
)

// Server is what answers on a listener. *http.Server is one.
type Server interface {
	// Serve answers until l is closed; its error says that it was, or what broke.
	Serve(l net.Listener) error
	// Shutdown ends what is idle, and waits for the rest until ctx ends.
	Shutdown(ctx context.Context) error
	// Close cuts off everything.
	Close() error
}

// Running is a server and the listener that it answers on; TLS if it is an
// *http.Server with a TLSConfig.
type Running struct {
	Server   Server
	Listener net.Listener
}

// Serve answers on every pair until ctx ends, then drains them: for delay it
// goes on as before, save that answers end their connections; then it closes
// the listeners, finishes what was asked and returns nil. It returns an error
// if a listener breaks or if requests outlast the limit of 20 s and are cut off.
// The servers and listeners are its own from the call on.
func Serve(ctx context.Context, delay time.Duration, running ...Running) error {
	var serving sync.WaitGroup
	d := &drain{}
	broken := make(chan error, len(running))
	for _, r := range running {
		if s, ok := r.Server.(*http.Server); ok {
			d.watch(s)
		}
		serving.Go(func() {
			if err := r.serve(); !d.draining.Load() {
				broken <- fmt.Errorf("serving on %s: %w", r.Listener.Addr(), err)
			}
		})
	}

	var failed error
	select {
	case <-ctx.Done():
		d.draining.Store(true)
		time.Sleep(delay)
	case failed = <-broken:
		d.draining.Store(true)
	}
	for _, r := range running {
		_ = r.Listener.Close() // to stop accepting is all that is wanted
	}
	serving.Wait()
	d.linger()
	return errors.Join(failed, shutDown(running))
}

func (r Running) serve() error {
	s, ok := r.Server.(*http.Server)
	switch {
	case ok && s.TLSConfig != nil:
		return s.ServeTLS(lazyListener{r.Listener}, "", "")
	case ok:
		return s.Serve(lazyListener{r.Listener})
	}
	return r.Server.Serve(writesListener{lazyListener{r.Listener}})
}

// drain is what the servers of one Serve share.
type drain struct {
	draining atomic.Bool
	open     atomic.Int64 // connections
}

// watch makes s count its connections and, once draining, end them.
func (d *drain) watch(s *http.Server) {
	next := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.draining.Load() {
			w.Header().Set("Connection", "close") // in HTTP/2 it becomes GOAWAY
		}
		next.ServeHTTP(w, r)
	})
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			d.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			d.open.Add(-1)
		}
	}
}

// linger waits until every connection was used up, but not for ever on those
// that nobody uses.
func (d *drain) linger() {
	for end := time.Now().Add(lingering); d.open.Load() > 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
}

// shutDown closes idle connections and waits for the others.
func shutDown(running []Running) error {
	limit, stop := context.WithTimeout(context.Background(), drainLimit)
	defer stop()
	var wg sync.WaitGroup
	errs := make([]error, len(running))
	for i, r := range running {
		wg.Go(func() {
			if err := r.Server.Shutdown(limit); err != nil {
				errs[i] = errors.Join(fmt.Errorf("draining %s: %w", r.Listener.Addr(), err), r.Server.Close())
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
