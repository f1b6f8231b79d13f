package store

import "github.com/sallyport/sallyport/access"

// Registrations lie under their subscription's id, named by the provider's
// namespace and, for one of its features, by that too.

func registrationKey(v access.Registration) (string, error) {
	return RegistrationKey(v.Subscription, v.Namespace, v.Feature), nil
}

// RegistrationKey is the key of a provider's registration, or with feature not
// empty of that feature's.
func RegistrationKey(subscription access.ResourceID, namespace, feature string) string {
	key := subscription.Key() + "/" + namespace
	if feature != "" {
		key += "/" + feature
	}
	return key
}
