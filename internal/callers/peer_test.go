package callers_test

import (
	"testing"

	"introspectd/internal/callers"
)

func TestPeerContains(t *testing.T) {
	for _, c := range []struct {
		name, peer, remote string
		want               bool
	}{
		{"AUT-06 an address inside the network", "10.0.0.0/8", "10.1.2.3:5555", true},
		{"AUT-06 an address outside it", "10.0.0.0/8", "11.1.2.3:5555", false},
		{"a single address is itself", "10.1.2.3", "10.1.2.3:1", true},
		{"a single address is not its neighbour", "10.1.2.3", "10.1.2.4:1", false},
		{"IPv4 in IPv6 form counts as IPv4", "127.0.0.0/8", "[::ffff:127.0.0.1]:80", true},
		{"IPv6 loopback", "::1/128", "[::1]:80", true},
		{"IPv6 is not in an IPv4 network", "0.0.0.0/0", "[2001:db8::1]:80", false},
		{"a link-local peer with its zone", "fe80::/10", "[fe80::1%eth0]:80", true},
		{"an unnamed unix client", "unix", "@", true},
		{"a unix client without an address", "unix", "", true},
		{"a unix client that bound a path", "unix", "/run/gateway.sock", true},
		{"unix does not mean loopback", "unix", "127.0.0.1:80", false},
		{"loopback does not mean unix", "127.0.0.0/8", "@", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p callers.Peer
			if err := p.UnmarshalText([]byte(c.peer)); err != nil {
				t.Fatalf("UnmarshalText(%q): %v", c.peer, err)
			}
			if got := p.Contains(c.remote); got != c.want {
				t.Errorf("%s contains %q: got %v, want %v", p, c.remote, got, c.want)
			}
		})
	}
}

func TestZeroPeerContainsNobody(t *testing.T) {
	for _, remote := range []string{"127.0.0.1:1", "[::1]:1", "@", ""} {
		if (callers.Peer{}).Contains(remote) {
			t.Errorf("the zero Peer contains %q", remote)
		}
	}
}

func TestPeerSpelling(t *testing.T) {
	for _, c := range []struct{ text, want, problem string }{
		{text: "127.0.0.0/8", want: "127.0.0.0/8"},
		{text: "192.0.2.7", want: "192.0.2.7/32"},
		{text: "::1/128", want: "::1/128"},
		{text: "unix", want: "unix"},
		{text: "10.1.2.3/8", problem: `expected a network without host bits such as 10.0.0.0/8, got "10.1.2.3/8"`},
		{text: "::ffff:10.0.0.0/104", problem: `expected an IPv4 network in its own notation such as 10.0.0.0/8, got "::ffff:10.0.0.0/104"`},
		{text: "fe80::1%eth0", problem: `expected a network such as 10.0.0.0/8, an address, or unix, got "fe80::1%eth0"`},
		{text: "localhost", problem: `expected a network such as 10.0.0.0/8, an address, or unix, got "localhost"`},
		{text: "", problem: `expected a network such as 10.0.0.0/8, an address, or unix, got ""`},
	} {
		t.Run(c.text, func(t *testing.T) {
			var p callers.Peer
			err := p.UnmarshalText([]byte(c.text))
			if c.problem != "" {
				if err == nil || err.Error() != c.problem {
					t.Fatalf("UnmarshalText(%q): got %v, want %s", c.text, err, c.problem)
				}
				return
			}
			if err != nil || p.String() != c.want {
				t.Errorf("UnmarshalText(%q): got %s, %v, want %s", c.text, p, err, c.want)
			}
		})
	}
}
