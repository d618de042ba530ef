package listen

import "time"

// Config is the part of the section `server` that says where to listen.
type Config struct {
	// Listen is host:port, or unix:/path (mode 0660).
	Listen string `koanf:"listen" default:"127.0.0.1:8080"`
	// Admin is the admin listener; empty switches it off.
	Admin string `koanf:"admin" default:"127.0.0.1:8081"`
	// Metrics is a listener for /metrics, /livez and /readyz alone; empty
	// switches it off.
	Metrics string `koanf:"metrics" default:""`
	// PublicURL is our own issuer identifier; metadata needs it.
	PublicURL string `koanf:"public_url" default:""`
	// ExtAuthzGRPC is a listener for Envoy's gRPC ext_authz; empty switches it
	// off.
	ExtAuthzGRPC string `koanf:"ext_authz_grpc" default:""`
	TLS          TLS    `koanf:"tls"`
	// TLSTerminatedUpstream permits plaintext on a non-loopback address.
	TLSTerminatedUpstream bool `koanf:"tls_terminated_upstream" default:"false"`
	// ShutdownDelay is how long the service goes on answering after SIGTERM
	// with /readyz at 503, before it closes its listeners.
	ShutdownDelay time.Duration `koanf:"shutdown_delay" default:"0s"`
}

// TLS names the files of a listener's certificate; they are re-read when they
// change.
type TLS struct {
	Certificate string `koanf:"certificate" default:""`
	Key         string `koanf:"key" default:""`
	// ClientCA, when set, makes every connection present a certificate that
	// these roots issued.
	ClientCA string `koanf:"client_ca" default:""`
}
