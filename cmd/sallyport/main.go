package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills what takes its time to end
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns its exit code (see doc.go).
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRootCommand(c)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)

	// What fails before a command's own code begins is a wrong command line.
	started := false
	noteStart(root, &started)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !started {
		err = usageError{err}
	}
	return c.report(cmd, err)
}

// newRootCommand is the table of subcommands.
func newRootCommand(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "sallyport",
		Short: "Trusted Access for any Kubernetes cluster",
		Long: `Sallyport lets one named cloud resource act in one cluster with one
least-privilege role, by its managed identity alone: no kubeconfig with a
secret, no inbound port.

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 not found, 4 refused,
5 conflict, 6 unavailable or not finished in time.`,
		Example: `  sallyport server --data-dir ./sallyport-data
  sallyport cluster register -g sallyport -n prod -l eastus
  sallyport agent manifest -g sallyport -n prod --roles mlworkload | kubectl apply -f -`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	c.addFlags(root)
	agent := newAgentCommand()
	agent.AddCommand(newManifestCommand(c))
	root.AddCommand(
		newServerCommand(),
		agent,
		newAuditCommand(c),
		newExplainCommand(c),
		newClusterCommand(c),
		newResourceCommand(c),
		newRoleCommand(c),
		newRoleBindingCommand(c),
		newLockCommand(c),
		newUnlockCommand(c),
		newExpireCommand(c),
		newRestrictCommand(c),
		newRunCommand(c),
		newEnvCommand(c),
		newKubeconfigCommand(c),
		newTokenCommand(c),
		newKeysCommand(c),
		newBackupCommand(c),
		newRestoreCommand(c),
		newVersionCommand(c),
	)
	return root
}

// noteStart makes every command of the tree set started when its own code runs.
func noteStart(cmd *cobra.Command, started *bool) {
	if inner := cmd.RunE; inner != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return inner(cmd, args)
		}
	}
	for _, child := range cmd.Commands() {
		noteStart(child, started)
	}
}

// newGroup is a command that only holds others.
func newGroup(use, short string, verbs ...*cobra.Command) *cobra.Command {
	group := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs, // so that an unknown verb is an error and not help
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, verb := range verbs { // of each verb, the first
		first, _, _ := strings.Cut(verb.Example, "\n  sallyport ")
		group.Example += "\n" + first
	}
	group.Example = strings.TrimPrefix(group.Example, "\n")
	group.AddCommand(verbs...)
	return group
}
