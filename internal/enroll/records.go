package enroll

import (
	"context"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Records is what enrolment needs kept. The wiring fills it with the store.
type Records interface {
	// Cluster returns a registration; the error wraps [access.ErrNotFound]
	// when there is none.
	Cluster(ctx context.Context, id access.ResourceID) (access.Cluster, error)
	// AddJoinToken keeps the token and, in the same transaction, sets
	// JoinIssued on its cluster, if [StoredToken.For] is content with it.
	AddJoinToken(ctx context.Context, token StoredToken) error
	// Enrol does all of this in one transaction, or nothing: it finds the token
	// and the cluster, asks [StoredToken.Admit], writes the cluster that it
	// returns and deletes the token. It returns the cluster as written. The
	// error wraps [access.ErrUnauthenticated] when the token does not admit, a
	// used one included, and [access.ErrConflict] when another write came
	// between: then nothing is done and the token may be shown again. An unknown
	// token or cluster may also be [access.ErrNotFound]; the client is told
	// ErrUnauthenticated for it.
	Enrol(ctx context.Context, e Enrolment) (access.Cluster, error)
}

// Enrolment is one use of a join token.
type Enrolment struct {
	TokenID    string
	SecretHash []byte // SHA-256 of the secret shown
	Cluster    access.ResourceID
	ClusterUID string
	Issuer     string // of the cluster's service-account tokens
	Keys       []byte // its public keys, a JWKS (RFC 7517)
	At         time.Time

	// proves verifies the reconciler's token under a recorded issuer and keys.
	// [StoredToken.Admit] asks it within the transaction. Nil proves nothing.
	proves func(issuer string, keys []byte) error
}
