package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// TestSystemStory is the way of one consent, from none to withdrawn.
func TestSystemStory(t *testing.T) {
	story(t, func(verb string) string { return `User "aks:trustedaccess:ml" cannot ` + verb }, func(*system, source, string) {})
}

// story is the way itself, with an agent of that manifest. refusal is how the API
// server words one of a verb; bound is called while the binding is in force.
func story(t *testing.T, refusal func(verb string) string, bound func(s *system, ml source, cluster string), flags ...string) {
	t.Helper()
	s := newSystem(t)
	cluster := s.register("private")
	s.install("private", "mlworkload,inference-v1", flags...).start()
	ml := s.source("ml")
	through, direct := ml.client(cluster), theCluster(t)

	_, err := services(t, through)
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "no trusted access role binding of cluster private") {
		t.Errorf("before consent: %v", err)
	}

	begin := time.Now()
	s.bind("private", "ml", ml.id, mlworkload)
	if _, err := services(t, through); err != nil {
		t.Fatalf("the first request after consent: %v", err)
	}
	t.Logf("consent to first answer: %s", time.Since(begin).Round(time.Millisecond))

	addService(t, through, "demo")
	if names, err := services(t, through); err != nil || !strings.Contains(names, "demo") {
		t.Errorf("services %q, %v", names, err)
	}
	_, err = through.CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{})
	refusedByKubernetes(t, err, refusal("watch")+` resource "services"`)
	_, err = through.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	refusedByKubernetes(t, err, refusal("list")+` resource "secrets"`)
	bound(s, ml, cluster)

	requests := whileListing(t, through, func() {
		s.must("rolebinding", "update", "--cluster-name", "private", "-n", "ml", "-r", mlworkload+","+inference)
	})
	t.Logf("update to a second role under %d lists, none failed", requests)

	events := watchServices(t, through)
	addService(t, direct.admin, "seen")
	events.sees("seen")

	begin = time.Now()
	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ml", "--yes")
	deleted := time.Since(begin)
	events.ends()
	t.Logf("withdrawal to acknowledged: %s; to the live watch's end: %s", deleted.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))

	_, err = services(t, through)
	if !apierrors.IsForbidden(err) {
		t.Errorf("after withdrawal: %v", err)
	}
	s.await("the cluster holds nothing of the binding", func() bool { return len(direct.objects(t)) == 0 })
}

// TestSystemNarrowing removes a role under a live watch, which is cut, and adds
// one, which cuts nothing.
func TestSystemNarrowing(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	s.install("private", "mlworkload,inference-v1").start()
	ml := s.source("ml")
	s.bind("private", "ml", ml.id, inference)
	through, direct := ml.client(cluster), theCluster(t)
	update := func(roles string) {
		t.Helper()
		s.must("rolebinding", "update", "--cluster-name", "private", "-n", "ml", "-r", roles)
	}

	events := watchServices(t, through)
	update(inference + "," + mlworkload)
	addService(t, direct.admin, "after-adding")
	events.sees("after-adding")

	begin := time.Now()
	update(mlworkload)
	events.ends()
	t.Logf("narrowing to the live watch's end: %s", time.Since(begin).Round(time.Millisecond))
	_, err := through.CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{})
	refusedByKubernetes(t, err, "cannot watch")
	if _, err := services(t, through); err != nil {
		t.Errorf("the role that stays: %v", err)
	}
	cut := false
	for _, r := range s.records() {
		cut = cut || r.Stage == "revoked" && r.Cut > 0
	}
	if !cut {
		t.Error("the audit log does not say that a live request was cut")
	}
}

// services lists the services of the namespace default.
func services(t *testing.T, client *kubernetes.Clientset) (names string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	list, err := client.CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, s := range list.Items {
		names += s.Name + " "
	}
	return names, nil
}

func addService(t *testing.T, client *kubernetes.Clientset, name string) {
	t.Helper()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := client.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatalf("create service %s: %v", name, err)
	}
}

// refusedByKubernetes checks that the API server itself refused, and what it
// called the caller.
func refusedByKubernetes(t *testing.T, err error, says string) {
	t.Helper()
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), says) {
		t.Errorf("refusal %v, want one by Kubernetes that says %q", err, says)
	}
}

// whileListing lists services over and over while f runs, and returns how many
// times. None of them may fail.
func whileListing(t *testing.T, client *kubernetes.Clientset, f func()) int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var count atomic.Int64
	var loop sync.WaitGroup
	first := make(chan struct{})
	loop.Go(func() {
		for ctx.Err() == nil {
			if _, err := client.CoreV1().Services("default").List(context.WithoutCancel(ctx), metav1.ListOptions{}); err != nil {
				t.Errorf("list %d failed: %v", count.Load()+1, err)
			}
			if count.Add(1) == 1 {
				close(first)
			}
		}
	})
	<-first
	f()
	cancel()
	loop.Wait()
	return count.Load()
}

// liveWatch is a watch on services.
type liveWatch struct {
	t *testing.T
	w watch.Interface
}

func watchServices(t *testing.T, client *kubernetes.Clientset) liveWatch {
	t.Helper()
	w, err := client.CoreV1().Services("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatalf("watch: %v", err)
	}
	t.Cleanup(w.Stop)
	return liveWatch{t, w}
}

// sees waits for the event of a service of that name.
func (l liveWatch) sees(name string) {
	l.t.Helper()
	if err := l.wait(func(e watch.Event) bool {
		s, ok := e.Object.(*corev1.Service)
		return ok && s.Name == name
	}); err != nil {
		l.t.Fatalf("waiting for service %s: %v", name, err)
	}
}

// ends waits for the watch to be cut.
func (l liveWatch) ends() {
	l.t.Helper()
	if err := l.wait(func(watch.Event) bool { return false }); !errors.Is(err, errWatchEnded) {
		l.t.Fatalf("the watch goes on: %v", err)
	}
}

var errWatchEnded = errors.New("the watch ended")

func (l liveWatch) wait(until func(watch.Event) bool) error {
	limit := time.After(10 * time.Second)
	for {
		select {
		case e, ok := <-l.w.ResultChan():
			if !ok {
				return errWatchEnded
			}
			if until(e) {
				return nil
			}
		case <-limit:
			return errors.New("nothing within 10 s")
		}
	}
}
