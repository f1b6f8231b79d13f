package access

// Extension is a cluster extension (Microsoft.KubernetesConfiguration/extensions)
// of a managed or a connected cluster: its settings, as a client wrote them.
// Nothing is installed in the cluster.
type Extension struct {
	Parent ResourceID `json:"parent"` // the cluster
	// ParentUID is of the registration it was created for. A cluster that is
	// registered again under the same name does not have it.
	ParentUID string  `json:"parentUid"`
	Name      string  `json:"name"`
	Created   Consent `json:"created"` // by whom, and when
	Changed   Consent `json:"changed"`
	Document  []byte  `json:"document,omitempty"` // less write-only fields
}
