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
			c.log.Info("feed refused", "method", clip(r.Method, 20), "path", clip(r.URL.EscapedPath(), 100), "status", e.Status, "remote", r.RemoteAddr, "error", err.Error())
			arm.WriteError(w, e)
		}
	})
}

// peer is an agent, as its certificate says.
type peer struct {
	uid        string
	generation int64
	role       string
}

func (c *ControlPlane) peer(r *http.Request) (peer, error) {
	uid, generation, role, err := c.cfg.Peer(r)
	if err != nil {
		return peer{}, fmt.Errorf("peer: %w: %w", err, access.ErrUnauthenticated)
	}
	if role != "serve" && role != "report" {
		return peer{}, fmt.Errorf("peer role %q must be serve or report: %w", role, access.ErrForbidden)
	}
	return peer{uid, generation, role}, nil
}

// gone answers an agent that has nothing to come back for.
func gone(format string, args ...any) error {
	return &arm.Error{Status: http.StatusGone, Code: "Gone", Message: fmt.Sprintf(format, args...)}
}

// peerCluster loads the cluster a peer belongs to. It is found by uid: a
// cluster registered again under an old name is another one (item 19).
func (c *ControlPlane) peerCluster(ctx context.Context, p peer) (store.Item[access.Cluster], error) {
	item, err := c.clusterByUID(ctx, p.uid)
	if err != nil {
		return item, err
	}
	if item.Value.Generation != p.generation {
		return item, gone("This agent's enrolment, %d, was superseded by enrolment %d.", p.generation, item.Value.Generation)
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
	return store.Item[access.Cluster]{}, gone("The cluster of this agent is not registered any more.")
}

const (
	heartbeat = time.Second
	// reread is after how many heartbeats the state is read anew though
	// nothing woke the feed.
	reread = 10
	// feedWrite bounds one write to an agent, so that one that stopped
	// reading holds nothing for long.
	feedWrite = 10 * time.Second
)

// serveDesired streams a cluster's whole desired state, one JSON object a
// line: at once, at each change, and as a heartbeat.
func (c *ControlPlane) serveDesired(w http.ResponseWriter, r *http.Request) error {
	p, err := c.peer(r)
	if err != nil {
		return err
	}
	cluster, err := c.peerCluster(r.Context(), p)
	if err != nil {
		return err
	}
	wake, leave := c.feeds.join(p.uid, cluster.Key, c.cfg.Now())
	defer leave()
	desired, err := c.desired(r.Context(), p, 0)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	defer out.SetWriteDeadline(time.Time{}) //nolint:errcheck // the connection may be gone
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for beats := 0; ; {
		if err := writeLine(w, out, desired); err != nil {
			return nil // the agent went away
		}
		c.feeds.sent(p.uid, desired.Revision)
		read := false
		select {
		case <-wake:
			read = true
		case <-beat.C:
			beats++
			read = beats%reread == 0
		case <-r.Context().Done():
			return nil
		case <-c.stopped:
			return nil
		}
		if read {
			if desired, err = c.desired(r.Context(), p, desired.Revision); err != nil {
				// The stream ends; the agent comes back and is told why.
				c.log.Info("feed ended", "cluster", cluster.Value.ID.String(), "role", p.role, "error", err.Error())
				return nil
			}
		}
	}
}

func writeLine(w io.Writer, out *http.ResponseController, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := out.SetWriteDeadline(time.Now().Add(feedWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return err
	}
	return out.Flush()
}

// desired reads the state a peer has to make true. Tombstones are read first,
// so that a binding deleted in between is missing from both rather than in
// both; the wake that follows brings its tombstone.
func (c *ControlPlane) desired(ctx context.Context, p peer, notBefore int64) (access.Desired, error) {
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
	}
	for _, item := range bindings {
		b := item.Value
		want := access.DesiredBinding{Name: b.Name(), UID: b.UID, Generation: b.Generation, Applied: b.Applied.Generation, Source: b.Source, Roles: []access.Role{}}
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
