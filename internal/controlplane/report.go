package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
)

// serveReport takes what the reconciler says of its work.
func (c *ControlPlane) serveReport(w http.ResponseWriter, r *http.Request) error {
	p, err := c.peer(r)
	if err != nil {
		return err
	}
	if p.Role != roleReport {
		return fmt.Errorf("role %q may not report, only \"report\" may: %w", p.Role, access.ErrForbidden)
	}
	report, err := readReport(w, r)
	if err != nil {
		return err
	}
	cluster, err := c.peerCluster(r.Context(), p)
	if err != nil {
		return err
	}
	bindings, _, err := c.store.Bindings.List(r.Context(), cluster.Key+"/")
	if err != nil {
		return err
	}
	keys := make(map[string]string, len(bindings))
	for _, b := range bindings {
		keys[b.Value.UID] = b.Key
	}
	for _, said := range report.Bindings {
		if key, ok := keys[said.UID]; ok { // else it was deleted meanwhile
			if err := retry(r.Context(), func() error { return c.take(r.Context(), p, key, said) }); err != nil {
				return err
			}
		}
	}
	if err := c.removed(r.Context(), cluster, report.Removed); err != nil {
		return err
	}
	c.feeds.report(p.ClusterUID, c.cfg.Now(), report.Foreign)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func readReport(w http.ResponseWriter, r *http.Request) (access.Report, error) {
	text, err := arm.ReadBody(w, r)
	if err != nil {
		return access.Report{}, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	var report access.Report
	if err := dec.Decode(&report); err != nil {
		return access.Report{}, arm.InvalidContent("a report has bindings, removed and foreign: %v", err)
	}
	return report, nil
}

// take writes one binding's outcome, in one transaction with its operation's
// end, and only while the peer's enrolment is the cluster's newest.
func (c *ControlPlane) take(ctx context.Context, p Peer, key string, said access.BindingReport) error {
	cluster, err := c.peerCluster(ctx, p)
	if err != nil {
		return err
	}
	old, err := c.store.Bindings.Get(ctx, key)
	if errors.Is(err, access.ErrNotFound) || err == nil && old.Value.UID != said.UID {
		return nil
	}
	if err != nil {
		return err
	}
	want, ends := outcome(old.Value, said, c.cfg.Now())
	if want.State == old.Value.State && want.Applied == old.Value.Applied {
		return nil
	}
	changes := []store.Change{c.store.Clusters.Unchanged(cluster), c.store.Bindings.Updating(old, want)}
	if ends {
		status, code := access.OperationSucceeded, ""
		if want.State == access.Failed {
			status, code = access.OperationFailed, codeNotAllowed
		}
		ended, err := c.ending(ctx, want.Operation, status, code, want.Applied.Message)
		if err != nil {
			return err
		}
		changes = append(changes, ended...)
	}
	_, err = c.store.Commit(ctx, changes...)
	return raced(err)
}

// outcome is what a report makes of a binding, and whether it ends the
// operation of its newest generation.
func outcome(b access.RoleBinding, said access.BindingReport, now time.Time) (_ access.RoleBinding, ends bool) {
	if said.Generation > b.Generation || said.Generation <= 0 || said.Retired > said.Generation {
		return b, false // no such generation was ever sent
	}
	// Live requests are cut for what is gone, whether or not what comes in its
	// place is in force.
	b.Applied.Retired = max(b.Applied.Retired, said.Retired)
	if said.InForce {
		b.Applied.Retired = max(b.Applied.Retired, said.Generation)
	}
	newest := said.Generation == b.Generation
	switch {
	case said.InForce && said.Generation > b.Applied.Generation:
		b.Applied.Generation, b.Applied.At = said.Generation, now
		b.Applied.Took = now.Sub(b.Consented.At)
		if !newest {
			b.Applied.Took = 0 // the newer write has set the clock anew
		}
	case !newest:
		return b, false
	}
	if !newest {
		return b, false
	}
	if said.InForce {
		b.State, b.Applied.Message = access.Succeeded, ""
		return b, true
	}
	b.Applied.Message = access.Clip(said.Message, 1024)
	if said.Final {
		if b.Applied.Message == "" {
			b.Applied.Message = "The agent reported that the binding cannot be put in force."
		}
		b.State = access.Failed
	}
	return b, said.Final
}

// removed drops the tombstones whose objects are gone from the cluster.
func (c *ControlPlane) removed(ctx context.Context, cluster store.Item[access.Cluster], uids []string) error {
	gone := make(map[string]bool, len(uids))
	for _, uid := range uids {
		gone[uid] = true
	}
	if len(gone) == 0 {
		return nil
	}
	items, _, err := c.store.Tombstones.List(ctx, cluster.Key+"/")
	if err != nil {
		return err
	}
	for _, item := range items {
		if !gone[item.Value.UID] {
			continue
		}
		if err := c.store.Tombstones.Delete(ctx, item.Key, item.Version); err != nil && !errors.Is(err, access.ErrConflict) {
			return err // a conflict: another report was first
		}
	}
	return nil
}
