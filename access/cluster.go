package access

import (
	"fmt"
	"regexp"
	"time"
)

// ClusterType is the full ARM type of a managed cluster.
const ClusterType = "Microsoft.ContainerService/managedClusters"

// Cluster is the registration of an existing Kubernetes cluster.
type Cluster struct {
	ID       ResourceID `json:"id"`
	UID      string     `json:"uid"` // new with each registration; agents are bound to it, not to the name
	Location string     `json:"location"`
	TenantID string     `json:"tenantId"` // of its subscription; a caller's token must come from it
	// Generation counts enrolments: 0 before the first. Certificates of an
	// older generation are refused.
	Generation int64 `json:"generation"`
	// JoinIssued is set with the first join token. Until then there is no
	// agent to wait for, and a binding's write is done when it is stored.
	JoinIssued bool `json:"joinIssued,omitempty"`
	// AgentIssuer and AgentKeys are the cluster's own service-account issuer
	// and its JWKS, recorded at enrolment: they vouch for its agents' pods.
	AgentIssuer string    `json:"agentIssuer,omitempty"`
	AgentKeys   []byte    `json:"agentKeys,omitempty"`
	Created     time.Time `json:"created"`
	// Uses are the user-assigned identities that a client gave it, to be read back.
	Uses []UsedIdentity `json:"uses,omitempty"`
	// Policy bounds the access of all bindings of the cluster.
	Policy Policy `json:"policy,omitzero"`
	// Document is the body as a client wrote it, less write-only fields.
	Document []byte `json:"document,omitempty"`
}

// clusterName is the rule of spec/trusted-access.md 1.1.
var clusterName = regexp.MustCompile(`^[a-zA-Z0-9]$|^[a-zA-Z0-9][-_a-zA-Z0-9]{0,61}[a-zA-Z0-9]$`)

// CheckClusterName applies the naming rule of managed clusters: 1 to 63
// letters, digits, - and _, beginning and ending with a letter or digit. The
// error wraps [ErrInvalid].
func CheckClusterName(name string) error {
	if !clusterName.MatchString(name) {
		return fmt.Errorf("cluster name %q must be 1 to 63 letters, digits, '-' or '_' and begin and end with a letter or digit: %w", Clip(name, maxQuoted), ErrInvalid)
	}
	return nil
}
