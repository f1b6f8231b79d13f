package access

import "time"

// RegistrationState is how far a subscription's registration for a resource
// provider or a preview feature is, in ARM's words. Nothing here takes time, so
// the states between (Registering, Unregistering, Pending) do not occur.
type RegistrationState string

// The states of a registration.
const (
	Registered    RegistrationState = "Registered"
	NotRegistered RegistrationState = "NotRegistered"
	Unregistered  RegistrationState = "Unregistered"
)

// Registration is what a subscription said of a resource provider or, with
// Feature, of one of its preview features. What it said nothing of is
// registered if it is a provider, and not if it is a feature.
type Registration struct {
	Subscription ResourceID        `json:"subscription"`
	Namespace    string            `json:"namespace"` // "Microsoft.ContainerService"
	Feature      string            `json:"feature,omitempty"`
	State        RegistrationState `json:"state"`
	Changed      time.Time         `json:"changed"`
}
