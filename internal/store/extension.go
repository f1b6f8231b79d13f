package store

import "github.com/sallyport/sallyport/access"

// Extensions lie under their cluster's id, with the path that ARM gives them.

func extensionKey(v access.Extension) (string, error) { return ExtensionKey(v.Parent, v.Name), nil }

// ExtensionKey is the key of a cluster's extension.
func ExtensionKey(cluster access.ResourceID, name string) string {
	return cluster.Key() + "/providers/microsoft.kubernetesconfiguration/extensions/" + name
}
