//go:build !linux

package main

// hardenProcess has nothing to do here: what it does is Linux's.
func hardenProcess() {}
