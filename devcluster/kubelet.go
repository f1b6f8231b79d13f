package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

const (
	nodeName = "devnode"
	loopback = "127.0.0.1"
	// kubeletCallTimeout limits each call of the API server.
	kubeletCallTimeout = 10 * time.Second
	// podEndTimeout is how long a stop waits for killed pods.
	podEndTimeout = 5 * time.Second
)

// A kubelet is a node: it runs the pods that are bound to it as plain processes,
// reports on them, and serves what the API server asks of them.
//
// What goes wrong with a single pod is in that pod's status, or in the log of the
// API server, which has klog to itself.
type kubelet struct {
	client kubernetes.Interface
	// podsDir has a folder for each pod, named by its UID.
	podsDir string
	port    int
	since   metav1.Time
	server  *http.Server
	served  chan error
	// cancel ends all that runs here; running counts it.
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	pods map[types.UID]*pod
}

// startKubelet registers the node and returns when its endpoint serves and pods
// are being run. Two users connect to the API server at url, with the rights that
// their real counterparts have: system:node:devnode and system:kube-scheduler.
func startKubelet(ctx context.Context, dir *directory, url string, certs *certificates, own *kubeletCertificates) (_ *kubelet, err error) {
	// No process of an earlier run is left, nor is there a use for its files.
	if err := os.RemoveAll(dir.file(podsDir)); err != nil {
		return nil, fmt.Errorf("removing the folders of old pods: %w", err)
	}
	nodeClient, err := newClient(url, certs, own.node)
	if err != nil {
		return nil, err
	}
	schedulerClient, err := newClient(url, certs, own.scheduler)
	if err != nil {
		return nil, err
	}
	listener, err := listen(ctx, netip.MustParseAddr(loopback), 0)
	if err != nil {
		return nil, err
	}
	k := &kubelet{
		client:  nodeClient,
		podsDir: dir.file(podsDir),
		port:    listener.Addr().(*net.TCPAddr).Port,
		since:   metav1.Now(),
		served:  make(chan error, 1),
		pods:    map[types.UID]*pod{},
	}
	k.server = &http.Server{
		Handler:           k.routes(),
		TLSConfig:         own.serverConfig(certs),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(klogWriter{}, "", 0),
	}
	runCtx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	go func() { k.served <- k.server.ServeTLS(listener, "", "") }()
	defer func() {
		if err != nil {
			k.stop()
		}
	}()
	if err := k.registerNode(ctx); err != nil {
		return nil, err
	}
	k.running.Go(func() { k.reportNodeForever(runCtx) })
	if err := k.watchPods(ctx, runCtx); err != nil {
		return nil, err
	}
	return k, bindPods(ctx, runCtx, schedulerClient, &k.running)
}

func newClient(url string, certs *certificates, own tlsPair) (kubernetes.Interface, error) {
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host:            url,
		TLSClientConfig: rest.TLSClientConfig{CAData: certs.servingCA, CertData: own.cert, KeyData: own.key},
		QPS:             -1, // no limit
		Timeout:         0,  // a watch has none; calls bring their own
	})
	if err != nil {
		return nil, fmt.Errorf("making a client for the kubelet: %w", err)
	}
	return client, nil
}

// failed reports an error that ends the endpoint while it should serve.
func (k *kubelet) failed() <-chan error {
	if k == nil {
		return nil
	}
	return k.served
}

// stop kills all pods. Their objects stay as they are: the next start runs those
// again that were running.
func (k *kubelet) stop() {
	k.cancel()
	k.server.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.running.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(podEndTimeout): // the kills are done; somebody holds on to output
	}
}

// handlePod brings the processes in line with the pod's object.
func (k *kubelet) handlePod(ctx context.Context, object *corev1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.pods[object.UID]
	ended := object.Status.Phase == corev1.PodSucceeded || object.Status.Phase == corev1.PodFailed
	switch {
	case ctx.Err() != nil:
	case object.DeletionTimestamp != nil && known != nil:
		known.stop(gracePeriod(object))
	case object.DeletionTimestamp != nil:
		k.running.Go(func() { k.finalize(ctx, object) })
	case known != nil || ended:
	default:
		k.startPod(ctx, object)
	}
}

// startPod has a goroutine run the pod until its object is gone or ctx ends.
// The caller holds mu.
func (k *kubelet) startPod(ctx context.Context, object *corev1.Pod) {
	dir := filepath.Join(k.podsDir, string(object.UID))
	p, err := newPod(object, dir)
	if err != nil {
		k.running.Go(func() { k.report(ctx, object, failedStatus(object, err)) })
		return
	}
	k.pods[object.UID] = p
	k.running.Go(func() {
		defer context.AfterFunc(ctx, p.kill)()
		k.runPod(ctx, p)
		k.mu.Lock()
		delete(k.pods, object.UID)
		k.mu.Unlock()
		if err := os.RemoveAll(dir); err != nil {
			klog.ErrorS(err, "Removing a pod's folder", "pod", klog.KObj(object))
		}
	})
}

// runPod runs the containers, reports each change, and in the end, when asked to
// stop, deletes the object.
func (k *kubelet) runPod(ctx context.Context, p *pod) {
	changes := make(chan struct{}, 2*len(p.containers)) // no sender ever waits
	var containers sync.WaitGroup
	for _, c := range p.containers {
		containers.Go(func() {
			c.run(func() { changes <- struct{}{} })
			changes <- struct{}{}
		})
	}
	go func() {
		containers.Wait()
		close(changes)
	}()
	for range changes {
		if len(changes) == 0 { // else there is news already
			k.report(ctx, p.object, p.status())
		}
	}
	select {
	case <-p.stopping:
		k.finalize(ctx, p.object)
	case <-p.gone:
	case <-ctx.Done():
	}
}

// forgetPod is for a pod whose object is gone.
func (k *kubelet) forgetPod(uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.pods[uid]; p != nil {
		p.vanish()
	}
}

// container finds a container by what is in a request's path.
func (k *kubelet) container(namespace, podName, name string) (*container, error) {
	p, err := k.pod(namespace, podName)
	if err != nil {
		return nil, err
	}
	if c := p.container(name); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %q not found in pod %q", name, podName)
}

func (k *kubelet) pod(namespace, name string) (*pod, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var found *pod
	for _, p := range k.pods {
		// Of an old pod that is going and a new one of the same name, the new.
		if p.object.Namespace == namespace && p.object.Name == name &&
			(found == nil || found.object.CreationTimestamp.Before(&p.object.CreationTimestamp)) {
			found = p
		}
	}
	if found == nil {
		return nil, fmt.Errorf("pod %q is not on this node", namespace+"/"+name)
	}
	return found, nil
}

func gracePeriod(object *corev1.Pod) time.Duration {
	if object.DeletionGracePeriodSeconds == nil {
		return 0
	}
	return time.Duration(*object.DeletionGracePeriodSeconds) * time.Second
}

// report writes a pod's status, if the pod is still the same.
func (k *kubelet) report(ctx context.Context, object *corev1.Pod, status corev1.PodStatus) {
	ctx, cancel := context.WithTimeout(ctx, kubeletCallTimeout)
	defer cancel()
	patch, err := statusPatch(object.UID, status)
	if err == nil {
		_, err = k.client.CoreV1().Pods(object.Namespace).Patch(ctx, object.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	logUnlessGone(ctx, err, "Reporting a pod's status", object)
}

// finalize takes away the object of a pod that has ended.
func (k *kubelet) finalize(ctx context.Context, object *corev1.Pod) {
	ctx, cancel := context.WithTimeout(ctx, kubeletCallTimeout)
	defer cancel()
	now := int64(0)
	err := k.client.CoreV1().Pods(object.Namespace).Delete(ctx, object.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now,
		Preconditions:      &metav1.Preconditions{UID: &object.UID},
	})
	logUnlessGone(ctx, err, "Deleting a pod that has ended", object)
}

// logUnlessGone logs an error that is not due to the pod's end or our own.
func logUnlessGone(ctx context.Context, err error, what string, object *corev1.Pod) {
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	klog.ErrorS(err, what, "pod", klog.KObj(object))
}

// klogWriter takes what net/http has to say, most of it on broken connections.
type klogWriter struct{}

func (klogWriter) Write(line []byte) (int, error) {
	klog.InfoS("Serving the kubelet", "message", string(line))
	return len(line), nil
}

// serverConfig admits one client only: the API server, by its very certificate.
// Any other that the client authority signed is somebody else.
func (own *kubeletCertificates) serverConfig(certs *certificates) *tls.Config {
	clients := x509.NewCertPool()
	clients.AddCert(certs.client.cert)
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{own.serving},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
		// Streams take over the connection, which HTTP/2 cannot give away.
		NextProtos: []string{"http/1.1"},
		VerifyConnection: func(state tls.ConnectionState) error {
			if !state.PeerCertificates[0].Equal(own.apiServer) {
				return errors.New("the client certificate is not that of the API server")
			}
			return nil
		},
	}
}
