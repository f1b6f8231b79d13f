// Devcluster runs a real Kubernetes API server, for the tests of this project
// and for trying it out: etcd and kube-apiserver in one process, nothing else.
//
//	devcluster start --dir DIR
//
// What it is for. The gateway's promises (who may do what, what the API server
// sees and records) are promises about how kube-apiserver behaves, so they are
// tested against kube-apiserver, not against a fake one. This is the upstream
// code, started the way a cluster's control plane starts it: RBAC with the
// default roles, service account tokens, admission policies, an audit log.
//
// How it goes. start.go runs the stages in order, and stops them in reverse:
//
//	directory.go     DIR is locked; one devcluster at a time owns it
//	certificates.go  the certificate authorities and the service account key
//	                 are made once and kept; leaf certificates are made anew
//	etcd.go          etcd, on a unix socket
//	apiserver.go     kube-apiserver, on a port of 127.0.0.1 or of --bind-address
//	kubelet.go       with --kubelet: one node, see below
//	kubeconfig.go    DIR/kubeconfig, written when /readyz says ok
//
// The line "ready https://ADDRESS:PORT" on standard output and the file
// DIR/kubeconfig appear only after that; whoever waits for either of them needs
// no further polling. There is one stage to come: controllers, where a test
// needs them, belong between apiserver and kubeconfig in start.go.
//
// The node, with --kubelet, is there so that exec, attach, cp, logs, port-forward
// can be tested through the real API server, without a container engine. PODS
// ARE PLAIN PROCESSES OF THIS USER; nothing isolates them, and images are
// ignored. It has a real kubelet's sides: towards the API server, HTTPS with the
// code that container runtimes use for streams (k8s.io/cri-streaming) and logs
// (k8s.io/cri-client); towards its pods, a watch, and statuses. The files:
//
//	node.go          the Node object, and a scheduler that binds each pod to it
//	kubelet.go       which pods run; the users that it is to the API server
//	pod.go           a pod and its containers, from start to status
//	command.go       a process group with pipes or a terminal
//	containerlog.go  output on its way to a file and to those attached
//	streams.go       what the API server calls
//
// What it does not do. There are no controllers: a Deployment makes no pods, a
// deleted namespace stays Terminating, and a namespace has no default service
// account (the ServiceAccount admission plugin, which would insist on one, is
// off). Without --kubelet, a pod is an object that stays Pending. With it, a pod
// has no volumes, probes, init containers, restarts or network of its own.
//
// Why it is safe to run. It listens on 127.0.0.1 only, unless --bind-address
// says otherwise; etcd is not on the network at all. DIR is 0700 and each file in it 0600, and DIR/kubeconfig is
// the only way in: it holds a system:masters client certificate. It is for
// development and tests: etcd does not call fsync, so a power cut may lose DIR.
// With --kubelet, who may create pods or exec into them can do what this user
// can; the kubelet itself admits nobody but the API server, by its certificate.
//
// It is a module of its own because k8s.io/kubernetes is not meant to be
// imported: it wants a replace for every staging module, and those, and its 150
// dependencies, must not reach the go.mod of the product.
package main
