package access

import "net/netip"

// Question asks whether a source might do something in a cluster, without its
// doing it.
type Question struct {
	Source ResourceID `json:"source"`
	From   netip.Addr `json:"from,omitzero"` // zero: from nowhere known
	Deed
}

// Explanation is the answer: each step that a request of the source would
// pass, up to the one that refuses it.
type Explanation struct {
	ID      string `json:"id"` // under which the audit logs have the question
	Allowed bool   `json:"allowed"`
	Question
	Steps []Step `json:"steps"`
	// The binding by which the source would act; empty without consent.
	Binding string   `json:"binding,omitempty"`
	Roles   []string `json:"roles,omitempty"`
	// RolesThatAllow are those of the catalogue that the source may have and
	// that would allow it.
	RolesThatAllow []string `json:"rolesThatAllow,omitempty"`
}

// Step is one step of a request's walk.
type Step struct {
	Name    string `json:"name"`    // address, consent, agent or cluster
	Outcome string `json:"outcome"` // passed, refused or failed
	Why     string `json:"why"`
}

// Outcomes of a step.
const (
	Passed  = "passed"
	Refused = "refused"
	Failure = "failed" // it could not be asked
)
