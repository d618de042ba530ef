//go:build !linux

package main

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// run needs epoll, and /proc beside it.
func (l load) run(context.Context, int) (seen, error) { return seen{}, errors.New("this needs Linux") }

func pin(int) (unpin func()) { return func() {} }

func twoCPUs() (server, generator int) { return -1, -1 }

func dieWithParent() *syscall.SysProcAttr { return nil }

func threadCPU() time.Duration { return 0 }
