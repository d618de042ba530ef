package callers

import (
	"fmt"
	"net/netip"
)

// Peer is who may be at the other end of a connection: a network of TCP
// addresses, or every client of a unix socket. The zero Peer contains nobody.
type Peer struct {
	unix    bool
	network netip.Prefix
}

// UnmarshalText reads a network (10.0.0.0/8), a single address, or the word
// unix.
func (p *Peer) UnmarshalText(text []byte) error {
	if string(text) == "unix" {
		*p = Peer{unix: true}
		return nil
	}
	network, err := netip.ParsePrefix(string(text))
	if err != nil {
		address, err := netip.ParseAddr(string(text))
		if err != nil || address.Zone() != "" {
			return fmt.Errorf("expected a network such as 10.0.0.0/8, an address, or unix, got %q", text)
		}
		network = netip.PrefixFrom(address, address.BitLen())
	}
	if network.Addr().Is4In6() {
		return fmt.Errorf("expected an IPv4 network in its own notation such as 10.0.0.0/8, got %q", text)
	}
	// 10.1.2.3/8 is a slip for either /32 or 10.0.0.0/8, and the two differ by
	// sixteen million peers.
	if network != network.Masked() {
		return fmt.Errorf("expected a network without host bits such as %s, got %q", network.Masked(), text)
	}
	*p = Peer{network: network}
	return nil
}

// Contains says whether the peer with this address is meant. remoteAddr is
// http.Request.RemoteAddr: ip:port on a TCP listener, anything else on a unix
// socket. An IPv4 address that arrives in IPv6 form counts as IPv4.
func (p Peer) Contains(remoteAddr string) bool {
	address, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return p.unix
	}
	return p.network.Contains(address.Addr().Unmap().WithZone(""))
}

// String is the form that UnmarshalText reads.
func (p Peer) String() string {
	if p.unix {
		return "unix"
	}
	return p.network.String()
}
