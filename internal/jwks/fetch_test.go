package jwks_test

import (
	"bufio"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"introspectd/internal/jwks"
)

// site is a server whose pages can be exchanged; it counts what is asked.
type site struct {
	*httptest.Server
	mu    sync.Mutex
	pages map[string]http.HandlerFunc
	asked []string
}

func newSite(t *testing.T, start func(*httptest.Server)) *site {
	t.Helper()
	s := &site{pages: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.URL.Path)
		page := s.pages[r.URL.Path]
		s.mu.Unlock()
		if page == nil {
			http.NotFound(w, r)
			return
		}
		page(w, r)
	}))
	s.Config.ErrorLog = silent()
	start(s.Server)
	t.Cleanup(s.Close)
	return s
}

func (s *site) page(path string, h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[path] = h
}

func (s *site) visits(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, p := range s.asked {
		if p == path {
			n++
		}
	}
	return n
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

// roots writes the certificate of a TLS test server as a CA file.
func roots(t *testing.T, s *httptest.Server) string {
	t.Helper()
	return write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
}

func newKeys(t *testing.T, cfg jwks.Config) *jwks.Keys {
	t.Helper()
	k, err := jwks.New(cfg, jwks.Options{Name: "corp", Issuer: issuer})
	if err != nil {
		t.Fatalf("New: got %v, want no error", err)
	}
	return k
}

// wantFailure wants a fetch that fails with a text that tells why.
func wantFailure(t *testing.T, k *jwks.Keys, why string) {
	t.Helper()
	err := k.Refresh(t.Context())
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("Refresh: got %v, want an error with %q", err, why)
	}
	if k.Ready() {
		t.Error("Ready: got true, want no keys taken over")
	}
}

func TestFetchOverHTTP(t *testing.T) {
	set := keySet(jwk("k", edKey().Public()))
	elsewhere := newSite(t, (*httptest.Server).Start)
	elsewhere.page("/jwks", text(set))
	var sent atomic.Int64
	for _, row := range []struct {
		name string
		page http.HandlerFunc
		why  string // empty = the keys are read
	}{
		{"a set", text(set), ""},
		{"K11 redirect to another host", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/jwks", http.StatusFound)
		}, "status 302"},
		{"K11 redirect on the same host", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/jwks2", http.StatusMovedPermanently)
		}, "status 301"},
		{"status 500", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			_, _ = io.WriteString(w, set)
		}, "status 500"},
		{"status 404", http.NotFound, "status 404"},
		{"status 201", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(201)
			_, _ = io.WriteString(w, set)
		}, "status 201"},
		{"HTML", text("<html></html>"), "not a JSON object"},
		{"K7 110 MB", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, set)
			for range 110 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
				sent.Add(1)
			}
		}, "more than 1048576 bytes"},
		{"100 KiB of headers", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 100<<10))
			_, _ = io.WriteString(w, set)
		}, "header"},
		{"compressed without having been asked", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "" {
				t.Errorf("Accept-Encoding: got %q, want none", r.Header.Get("Accept-Encoding"))
			}
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte{0x1f, 0x8b, 8})
		}, "not a JSON object"},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = io.WriteString(w, set)
			panic(http.ErrAbortHandler)
		}, "EOF"},
	} {
		t.Run("JWT-14 "+row.name, func(t *testing.T) {
			s := newSite(t, (*httptest.Server).Start)
			s.page("/jwks", row.page)
			s.page("/jwks2", text(set))
			k := newKeys(t, jwks.Config{JWKSURL: s.URL + "/jwks"})
			if row.why != "" {
				wantFailure(t, k, row.why)
				return
			}
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatalf("Refresh: got %v, want no error", err)
			}
			wantKey(t, k, "k", "EdDSA", edKey().Public())
		})
	}
	if got := sent.Load(); got > 32 {
		t.Errorf("K7 read of 110 MiB: got %d MiB, want it given up after 1 MiB and what the sockets hold", got)
	}
	if got := elsewhere.visits("/jwks"); got != 0 {
		t.Errorf("visits to the other host: got %d, want 0", got)
	}
	t.Run("R15 no cookies", func(t *testing.T) {
		s := newSite(t, (*httptest.Server).Start)
		s.page("/jwks", func(w http.ResponseWriter, r *http.Request) {
			if c := r.Header.Get("Cookie"); c != "" {
				t.Errorf("Cookie: got %q, want none", c)
			}
			http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
			text(set)(w, r)
		})
		k := newKeys(t, jwks.Config{JWKSURL: s.URL + "/jwks"})
		for range 2 {
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestFetchOverTLS(t *testing.T) {
	set := keySet(jwk("k", edKey().Public()))
	for _, row := range []struct {
		name    string
		most    uint16
		trusted bool
		why     string
	}{
		{"a root from ca", tls.VersionTLS13, true, ""},
		{"TLS 1.2", tls.VersionTLS12, true, ""},
		{"TLS 1.1", tls.VersionTLS11, true, "protocol version"},
		{"an unknown root", tls.VersionTLS13, false, "certificate"},
	} {
		t.Run("R15 "+row.name, func(t *testing.T) {
			s := newSite(t, func(s *httptest.Server) {
				s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: row.most}
				s.StartTLS()
			})
			s.page("/jwks", text(set))
			cfg := jwks.Config{JWKSURL: s.URL + "/jwks"}
			if row.trusted {
				cfg.CA = roots(t, s.Server)
			}
			k := newKeys(t, cfg)
			if row.why != "" {
				wantFailure(t, k, row.why)
				return
			}
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatalf("Refresh: got %v, want no error", err)
			}
		})
	}
}

// proxy is an operator's forward proxy: it connects every name to one address.
type proxy struct {
	*httptest.Server
	used atomic.Int32
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	p := &proxy{}
	var wg sync.WaitGroup
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.used.Add(1)
		if r.Method != http.MethodConnect {
			http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
			return
		}
		up, err := net.Dial("tcp", to)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		down, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(down, "HTTP/1.1 200 OK\r\n\r\n")
		wg.Go(func() { pump(up, buffered.Reader, down) })
		wg.Go(func() { pump(down, bufio.NewReader(up), up) })
	}))
	t.Cleanup(func() {
		p.Close()
		wg.Wait()
	})
	return p
}

// pump copies until one side ends, and then ends both.
func pump(to net.Conn, from *bufio.Reader, other net.Conn) {
	_, _ = io.Copy(to, from)
	to.Close()
	other.Close()
}

// throughProxy sets up an issuer https://example.com that is reached through
// the environment's proxy: to us it is an issuer out there.
func throughProxy(t *testing.T) (*site, *proxy) {
	t.Helper()
	s := newSite(t, (*httptest.Server).StartTLS)
	p := newProxy(t, s.Listener.Addr().String())
	t.Setenv("HTTPS_PROXY", p.URL)
	t.Setenv("NO_PROXY", "")
	return s, p
}

func metadata(issuer, uri string) http.HandlerFunc {
	return text(fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, issuer, uri))
}

func TestProxyOfTheEnvironment(t *testing.T) {
	t.Run("JWT-14 R15 its own private address is exempt, also for what a public issuer names", func(t *testing.T) {
		s, p := throughProxy(t)
		s.page("/.well-known/openid-configuration", metadata("https://example.com", "https://example.com/jwks"))
		s.page("/jwks", text(keySet(jwk("k", edKey().Public()))))
		k, err := jwks.New(jwks.Config{Discover: true, CA: roots(t, s.Server)}, jwks.Options{Issuer: "https://example.com"})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Refresh(t.Context()); err != nil {
			t.Fatalf("Refresh: got %v, want no error", err)
		}
		wantKey(t, k, "k", "EdDSA", edKey().Public())
		if got := p.used.Load(); got != 2 {
			t.Errorf("connections through the proxy: got %d, want 2", got)
		}
	})
}

// TestPublicIssuerNamesNoPrivateAddress: what an issuer out there publishes as
// jwks_uri must not make us look around our own network.
func TestPublicIssuerNamesNoPrivateAddress(t *testing.T) {
	s, _ := throughProxy(t)
	ca := roots(t, s.Server)
	inside := newSite(t, (*httptest.Server).StartTLS)
	inside.page("/jwks", text(keySet(jwk("k", edKey().Public()))))
	_, port, _ := net.SplitHostPort(inside.Listener.Addr().String())
	for _, row := range []struct{ name, host string }{
		{"loopback", "127.0.0.1:" + port},
		{"a name that resolves to loopback, seen at dial", "localhost:" + port},
		{"loopback, the other 16 million", "127.9.9.9:" + port},
		{"IPv6 loopback", "[::1]:" + port},
		{"10/8", "10.0.0.1"},
		{"172.16/12", "172.31.255.254"},
		{"192.168/16", "192.168.1.1"},
		{"100.64/10", "100.127.0.1"},
		{"192.0.0/24", "192.0.0.1"},
		{"198.18/15", "198.19.255.254"},
		{"0/8", "0.0.0.1"},
		{"0/8, NAT64", "[64:ff9b::1]"},
		{"unique local", "[fd12:3456::1]"},
		{"IPv4-mapped", "[::ffff:10.0.0.1]"},
		{"IPv4-mapped loopback", "[::ffff:127.0.0.1]:" + port},
		{"100.64/10, mapped", "[::ffff:100.64.0.1]"},
		{"NAT64", "[64:ff9b::a00:1]"},
		{"NAT64 of a local prefix", "[64:ff9b:1::a00:1]"},
		{"NAT64 of loopback", "[64:ff9b::7f00:1]"},
		{"6to4", "[2002:a00:1::]"},
		{"link-local", "169.254.1.1"},
		{"metadata", "169.254.169.254"},
		{"metadata, mapped", "[::ffff:169.254.169.254]"},
		{"metadata, NAT64", "[64:ff9b::a9fe:a9fe]"},
		{"metadata, 6to4", "[2002:a9fe:a9fe::1]"},
	} {
		t.Run("JWT-14 "+row.name, func(t *testing.T) {
			s.page("/.well-known/openid-configuration", metadata("https://example.com", "https://"+row.host+"/jwks"))
			k, err := jwks.New(jwks.Config{Discover: true, CA: ca}, jwks.Options{Issuer: "https://example.com"})
			if err != nil {
				t.Fatal(err)
			}
			wantFailure(t, k, "address refused")
		})
	}
	if got := inside.visits("/jwks"); got != 0 {
		t.Errorf("visits inside: got %d, want 0", got)
	}
}

// TestAddressOfTheConfiguration: some addresses are never keys' addresses, and
// plain http stays on this machine.
func TestAddressOfTheConfiguration(t *testing.T) {
	for _, row := range []struct {
		url       string
		allowHTTP bool
		problem   string // empty = accepted
	}{
		{"https://idp.example/jwks", false, ""},
		{"https://10.0.0.1/jwks", false, ""},
		{"https://[fd12::1]/jwks", false, ""},
		{"http://127.0.0.1:8080/jwks", false, ""},
		{"http://[::1]/jwks", false, ""},
		{"http://localhost/jwks", false, ""},
		{"http://idp.example/jwks", false, "allow_http"},
		{"http://10.0.0.1/jwks", false, "allow_http"},
		{"http://localhost.evil.example/jwks", false, "allow_http"},
		{"http://evil.localhost/jwks", false, "allow_http"},
		{"http://[64:ff9b::7f00:1]/jwks", false, "allow_http"},
		{"http://idp.example/jwks", true, ""},
		{"https://169.254.169.254/latest", false, "address refused"},
		{"http://169.254.169.254/latest", true, "address refused"},
		{"https://[::ffff:169.254.169.254]/", false, "address refused"},
		{"https://[64:ff9b::a9fe:a9fe]/", false, "address refused"},
		{"https://[2002:a9fe:a9fe::]/", false, "address refused"},
		{"https://[fd00:ec2::254]/", false, "address refused"},
		{"https://[fd00:ec2::254%25eth0]/", false, "address refused"},
		{"https://[fd20:ce::254]/", false, "address refused"},
		{"https://100.100.100.200/", false, "address refused"},
		{"https://168.63.129.16/", false, "address refused"},
		{"http://192.0.0.192/", true, "address refused"},
		{"https://[::ffff:192.0.0.192]/", false, "address refused"},
		{"https://[64:ff9b::c000:c0]/", false, "address refused"},
		{"https://[2002:a83f:8110::]/", false, "address refused"},
		{"https://198.18.0.1/jwks", false, ""},
		{"https://[fe80::1%25eth0]/", false, "address refused"},
		{"https://0.0.0.0/", false, "address refused"},
		{"https://[::]/", false, "address refused"},
		{"https://224.0.0.1/", false, "address refused"},
		{"https://[ff02::1]/", false, "address refused"},
		{"https://255.255.255.255/", false, "address refused"},
		{"ftp://idp.example/jwks", false, "https"},
		{"idp.example/jwks", false, "https"},
		{"https:///jwks", false, "https"},
		{"https://user:secret@idp.example/jwks", false, "user"},
		{"https://idp.example/jwks#a", false, "fragment"},
		{"https://idp example/jwks", false, "URL"},
	} {
		t.Run("JWT-14 "+row.url, func(t *testing.T) {
			got := ""
			jwks.Config{JWKSURL: row.url, AllowHTTP: row.allowHTTP, Refresh: time.Minute, MaxStale: time.Hour}.
				Check(issuer, func(key, problem string) { got += key + ": " + problem })
			if row.problem == "" && got != "" || !strings.Contains(got, row.problem) {
				t.Errorf("faults: got %q, want %q", got, row.problem)
			}
			if strings.Contains(got, "secret") {
				t.Errorf("faults: got %q, want no password in it", got)
			}
		})
	}
}

// A source may choke on what it sent itself.
func TestATagEndsNoFetching(t *testing.T) {
	long := `"` + strings.Repeat("x", 255) + `"`
	for _, row := range []struct {
		name, tag string
		chokes    bool // on any tag
		failures  int
		sent      []string // If-None-Match, once for each fetch
	}{
		{"a long one is not sent back", long, false, 0, []string{"", "", ""}},
		{"one of 256 bytes is", long[1:], false, 0, []string{"", long[1:], long[1:]}},
		{"a source that knows no conditions", `"a"`, true, 1, []string{"", `"a"`, ""}},
	} {
		t.Run("JWT-15 "+row.name, func(t *testing.T) {
			var sent []string
			s := newSite(t, (*httptest.Server).Start)
			s.page("/jwks", func(w http.ResponseWriter, r *http.Request) {
				sent = append(sent, r.Header.Get("If-None-Match"))
				if row.chokes && sent[len(sent)-1] != "" {
					http.Error(w, "no", http.StatusInternalServerError)
					return
				}
				w.Header().Set("ETag", row.tag)
				text(keySet(jwk("k", edKey().Public())))(w, r)
			})
			k := newKeys(t, jwks.Config{JWKSURL: s.URL + "/jwks"})
			failures := 0
			for range 3 {
				if err := k.Refresh(t.Context()); err != nil {
					failures++
				}
			}
			if failures != row.failures || !slices.Equal(sent, row.sent) {
				t.Errorf("got %d failures and If-None-Match %q, want %d and %q", failures, sent, row.failures, row.sent)
			}
		})
	}
}
