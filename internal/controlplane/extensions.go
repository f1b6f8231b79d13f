package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/store"
)

// Cluster extensions have ARM's form, states and operations, and end there:
// their settings are kept for the clients that read them back, and Sallyport
// installs nothing. Their operations are done with the write.

// extended is the cluster in the path that may have extensions: a registered
// one, or a connected cluster, which is a generic resource.
type extended struct {
	id  access.ResourceID
	uid string
	// held is the condition that it is still there as it was read.
	held store.Change
}

func (q *request) extended(ctx context.Context) (extended, error) {
	if q.vars["connected"] == "" {
		item, err := q.cluster(ctx)
		if err != nil {
			return extended{}, err
		}
		return extended{item.Value.ID, item.Value.UID, q.c.store.Clusters.Unchanged(item)}, nil
	}
	group, err := q.groupID()
	if err != nil {
		return extended{}, err
	}
	id, err := access.ParseResourceID(group.String() + "/providers/Microsoft.Kubernetes/connectedClusters/" + q.vars["connected"])
	if err != nil {
		return extended{}, err
	}
	item, err := q.c.store.Resources.Get(ctx, id.Key())
	if errors.Is(err, access.ErrNotFound) {
		return extended{}, arm.ResourceNotFound(id)
	}
	if err != nil {
		return extended{}, err
	}
	return extended{item.Value.ID, item.Value.UID, q.c.store.Resources.Unchanged(item)}, nil
}

// namedExtension loads the path's extension. One that an earlier cluster of the same
// name left is none, and comes with its version to be written over.
func (q *request) namedExtension(ctx context.Context, parent extended) (store.Item[access.Extension], error) {
	item, err := q.c.store.Extensions.Get(ctx, store.ExtensionKey(parent.id, q.vars["extension"]))
	if err == nil && item.Value.ParentUID == parent.uid {
		return item, nil
	}
	if err == nil || errors.Is(err, access.ErrNotFound) {
		err = &arm.Error{Status: http.StatusNotFound, Code: "ResourceNotFound",
			Message: fmt.Sprintf("The Resource '%s/%s' of cluster '%s' was not found.", arm.ExtensionType, q.vars["extension"], parent.id)}
	}
	return item, err
}

func (c *ControlPlane) listExtensions(ctx context.Context, q *request) (reply, error) {
	parent, err := q.extended(ctx)
	if err != nil {
		return reply{}, err
	}
	items, _, err := c.store.Extensions.List(ctx, parent.id.Key()+"/")
	if err != nil {
		return reply{}, err
	}
	var all []access.Extension
	for _, item := range items {
		if item.Value.ParentUID == parent.uid {
			all = append(all, item.Value)
		}
	}
	return documents(q, all, func(e access.Extension) string { return strings.ToLower(e.Name) }, func(e access.Extension) (arm.Document, error) {
		return arm.NewExtension(e, string(access.Succeeded))
	})
}

func (c *ControlPlane) getExtension(ctx context.Context, q *request) (reply, error) {
	parent, err := q.extended(ctx)
	if err != nil {
		return reply{}, err
	}
	item, err := q.namedExtension(ctx, parent)
	if err != nil {
		return reply{}, err
	}
	body, err := arm.NewExtension(item.Value, string(access.Succeeded))
	return reply{status: http.StatusOK, body: body}, err
}

func (c *ControlPlane) putExtension(ctx context.Context, q *request) (reply, error) {
	return q.writeExtension(ctx, func(_ []byte, body map[string]any) ([]byte, error) {
		if arm.ExtensionKind(body) == "" {
			return nil, arm.InvalidParameter("properties.extensionType", "it is required, such as 'Microsoft.AzureML.Kubernetes'.")
		}
		return arm.EncodeDocument(body)
	})
}

// patchExtension merges what the body has into what is there.
func (c *ControlPlane) patchExtension(ctx context.Context, q *request) (reply, error) {
	return q.writeExtension(ctx, arm.PatchDocument)
}

// writeExtension writes what document makes of the kept document and the body.
func (q *request) writeExtension(ctx context.Context, document func(kept []byte, body map[string]any) ([]byte, error)) (reply, error) {
	text, err := arm.ReadBody(q.w, q.http)
	if err != nil {
		return reply{}, err
	}
	body, err := arm.ParseDocument(text)
	if err != nil {
		return reply{}, err
	}
	if len(q.vars["extension"]) > 63 {
		return reply{}, arm.InvalidParameter("extensionName", "'%s' must have 1 to 63 characters.", access.Clip(q.vars["extension"], 100))
	}
	var want access.Extension
	var op access.Operation
	status, state := http.StatusOK, "Updating"
	err = retry(ctx, func() error {
		parent, err := q.extended(ctx)
		if err != nil {
			return err
		}
		group, err := q.openGroup(ctx)
		if err != nil {
			return err
		}
		old, err := q.namedExtension(ctx, parent)
		isNew := err != nil
		switch {
		case isNew && (!errors.Is(err, access.ErrNotFound) || q.http.Method == http.MethodPatch):
			return err
		case isNew:
			if err := q.checkRegistered(ctx, "Microsoft.KubernetesConfiguration"); err != nil {
				return err
			}
			status, state = http.StatusCreated, "Creating"
			want = access.Extension{Parent: parent.id, ParentUID: parent.uid, Name: q.vars["extension"], Created: q.consent()}
		default:
			want = old.Value
		}
		want.Changed = q.consent()
		if want.Document, err = document(want.Document, body); err != nil {
			return err
		}
		change := q.c.store.Extensions.Creating(want)
		if old.Version != 0 {
			change = q.c.store.Extensions.Updating(old, want)
		}
		op = access.Operation{ID: q.id, Resource: parent.id, UID: parent.uid, Start: q.c.cfg.Now()}
		_, err = q.commit(ctx, append(q.c.starting(&op, false), group, parent.held, change)...)
		return err
	})
	if err != nil {
		return reply{}, err
	}
	if q.http.Method == http.MethodPatch {
		status = http.StatusAccepted
	}
	shown, err := arm.NewExtension(want, state)
	return reply{status: status, body: shown, header: q.extensionOperation(op)}, err
}

// consent signs what the caller writes.
func (q *request) consent() access.Consent {
	return access.Consent{TenantID: q.caller.TenantID, ObjectID: q.caller.ObjectID, At: q.c.cfg.Now()}
}

// extensionOperation points at the operation, which lies below the extension.
func (q *request) extensionOperation(op access.Operation) map[string]string {
	at := "https://" + q.http.Host + q.path.String() + "/operations/" + op.ID + "?api-version=" + q.version
	header := map[string]string{"Azure-AsyncOperation": at, "Retry-After": pollAfter}
	if q.http.Method != http.MethodPut {
		header["Location"] = at
	}
	return header
}

func (c *ControlPlane) deleteExtension(ctx context.Context, q *request) (reply, error) {
	var op access.Operation
	missing := false
	err := retry(ctx, func() error {
		parent, err := q.extended(ctx)
		if err != nil {
			return err
		}
		item, err := q.namedExtension(ctx, parent)
		if missing = errors.Is(err, access.ErrNotFound); missing {
			return q.allow(nil)
		}
		if err != nil {
			return err
		}
		op = access.Operation{ID: q.id, Resource: parent.id, UID: parent.uid, Start: c.cfg.Now()}
		_, err = q.commit(ctx, append(c.starting(&op, false), c.store.Extensions.Deleting(item))...)
		return err
	})
	if err != nil {
		return reply{}, err
	}
	if missing {
		return reply{status: http.StatusNoContent}, nil
	}
	return reply{status: http.StatusAccepted, header: q.extensionOperation(op)}, nil
}

// getExtensionOperation answers for an operation of the cluster's extensions.
func (c *ControlPlane) getExtensionOperation(ctx context.Context, q *request) (reply, error) {
	parent, err := q.extended(ctx)
	if err != nil {
		return reply{}, err
	}
	item, err := c.store.Operations.Get(ctx, q.vars["operation"])
	if err == nil && item.Value.Resource.Equal(parent.id) {
		return reply{status: http.StatusOK, body: arm.NewOperation(item.Value).At(q.path)}, nil
	}
	if err == nil || errors.Is(err, access.ErrNotFound) || errors.Is(err, access.ErrInvalid) {
		err = &arm.Error{Status: http.StatusNotFound, Code: "NotFound", Message: "Could not find the operation " + access.Clip(q.vars["operation"], 100) + " of an extension of " + parent.id.String() + "."}
	}
	return reply{}, err
}

// forgetExtensions drops what a deleted cluster had, or with uid "" what is
// below a group. Left behind, one is harmless: it is of a cluster that is no
// more.
func (c *ControlPlane) forgetExtensions(ctx context.Context, below access.ResourceID, uid string) error {
	items, _, err := c.store.Extensions.List(ctx, below.Key()+"/")
	for _, item := range items {
		if err == nil && (uid == "" || item.Value.ParentUID == uid) {
			err = ignoreConflict(c.store.Extensions.Delete(ctx, item.Key, item.Version))
		}
	}
	if err != nil {
		return fmt.Errorf("forget the extensions of %s: %w", below, err)
	}
	return nil
}
