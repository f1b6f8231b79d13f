package sallyport_test

// systemMutations are those whose tests run a whole system: a server, agents and
// a real kube-apiserver, which bin/devcluster is. Their binary is the test's own,
// so the mutation is in each process of it.
func systemMutations() []mutation {
	return []mutation{}
}
