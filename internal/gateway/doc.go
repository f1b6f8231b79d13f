// Package gateway is the front door to clusters: it admits a request or
// refuses it, and forwards what it admitted.
//
// ServeHTTP is the only function that knows the order: parse the path and the
// token; authenticate; look the grant up; write the audit record "decision";
// register the request as live under its binding; look at the binding once
// more; forward. Every refusal comes before a byte is forwarded, and forward
// takes what admit returns, which holds the grant, so nobody forwards without
// having asked.
//
// The gateway decides who, and whether the owner consented. What may be done
// is decided by Kubernetes RBAC in the cluster: verb and resource, as package
// requestinfo reads them, are written into the record, and choose which headers
// pass and whether the connection may be upgraded, but allow nothing. It holds
// no credential of any cluster: it states the grant to the agent, which checks
// it against its own knowledge.
//
// A request's path is read once and its bytes are forwarded as they were
// authorised, never cleaned (checklist, item 10). Headers pass by allow-list
// in both directions (items 2 and 28). Refusals are Kubernetes Status objects,
// so kubectl prints them as it prints the API server's own.
package gateway
