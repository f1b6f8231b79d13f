package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 10 * time.Second
)

// startConfig is what the command line says.
type startConfig struct {
	// Dir is the folder for everything. It must be new, empty, or that of an
	// earlier devcluster. Required.
	Dir string
	// Address is the IPv4 address that kube-apiserver listens on, of this machine
	// or of the network namespace that this process runs in. Empty is 127.0.0.1.
	Address string
	// Port is where kube-apiserver listens. Zero takes a free one.
	Port int
	// ExtraFlags are flags for kube-apiserver, each name=value. They come after
	// devcluster's own: a single value replaces ours, a list is added to ours.
	ExtraFlags []string
	// DisableLocalAccounts has kube-apiserver know no client certificates, those
	// of the admin included: who signs in, and how, is for ExtraFlags to say.
	DisableLocalAccounts bool
	// Kubelet adds a node whose pods run as plain processes of this user.
	Kubelet bool

	Stdout io.Writer
	Stderr io.Writer
}

// start runs a cluster until ctx ends, which is no error, or until a part of it
// fails.
func start(ctx context.Context, config startConfig) (err error) {
	extra, err := parseExtraFlags(config.ExtraFlags)
	if err != nil {
		return err
	}
	address, err := parseAddress(config.Address)
	if err != nil {
		return err
	}
	if config.DisableLocalAccounts && config.Kubelet {
		return &hintError{err: errors.New("--disable-local-accounts leaves no account for the node of --kubelet"), hint: "give one of the two"}
	}
	dir, err := openDirectory(config.Dir)
	if err != nil {
		return err
	}
	defer dir.close()
	// A kubeconfig means that the cluster is ready, so an old one must go.
	if err := dir.remove(kubeconfigFile); err != nil {
		return err
	}
	certs, err := prepareCertificates(dir, address)
	if err != nil {
		return err
	}
	if config.DisableLocalAccounts {
		certs.adminCert, certs.adminKey = nil, nil
		extra = append([]string{"--client-ca-file="}, extra...)
	}
	if err := dir.write(auditPolicyFile, []byte(auditPolicy)); err != nil {
		return err
	}
	log, err := dir.openLog(apiServerLogFile)
	if err != nil {
		return err
	}
	defer log.Close()
	var nodeCerts *kubeletCertificates
	if config.Kubelet {
		if nodeCerts, err = prepareKubeletCertificates(dir, certs); err != nil {
			return err
		}
		extra = append(kubeletFlags(dir), extra...)
	}
	listener, err := listen(ctx, address, config.Port)
	if err != nil {
		return err
	}
	defer listener.Close()

	startCtx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("not ready within %s", readyTimeout))
	defer cancel()
	etcd, err := startEtcd(startCtx, dir)
	if err != nil {
		return orStopped(ctx, err)
	}
	exitOnFatal(ctx, config.Stderr, dir.file(apiServerLogFile), os.Exit)
	bound := listener.Addr().(*net.TCPAddr).AddrPort()
	server, err := startAPIServer(listener, append(apiServerFlags(dir, etcd.endpoint, bound), extra...), log)
	if err != nil {
		return errors.Join(err, stop(nil, etcd))
	}
	defer func() { err = errors.Join(err, stop(server, etcd)) }()

	url := "https://" + bound.String()
	if err := server.waitReady(startCtx, adminConfig(url, certs)); err != nil {
		return orStopped(ctx, seeLog(dir, err))
	}
	var node *kubelet // its failed is never, and its stop nothing, if it is nil
	if config.Kubelet {
		if node, err = startKubelet(startCtx, dir, url, certs, nodeCerts); err != nil {
			return orStopped(ctx, err)
		}
		defer node.stop()
	}
	// Controllers, when a test comes to need some, start here.
	if err := writeKubeconfig(dir, url, certs); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(config.Stdout, "ready %s\n", url); err != nil {
		return fmt.Errorf("announcing the server: %w", err)
	}

	select {
	case <-ctx.Done():
		return nil
	case err := <-server.done:
		return seeLog(dir, server.ended(err))
	case err := <-node.failed():
		return fmt.Errorf("serving the kubelet: %w", err)
	case err := <-etcd.failed():
		return fmt.Errorf("running etcd (see %s): %w", dir.file(etcdLogFile), err)
	}
}

// stop stops what start started, the server before its store, and gives up
// after stopTimeout: the process then ends all the same.
func stop(server *apiServer, etcd *etcdServer) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), stopTimeout, fmt.Errorf("not done within %s", stopTimeout))
	defer cancel()
	var err error
	if server != nil {
		err = server.stop(ctx)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		etcd.close()
	}()
	select {
	case <-closed:
		return err
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("stopping etcd: %w", context.Cause(ctx)))
	}
}

// parseAddress reads --bind-address. The address of every interface is refused:
// the certificate and the kubeconfig have to name one.
func parseAddress(text string) (netip.Addr, error) {
	address, err := netip.ParseAddr(cmp.Or(text, loopback))
	if err != nil || !address.Is4() || address.IsUnspecified() {
		return address, &hintError{
			err:  fmt.Errorf("--bind-address %q is not one IPv4 address of this machine", text),
			hint: "leave it out for 127.0.0.1",
		}
	}
	return address, nil
}

// listen opens the port before anything else starts, so that a port in use is
// refused at once.
func listen(ctx context.Context, address netip.Addr, port int) (*net.TCPListener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", fmt.Sprintf("%s:%d", address, port))
	if err != nil {
		return nil, &hintError{err: fmt.Errorf("opening the port: %w", err), hint: "give another --port, or --port 0 for a free one"}
	}
	return l.(*net.TCPListener), nil // what "tcp4" gives
}

// parseExtraFlags turns name=value into --name=value.
func parseExtraFlags(flags []string) ([]string, error) {
	var parsed []string
	for _, f := range flags {
		name, _, ok := strings.Cut(f, "=")
		if !ok || name == "" || strings.HasPrefix(name, "-") {
			return nil, &hintError{
				err:  fmt.Errorf("--set-flag %q is not name=value", f),
				hint: "leave out the dashes of kube-apiserver's flag: --set-flag v=4",
			}
		}
		parsed = append(parsed, "--"+f)
	}
	return parsed, nil
}

// orStopped drops the error of a start that was only cut short by the user.
func orStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func seeLog(dir *directory, err error) error {
	return fmt.Errorf("%w (see %s)", err, dir.file(apiServerLogFile))
}
