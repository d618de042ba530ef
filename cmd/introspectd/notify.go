package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// notifier tells systemd how the service is doing, by the protocol of
// sd_notify(3). The zero value has nobody to tell.
type notifier struct {
	// socket is the path of a datagram socket, or a name in the abstract
	// namespace that begins with @.
	socket string
}

// newNotifier is for the socket that the environment names, if it names one.
func newNotifier(env []string) notifier {
	for _, entry := range env {
		if socket, ok := strings.CutPrefix(entry, "NOTIFY_SOCKET="); ok {
			return notifier{socket}
		}
	}
	return notifier{}
}

// The states that systemd's Type=notify-reload waits for. Each is one datagram.

// ready says that a start or a reload is over, and how it went.
func (n notifier) ready(status string) error { return n.tell("READY=1", "STATUS="+status) }

// reloading says that a reload begins. systemd knows by the time whether it is
// the one that it asked for.
func (n notifier) reloading() error {
	if n.socket == "" {
		return nil
	}
	now, err := monotonic()
	if err != nil {
		return err
	}
	return n.tell("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", now.Microseconds()))
}

// stopping says that the service drains.
func (n notifier) stopping() error { return n.tell("STOPPING=1", "STATUS=draining") }

func (n notifier) tell(lines ...string) error {
	if n.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("telling systemd: %w", err)
	}
	_, err = conn.Write([]byte(strings.Join(lines, "\n")))
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("telling systemd: %w", err)
	}
	return nil
}
