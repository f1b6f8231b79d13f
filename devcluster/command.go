package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// drainTimeout is how long a command that has ended may leave its output open
// without writing to it: that can only be a process that left the group.
const drainTimeout = time.Second

// endOfInput is what a user types on a terminal (^D) to end the input.
const endOfInput = 0x04

// commandSpec says what to run and where its streams go.
type commandSpec struct {
	args []string
	dir  string
	env  []string
	// stdin keeps the input open for writeInput; without it, it is empty.
	stdin bool
	// tty gives the command a terminal. All its output then goes to stdout.
	tty            bool
	stdout, stderr io.Writer
}

// A command is a process of this user and machine, with all that it starts (its
// process group). Nothing isolates it.
type command struct {
	cmd *exec.Cmd
	// input is the pipe or terminal to write to, nil without one.
	input *os.File
	tty   bool
	// outputs counts the goroutines that copy output.
	outputs sync.WaitGroup
	// exited is closed when the first process has ended and the rest is killed.
	exited chan struct{}
}

// startCommand starts a command. The caller must call wait, once.
func startCommand(spec commandSpec) (*command, error) {
	if len(spec.args) == 0 {
		return nil, errors.New("no command given")
	}
	c := &command{cmd: exec.Command(spec.args[0], spec.args[1:]...), tty: spec.tty, exited: make(chan struct{})}
	c.cmd.Dir, c.cmd.Env = spec.dir, spec.env
	open := c.openPipes
	if spec.tty {
		open = c.openTerminal
	}
	theirs, outputs, err := open(spec)
	defer closeAll(theirs) // the child has its own copies
	if err != nil {
		return nil, err
	}
	dieWithUs(c.cmd.SysProcAttr)
	if err := c.cmd.Start(); err != nil {
		closeAll([]*os.File{c.input})
		for _, o := range outputs {
			o.from.Close()
		}
		return nil, err
	}
	for _, o := range outputs {
		c.outputs.Go(func() { c.copyOutput(o) })
	}
	go func() {
		c.cmd.Wait() // the exit code is in ProcessState
		c.signal(syscall.SIGKILL)
		close(c.exited)
		for _, o := range outputs {
			o.from.SetReadDeadline(time.Now().Add(drainTimeout)) // fails on a closed one only
		}
	}()
	return c, nil
}

// An output is where a command's output comes from and goes to.
type output struct {
	from *os.File
	to   io.Writer
}

func (c *command) openPipes(spec commandSpec) (theirs []*os.File, outputs []output, err error) {
	defer func() {
		if err != nil {
			closeAll([]*os.File{c.input})
			for _, o := range outputs {
				o.from.Close()
			}
		}
	}()
	// A group of its own, so that a signal reaches what the command starts, too.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if spec.stdin {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, outputs, err
		}
		theirs, c.input, c.cmd.Stdin = append(theirs, r), w, r
	}
	for _, stream := range []struct {
		end *io.Writer
		to  io.Writer
	}{{end: &c.cmd.Stdout, to: spec.stdout}, {end: &c.cmd.Stderr, to: spec.stderr}} {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, outputs, err
		}
		*stream.end = w
		theirs, outputs = append(theirs, w), append(outputs, output{from: r, to: stream.to})
	}
	return theirs, outputs, nil
}

func (c *command) openTerminal(spec commandSpec) (theirs []*os.File, outputs []output, err error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	defer master.Close()
	theirs = []*os.File{slave}
	// pty.Open leaves it in blocking mode, which knows no deadlines.
	fd, err := syscall.Dup(int(master.Fd()))
	if err != nil {
		return theirs, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	syscall.CloseOnExec(fd)
	if err := syscall.SetNonblock(fd, true); err != nil {
		syscall.Close(fd)
		return theirs, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	c.input = os.NewFile(uintptr(fd), master.Name())
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = slave, slave, slave
	// A session is a group, too.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return theirs, []output{{from: c.input, to: spec.stdout}}, nil
}

// copyOutput copies until the end. When the reader is gone it closes the pipe,
// and the command gets SIGPIPE, as it would in a shell.
func (c *command) copyOutput(o output) {
	defer o.from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := o.from.Read(buffer)
		if n > 0 {
			if _, err := o.to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return // EOF, EIO from a terminal that everybody left, or the deadline
		}
		select {
		case <-c.exited: // a slow reader must not lose what is left in the pipe
			o.from.SetReadDeadline(time.Now().Add(drainTimeout))
		default:
		}
	}
}

// writeInput copies r to the command's input until r ends or the command does.
func (c *command) writeInput(r io.Reader) {
	io.Copy(c.input, r) // an error is the end of either
}

// closeInput tells the command that there is no more input.
func (c *command) closeInput() {
	if c.tty {
		c.input.Write([]byte{endOfInput}) // an error means it has ended
		return
	}
	c.input.Close()
}

// resize sets the size of the terminal for each value from sizes, until that is
// closed or the command has ended.
func (c *command) resize(sizes <-chan remotecommand.TerminalSize) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			if conn, err := c.input.SyscallConn(); err == nil {
				conn.Control(func(fd uintptr) {
					unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
				})
			}
		case <-c.exited:
			return
		}
	}
}

// signal sends a signal to the command and what it started, unless it has ended
// (its number may be another's by then).
func (c *command) signal(s syscall.Signal) {
	select {
	case <-c.exited:
		return
	default:
	}
	syscall.Kill(-c.cmd.Process.Pid, s) // an error means that nobody is left
}

// wait returns when the command has ended and its output is copied. The code is
// that of a shell: 128 and the number for one that was ended by a signal.
func (c *command) wait() (code int) {
	<-c.exited
	c.outputs.Wait()
	if c.input != nil {
		c.input.Close()
	}
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
