//go:build unix

package main

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// childSignals are the signals to pass on to a child. What a terminal sends,
// it sends to the whole foreground process group, so the child has it already.
func childSignals() (signals <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 8)
	pass := []os.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2}
	if foreground() {
		// Caught, so that we outlive the child, and left to lie.
		ignored := make(chan os.Signal, 1)
		signal.Notify(ignored, os.Interrupt, syscall.SIGQUIT)
		signal.Notify(c, pass...)
		return c, func() { signal.Stop(c); signal.Stop(ignored) }
	}
	signal.Notify(c, append(pass, os.Interrupt, syscall.SIGQUIT)...)
	return c, func() { signal.Stop(c) }
}

// foreground reports whether a terminal's keys reach this process.
func foreground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// detached makes a process that outlives its parent and hears nothing of the
// terminal's keys.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// alive reports whether a process is there. On Linux, os.Process holds the
// process itself and not its number, so another one is not taken for it.
func alive(p *os.Process) bool {
	err := p.Signal(syscall.Signal(0))
	return err == nil || errors.Is(err, os.ErrPermission)
}
