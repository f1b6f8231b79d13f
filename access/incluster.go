package access

// What the two ends of an impersonation must agree on to the letter: the proxy
// sends these, and the rules that allow them name them.
const (
	// DefaultPrefix begins the names of users, groups and objects, as AKS's own
	// (spec/trusted-access.md 5.3). It is a setting, because a real AKS cluster
	// uses it already.
	DefaultPrefix = "aks:trustedaccess"

	// ExtraBindingUID and ExtraSource are the impersonation extras that carry
	// the binding's uid and the source's resource id into the cluster's audit
	// log; in lower case, as kube-apiserver reads them from a header. Constrained
	// impersonation takes no key but a domain and a path.
	ExtraBindingUID = "sallyport.dev/binding-uid"
	ExtraSource     = "sallyport.dev/source"
)

// The agent's namespace and service accounts: the manifest creates them, and
// enrolment gives certificates to no others.
const (
	AgentNamespace    = "sallyport-system"
	ProxyAccount      = "sallyport-proxy"
	ReconcilerAccount = "sallyport-reconciler"
)

// User is the Kubernetes user of a binding, such as "aks:trustedaccess:b1".
func User(prefix, binding string) string { return prefix + ":" + binding }

// Group is the one group of all bindings' users: the prefix itself.
func Group(prefix string) string { return prefix }
