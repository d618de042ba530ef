package listen

import "net"

// Lazy is what Serve makes of a connection.
func Lazy(c net.Conn) net.Conn { return lazy(c) }
