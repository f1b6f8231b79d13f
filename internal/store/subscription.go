package store

import "github.com/sallyport/sallyport/access"

// Subscriptions and resource groups are found by their ids. The groups of a
// subscription are the list under its id's Key() + "/".

func subscriptionKey(v access.Subscription) (string, error) { return v.ID.Key(), nil }

func groupKey(v access.ResourceGroup) (string, error) { return v.ID.Key(), nil }
