package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// errNotRunning is for whoever wants something of a container that has ended.
var errNotRunning = errors.New("container is not running")

// idle is what runs for a container without command and args: what its image
// would start is not known.
var idle = []string{"tail", "-f", "/dev/null"}

// A pod is a set of commands that run in one scratch folder.
type pod struct {
	// object is the pod as it was when it came; its spec is what runs.
	object     *corev1.Pod
	containers []*container
	// stopping is closed when the pod is to be deleted, gone when it has been.
	stopping, gone         chan struct{}
	stoppingOnce, goneOnce sync.Once
}

// newPod makes the folders of a pod below dir: one that its containers share as
// their working directory, and beside it their logs.
func newPod(object *corev1.Pod, dir string) (*pod, error) {
	if len(object.Spec.InitContainers) > 0 {
		return nil, errors.New("devcluster runs no init containers")
	}
	work := filepath.Join(dir, "work")
	if err := os.MkdirAll(work, 0o700); err != nil {
		return nil, fmt.Errorf("making the pod's folder: %w", err)
	}
	p := &pod{object: object, stopping: make(chan struct{}), gone: make(chan struct{})}
	for _, spec := range object.Spec.Containers {
		c, err := newContainer(object, spec, work, filepath.Join(dir, spec.Name+".log"))
		if err != nil {
			return nil, err
		}
		p.containers = append(p.containers, c)
	}
	return p, nil
}

// container returns the one of that name, or nil.
func (p *pod) container(name string) *container {
	for _, c := range p.containers {
		if c.spec.Name == name {
			return c
		}
	}
	return nil
}

// stop asks the containers to end, and kills them after the grace period. A
// second call can only make that earlier.
func (p *pod) stop(grace time.Duration) {
	p.stoppingOnce.Do(func() {
		close(p.stopping)
		for _, c := range p.containers {
			c.terminate()
		}
	})
	time.AfterFunc(grace, p.kill) // kill does no harm to what has ended
}

// kill ends the containers and everything in them, now.
func (p *pod) kill() {
	for _, c := range p.containers {
		c.kill()
	}
}

// vanish is for a pod whose object is gone: nobody waits for it any more.
func (p *pod) vanish() {
	p.goneOnce.Do(func() { close(p.gone) })
	p.kill()
}

// status is what the API server is to be told.
func (p *pod) status() corev1.PodStatus {
	status := corev1.PodStatus{
		HostIP: loopback, HostIPs: []corev1.HostIP{{IP: loopback}},
		PodIP: loopback, PodIPs: []corev1.PodIP{{IP: loopback}},
		StartTime: &p.object.CreationTimestamp,
	}
	running, ended, failed := 0, 0, 0
	for _, c := range p.containers {
		s := c.status()
		status.ContainerStatuses = append(status.ContainerStatuses, s)
		switch {
		case s.State.Running != nil:
			running++
		case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
			failed++
			fallthrough
		case s.State.Terminated != nil:
			ended++
		}
	}
	all := len(p.containers)
	switch {
	case ended == all && failed > 0:
		status.Phase = corev1.PodFailed
	case ended == all:
		status.Phase = corev1.PodSucceeded
	case running+ended == all:
		status.Phase = corev1.PodRunning
	default:
		status.Phase = corev1.PodPending
	}
	status.Conditions = podConditions(p.object, running == all)
	return status
}

// failedStatus is that of a pod that cannot be run here.
func failedStatus(object *corev1.Pod, reason error) corev1.PodStatus {
	return corev1.PodStatus{
		Phase:      corev1.PodFailed,
		Reason:     "Unsupported",
		Message:    reason.Error(),
		Conditions: podConditions(object, false),
	}
}

// podConditions replaces ours among the pod's conditions.
func podConditions(object *corev1.Pod, ready bool) []corev1.PodCondition {
	state := corev1.ConditionFalse
	if ready {
		state = corev1.ConditionTrue
	}
	now := metav1.Now()
	ours := []corev1.PodCondition{
		{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: now},
		{Type: corev1.ContainersReady, Status: state, LastTransitionTime: now},
		{Type: corev1.PodReady, Status: state, LastTransitionTime: now},
	}
	others := slices.DeleteFunc(slices.Clone(object.Status.Conditions), func(c corev1.PodCondition) bool {
		return slices.ContainsFunc(ours, func(o corev1.PodCondition) bool { return o.Type == c.Type })
	})
	return append(others, ours...)
}

// A container is a command with a log, and the commands of exec.
type container struct {
	spec corev1.Container
	// id is what its status shows.
	id  string
	env []string
	// work is where commands run, logPath where the output is kept.
	work, logPath string
	log           *containerLog
	// begun is closed when main has started, or could not. A pod that ran in an
	// earlier devcluster is called ready before it is.
	begun chan struct{}

	mu sync.Mutex
	// commands holds those that run; main is one of them until it ends.
	commands map[*command]bool
	main     *command
	state    corev1.ContainerState
	// killed says that nothing may start any more.
	killed bool
}

func newContainer(object *corev1.Pod, spec corev1.Container, work, logPath string) (*container, error) {
	// Little is passed on of devcluster's own environment, which may hold secrets.
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + work, "TERM=xterm", "HOSTNAME=" + object.Name}
	if len(spec.EnvFrom) > 0 {
		return nil, fmt.Errorf("container %s has envFrom; devcluster supports only env with a literal value", spec.Name)
	}
	for _, e := range spec.Env {
		if e.ValueFrom != nil {
			return nil, fmt.Errorf("container %s has env %s with valueFrom; devcluster supports only a literal value", spec.Name, e.Name)
		}
		env = append(env, e.Name+"="+e.Value)
	}
	if spec.WorkingDir != "" {
		if !filepath.IsAbs(spec.WorkingDir) {
			spec.WorkingDir = filepath.Join(work, spec.WorkingDir)
		}
		work = spec.WorkingDir
	}
	log, err := newContainerLog(logPath)
	if err != nil {
		return nil, err
	}
	return &container{
		spec:     spec,
		id:       fmt.Sprintf("devcluster://%s/%s", object.UID, spec.Name),
		env:      append(env, "PWD="+work),
		work:     work,
		logPath:  logPath,
		log:      log,
		begun:    make(chan struct{}),
		commands: map[*command]bool{},
	}, nil
}

// run starts the container and returns when it has ended, or could not start;
// its state says which. It calls started in between.
func (c *container) run(started func()) {
	defer c.log.close()
	args := slices.Concat(c.spec.Command, c.spec.Args)
	if len(args) == 0 {
		args = idle
	}
	begin := metav1.Now()
	main, err := c.start(commandSpec{
		args: args, stdin: c.spec.Stdin, tty: c.spec.TTY, stdout: &c.log.stdout, stderr: &c.log.stderr,
	}, func(main *command) {
		c.main = main
		c.state.Running = &corev1.ContainerStateRunning{StartedAt: begin}
	})
	close(c.begun)
	end := corev1.ContainerStateTerminated{StartedAt: begin, ContainerID: c.id}
	if err != nil {
		end.ExitCode, end.Reason, end.Message = 128, "StartError", err.Error()
	} else {
		started()
		end.ExitCode = int32(main.wait())
		end.Reason = "Completed"
		if end.ExitCode != 0 {
			end.Reason = "Error"
		}
	}
	end.FinishedAt = metav1.Now()

	c.kill() // what exec started ends with the container
	c.mu.Lock()
	defer c.mu.Unlock()
	c.main = nil
	c.state = corev1.ContainerState{Terminated: &end}
}

// start starts a command in the container; note is called with it, under mu.
func (c *container) start(spec commandSpec, note func(*command)) (*command, error) {
	spec.dir, spec.env = c.work, c.env
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed {
		return nil, errNotRunning
	}
	started, err := startCommand(spec)
	if err != nil {
		return nil, err
	}
	c.commands[started] = true
	note(started)
	return started, nil
}

// exec runs one more command in the container and returns its exit code. A nil
// stream is one that the client did not ask for.
func (c *container) exec(args []string, stdin io.Reader, stdout, stderr io.Writer, tty bool, sizes <-chan remotecommand.TerminalSize) (int, error) {
	if c.current() == nil {
		return 0, errNotRunning
	}
	run, err := c.start(commandSpec{
		args: args, stdin: stdin != nil, tty: tty, stdout: orDiscard(stdout), stderr: orDiscard(stderr),
	}, func(*command) {})
	if err != nil {
		return 0, err
	}
	if stdin != nil {
		go func() { // ends with the client's stream, which ends with this request
			run.writeInput(stdin)
			run.closeInput()
		}()
	}
	if tty && sizes != nil {
		go run.resize(sizes)
	}
	code := run.wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.commands, run)
	return code, nil
}

// attach joins a client to the container's main command until that ends, or the
// client is seen to be gone.
func (c *container) attach(stdin io.Reader, stdout, stderr io.Writer, sizes <-chan remotecommand.TerminalSize) error {
	main := c.current()
	if main == nil {
		return errNotRunning
	}
	output := c.log.attach()
	if stdin != nil && main.input != nil && c.spec.Stdin {
		go func() { // ends with the client's stream, which ends with this request
			main.writeInput(stdin)
			if c.spec.StdinOnce {
				main.closeInput()
			}
		}()
	}
	if c.spec.TTY && sizes != nil {
		go main.resize(sizes)
	}
	return output.copyTo(stdout, stderr)
}

// current is the main command, nil once it has ended.
func (c *container) current() *command {
	<-c.begun // a matter of milliseconds
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.main
}

func (c *container) running() bool {
	return c.current() != nil
}

// terminate asks the main command to end.
func (c *container) terminate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.main == nil {
		c.killed = true
		return
	}
	c.main.signal(syscall.SIGTERM)
}

// kill ends all commands in the container, now and for good.
func (c *container) kill() {
	c.log.cutOff()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
	for run := range c.commands {
		run.signal(syscall.SIGKILL)
	}
}

func (c *container) status() corev1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	running := c.main != nil
	status := corev1.ContainerStatus{
		Name:        c.spec.Name,
		Image:       c.spec.Image,
		ContainerID: c.id,
		Ready:       running,
		Started:     &running,
		State:       c.state,
	}
	if c.state == (corev1.ContainerState{}) {
		status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	}
	return status
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
