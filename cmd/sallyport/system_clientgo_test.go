package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// TestSystemClientGo is what controllers and operators do with client-go,
// through the gateway.
func TestSystemClientGo(t *testing.T) {
	s := newBound(t)
	ways := s.ways()
	gated := ways[0]
	t.Run("pages", func(t *testing.T) { testPages(t, gated) })
	t.Run("protobuf", func(t *testing.T) { testProtobuf(t, gated) })
	t.Run("dynamic client and discovery", func(t *testing.T) { testDynamic(t, gated) })
	t.Run("subresources", func(t *testing.T) { testSubresources(t, gated) })
	t.Run("watch", func(t *testing.T) { testWatch(t, ways) })
	t.Run("cancelled watch", func(t *testing.T) { s.testCancelledWatch(t, gated) })
	t.Run("leader election", func(t *testing.T) { s.testLeaderElection(t, gated) })
	t.Run("informer", func(t *testing.T) { s.testInformer(t, gated) })
	t.Run("withdrawn and given again", func(t *testing.T) { s.testGivenAgain(t, gated) })
	t.Run("deadline", func(t *testing.T) { s.testDeadline(t, gated) })
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"test": "yes"}}, Data: map[string]string{"a": "1"}}
}

// testPages creates, reads in pages, and deletes as a collection.
func testPages(t *testing.T, w *way) {
	maps := w.client.CoreV1().ConfigMaps(w.namespace)
	for i := range 23 {
		if _, err := maps.Create(t.Context(), configMap(fmt.Sprintf("page-%02d", i)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := maps.Create(t.Context(), configMap("dry"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("dry run: %v", err)
	}
	var names []string
	pages := 0
	for next := ""; pages == 0 || next != ""; pages++ {
		list, err := maps.List(t.Context(), metav1.ListOptions{LabelSelector: "test=yes", Limit: 10, Continue: next})
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range list.Items {
			names = append(names, item.Name)
		}
		next = list.Continue
	}
	if pages != 3 || len(names) != 23 || names[22] != "page-22" {
		t.Errorf("%d pages with %v", pages, names)
	}
	if err := maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "test=yes"}); err != nil {
		t.Errorf("deletecollection: %v", err)
	}
	if list, err := maps.List(t.Context(), metav1.ListOptions{LabelSelector: "test=yes"}); err != nil || len(list.Items) != 0 {
		t.Errorf("%d are left, %v", len(list.Items), err)
	}
}

func testProtobuf(t *testing.T, w *way) {
	config := rest.CopyConfig(w.config)
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	want := configMap("binary")
	want.BinaryData = map[string][]byte{"b": randomBytes(500_000, 9)}
	maps := client.CoreV1().ConfigMaps(w.namespace)
	if _, err := maps.Create(t.Context(), want, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*kubernetes.Clientset{"protobuf": client, "JSON": w.client} {
		got, err := c.CoreV1().ConfigMaps(w.namespace).Get(t.Context(), "binary", metav1.GetOptions{})
		if err != nil || !bytes.Equal(got.BinaryData["b"], want.BinaryData["b"]) {
			t.Errorf("%s: %d bytes, %v", name, len(got.BinaryData["b"]), err)
		}
	}
	// Watches of protobuf are framed otherwise.
	events, err := maps.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=binary", ResourceVersion: "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	if e := nextEvent(t, events); e.Type != watch.Added || !bytes.Equal(e.Object.(*corev1.ConfigMap).BinaryData["b"], want.BinaryData["b"]) {
		t.Errorf("the watch says %s", e.Type)
	}
}

// nextEvent waits for one.
func nextEvent(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch has ended")
		}
		return e
	case <-time.After(soon):
		t.Fatal("no event")
	}
	panic("not reached")
}

// testDynamic finds a kind by discovery, and works with it by its name alone.
func testDynamic(t *testing.T, w *way) {
	mapping, err := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(w.client.Discovery())).RESTMapping(schema.GroupKind{Group: "apps", Kind: "Deployment"})
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(w.config)
	if err != nil {
		t.Fatal(err)
	}
	deployments := client.Resource(mapping.Resource).Namespace(w.namespace)
	applied := func(replicas int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "web"},
			"spec": map[string]any{
				"replicas": replicas,
				"selector": map[string]any{"matchLabels": map[string]any{"app": "web"}},
				"template": map[string]any{
					"metadata": map[string]any{"labels": map[string]any{"app": "web"}},
					"spec":     map[string]any{"containers": []any{map[string]any{"name": "web", "image": "none"}}},
				},
			},
		}}
	}
	if _, err := deployments.Apply(t.Context(), "web", applied(1), metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		t.Fatalf("apply: %v", err)
	}
	if _, err := deployments.Apply(t.Context(), "web", applied(2), metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
		t.Errorf("apply by another manager: %v, want a conflict", err)
	}
	got, err := deployments.Apply(t.Context(), "web", applied(2), metav1.ApplyOptions{FieldManager: "two", Force: true})
	if replicas, _, _ := unstructured.NestedInt64(got.Object, "spec", "replicas"); err != nil || replicas != 2 {
		t.Errorf("forced: %d replicas, %v", replicas, err)
	}
}

// testSubresources uses scale, status, eviction and token, and is refused a
// second identity.
func testSubresources(t *testing.T, w *way) {
	ctx := t.Context()
	scale, err := w.client.AppsV1().Deployments(w.namespace).GetScale(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale.Spec.Replicas = 7
	if scale, err = w.client.AppsV1().Deployments(w.namespace).UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}); err != nil || scale.Spec.Replicas != 7 {
		t.Errorf("scale: %v", err)
	}
	d, err := w.client.AppsV1().Deployments(w.namespace).Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d.Status.Replicas = 7
	if d, err = w.client.AppsV1().Deployments(w.namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{}); err != nil || d.Status.Replicas != 7 {
		t.Errorf("status: %v", err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "evicted"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}}}
	if _, err := w.client.CoreV1().Pods(w.namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "evicted", Namespace: w.namespace}, DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: new(int64)}}
	if err := w.client.CoreV1().Pods(w.namespace).EvictV1(ctx, eviction); err != nil {
		t.Errorf("eviction: %v", err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}
	if _, err := w.client.CoreV1().ServiceAccounts(w.namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := w.client.CoreV1().ServiceAccounts(w.namespace).CreateToken(ctx, "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil || strings.Count(token.Status.Token, ".") != 2 {
		t.Errorf("token: %v", err)
	}
	config := rest.CopyConfig(w.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:admin", Groups: []string{"system:masters"}}
	other, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.CoreV1().ConfigMaps(w.namespace).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "nested impersonation is refused") {
		t.Errorf("impersonation: %v", err)
	}
}
