// Package extauthz speaks Envoy's gRPC ext_authz (envoy.service.auth.v3). It
// reads what Envoy tells of a request and renders what was ruled; it never
// judges a token, and what it can't read allows nothing.
//
// # Decisions
//
// Every outcome is an answer, none a gRPC error. Context: Envoy lets a request
// pass on an error of the call, or an error_response, where its
// failure_mode_allow is true, and makes a bare 403 of it where it is false; a
// denied_response is denied under both, with our status and headers. Choice: a
// denied_response also for a gateway that may not ask (403), for what we could
// not tell (503) and after a panic (500). Cost: Envoy counts these as
// ext_authz.denied rather than .error, and failure_mode_allow helps nobody
// while keys can't be had. Calls that never reach Check (we are away, the time
// is over, the message is too large) stay errors, so recipes say
// failure_mode_allow: false.
//
// The policy is named by the route's context_extensions, which no client can
// write; without them it is the one named default. A key other than policy is
// ruled 503: a slip of the pen would choose default in silence.
//
// What is empty is removed. Envoy does not support empty values here, and a
// header that is left alone is the client's own. Removed too is every other
// spelling that a backend may fold into an identity header: X_Auth_Subject is
// X-Auth-Subject to CGI and WSGI.
//
// grpc-go's own transport rather than its ServeHTTP under net/http. Context: one
// http.Server for all would share limits and the drain. Choice: ServeHTTP is
// experimental and slower; listen drains what has Shutdown. Cost: limits are
// written twice.
package extauthz

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"introspectd/internal/httpapi"
)

const (
	// maxRequest is the size of a Check in bytes: far beyond the headers that
	// Envoy takes (60 KiB by default), because what is larger is an error to it.
	maxRequest = 1 << 20
	// longest is how long a Check may take whose sender set no time.
	longest = 10 * time.Second
)

// Options are what a Server works with.
type Options struct {
	// API returns the one that rules now.
	API func() *httpapi.API
	Log *slog.Logger
	// TLS is nil for plaintext.
	TLS *tls.Config
}

// Server answers Check and the standard health checks.
type Server struct {
	api  func() *httpapi.API
	log  *slog.Logger
	grpc *grpc.Server
}

// New returns a Server with every limit set.
func New(o Options) *Server {
	s := &Server{api: o.API, log: o.Log}
	options := []grpc.ServerOption{
		grpc.ConnectionTimeout(5 * time.Second),
		grpc.MaxHeaderListSize(64 << 10),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(128),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: 90 * time.Second,
			// Envoy keeps a connection for ever, and a replica that is new would get
			// nothing; the age is drawn out by up to a tenth.
			MaxConnectionAge: 10 * time.Minute,
			Time:             30 * time.Second,
			Timeout:          10 * time.Second,
		}),
		// Pings more often than this end the connection; those of a gateway that
		// has nothing to ask are welcome.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.guard),
	}
	if o.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(o.TLS)))
	}
	s.grpc = grpc.NewServer(options...)
	auth.RegisterAuthorizationServer(s.grpc, s)
	healthv1.RegisterHealthServer(s.grpc, health{api: o.API})
	return s
}

// Serve answers on l until l is closed.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Shutdown tells every connection to end, and waits for the calls that are being
// answered; when ctx ends it cuts them off and returns an error.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.grpc.Stop() // GracefulStop still waits for the handlers, whose contexts have ended
		return ctx.Err()
	}
}

// Close ends everything at once.
func (s *Server) Close() error {
	s.grpc.Stop()
	return nil
}

// Check answers one request of a gateway. The error is always nil.
func (s *Server) Check(ctx context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
	ctx, stop := context.WithTimeout(ctx, longest)
	defer stop()
	asked := forwarded(r.GetAttributes())
	asked.Peer = remoteAddr(ctx)
	asked.Caller = metadata.ValueFromIncomingContext(ctx, callerKey)
	ruling := s.api().Judge(ctx, auth.Authorization_Check_FullMethodName, carrier{ctx}, asked)
	if ruling.Status != http.StatusOK {
		return denied(&ruling), nil
	}
	return allowed(&ruling, r.GetAttributes().GetRequest().GetHttp()), nil
}

// callerKey is the metadata of a call in which a gateway that is not in
// auth.allow_from authenticates: X-Introspectd-Caller of /ext-authz.
const callerKey = "x-introspectd-caller"

// guard keeps a panic from ending the process, or from being an error of the
// call that lets a request pass.
func (s *Server) guard(ctx context.Context, request any, call *grpc.UnaryServerInfo, next grpc.UnaryHandler) (answer any, err error) {
	defer func() {
		thrown := recover()
		if thrown == nil {
			return
		}
		s.log.ErrorContext(ctx, "panic", "call", call.FullMethod, "panic", fmt.Sprint(thrown), "stack", string(debug.Stack()))
		if call.FullMethod == auth.Authorization_Check_FullMethodName {
			answer, err = denied(&httpapi.Ruling{}), nil
			return
		}
		answer, err = nil, status.Error(codes.Internal, "")
	}()
	return next(ctx, request)
}

// remoteAddr is the peer in the form of http.Request.RemoteAddr. A client may
// bind its end of a unix socket to a path that reads like an address: it is "@", on
// whatever listener this is.
func remoteAddr(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil || p.Addr.Network() == "unix" {
		return "@"
	}
	return p.Addr.String()
}

// carrier reads a trace context from a call's metadata.
type carrier struct{ ctx context.Context }

// Get returns the first value of a key.
func (c carrier) Get(key string) string {
	if values := metadata.ValueFromIncomingContext(c.ctx, key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Set does nothing: only what came is read.
func (carrier) Set(string, string) {}

// Keys lists none.
func (carrier) Keys() []string { return nil }

// health answers grpc.health.v1 as /readyz does. Watch is not implemented: a
// stream without end would hold up the drain.
type health struct {
	healthv1.UnimplementedHealthServer
	api func() *httpapi.API
}

// Check answers for the server as a whole and for the service by its name.
func (h health) Check(_ context.Context, r *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	if r.GetService() != "" && r.GetService() != auth.Authorization_ServiceDesc.ServiceName {
		return nil, status.Error(codes.NotFound, "there is no such service")
	}
	state := healthv1.HealthCheckResponse_NOT_SERVING
	if h.api().Ready() {
		state = healthv1.HealthCheckResponse_SERVING
	}
	return &healthv1.HealthCheckResponse{Status: state}, nil
}
