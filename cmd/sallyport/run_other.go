//go:build !unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// childSignals catches an interrupt, so that we outlive the child, which a
// console interrupts by itself.
func childSignals() (signals <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	return nil, func() { signal.Stop(c) }
}

func detached() *syscall.SysProcAttr { return nil }

// alive cannot be asked without a handle; `env --stop` ends the proxy.
func alive(*os.Process) bool { return true }
