package rbac

// DefaultPrefix is the prefix of AKS's own objects (spec/trusted-access.md
// 5.3). It is a setting because a real AKS cluster uses it already.
const DefaultPrefix = "aks:trustedaccess"

// Keys of the two impersonation extras, in the lower case in which
// kube-apiserver reads them from a header.
const (
	ExtraBindingUID = "binding-uid.sallyport.dev"
	ExtraSource     = "source.sallyport.dev"
)

// Names of what the manifest installs.
const (
	DefaultNamespace  = "sallyport-system"
	ProxyAccount      = "sallyport-proxy"
	ReconcilerAccount = "sallyport-reconciler"
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

// User is the Kubernetes user of a binding, such as "aks:trustedaccess:b1".
func User(prefix, binding string) string { return prefix + ":" + binding }

// Group is the one group of all bindings' users: the prefix itself.
func Group(prefix string) string { return prefix }

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
