//go:build !linux

package main

import "syscall"

// dieWithUs does nothing: only Linux can tie a command's life to ours.
func dieWithUs(*syscall.SysProcAttr) {}
