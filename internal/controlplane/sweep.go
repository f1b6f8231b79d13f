package controlplane

import (
	"context"
	"errors"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/store"
)

// sweep forgets what has had its day: operations that ended long ago, and join
// tokens that nobody used in time.
func (c *ControlPlane) sweep(ctx context.Context) {
	now := c.cfg.Now()
	forget(ctx, c, "ended operations", c.store.Operations, func(op access.Operation) bool {
		return op.Status != access.OperationInProgress && op.End.Before(now.Add(-keepOperations))
	})
	forget(ctx, c, "expired join tokens", c.store.JoinTokens, func(t store.JoinToken) bool {
		return t.Expires.Before(now)
	})
}

// forget deletes the old records of a kind. One that was changed meanwhile is
// left for the next time.
func forget[T any](ctx context.Context, c *ControlPlane, what string, kind store.Kind[T], old func(T) bool) {
	items, _, err := kind.List(ctx, "")
	for _, item := range items {
		if old(item.Value) {
			err = errors.Join(err, ignoreConflict(kind.Delete(ctx, item.Key, item.Version)))
		}
	}
	if err != nil && ctx.Err() == nil {
		c.log.Warn(what+" cannot be forgotten", "error", err)
	}
}

func ignoreConflict(err error) error {
	if errors.Is(err, access.ErrConflict) {
		return nil
	}
	return err
}
