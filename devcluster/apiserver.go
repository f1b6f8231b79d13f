package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	basecompatibility "k8s.io/component-base/compatibility"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

const (
	serviceClusterIPRange = "10.0.0.0/24"
	// apiServerServiceIP is that of the service "kubernetes": the range's first.
	apiServerServiceIP = "10.0.0.1"
	issuer             = "https://kubernetes.default.svc.cluster.local"
	// frontProxyUser is who kube-apiserver is to the servers of aggregated APIs.
	frontProxyUser = "front-proxy-client"
)

// auditPolicy records every request once, at its end (or, for a watch, at its
// start and end), with who, what and the outcome but no bodies.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

// apiServerFlags is kube-apiserver's command line, but for the user's additions.
func apiServerFlags(dir *directory, etcdEndpoint string, on netip.AddrPort) []string {
	return []string{
		"--etcd-servers=" + etcdEndpoint,

		"--bind-address=" + on.Addr().String(),
		"--secure-port=" + strconv.Itoa(int(on.Port())),
		// Without this, start would ask the machine for a default route, which
		// a network namespace of a test may not have.
		"--advertise-address=" + on.Addr().String(),
		// The endpoints of the service "kubernetes" may not be on loopback.
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=" + serviceClusterIPRange,
		"--tls-cert-file=" + dir.file(servingName+".crt"),
		"--tls-private-key-file=" + dir.file(servingName+".key"),

		"--client-ca-file=" + dir.file(clientCAName+".crt"),

		// Aggregated APIs, with kubeadm's names. Their servers are called at
		// their endpoints: no kube-proxy leads from a cluster IP to one here.
		"--requestheader-client-ca-file=" + dir.file(frontProxyCAName+".crt"),
		"--requestheader-allowed-names=" + frontProxyUser,
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + dir.file(frontProxyName+".crt"),
		"--proxy-client-key-file=" + dir.file(frontProxyName+".key"),
		"--enable-aggregator-routing=true",

		"--authorization-mode=Node,RBAC",
		"--service-account-issuer=" + issuer,
		"--service-account-signing-key-file=" + dir.file(serviceAccountKey),
		"--service-account-key-file=" + dir.file(serviceAccountKey),

		// Its demand for a service account "default" in each namespace can be
		// met only by a controller that makes them, and none runs here.
		"--disable-admission-plugins=ServiceAccount",
		"--allow-privileged=true",

		"--audit-policy-file=" + dir.file(auditPolicyFile),
		"--audit-log-path=" + dir.file(auditLogFile),
		// A reader finds the record of a request whose response it has seen.
		"--audit-log-mode=blocking-strict",
		// In MB. A reader that follows the file should not lose it to a rotation.
		"--audit-log-maxsize=1024",

		// Watches are told to end, and the rest gets two seconds instead of a
		// minute.
		"--shutdown-send-retry-after=true",
		"--shutdown-watch-termination-grace-period=1s",
	}
}

// kubeletFlags has kube-apiserver reach our kubelet, and prove itself to it.
func kubeletFlags(dir *directory) []string {
	return []string{
		"--kubelet-preferred-address-types=InternalIP",
		"--kubelet-certificate-authority=" + dir.file(servingCAName+".crt"),
		"--kubelet-client-certificate=" + dir.file(kubeletClientName+".crt"),
		"--kubelet-client-key=" + dir.file(kubeletClientName+".key"),
		// It taints each new node as not ready, and the controller that would
		// take that back does not run here.
		"--disable-admission-plugins=TaintNodesByCondition",
	}
}

// An apiServer is a kube-apiserver that runs in this process.
type apiServer struct {
	cancel context.CancelFunc
	// done gets the error that ended the server, nil after stop, and is closed.
	done chan error
}

// startAPIServer starts kube-apiserver on the listener and returns when it
// serves, which is before it is ready. It takes the listener, not a port, so
// that a free port cannot be lost to another process between the choice of it
// and its use.
//
// A process can do this once: logging, feature gates and metrics are global in
// Kubernetes.
func startAPIServer(listener *net.TCPListener, flags []string, log io.Writer) (*apiServer, error) {
	ctx, cancel := context.WithCancel(context.Background())
	server, err := newAPIServer(ctx, listener, flags, log)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("configuring kube-apiserver: %w", err)
	}
	s := &apiServer{cancel: cancel, done: make(chan error, 1)}
	go func() {
		defer close(s.done)
		s.done <- server(ctx)
	}()
	return s, nil
}

// newAPIServer does what cmd/kube-apiserver does, except that it takes over
// neither the signals nor the standard streams. The result runs the server.
func newAPIServer(ctx context.Context, listener *net.TCPListener, flags []string, log io.Writer) (func(context.Context) error, error) {
	opts := options.NewServerRunOptions()
	flagSet := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	flagSet.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	flagSet.SetOutput(io.Discard) // or an unknown flag prints 700 lines of usage
	for _, f := range opts.Flags().FlagSets {
		flagSet.AddFlagSet(f)
	}
	if err := flagSet.Parse(flags); err != nil {
		return nil, err
	}
	opts.SecureServing.Listener = listener

	registry := opts.GenericServerRunOptions.ComponentGlobalsRegistry
	if err := registry.Set(); err != nil {
		return nil, fmt.Errorf("setting feature gates: %w", err)
	}
	streams := &logsapi.LoggingOptions{InfoStream: log, ErrorStream: log}
	if err := logsapi.ValidateAndApplyWithOptions(opts.Logs, streams, registry.FeatureGateFor(basecompatibility.DefaultKubeComponent)); err != nil {
		return nil, fmt.Errorf("setting up logging: %w", err)
	}
	cliflag.PrintFlags(flagSet)
	rest.SetDefaultWarningHandler(rest.NoWarnings{}) // as upstream: the server is its own client

	completed, err := opts.Complete(ctx)
	if err != nil {
		return nil, err
	}
	if errs := completed.Validate(); len(errs) != 0 {
		return nil, utilerrors.NewAggregate(errs)
	}
	return func(ctx context.Context) error { return app.Run(ctx, completed) }, nil
}

// exitOnFatal makes a klog.Fatal inside kube-apiserver, which is how it gives
// up when it cannot finish its start, end this process as other errors do: with
// exit code 1 and a line that says where to look. One after ctx has ended is no
// error: a start that is told to stop half-way gives up like this too.
func exitOnFatal(ctx context.Context, stderr io.Writer, logFile string, exit func(int)) {
	klog.OsExit = func(int) {
		if ctx.Err() != nil {
			exit(0)
		}
		fmt.Fprintf(stderr, "devcluster: kube-apiserver gave up; the reason is in %s\n", logFile)
		exit(1)
	}
}

// waitReady returns when /readyz says ok, as seen by the admin through the front
// door. That includes the poststarthooks, so the default cluster roles exist.
func (s *apiServer) waitReady(ctx context.Context, admin *rest.Config) error {
	client, err := rest.HTTPClientFor(admin)
	if err != nil {
		return fmt.Errorf("making a client for /readyz: %w", err)
	}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		notReady := checkReady(ctx, client, admin.Host)
		if notReady == nil {
			return nil
		}
		select {
		case err := <-s.done:
			return s.ended(err)
		case <-ctx.Done():
			return fmt.Errorf("waiting for kube-apiserver: %w; last answer: %w", context.Cause(ctx), notReady)
		case <-tick.C:
		}
	}
}

// checkReady asks /readyz once.
func checkReady(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// The body lists the checks, with a minus before those that fail.
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return fmt.Errorf("/readyz: %s: %s", resp.Status, failedChecks(string(body)))
}

func failedChecks(body string) string {
	var failed []string
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "[-]") {
			failed = append(failed, strings.TrimSpace(line))
		}
	}
	if failed == nil {
		return strings.TrimSpace(body)
	}
	return strings.Join(failed, ", ")
}

// ended is the error for a server that ended by itself.
func (s *apiServer) ended(err error) error {
	if err == nil {
		err = errors.New("it stopped")
	}
	return fmt.Errorf("running kube-apiserver: %w", err)
}

// stop asks the server to end and waits for that until ctx ends.
func (s *apiServer) stop(ctx context.Context) error {
	s.cancel()
	select {
	case err := <-s.done:
		if err != nil {
			return fmt.Errorf("stopping kube-apiserver: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stopping kube-apiserver: %w", context.Cause(ctx))
	}
}
