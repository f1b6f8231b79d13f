package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/forwardproxy"
)

// proxyVariable tells a later `sallyport env --stop` which proxy is meant.
const proxyVariable = "SALLYPORT_ENV_PROXY"

// envFlags are those of `sallyport env` beside a child's.
type envFlags struct {
	childFlags
	stop  bool
	shell int
	serve bool // this process is the one that stays
}

func newEnvCommand(c *cli) *cobra.Command {
	var f envFlags
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Make a shell take this server for Azure",
		Long: `Does for a shell what 'sallyport run' does for one command: prints the variables, as
shell commands, and leaves a proxy running in the background. The proxy ends by
itself within a second of the shell, or by 'sallyport env --stop', which also takes the
variables away.

The shell is the process that ran this command. Say which with --shell-pid $$ when
that is not the shell meant, as in a subshell of a script's.`,
		Example: `  eval "$(sallyport env)"
  az group list
  eval "$(sallyport env --stop)"
  eval "$(sallyport env --as operator)" && terraform plan`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case f.stop:
				return c.stopEnv(cmd.Context())
			case f.serve:
				return c.serveEnv(cmd.Context(), f)
			}
			return c.startEnv(f)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.stop, "stop", false, "end the proxy of this shell, and print what unsets its variables")
	cmd.Flags().IntVar(&f.shell, "shell-pid", 0, "process whose end ends the proxy (default: the parent)")
	cmd.Flags().BoolVar(&f.serve, "serve", false, "be the background process")
	if err := cmd.Flags().MarkHidden("serve"); err != nil {
		panic(err) // the flag is defined one line above
	}
	return cmd
}

// startEnv starts this command once more, detached, and prints what it prints.
// The background process has the standard error of the shell, so that refusals
// are seen where their cause was typed.
func (c *cli) startEnv(f envFlags) error {
	if f.shell == 0 {
		f.shell = os.Getppid()
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("path of this binary: %w", err)
	}
	args := []string{"env", "--serve", fmt.Sprintf("--shell-pid=%d", f.shell), "--timeout=" + c.timeout.String()}
	for name, value := range map[string]string{
		"operator": c.operatorFile, "subscription": c.subscription, "resource-group": c.group, "as": f.as, "azure-config-dir": f.azureConfigDir,
	} {
		if value != "" {
			args = append(args, "--"+name+"="+value)
		}
	}
	for _, host := range f.allowHosts {
		args = append(args, "--allow-host="+host)
	}
	background := exec.Command(self, args...)
	background.Stderr, background.SysProcAttr = c.stderr, detached()
	stdout, err := background.StdoutPipe()
	if err != nil {
		return err
	}
	if err := background.Start(); err != nil {
		return fmt.Errorf("start the proxy: %w", err)
	}
	text, err := io.ReadAll(stdout)
	if err == nil && len(text) == 0 { // it has told why
		return exitOfChild("env", errors.Join(background.Wait(), errors.New("it ended at once")))
	}
	if err != nil {
		return fmt.Errorf("the proxy does not say where it is: %w", errors.Join(err, background.Process.Kill()))
	}
	if _, err := c.stdout.Write(text); err != nil {
		return errors.Join(err, background.Process.Kill())
	}
	return background.Process.Release()
}

// serveEnv is the background process.
func (c *cli) serveEnv(ctx context.Context, f envFlags) error {
	shell, err := os.FindProcess(f.shell)
	if err != nil {
		return usagef("--shell-pid %d: %w", f.shell, err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ch, err := c.prepare(ctx, f.childFlags, stop)
	if err != nil {
		return err
	}
	defer ch.close()
	var text strings.Builder
	for _, name := range hiddenVariables() {
		fmt.Fprintf(&text, "unset %s\n", name)
	}
	for _, v := range append(ch.variables, [2]string{proxyVariable, ch.proxy.URL()}) {
		fmt.Fprintf(&text, "export %s=%s\n", v[0], shellQuote(v[1]))
	}
	if _, err := io.WriteString(c.stdout, text.String()); err != nil {
		return err
	}
	if out, ok := c.stdout.(io.Closer); ok { // the end tells the reader that this is all
		if err := out.Close(); err != nil {
			return err
		}
	}
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for alive(shell) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// stopEnv is `sallyport env --stop`. That the proxy is gone already is no error.
func (c *cli) stopEnv(ctx context.Context) error {
	proxy := os.Getenv(proxyVariable)
	if proxy == "" {
		return withHint(usagef("%s is not set: this shell has no proxy of 'sallyport env'", proxyVariable), `it is set by: eval "$(sallyport env)"`)
	}
	if err := forwardproxy.Stop(ctx, proxy); err != nil && !errors.Is(err, access.ErrUnavailable) {
		return err
	}
	names := []string{proxyVariable}
	for _, v := range childVariables("", "", "", "", nil) {
		names = append(names, v[0])
	}
	for _, name := range append(names, hiddenVariables()...) {
		if _, err := fmt.Fprintf(c.stdout, "unset %s\n", name); err != nil {
			return err
		}
	}
	return nil
}
