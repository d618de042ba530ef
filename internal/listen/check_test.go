package listen_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"introspectd/internal/listen"
)

func faults(c listen.Config) map[string]string {
	found := map[string]string{}
	c.Check(func(key, problem string) { found[key] = problem })
	return found
}

func fine() listen.Config {
	return listen.Config{Listen: "127.0.0.1:8080", Admin: "127.0.0.1:8081"}
}

func TestCheck(t *testing.T) {
	ca := newAuthority(t, "ca")
	dir := t.TempDir()
	certificate, key := ca.leaf(t, "server", time.Now().Add(time.Hour)).files(t, dir)
	otherKey := write(t, filepath.Join(dir, "other.key"), ca.keyPEM(t))
	root := write(t, filepath.Join(dir, "ca.crt"), ca.certPEM())
	absent := filepath.Join(dir, "absent")

	tests := []struct {
		name   string
		change func(*listen.Config)
		want   map[string]string // key: what its problem says
	}{
		{"plain", func(*listen.Config) {}, nil},
		{"admin off", func(c *listen.Config) { c.Admin = "" }, nil},
		{"unix", func(c *listen.Config) { c.Listen = "unix:/run/introspectd.sock" }, nil},
		{"every address", func(c *listen.Config) { c.Listen = ":8080" }, nil},
		{"free ports", func(c *listen.Config) { c.Listen, c.Admin = "127.0.0.1:0", "127.0.0.1:0" }, nil},
		{"no listen", func(c *listen.Config) { c.Listen = "" }, map[string]string{"listen": "host:port"}},
		{"no port", func(c *listen.Config) { c.Listen = "127.0.0.1" }, map[string]string{"listen": "host:port"}},
		{"named port", func(c *listen.Config) { c.Admin = "localhost:http" }, map[string]string{"admin": "port number"}},
		{"large port", func(c *listen.Config) { c.Metrics = ":65536" }, map[string]string{"metrics": "port number"}},
		{"relative socket", func(c *listen.Config) { c.Listen = "unix:run/s" }, map[string]string{"listen": "absolute path"}},
		{"long socket", func(c *listen.Config) { c.Listen = "unix:/" + strings.Repeat("x", 107) }, map[string]string{"listen": "107 bytes"}},
		{"the same address", func(c *listen.Config) { c.Metrics = c.Admin }, map[string]string{"metrics": "that of admin"}},
		{"gRPC", func(c *listen.Config) { c.ExtAuthzGRPC = "unix:/run/grpc.sock" }, nil},
		{"gRPC on the port of listen", func(c *listen.Config) { c.ExtAuthzGRPC = c.Listen }, map[string]string{"ext_authz_grpc": "that of listen"}},
		{"gRPC without a port", func(c *listen.Config) { c.ExtAuthzGRPC = "envoy" }, map[string]string{"ext_authz_grpc": "host:port"}},
		{"negative delay", func(c *listen.Config) { c.ShutdownDelay = -time.Second }, map[string]string{"shutdown_delay": "0s or more"}},

		{"public_url", func(c *listen.Config) { c.PublicURL = "https://a.example/tokens" }, nil},
		{"public_url http on loopback", func(c *listen.Config) { c.PublicURL = "http://[::1]:8080" }, nil},
		{"public_url http", func(c *listen.Config) { c.PublicURL = "http://a.example" }, map[string]string{"public_url": "https"}},
		{"public_url ftp on loopback", func(c *listen.Config) { c.PublicURL = "ftp://localhost" }, map[string]string{"public_url": "https"}},
		{"public_url relative", func(c *listen.Config) { c.PublicURL = "a.example" }, map[string]string{"public_url": "absolute"}},
		{"public_url without host", func(c *listen.Config) { c.PublicURL = "https:///x" }, map[string]string{"public_url": "absolute"}},
		{"public_url with query", func(c *listen.Config) { c.PublicURL = "https://a.example?x" }, map[string]string{"public_url": "query"}},
		{"public_url with empty query", func(c *listen.Config) { c.PublicURL = "https://a.example?" }, map[string]string{"public_url": "query"}},
		{"public_url with fragment", func(c *listen.Config) { c.PublicURL = "https://a.example#x" }, map[string]string{"public_url": "fragment"}},
		{"public_url with user", func(c *listen.Config) { c.PublicURL = "https://u:p@a.example" }, map[string]string{"public_url": "user"}},
		{"public_url with slash", func(c *listen.Config) { c.PublicURL = "https://a.example/" }, map[string]string{"public_url": "slash"}},

		{"tls", func(c *listen.Config) { c.TLS = listen.TLS{Certificate: certificate, Key: key, ClientCA: root} }, nil},
		{"certificate alone", func(c *listen.Config) { c.TLS.Certificate = certificate }, map[string]string{"tls.key": "beside certificate"}},
		{"key alone", func(c *listen.Config) { c.TLS.Key = key }, map[string]string{"tls.certificate": "beside key"}},
		{"absent certificate", func(c *listen.Config) { c.TLS = listen.TLS{Certificate: absent, Key: key} }, map[string]string{"tls.certificate": "no such file"}},
		{"key of another", func(c *listen.Config) { c.TLS = listen.TLS{Certificate: certificate, Key: otherKey} }, map[string]string{"tls.certificate": "does not match"}},
		{"client_ca alone", func(c *listen.Config) { c.TLS.ClientCA = root }, map[string]string{"tls.client_ca": "need TLS"}},
		{"client_ca a key", func(c *listen.Config) { c.TLS = listen.TLS{Certificate: certificate, Key: key, ClientCA: key} }, map[string]string{"tls.client_ca": "no certificate in"}},
		{
			"several at once", func(c *listen.Config) { c.Listen, c.PublicURL, c.TLS.Key = "x", "x", key },
			map[string]string{"listen": "host:port", "public_url": "absolute", "tls.certificate": "beside key"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := fine()
			tt.change(&c)
			got := faults(c)
			for key, words := range tt.want {
				if !strings.Contains(got[key], words) {
					t.Errorf("%s: got %q, want it to say %q", key, got[key], words)
				}
				delete(got, key)
			}
			if len(got) > 0 {
				t.Errorf("further faults: %v", got)
			}
		})
	}
}

func TestCheckShowsNoPassword(t *testing.T) {
	c := fine()
	c.PublicURL = "http://user:hunter2@a.example/%zz"
	if problem := faults(c)["public_url"]; problem == "" || strings.Contains(problem, "hunter2") {
		t.Errorf("got %q, want a problem without the password", problem)
	}
}

func TestLoopback(t *testing.T) {
	want := map[string]bool{
		"127.0.0.1:8080": true, "127.9.9.9:1": true, "[::1]:8080": true, "localhost:8080": true, "LOCALHOST:1": true,
		"[::ffff:127.0.0.1]:1": true, "unix:/run/s": true,
		":8080": false, "0.0.0.0:8080": false, "[::]:8080": false, "10.0.0.1:1": false, "localhost.evil.example:1": false,
		"127.0.0.1.evil.example:1": false, "127.0.0.1": false, "": false,
	}
	got := map[string]bool{}
	for addr := range want {
		got[addr] = listen.Loopback(addr)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Loopback (-want +got):\n%s", diff)
	}
}
