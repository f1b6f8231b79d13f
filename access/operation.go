package access

import "time"

// OperationStatus is the state of a long-running operation, in ARM's words.
type OperationStatus string

// The statuses of an operation; all but InProgress are final.
const (
	OperationInProgress OperationStatus = "InProgress"
	OperationSucceeded  OperationStatus = "Succeeded"
	OperationFailed     OperationStatus = "Failed"
	OperationCanceled   OperationStatus = "Canceled"
)

// Operation is a long-running write, kept so that it survives a restart.
type Operation struct {
	ID       string     `json:"id"` // a GUID; also the request id of the write
	Resource ResourceID `json:"resource"`
	// UID and Generation of what was written: the operation is about that
	// generation and no other.
	UID        string `json:"uid"`
	Generation int64  `json:"generation"`
	Delete     bool   `json:"delete,omitempty"`
	// By is who started it: for the records of what goes with it, and because he
	// may follow it also when that has taken the last of his rights.
	By       Consent         `json:"by,omitzero"`
	Location string          `json:"location"`
	Status   OperationStatus `json:"status"`
	Start    time.Time       `json:"start"`
	End      time.Time       `json:"end,omitzero"`
	// Deadline is when the operation fails if the cluster has not answered.
	Deadline time.Time `json:"deadline,omitzero"`
	Code     string    `json:"code,omitempty"` // of a failure
	Message  string    `json:"message,omitempty"`
}

// OfGroup reports whether the operation is the deletion of a resource group.
func (o Operation) OfGroup() bool {
	return o.Delete && o.Resource.Type() == "" && o.Resource.ResourceGroup() != ""
}
