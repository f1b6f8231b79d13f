package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"

	"github.com/spf13/cobra"
)

// childFlags say who a child of ours is and what it may reach; run and env
// share them.
type childFlags struct {
	as             string
	allowHosts     []string
	azureConfigDir string
}

func (f *childFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.as, "as", "", "who the command is: operator, or a resource's name or ARM id, by its managed identity (default: nobody, it signs in itself)")
	cmd.Flags().StringSliceVar(&f.allowHosts, "allow-host", nil, "HOST or HOST:PORT that the command may reach besides; may be repeated")
	cmd.Flags().StringVar(&f.azureConfigDir, "azure-config-dir", "", "folder of az's own state, AZURE_CONFIG_DIR (default: a private one for each server, never ~/.azure)")
}

func newRunCommand(c *cli) *cobra.Command {
	var f childFlags
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG]...",
		Short: "Run an Azure client against this server, unmodified",
		Long: `Runs a command, such as az, Terraform or a program that uses an Azure SDK, so that
the hosts it takes for Azure's are this server: login.microsoftonline.com,
management.azure.com, graph.microsoft.com and their aliases. The command and its
files need no change. It gets a proxy of its own, on loopback and with a password,
which ends with it, and a CA file that is good for those hosts alone. Nothing else
is let through unless --allow-host says so.

Several runs share az's login. It is kept in a private folder for each server;
your own ~/.azure is neither read nor written.

With --as operator the command finds the operator's credential where Azure's SDKs
and Terraform look for one (AZURE_CLIENT_ID, ARM_CLIENT_ID and so on). With --as
and a resource, the metadata address 169.254.169.254 answers with tokens of that
resource's managed identity, as on a machine in Azure; that works on the server's
host alone.

The exit code is the command's own: 128 and the signal's number if one ended it, 127
if there is no such command.`,
		Example: `  sallyport run --as operator -- sh -c \
    'az login --service-principal -u "$AZURE_CLIENT_ID" -p "$AZURE_CLIENT_SECRET" --tenant "$AZURE_TENANT_ID"'
  sallyport run -- az aks trustedaccess role list -l eastus
  sallyport run --as ws -- az login --identity
  sallyport run --as operator -- terraform apply
  sallyport run --allow-host registry.terraform.io --allow-host releases.hashicorp.com -- terraform init`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.runChild(cmd.Context(), f, args) },
	}
	cmd.Flags().SetInterspersed(false) // what follows COMMAND is its own, with or without --
	f.add(cmd)
	return cmd
}

// childExit is the exit code of a command that ran; there is nothing to report.
type childExit int

func (e childExit) Error() string { return fmt.Sprintf("the command ended with exit code %d", int(e)) }

// exitOfChild is what a shell would return (POSIX, 2.8.2).
func exitOfChild(name string, err error) error {
	var ended *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ended):
		if status, ok := ended.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return childExit(128 + int(status.Signal()))
		}
		return childExit(ended.ExitCode())
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return childError{fmt.Errorf("command %s: %w", name, err), 127}
	case errors.Is(err, fs.ErrPermission):
		return childError{fmt.Errorf("command %s: %w", name, err), 126}
	}
	return fmt.Errorf("command %s: %w", name, err)
}

// childError is a command that could not be started.
type childError struct {
	error
	code int
}

func (e childError) Unwrap() error { return e.error }

// command makes the child. It is not bound to a context: a signal to us is
// passed on, and the child decides how it ends.
func (c *cli) command(environment []string, args []string) *exec.Cmd {
	child := exec.Command(args[0], args[1:]...)
	child.Stdin, child.Stdout, child.Stderr = c.stdin, c.stdout, c.stderr
	child.Env = environment
	return child
}

// startAndWait runs a child to its end.
func startAndWait(child *exec.Cmd) error {
	signals, stop := childSignals()
	defer stop()
	if err := child.Start(); err != nil {
		return exitOfChild(child.Path, err)
	}
	done := make(chan error, 1)
	go func() { done <- child.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = child.Process.Signal(s) // it may have ended just now
		case err := <-done:
			return exitOfChild(child.Path, err)
		}
	}
}

// removeOnExit removes what a run needed.
func removeOnExit(path string) { _ = os.RemoveAll(path) } // in the temporary folder, and without secrets
