package main

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/sallyport/sallyport/internal/audit"
)

// testWatch has the same watches both ways tell the same.
func testWatch(t *testing.T, ways []*way) {
	yes := true
	for _, c := range []struct {
		name     string
		options  metav1.ListOptions
		want     []string // types of events; the names of objects are the same
		bookmark string   // annotation of the last
	}{
		{name: "initial events", options: metav1.ListOptions{
			SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		}, want: []string{"ADDED", "ADDED", "BOOKMARK"}, bookmark: metav1.InitialEventsAnnotationKey},
		{name: "from any version", options: metav1.ListOptions{ResourceVersion: "0"}, want: []string{"ADDED", "ADDED"}},
		// It comes two seconds before the end.
		{name: "bookmark", options: metav1.ListOptions{AllowWatchBookmarks: true, TimeoutSeconds: new(int64(3))}, want: []string{"ADDED", "ADDED", "BOOKMARK"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, w := range ways {
				maps := w.client.CoreV1().ConfigMaps(w.namespace)
				for _, name := range []string{"one", "two"} {
					c := configMap(name)
					c.Labels["test"] = "watch"
					if _, err := maps.Create(t.Context(), c, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
						t.Fatal(err)
					}
				}
				c.options.LabelSelector = "test=watch"
				events, err := maps.Watch(t.Context(), c.options)
				if err != nil {
					t.Fatalf("%s: %v", w.name, err)
				}
				defer events.Stop()
				for _, want := range c.want {
					e := nextEvent(t, events)
					if string(e.Type) != want {
						t.Errorf("%s: %s %v, want %s", w.name, e.Type, e.Object, want)
					}
					if want == "BOOKMARK" && c.bookmark != "" && e.Object.(*corev1.ConfigMap).Annotations[c.bookmark] != "true" {
						t.Errorf("%s: the bookmark has no %s", w.name, c.bookmark)
					}
				}
			}
		})
	}
}

// testCancelledWatch has a watch end at the API server when its client goes away,
// and not before (checklist, item 26).
func (s *bound) testCancelledWatch(t *testing.T, w *way) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := w.client.CoreV1().ConfigMaps(w.namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=cancelled"})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	if _, err := w.client.CoreV1().ConfigMaps(w.namespace).Create(t.Context(), configMap("cancelled"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	nextEvent(t, events)
	var id string
	for _, r := range s.records() {
		if r.Stage == audit.Decision && r.Method == http.MethodGet && strings.HasSuffix(r.Path, "/namespaces/"+w.namespace+"/configmaps") {
			id = r.ID // the latest
		}
	}
	if s.kubeCompleted(id) {
		t.Error("the watch ended at the API server before its client did")
	}
	cancel()
	took := s.await("the watch has ended at the API server", func() bool { return s.kubeCompleted(id) })
	t.Logf("the API server ended the watch after %s", took)
}

// testLeaderElection has two candidates, the first of which gives up.
func (s *bound) testLeaderElection(t *testing.T, w *way) {
	var mu sync.Mutex
	var leaders []string
	var all sync.WaitGroup
	run := func(name string) context.CancelFunc {
		ctx, cancel := context.WithCancel(t.Context())
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta: metav1.ObjectMeta{Name: "leader", Namespace: w.namespace}, Client: w.client.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: name},
			},
			LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 200 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					mu.Lock()
					leaders = append(leaders, name)
					mu.Unlock()
					<-ctx.Done()
				},
				OnStoppedLeading: func() {},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() { elector.Run(ctx) })
		t.Cleanup(func() {
			cancel()
			all.Wait()
		})
		return cancel
	}
	led := func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(leaders, " ")
	}
	stop := run("first")
	s.await("the first leads", func() bool { return led() == "first" })
	run("second")
	stop()
	s.await("the second leads", func() bool { return led() == "first second" })
	lease, err := w.client.CoordinationV1().Leases(w.namespace).Get(t.Context(), "leader", metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != "second" {
		t.Errorf("the lease says %+v, %v", lease.Spec, err)
	}
}

// testInformer has a shared informer see what changed while the cluster's agent
// was gone, and what changes after that.
func (s *bound) testInformer(t *testing.T, w *way) {
	maps := s.kube.admin.CoreV1().ConfigMaps(w.namespace)
	create := func(name string) {
		t.Helper()
		c := configMap(name)
		c.Labels["test"] = "informer"
		if _, err := maps.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.agent.stop()
	s.agent.args["proxy"] = append(s.agent.args["proxy"], "--drain-timeout", "0s") // or it would wait for the watch
	s.agent.start()
	create("before")
	factory := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithNamespace(w.namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "test=informer" }))
	lister := factory.Core().V1().ConfigMaps().Lister()
	has := func(names ...string) func() bool {
		return func() bool {
			list, err := lister.List(labels.Everything())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, c := range list {
				got = append(got, c.Name)
			}
			slices.Sort(got)
			return slices.Equal(got, names)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer func() {
		cancel()
		factory.Shutdown()
	}()
	factory.Start(ctx.Done())
	s.await("the informer has its list", has("before"))
	create("during")
	s.await("the informer has an event", has("before", "during"))

	s.agent.stop()
	if err := maps.Delete(t.Context(), "before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	create("meanwhile")
	s.agent.start()
	took := s.await("the informer has caught up", has("during", "meanwhile"))
	t.Logf("the informer caught up %s after the agent came back", took.Round(time.Millisecond))
	create("watched")
	s.await("the informer watches again", has("during", "meanwhile", "watched"))
}

// testGivenAgain withdraws the consent under an informer and a leader, and gives
// it again: the one catches up, and the other leads on, by themselves.
func (s *bound) testGivenAgain(t *testing.T, w *way) {
	maps := s.kube.admin.CoreV1().ConfigMaps(w.namespace)
	create := func(name string) {
		t.Helper()
		c := configMap(name)
		c.Labels["test"] = "again"
		if _, err := maps.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	factory := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithNamespace(w.namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "test=again" }))
	lister := factory.Core().V1().ConfigMaps().Lister()
	count := func() int {
		list, err := lister.List(labels.Everything())
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	ctx, cancel := context.WithCancel(t.Context())
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Name: "again", Namespace: w.namespace}, Client: w.client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: "one"},
		},
		LeaseDuration: time.Hour, RenewDeadline: 50 * time.Minute, RetryPeriod: 200 * time.Millisecond,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {},
			OnStoppedLeading: func() {
				if ctx.Err() == nil {
					t.Error("the leader gave up")
				}
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var electing sync.WaitGroup
	electing.Go(func() { elector.Run(ctx) })
	defer func() {
		cancel()
		electing.Wait()
		factory.Shutdown()
	}()
	renewed := func() time.Time {
		lease, err := s.kube.admin.CoordinationV1().Leases(w.namespace).Get(t.Context(), "again", metav1.GetOptions{})
		if err != nil || lease.Spec.RenewTime == nil {
			return time.Time{}
		}
		return lease.Spec.RenewTime.Time
	}
	create("again-before")
	factory.Start(ctx.Done())
	s.await("the informer has its list", func() bool { return count() == 1 })
	s.await("it leads", elector.IsLeader)

	s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "ml", "--yes")
	if _, err := w.client.CoreV1().ConfigMaps(w.namespace).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("without consent: %v", err)
	}
	create("again-meanwhile")
	before := renewed()
	s.bind("private", "ml", s.ml.id, inference)
	took := s.await("the informer has caught up", func() bool { return count() == 2 })
	s.await("the leader renews its lease", func() bool { return renewed().After(before) })
	t.Logf("the informer caught up %s after consent was given again", took.Round(time.Millisecond))
}

// testDeadline has requests whose clients wait only so long: the API server is
// done with them when the client is, and heeds a limit that the request names.
func (s *bound) testDeadline(t *testing.T, w *way) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	events, err := w.client.CoreV1().Secrets(w.namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=deadline"})
	if err != nil {
		t.Fatal(err)
	}
	for range events.ResultChan() { // until the deadline
	}
	r := s.exchange(t, "/namespaces/"+w.namespace+"/secrets")
	s.await("the API server is done with it", func() bool { return s.kubeCompleted(r.ID) })
	if r.Reason != context.Canceled.Error() || r.Duration < 500*time.Millisecond {
		t.Errorf("recorded as %+v", r)
	}

	_, stderr, err := kubectl(t, w.kubeconfig, "", "get", "secrets", "--watch", "--request-timeout=1s")
	r = s.exchange(t, "/namespaces/"+w.namespace+"/secrets")
	s.await("the API server is done with it", func() bool { return s.kubeCompleted(r.ID) })
	if r.Verb != "watch" {
		t.Errorf("kubectl --request-timeout ended with %v, %s, and its last request is recorded as %+v", err, stderr, r)
	}
}
