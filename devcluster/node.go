package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"
)

// nodeReportInterval is that of a real kubelet's heartbeat.
const nodeReportInterval = 10 * time.Second

// registerNode makes the node's object, or takes over the one of an earlier run.
func (k *kubelet) registerNode(ctx context.Context) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{
		corev1.LabelHostname:   nodeName,
		corev1.LabelOSStable:   runtime.GOOS,
		corev1.LabelArchStable: runtime.GOARCH,
	}}}
	_, err := k.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("registering the node: %w", err)
	}
	return k.reportNode(ctx)
}

// reportNodeForever keeps the node's status fresh until ctx ends.
func (k *kubelet) reportNodeForever(ctx context.Context) {
	tick := time.NewTicker(nodeReportInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := k.reportNode(ctx); err != nil && ctx.Err() == nil {
				klog.ErrorS(err, "Keeping the node fresh")
			}
		}
	}
}

func (k *kubelet) reportNode(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, kubeletCallTimeout)
	defer cancel()
	resources := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory: resource.MustParse("8Gi"), // nobody enforces it
		corev1.ResourcePods:   resource.MustParse("110"),
	}
	// No DeclaredFeatures: a node that declares ExtendWebSocketsToKubelet gets
	// WebSockets as they are. To ours, as to those of most clusters, the API
	// server speaks SPDY for clients of either.
	patch, err := statusPatch("", corev1.NodeStatus{
		Capacity:    resources,
		Allocatable: resources,
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "devcluster runs pods as plain processes",
			LastHeartbeatTime: metav1.Now(), LastTransitionTime: k.since,
		}},
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: loopback},
			{Type: corev1.NodeHostName, Address: nodeName},
		},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(k.port)}},
		NodeInfo: corev1.NodeSystemInfo{
			KubeletVersion: version.Get().GitVersion, ContainerRuntimeVersion: "devcluster://processes",
			OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
		},
	})
	if err != nil {
		return err
	}
	_, err = k.client.CoreV1().Nodes().Patch(ctx, nodeName, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("reporting the node's status: %w", err)
	}
	return nil
}

// statusPatch replaces a status, lists and all, of the object with that UID, or
// of whichever there is for "".
func statusPatch(uid types.UID, status any) ([]byte, error) {
	patch := map[string]any{"status": status}
	if uid != "" {
		patch["metadata"] = map[string]any{"uid": uid}
	}
	return json.Marshal(patch)
}

// watchPods runs the pods of this node until runCtx ends. It returns when those
// that there are have been seen.
func (k *kubelet) watchPods(ctx, runCtx context.Context) error {
	return watchPodsWhere(ctx, runCtx, k.client, &k.running, fields.OneTermEqualSelector("spec.nodeName", nodeName), cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { k.handlePod(runCtx, object.(*corev1.Pod)) },
		UpdateFunc: func(_, object any) { k.handlePod(runCtx, object.(*corev1.Pod)) },
		DeleteFunc: func(object any) {
			if unseen, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = unseen.Obj
			}
			if p, ok := object.(*corev1.Pod); ok {
				k.forgetPod(p.UID)
			}
		},
	})
}

// bindPods is a scheduler for one node: whatever pod has none gets ours.
func bindPods(ctx, runCtx context.Context, client kubernetes.Interface, running *sync.WaitGroup) error {
	bind := func(object any) {
		p := object.(*corev1.Pod)
		if len(p.Spec.SchedulingGates) > 0 || p.DeletionTimestamp != nil {
			return
		}
		ctx, cancel := context.WithTimeout(runCtx, kubeletCallTimeout)
		defer cancel()
		err := client.CoreV1().Pods(p.Namespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: nodeName},
		}, metav1.CreateOptions{})
		logUnlessGone(ctx, err, "Binding a pod to the node", p)
	}
	return watchPodsWhere(ctx, runCtx, client, running, fields.OneTermEqualSelector("spec.nodeName", ""), cache.ResourceEventHandlerFuncs{
		AddFunc:    bind,
		UpdateFunc: func(_, object any) { bind(object) },
	})
}

// watchPodsWhere calls the handler until runCtx ends. It returns when the pods
// that there are have been listed.
func watchPodsWhere(ctx, runCtx context.Context, client kubernetes.Interface, running *sync.WaitGroup, where fields.Selector, handler cache.ResourceEventHandler) error {
	source := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, where)
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{ListerWatcher: source, ObjectType: &corev1.Pod{}, Handler: handler})
	running.Go(func() { controller.RunWithContext(runCtx) })
	if !cache.WaitForCacheSync(ctx.Done(), controller.HasSynced) {
		return fmt.Errorf("listing pods: %w", context.Cause(ctx))
	}
	return nil
}
