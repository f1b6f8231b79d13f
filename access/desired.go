package access

import "time"

// Desired is all that a cluster's agent has to make true. It is sent whole at
// each change and as a heartbeat, so an agent that missed a message is right
// again with the next one.
type Desired struct {
	ClusterUID string           `json:"clusterUid"`
	Cluster    ResourceID       `json:"cluster"`
	Generation int64            `json:"generation"` // of the enrolment
	Revision   int64            `json:"revision"`   // of the store; never goes back
	Bindings   []DesiredBinding `json:"bindings"`
	Tombstones []Tombstone      `json:"tombstones,omitempty"`
	// CAHashes are the CAs that the agent is to trust the gateway by, the older
	// first, and no other: one, or two while one follows the other.
	CAHashes []string `json:"caHashes,omitempty"`
}

// DesiredBinding is one binding with its roles written out.
type DesiredBinding struct {
	Name       string     `json:"name"`
	UID        string     `json:"uid"`
	Generation int64      `json:"generation"`
	Retired    int64      `json:"retired"` // as last reported, see [BindingReport]
	Source     ResourceID `json:"source"`
	// Sources are the resources that may act, if Source is a subscription: those
	// that there are of the role's type, in the casing in which they are claimed.
	Sources []ResourceID `json:"sources,omitempty"`
	Roles   []Role       `json:"roles"`
	// Locked and ExpiresOn are what [Combine] made of the policies. The roles
	// stay in the cluster; the proxy refuses to use them.
	Locked    bool      `json:"locked,omitempty"`
	ExpiresOn time.Time `json:"expiresOn,omitzero"` // zero: never
}

// Actors are the resources that may act by the binding; none, if its consent is
// to all of a type and there are none.
func (b DesiredBinding) Actors() []ResourceID {
	if b.Source.IsSubscription() {
		return b.Sources
	}
	return []ResourceID{b.Source}
}

// Report is what an agent says of its work; the latest one holds.
type Report struct {
	Bindings []BindingReport `json:"bindings"`
	// Removed lists the uids of tombstones whose objects are gone.
	Removed []string `json:"removed,omitempty"`
	// Foreign lists objects that bear our names and are not ours; they are
	// left alone.
	Foreign []string `json:"foreign,omitempty"`
}

// BindingReport is the outcome for one generation of a binding.
type BindingReport struct {
	UID        string `json:"uid"`
	Generation int64  `json:"generation"`
	InForce    bool   `json:"inForce"` // applied, and seen to take effect
	// Retired is the newest generation outside of which no role of this
	// binding is left in the cluster; 0 for none. InForce implies Generation,
	// but a generation that never comes into force retires roles as well.
	Retired int64 `json:"retired,omitempty"`
	// Final means that trying again cannot help, such as a role above the
	// ceiling that the owner set at install.
	Final   bool   `json:"final,omitempty"`
	Message string `json:"message,omitempty"`
}
