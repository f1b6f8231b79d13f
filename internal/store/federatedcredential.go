package store

import (
	"strings"

	"github.com/sallyport/sallyport/access"
)

// Federated credentials are found by their ids; those of an identity are the
// list under its Key() + "/".

func federatedCredentialKey(v access.FederatedCredential) (string, error) {
	return strings.ToLower(v.ID()), nil
}
