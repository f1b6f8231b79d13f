package rbac

// Names of what the manifest installs.
const (
	// ProxyRole is the one ClusterRole that lets the proxy impersonate.
	ProxyRole = "sallyport:proxy"
	// ReconcilerRole and CeilingRole are what the reconciler's account holds.
	ReconcilerRole = "sallyport:reconciler"
	CeilingRole    = "sallyport:ceiling"
)

// The marks on our objects.
const (
	labelManagedBy = "app.kubernetes.io/managed-by"
	managedBy      = "sallyport"

	annotationUID        = "sallyport.dev/binding-uid"
	annotationSource     = "sallyport.dev/source"
	annotationGeneration = "sallyport.dev/generation"
)

// RoleObject is the name of the ClusterRole of one role of a binding, such as
// "aks:trustedaccessrole:b1:mlworkload". role is the short name.
func RoleObject(prefix, binding, role string) string {
	return rolePrefix(prefix) + binding + ":" + role
}

// RoleBindingObject is the name of the ClusterRoleBinding beside [RoleObject].
func RoleBindingObject(prefix, binding, role string) string {
	return roleBindingPrefix(prefix) + binding + ":" + role
}

func rolePrefix(prefix string) string        { return prefix + "role:" }
func roleBindingPrefix(prefix string) string { return prefix + "rolebinding:" }
