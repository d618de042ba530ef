package jwks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
)

var errAddress = errors.New("address refused")

// rule is what may be dialled for one place. Whatever a name resolves to is
// checked, at the moment it is dialled, so that no second answer of a name
// server can slip in between (JWT-14). The zero rule still refuses link-local,
// metadata, unspecified and multicast addresses.
type rule struct {
	loopbackOnly bool     // plain http without leave to leave the machine
	publicOnly   bool     // learnt from an issuer out there, which has no say over our network
	proxy        *url.URL // the operator's proxy, whose own address is exempt
}

func (r rule) isProxy(address string) bool { return r.proxy != nil && hostPort(r.proxy) == address }

// metadataServices are those of clouds that are not link-local: what they say to
// this machine, credentials among it, is nobody's keys.
var metadataServices = []netip.Addr{
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("192.0.0.192"),     // Oracle
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google
}

// refuses says why an address must not be dialled; empty means it may be.
func (r rule) refuses(a netip.Addr) string {
	a = a.WithZone("").Unmap()
	meant := embedded(a)
	switch {
	case meant.IsUnspecified(), meant.IsMulticast(), meant.IsLinkLocalUnicast(),
		meant == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "link-local, unspecified or multicast"
	case slices.Contains(metadataServices, meant):
		return "a metadata service"
	case r.loopbackOnly && !a.IsLoopback():
		return "plain http beyond loopback"
	case r.publicOnly && private(meant):
		return "private, but named by a public issuer"
	}
	return ""
}

// embedded is the IPv4 address that a translator would make of a: NAT64
// (RFC 6052) or 6to4 (RFC 3056); otherwise a itself.
func embedded(a netip.Addr) netip.Addr {
	b := a.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a):
		return netip.AddrFrom4([4]byte(b[12:]))
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return a
}

// ourNetworks are those that are not the internet's, beside what package netip
// knows as private.
var ourNetworks = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),      // this network (RFC 1122)
	netip.MustParsePrefix("100.64.0.0/10"),  // carrier NAT (RFC 6598)
	netip.MustParsePrefix("192.0.0.0/24"),   // protocol assignments (RFC 6890)
	netip.MustParsePrefix("198.18.0.0/15"),  // benchmarks (RFC 2544)
	netip.MustParsePrefix("64:ff9b:1::/48"), // local NAT64 (RFC 8215)
}

// private tells whether a is ours rather than the internet's.
func private(a netip.Addr) bool {
	return a.IsLoopback() || a.IsPrivate() ||
		slices.ContainsFunc(ourNetworks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// literal applies the rule to a host that is an address already. A request
// through a proxy is dialled by the proxy: this is all we see of it.
func (r rule) literal(u *url.URL) error {
	a, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil
	}
	if why := r.refuses(a); why != "" {
		return fmt.Errorf("%w: %s is %s", errAddress, a, why)
	}
	return nil
}

// control is net.Dialer's hook between resolving and connecting.
func (r rule) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q", errAddress, address)
	}
	if why := r.refuses(ap.Addr()); why != "" {
		return fmt.Errorf("%w: %s is %s", errAddress, ap.Addr(), why)
	}
	return nil
}

// transportFor is the transport for one request to p.
func (k *Keys) transportFor(p place) (http.RoundTripper, error) {
	if err := p.rule.literal(p.url); err != nil {
		return nil, err
	}
	if k.transport != nil {
		return k.transport, nil
	}
	return k.guarded(p.rule), nil
}

// guarded is the real transport. It keeps no connection, so that the next
// fetch resolves and checks anew.
func (k *Keys) guarded(r rule) *http.Transport {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		d := net.Dialer{}
		if !r.isProxy(address) {
			d.ControlContext = r.control
		}
		return d.DialContext(ctx, network, address)
	}
	t := &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        k.tls.Clone(),
		ForceAttemptHTTP2:      true,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if r.proxy != nil {
		t.Proxy = http.ProxyURL(r.proxy)
	}
	return t
}

// ruleFor is the rule for u before anything is known of who named it. The
// environment's proxy is never asked for loopback.
func (k *Keys) ruleFor(u *url.URL) (rule, error) {
	r := rule{loopbackOnly: u.Scheme == "http" && !k.cfg.AllowHTTP}
	var err error
	if r.proxy, err = k.proxy(u); err != nil {
		return r, fmt.Errorf("proxy: %w", err)
	}
	return r, nil
}

// hostPort is the address that net/http dials for a proxy.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// parseURL reads an address of keys: absolute, https, or http where that stays
// on the machine or is allowed. The error is a sentence for the operator.
func parseURL(raw string, allowHTTP bool) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("not a URL")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", u.Opaque != "":
		return nil, errors.New("expected an absolute https URL")
	case u.User != nil:
		return nil, errors.New("expected a URL without user and password")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return nil, errors.New("expected a URL without a fragment")
	case u.Scheme == "http" && !allowHTTP && !loopbackHost(u.Hostname()):
		return nil, errors.New("expected https: plain http is for loopback addresses, or with allow_http")
	}
	return u, rule{}.literal(u)
}

func loopbackHost(host string) bool {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return host == "localhost"
	}
	return a.Unmap().IsLoopback()
}
