package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
	etcdversion "go.etcd.io/etcd/api/v3/version"
	"k8s.io/component-base/version"
)

func main() {
	ctx, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for a clean stop. From then on a signal has its
	// usual effect again, so that a second one ends a stop that hangs.
	context.AfterFunc(ctx, restore)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program but for signals: it runs the command that args name
// until it ends or ctx does, and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "devcluster: %v\n", err)
	if h := (*hintError)(nil); errors.As(err, &h) {
		fmt.Fprintf(stderr, "hint: %s\n", h.hint)
	}
	return 1
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "devcluster",
		Short: "A real Kubernetes API server for tests: etcd and kube-apiserver in one process",
		// run prints the error; a usage text above it would bury it.
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.AddCommand(newStartCommand(), newVersionCommand())
	return cmd
}

func newStartCommand() *cobra.Command {
	config := startConfig{}
	cmd := &cobra.Command{
		Use:   "start --dir DIR",
		Short: "Run a cluster in the foreground until SIGTERM or SIGINT",
		Long: `Run etcd and kube-apiserver in the foreground until SIGTERM or SIGINT.

When the API server is ready, one line is printed on standard output,

  ready https://ADDRESS:PORT

and DIR holds these files, among others:

  kubeconfig     cluster admin (system:masters)
  ca.crt         the authority that signed the server's certificate
  audit.log      one JSON audit event per line, level Metadata; a request's
                 event is there before the end of its response is sent
  apiserver.log  what kube-apiserver has to say
  etcd.log       what etcd has to say

State is kept in DIR: starting on the same DIR again finds the same objects,
the same certificate authorities and the same service account key, so that
old kubeconfigs (but for the port) and old tokens still work.

There are no controllers, and without --kubelet a pod is an object that stays
Pending.

WITH --kubelet, PODS ARE PLAIN PROCESSES OF THIS USER ON THIS MACHINE. There is
one node, devnode; each pod gets it. A container's image is ignored; its command
and args are run (something idle if it has none) in the folder DIR/pods/UID/work,
with nothing to isolate them. So are the commands of kubectl exec, and kubectl
port-forward reaches any port of this machine's 127.0.0.1. Whoever may create
pods, or exec into one, can do what this user can. It is a tool for development.`,
		Example: `  # start, and use it from another terminal
  devcluster start --dir /tmp/dev
  kubectl --kubeconfig /tmp/dev/kubeconfig get namespaces

  # a fixed port, and a flag of kube-apiserver's own
  devcluster start --dir /tmp/dev --port 6443 --set-flag v=4

  # a feature off, an admission plugin on
  devcluster start --dir /tmp/dev \
    --set-flag feature-gates=WatchList=false \
    --set-flag enable-admission-plugins=AlwaysPullImages

  # in a network of its own, with an address that pods/proxy and aggregated APIs accept
  ip netns exec cluster devcluster start --dir /tmp/dev --bind-address 10.10.0.1

  # pods that run, as processes of this user
  devcluster start --dir /tmp/dev --kubelet
  kubectl --kubeconfig /tmp/dev/kubeconfig run hello --image=none -- sh -c 'while date; do sleep 1; done'
  kubectl --kubeconfig /tmp/dev/kubeconfig logs -f hello`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config.Stdout = cmd.OutOrStdout()
			config.Stderr = cmd.ErrOrStderr()
			return start(cmd.Context(), config)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.Dir, "dir", "", "the folder for state, certificates and logs; made if missing (required)")
	flags.StringVar(&config.Address, "bind-address", loopback, "the IPv4 address of this machine to listen on; whoever reaches it meets kube-apiserver's own authentication")
	flags.IntVar(&config.Port, "port", 0, "the port to listen on; 0 takes a free one")
	flags.StringArrayVar(&config.ExtraFlags, "set-flag", nil, "`name=value` of a flag for kube-apiserver; may be repeated, and wins over devcluster's own choice")
	flags.BoolVar(&config.DisableLocalAccounts, "disable-local-accounts", false, "accept no client certificate, and write a kubeconfig without one; say by --set-flag authentication-config=FILE who may sign in")
	flags.BoolVar(&config.Kubelet, "kubelet", false, "run pods, without any isolation, as processes of this user on this machine")
	cobra.CheckErr(cmd.MarkFlagRequired("dir"))
	return cmd
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of Kubernetes, etcd and Go",
		Example: `  devcluster version`,
		Args:    cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "kubernetes %s\netcd       v%s\ngo         %s\n",
				version.Get().GitVersion, etcdversion.Version, runtime.Version())
		},
	}
}

// A hintError is an error that the user can fix, and how.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }
