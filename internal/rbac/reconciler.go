package rbac

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/sallyport/sallyport/access"
)

const (
	maxResync = 5 * time.Minute
	// callLimit bounds each call to the API server.
	callLimit = 10 * time.Second
	// enforceLimit is how long a written grant may stay without effect before
	// the report says so and a removed role no longer waits for it.
	enforceLimit = 10 * time.Second
	// refusedFor is how long the escalation check must keep refusing before
	// the refusal is final: right after an install the API server may not have
	// read the ceiling yet.
	refusedFor = 2 * time.Second
	// nudgeDelay gathers the events of one edit, and bounds the passes per
	// second when somebody fights over an object.
	nudgeDelay         = 100 * time.Millisecond
	minRetry, maxRetry = 50 * time.Millisecond, 10 * time.Second
)

// Config is what a [Reconciler] needs.
type Config struct {
	// Client speaks to the API server with the reconciler account's token.
	// client-go limits itself to 5 requests a second unless told otherwise:
	// set QPS to -1, the calls are few and bounded here.
	Client kubernetes.Interface
	// Prefix of the objects, the users and the group; [access.DefaultPrefix] if empty.
	Prefix string
	// Impersonation is the proxy's way; [Legacy] if empty.
	Impersonation Impersonation
	// ProxyAccount is the proxy's service account. If zero, the manifest's.
	ProxyAccount types.NamespacedName
	// Resync is the time between full checks, at most and by default 5 min.
	Resync time.Duration
	Logger *slog.Logger
	// Now is the clock that measures how long a grant takes; time.Now if nil.
	Now func() time.Time
}

// Reconciler keeps the cluster's RBAC as desired. Make one with [New].
type Reconciler struct {
	cfg Config

	// Owned by Run.
	owners   map[types.UID]string // object uid -> binding uid, of objects seen to be ours
	progress map[string]*progress // by binding uid
	served   bool                 // the API server knows constrained impersonation
}

// progress is what is remembered of a binding between passes; losing it costs
// one more check.
type progress struct {
	binding access.DesiredBinding // the content that the rest is about
	since   time.Time             // when it was first to be in force
	refused time.Time             // when the escalation check first refused it; zero if it does not
	inForce bool
	retired bool      // no other role of the binding is left, and none has effect
	removed []removal // roles deleted, not yet seen to be without effect
}

// New returns a reconciler that does nothing until it is run.
func New(cfg Config) *Reconciler {
	if cfg.Prefix == "" {
		cfg.Prefix = access.DefaultPrefix
	}
	if cfg.Impersonation == "" {
		cfg.Impersonation = Legacy
	}
	if cfg.ProxyAccount == (types.NamespacedName{}) {
		cfg.ProxyAccount = types.NamespacedName{Namespace: access.AgentNamespace, Name: access.ProxyAccount}
	}
	if cfg.Resync <= 0 || cfg.Resync > maxResync {
		cfg.Resync = maxResync
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Reconciler{cfg: cfg, owners: map[types.UID]string{}, progress: map[string]*progress{}}
}

// Run makes the newest value of desired true and keeps it so until ctx ends or
// desired is closed; then it returns nil. Nothing is touched before the first
// value. The same content sent again costs a comparison. report is called from
// this goroutine after each pass; the latest report holds.
//
// The error wraps [access.ErrInvalid] when the configuration cannot work.
// Faults of the API server are no errors here: they are reported and retried.
func (r *Reconciler) Run(ctx context.Context, desired <-chan access.Desired, report func(access.Report)) error {
	if r.cfg.Client == nil {
		return fmt.Errorf("rbac: Config.Client is nil, a Kubernetes client is needed: %w", access.ErrInvalid)
	}
	if err := cmp.Or(checkPrefix(r.cfg.Prefix), r.cfg.Impersonation.check()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	nudges, stop, err := r.watch(ctx)
	defer stop()
	defer cancel()
	if err != nil {
		return err
	}
	var (
		want    *access.Desired
		timer   = time.NewTimer(maxResync)
		next    time.Time // of the next pass
		full    time.Time // of the next pass that checks everything
		backOff = minRetry
	)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case d, ok := <-desired:
			if !ok {
				return nil
			}
			if want != nil && sameContent(*want, d) {
				continue
			}
			want, next, backOff = &d, time.Time{}, minRetry
		case recheck := <-nudges:
			if recheck {
				full = time.Time{}
			}
			next = earlier(next, time.Now().Add(nudgeDelay))
		case <-timer.C:
		}
		if want == nil {
			continue
		}
		if now := time.Now(); !now.Before(next) {
			everything := !now.Before(full)
			rep, settled := r.pass(ctx, *want, everything)
			if ctx.Err() != nil {
				return nil // cut short: what it found says nothing
			}
			if everything {
				full = now.Add(r.cfg.Resync)
			}
			report(rep)
			if next = full; settled {
				backOff = minRetry
			} else {
				next = earlier(full, time.Now().Add(backOff))
				backOff = min(2*backOff, maxRetry)
			}
		}
		timer.Reset(time.Until(next))
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// sameContent compares what a pass depends on: not the revision, not what the
// control plane noted of our own reports, and not what the proxy alone refuses.
func sameContent(a, b access.Desired) bool {
	return reflect.DeepEqual(content(a), content(b))
}

func content(d access.Desired) access.Desired {
	out := access.Desired{}
	for _, b := range d.Bindings {
		b.Retired, b.Locked, b.ExpiresOn = 0, false, time.Time{}
		out.Bindings = append(out.Bindings, b)
	}
	for _, t := range d.Tombstones {
		out.Tombstones = append(out.Tombstones, access.Tombstone{Name: t.Name, UID: t.UID})
	}
	return out
}

// watch sends a value when an object of our names changes: true when it is one
// that the manifest installed, so that what is in force must be asked again.
// stop waits for the watches to end; ctx must have ended before.
func (r *Reconciler) watch(ctx context.Context) (nudges <-chan bool, stop func(), err error) {
	out := make(chan bool, 2)
	nudge := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		m, ok := obj.(metav1.Object)
		if !ok || !r.concerns(m) {
			return
		}
		select {
		case out <- strings.HasPrefix(m.GetName(), "sallyport:") && m.GetName() != ProxyRole:
		case <-ctx.Done():
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    nudge,
		UpdateFunc: func(_, obj any) { nudge(obj) },
		DeleteFunc: nudge,
	}
	factory := informers.NewSharedInformerFactory(r.cfg.Client, 0)
	rbac := factory.Rbac().V1()
	for _, informer := range []cache.SharedIndexInformer{rbac.ClusterRoles().Informer(), rbac.ClusterRoleBindings().Informer()} {
		_, herr := informer.AddEventHandler(handler)
		werr := informer.SetWatchErrorHandler(func(_ *cache.Reflector, err error) {
			r.cfg.Logger.Warn("watch of RBAC broke, will watch again", "error", err)
		})
		for _, e := range []error{herr, werr} {
			if e != nil {
				return nil, func() {}, fmt.Errorf("watch RBAC: %w", e)
			}
		}
	}
	factory.Start(ctx.Done())
	return out, factory.Shutdown, nil
}

// concerns reports whether an object bears one of our names or our label.
func (r *Reconciler) concerns(m metav1.Object) bool {
	return r.named(m.GetName()) || strings.HasPrefix(m.GetName(), "sallyport:") || m.GetLabels()[labelManagedBy] == managedBy
}

func (r *Reconciler) named(name string) bool {
	return strings.HasPrefix(name, rolePrefix(r.cfg.Prefix)) || strings.HasPrefix(name, roleBindingPrefix(r.cfg.Prefix))
}
