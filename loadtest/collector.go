package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"
)

// collector takes what exporters send, and drops it.
type collector struct {
	address string
	server  *http.Server
}

func newCollector() (*collector, error) {
	socket, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &collector{address: socket.Addr().String(), server: &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // its sender may be ending
			w.Header().Set("Content-Type", "application/x-protobuf")
		}),
	}}
	go func() { _ = c.server.Serve(socket) }() // ends with close
	return c, nil
}

func (c *collector) close() {
	if c != nil {
		_ = c.server.Close()
	}
}
