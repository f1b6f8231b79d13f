// Package gateway is the front door to clusters: it admits a request or
// refuses it, and forwards what it admitted.
//
// ServeHTTP is the only function that knows the order: parse the path; find the
// source address and hold it against the gateway's own rule; authenticate; look the grant up; take a place within the limits of binding and cluster; write the audit record "decision";
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
// A cluster is addressed by a path, or where there is a domain for it by a host
// name of its own, {uid}.{domain}, with its API at the root; Host or :authority
// decides, and a connection that was made for another host is answered 421. No
// other part of a server answers on such a host. A request ends a grace after
// its token has expired, also in the middle of a watch or an exec.
//
// Clusters share a gateway, and bindings a cluster, so each has limits: of
// streams under way and of requests a second, beyond which it is answered 429,
// and of bytes a second, to which its streams are slowed down. limits.go and
// pace.go.
//
// Explain answers, by the same code, what would become of a request that nobody
// makes; to the cluster it sends one SelfSubjectAccessReview as the binding's
// user, and nothing else.
//
// A request's path is read once and its bytes are forwarded as they were
// authorised, never cleaned (checklist, item 10). Headers pass by allow-list
// in both directions (items 2 and 28).
//
// Behind services/proxy and pods/proxy is an application, whose headers may
// have any name; package tunnel's application.go says which do not pass and why
// that is enough. Its answers are true in bytes and type, and hostile all the
// same: no cookie is set on an origin that clusters share, and every answer
// carries a Content-Security-Policy that has a browser, should one ever get
// there with a token, render it in a sandbox without scripts.
//
// Trailers of requests and TE are dropped. Trailers of answers are dropped when
// Kubernetes itself answers, which sends none; an application's pass by the rule
// for its headers, less what has a meaning as a header. Interim answers (1xx)
// are dropped. Refusals are Kubernetes Status objects,
// so kubectl prints them as it prints the API server's own.
package gateway
