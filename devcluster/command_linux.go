package main

import "syscall"

// dieWithUs has the kernel kill the command when devcluster ends without a
// chance to do so itself. Strictly, it is when the thread ends that started the
// command; Go keeps its threads, but for goroutines that end locked to theirs.
func dieWithUs(attributes *syscall.SysProcAttr) {
	attributes.Pdeathsig = syscall.SIGKILL
}
