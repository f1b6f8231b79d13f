package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
)

// FeedHandler serves agents: GET /v1/desired and POST /v1/report. It must
// stand behind a verified client certificate, which Config.Peer reads.
func (c *ControlPlane) FeedHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		arm.LimitBody(w, r)
		var err error
		switch {
		case r.URL.Path == "/v1/desired" && r.Method == http.MethodGet:
			err = c.serveDesired(w, r)
		case r.URL.Path == "/v1/report" && r.Method == http.MethodPost:
			err = c.serveReport(w, r)
		default:
			err = &arm.Error{Status: http.StatusNotFound, Code: "NotFound", Message: "Agents have GET /v1/desired and POST /v1/report."}
		}
		if err != nil {
			e := arm.FromError(err)
			c.log.Info("feed refused", "method", access.Clip(r.Method, arm.MaxMethod), "path", access.Clip(r.URL.EscapedPath(), 100), "status", e.Status, "remote", r.RemoteAddr, "error", err.Error())
			arm.WriteError(w, e)
		}
	})
}

// Announce has every connected agent told at once what Config.CAHashes now
// says.
func (c *ControlPlane) Announce() { c.feeds.wake("") }

// Peer is an agent, as its certificate says.
type Peer struct {
	ClusterUID string
	Generation int64     // of the enrolment that the certificate is from
	Role       string    // "report" for the reconciler, "serve" for the proxy
	NotAfter   time.Time // the certificate's end; a feed ends with it
}

// The roles of an agent's two halves.
const (
	roleReport = "report"
	roleServe  = "serve"
)

func (c *ControlPlane) peer(r *http.Request) (Peer, error) {
	p, err := c.cfg.Peer(r)
	if err != nil {
		return Peer{}, fmt.Errorf("peer: %w: %w", err, access.ErrUnauthenticated)
	}
	if p.Role != roleServe && p.Role != roleReport {
		return Peer{}, fmt.Errorf("peer role %q must be serve or report: %w", access.Clip(p.Role, 20), access.ErrForbidden)
	}
	if now := c.cfg.Now(); !now.Before(p.NotAfter) { // TLS looked at it when the connection was new
		return Peer{}, fmt.Errorf("peer: the certificate ended at %s, it is %s: %w", p.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), access.ErrUnauthenticated)
	}
	return p, nil
}

// gone answers an agent that has nothing to come back for.
func gone(format string, args ...any) error {
	return &arm.Error{Status: http.StatusGone, Code: "Gone", Message: fmt.Sprintf(format, args...)}
}

// peerCluster loads the cluster a peer belongs to. It is found by uid: a
// cluster registered again under an old name is another one (item 19).
func (c *ControlPlane) peerCluster(ctx context.Context, p Peer) (store.Item[access.Cluster], error) {
	item, err := c.clusterByUID(ctx, p.ClusterUID)
	if err != nil {
		return item, err
	}
	if item.Value.Generation != p.Generation {
		return item, gone("This agent's enrolment, %d, was superseded by enrolment %d.", p.Generation, item.Value.Generation)
	}
	return item, nil
}

func (c *ControlPlane) clusterByUID(ctx context.Context, uid string) (store.Item[access.Cluster], error) {
	if key := c.feeds.clusterKey(uid); key != "" {
		item, err := c.store.Clusters.Get(ctx, key)
		if err == nil && item.Value.UID == uid {
			return item, nil
		}
		if err != nil && !errors.Is(err, access.ErrNotFound) {
			return item, err
		}
	}
	items, _, err := c.store.Clusters.List(ctx, "")
	if err != nil {
		return store.Item[access.Cluster]{}, err
	}
	for _, item := range items {
		if item.Value.UID == uid {
			c.feeds.remember(uid, item.Key)
			return item, nil
		}
	}
	c.feeds.forget(func(known, _ string) bool { return known == uid })
	return store.Item[access.Cluster]{}, gone("The cluster of this agent is not registered any more.")
}

const (
	heartbeat = time.Second
	// proofAge is how old the proof may be that what a heartbeat repeats is
	// still the store's state. An agent serves for 5 s after the last one, so
	// never more than about 10 s after a change that nobody here saw.
	proofAge = 5 * time.Second
	// feedWrite bounds one write to an agent, so that one that stopped
	// reading holds nothing for long.
	feedWrite = 10 * time.Second
)

// serveDesired streams a cluster's whole desired state, one JSON object a
// line: at once, at each change, and as a heartbeat. It ends when the state
// can neither be proven nor read, and with the peer's certificate.
func (c *ControlPlane) serveDesired(w http.ResponseWriter, r *http.Request) error {
	p, err := c.peer(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), p.NotAfter.Sub(c.cfg.Now()))
	defer cancel()
	cluster, err := c.peerCluster(ctx, p)
	if err != nil {
		return err
	}
	wake, leave := c.feeds.join(p, cluster.Key, c.cfg.Now())
	defer leave()
	state, err := c.readState(ctx, p, 0)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	defer out.SetWriteDeadline(time.Time{}) //nolint:errcheck // the connection may be gone
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		if err := writeLine(w, out, state.line); err != nil {
			return nil // the agent went away
		}
		c.feeds.sent(p.ClusterUID, state.revision)
		read := false
		select {
		case <-wake:
			read = true
		case <-beat.C:
			read = c.stale(state, wake)
		case <-ctx.Done():
			return nil
		case <-c.stopped:
			return nil
		}
		if read {
			if state, err = c.readState(ctx, p, state.revision); err != nil {
				// The stream ends; the agent comes back and is told why.
				c.log.Info("feed ended", "cluster", cluster.Value.ID.String(), "role", p.Role, "error", err.Error())
				return nil
			}
		}
	}
}

// state is a desired state that was read, as it is sent.
type state struct {
	line     []byte // JSON and a line feed
	revision int64
	asOf     time.Time // when reading began, on this process's clock
}

// stale reports whether a state must be read again before it is repeated: the
// feed is awake, or neither the reading nor the follows prove it any more. The
// proof is taken first, since it is good for a feed that is not awake after it.
func (c *ControlPlane) stale(s state, wake <-chan struct{}) bool {
	proven := c.feeds.proven()
	select {
	case <-wake:
		return true
	default:
	}
	return time.Since(s.asOf) > proofAge && time.Since(proven) > proofAge
}

func (c *ControlPlane) readState(ctx context.Context, p Peer, notBefore int64) (state, error) {
	s := state{asOf: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, proofAge)
	defer cancel()
	d, err := c.desired(ctx, p, notBefore)
	if err != nil {
		return s, err
	}
	line, err := json.Marshal(d)
	s.line, s.revision = append(line, '\n'), d.Revision
	return s, err
}

func writeLine(w io.Writer, out *http.ResponseController, line []byte) error {
	if err := out.SetWriteDeadline(time.Now().Add(feedWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := w.Write(line); err != nil {
		return err
	}
	return out.Flush()
}

// desired reads the state a peer has to make true. Tombstones are read first,
// so that a binding deleted in between is missing from both rather than in
// both; the wake that follows brings its tombstone.
func (c *ControlPlane) desired(ctx context.Context, p Peer, notBefore int64) (access.Desired, error) {
	cluster, err := c.peerCluster(ctx, p)
	if err != nil {
		return access.Desired{}, err
	}
	tombstones, revision, err := c.store.Tombstones.List(ctx, cluster.Key+"/")
	if err != nil {
		return access.Desired{}, err
	}
	bindings, _, err := c.store.Bindings.List(ctx, cluster.Key+"/")
	if err != nil {
		return access.Desired{}, err
	}
	d := access.Desired{
		ClusterUID: cluster.Value.UID, Cluster: cluster.Value.ID, Generation: cluster.Value.Generation,
		Revision: max(revision, notBefore), Bindings: make([]access.DesiredBinding, 0, len(bindings)),
		CAHashes: c.cfg.CAHashes(),
	}
	for _, item := range bindings {
		b := item.Value
		want := access.DesiredBinding{Name: b.Name(), UID: b.UID, Generation: b.Generation, Retired: b.Applied.Retired, Source: b.Source, Roles: []access.Role{}}
		want.Locked, want.ExpiresOn = access.Combine(cluster.Value.Policy, b.Policy)
		if b.Wide() {
			if want.Sources, err = c.sourcesOf(ctx, b); err != nil {
				return access.Desired{}, err
			}
			want.Locked = want.Locked || !c.cfg.PreviewRoleBindings
		}
		for _, name := range b.Roles {
			role, ok := access.FindRole(c.cfg.Catalogue, name)
			if !ok {
				c.log.Warn("a binding names a role that is not in the catalogue any more; the cluster does not get it", "binding", b.ID.String(), "role", name)
				continue
			}
			want.Roles = append(want.Roles, role)
		}
		d.Bindings = append(d.Bindings, want)
	}
	for _, item := range tombstones {
		d.Tombstones = append(d.Tombstones, item.Value)
	}
	return d, nil
}

// sourcesOf lists the resources that may act by a binding that is for all of a
// type.
func (c *ControlPlane) sourcesOf(ctx context.Context, b access.RoleBinding) ([]access.ResourceID, error) {
	items, _, err := c.store.Resources.List(ctx, b.Source.Key()+"/")
	if err != nil {
		return nil, err
	}
	var sources []access.ResourceID
	for _, item := range items {
		if item.Value.Identity != nil && b.ConsentsTo(item.Value.ID) {
			sources = append(sources, item.Value.ID)
		}
	}
	return sources, nil
}
