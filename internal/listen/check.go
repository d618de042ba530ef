package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

const unixPrefix = "unix:"

// maxSocketPath is what fits in sockaddr_un beside its closing NUL.
const maxSocketPath = 107

// Check reports every fault of the section's own values. It reads the files of
// the certificate. Rules that need other sections, such as plaintext beyond
// loopback, are not looked at.
func (c Config) Check(fault func(key, problem string)) {
	taken := map[string]string{}
	for _, l := range []struct{ key, addr string }{{"listen", c.Listen}, {"admin", c.Admin}, {"metrics", c.Metrics}, {"ext_authz_grpc", c.ExtAuthzGRPC}} {
		if l.addr == "" && l.key != "listen" {
			continue
		}
		if err := checkAddress(l.addr); err != nil {
			fault(l.key, err.Error())
			continue
		}
		if other, ok := taken[l.addr]; ok && !strings.HasSuffix(l.addr, ":0") {
			fault(l.key, fmt.Sprintf("expected an address of its own, got that of %s", other))
		}
		taken[l.addr] = l.key
	}
	if err := checkPublicURL(c.PublicURL); err != nil {
		fault("public_url", err.Error())
	}
	if c.ShutdownDelay < 0 {
		fault("shutdown_delay", fmt.Sprintf("expected a time of 0s or more, got %s", c.ShutdownDelay))
	}
	c.TLS.check(func(key, problem string) { fault("tls."+key, problem) })
}

// Loopback tells whether a listen address is reached from this machine alone:
// localhost, a loopback address or a unix socket.
func Loopback(addr string) bool {
	if strings.HasPrefix(addr, unixPrefix) {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	return err == nil && loopbackHost(host)
}

func loopbackHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

func checkAddress(addr string) error {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		if !filepath.IsAbs(path) || len(path) > maxSocketPath {
			return fmt.Errorf("expected unix: and an absolute path of at most %d bytes, got %q", maxSocketPath, addr)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("expected host:port or unix:/path, got %q", addr)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("expected a port number from 0 to 65535, got %q", addr)
	}
	return nil
}

// checkPublicURL holds an issuer identifier of our own against RFC 8414
// section 2. Endpoints are appended to it, so it ends without a slash.
func checkPublicURL(s string) error {
	if s == "" {
		return nil
	}
	if strings.ContainsAny(s, "@?#") {
		return errors.New("expected a URL without user, query and fragment") // not shown: it may hold a password
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Opaque != "" {
		return fmt.Errorf("expected an absolute URL such as https://introspect.example, got %q", s)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !loopbackHost(u.Hostname())) {
		return fmt.Errorf("expected https (plain http on loopback only), got %q", s)
	}
	if strings.HasSuffix(s, "/") {
		return fmt.Errorf("expected a URL without a slash at its end, got %q", s)
	}
	return nil
}

// check loads the files, which is the only way to know that they will load.
func (t TLS) check(fault func(key, problem string)) {
	switch {
	case t.Certificate != "" && t.Key == "":
		fault("key", "expected the key's file beside certificate")
	case t.Certificate == "" && t.Key != "":
		fault("certificate", "expected the certificate's file beside key")
	case t.Certificate != "":
		if _, err := t.pair(); err != nil {
			fault("certificate", "expected a certificate and its key in PEM: "+err.Error())
		}
	}
	if t.ClientCA == "" {
		return
	}
	if t.Certificate == "" && t.Key == "" {
		fault("client_ca", "expected certificate and key as well: client certificates need TLS")
	}
	if _, err := t.clientRoots(); err != nil {
		fault("client_ca", "expected a PEM file of certificates: "+err.Error())
	}
}
