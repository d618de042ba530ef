package main

import (
	"context"
	"crypto/tls"
	"syscall"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
)

// checkOverGRPC asks as Envoy does, and returns the status for the client.
func checkOverGRPC(t *testing.T, connection *grpc.ClientConn, policy, token string) int {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	got, err := auth.NewAuthorizationClient(connection).Check(ctx, &auth.CheckRequest{Attributes: &auth.AttributeContext{
		ContextExtensions: map[string]string{"policy": policy},
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{
			Method: "GET", Path: "/", Headers: map[string]string{"authorization": "Bearer " + token},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetOkResponse() != nil {
		return 200
	}
	return int(got.GetDeniedResponse().GetStatus().GetCode())
}

func connect(t *testing.T, address string, c credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(c), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

func TestExtAuthzOverGRPC(t *testing.T) {
	issuer, iss := newIssuer(t, "ES256")
	good, issuers := issuer.Mint(map[string]any{"scope": "read"}), "issuers:\n"+row("idp", iss)

	t.Run("plain on loopback, judged by the configuration of the moment, drained with the others", func(t *testing.T) {
		address := freeAddress(t)
		config := oneCaller + issuers + "server: {ext_authz_grpc: '" + address + "', shutdown_delay: 300ms}\npolicies:\n  - {name: default, any_audience: true, any_issuer: true"
		s := start(t, config+"}\n")
		connection := connect(t, address, insecure.NewCredentials())
		if got := checkOverGRPC(t, connection, "default", good); got != 200 {
			t.Errorf("a good token: got %d, want 200", got)
		}
		if got := checkOverGRPC(t, connection, "default", "x"); got != 401 {
			t.Errorf("a bad token: got %d, want 401", got)
		}
		s.write(config + ", scopes: [write]}\n")
		s.signal(syscall.SIGHUP)
		s.eventually("the new policy holds", func() bool { return checkOverGRPC(t, connection, "default", good) == 403 })
		s.signal(syscall.SIGTERM)
		s.eventually("the health check says no", func() bool {
			ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
			defer stop()
			got, err := healthv1.NewHealthClient(connection).Check(ctx, &healthv1.HealthCheckRequest{})
			return grpcstatus.Code(err) == codes.Unavailable || got.GetStatus() == healthv1.HealthCheckResponse_NOT_SERVING
		})
		if got := s.exit(); got != exitOK {
			t.Errorf("exit status: got %d, want 0", got)
		}
	})
	t.Run("TLS with the certificate of the public listener", func(t *testing.T) {
		address, dir := freeAddress(t), t.TempDir()
		root := newCertificate(t, "a test's root", nil)
		certificate, key := newCertificate(t, "127.0.0.1", root).write(t, dir, "server")
		s := launch(t, callerAndPolicy+issuers+"server: {ext_authz_grpc: '"+address+"', tls: {certificate: "+certificate+", key: "+key+"}}\n")
		s.eventually("it is ready", func() bool { return s.status(s.Admin+"/readyz") == 200 })
		if got := checkOverGRPC(t, connect(t, address, credentials.NewTLS(&tls.Config{RootCAs: root.pool()})), "default", good); got != 200 {
			t.Errorf("over TLS: got %d, want 200", got)
		}
		ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
		defer stop()
		_, err := auth.NewAuthorizationClient(connect(t, address, insecure.NewCredentials())).Check(ctx, &auth.CheckRequest{})
		if grpcstatus.Code(err) != codes.Unavailable {
			t.Errorf("in plaintext: got %v, want Unavailable", err)
		}
	})
}
