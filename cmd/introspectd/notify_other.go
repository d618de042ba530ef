//go:build !linux

package main

import (
	"errors"
	"time"
)

// monotonic has nobody to read it for: systemd is Linux's.
func monotonic() (time.Duration, error) { return 0, errors.New("no systemd beyond Linux") }
