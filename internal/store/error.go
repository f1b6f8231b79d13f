package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/sallyport/sallyport/access"
)

// failure turns an error of etcd into one of access's kinds. ctx is the
// caller's: its cancellation is not a failure of etcd. The outcome of a
// failed write is unknown, and the error says so.
func failure(ctx context.Context, err error, doing string, write bool) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	}
	unsure := ""
	if write {
		unsure = "; the write may or may not have been done, read again before repeating it"
	}
	unavailable := func(advice string) error {
		return fmt.Errorf("%s: %v: %s: %w", doing, err, advice, access.ErrUnavailable)
	}
	switch {
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%s: more than etcd takes in one request (1.5 MiB): %w", doing, access.ErrInvalid)
	case errors.Is(err, rpctypes.ErrNoSpace): // also said of the write that used it up, which was made
		return unavailable("etcd's space quota is used up; restart the server, which drops old versions, or compact and defragment the external cluster" + unsure)
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost):
		return unavailable("etcd has no leader; check that a majority of its members runs" + unsure)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, rpctypes.ErrTimeout):
		return unavailable("etcd did not answer in time; check the disk, or the connection to the external cluster" + unsure)
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrInvalidAuthToken):
		return unavailable("the external etcd cluster refuses this client; give its certificate's user read and write on the prefix")
	case errors.Is(err, context.Canceled), errors.Is(err, rpctypes.ErrStopped):
		return unavailable("the store is being closed" + unsure)
	default:
		return unavailable("try again" + unsure)
	}
}

func isCompacted(err error) bool { return errors.Is(err, rpctypes.ErrCompacted) }
