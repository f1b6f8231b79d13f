// Package controlplane is the part that owns consent: the ARM-compatible API
// for clusters' owners, and the feed and reports of clusters' agents.
//
// A write passes one road. [ControlPlane.ServeHTTP] splits the path, finds the
// route (routes.go, one screen), checks the api-version, authenticates the
// bearer token, loads the subscription and asks the caller's role assignments;
// then the route's handler parses the body once, validates it with package
// access, and hands what it wants to change to request.commit. That is the
// only way to the store for a caller's write: it puts the decision into the
// audit log first, and when that fails nothing is written (checklist item 40).
//
// Who may do what is one rule, in one place (ControlPlane.admit): the route's
// action must be allowed at the path's scope by a role that the caller was
// assigned there or above, as Azure does it (decision 0018). A route that lists
// shows what of it the caller may read. The assignments are read from the store
// for each request, so one that was deleted serves nothing more. A source never
// writes its own consent or what bounds it, whatever its roles, nor gives rights
// to others. A binding's source must lie in the cluster's subscription and be one
// that the caller may read, so consent cannot name somebody else's resource
// (item 27); when the directory knows the source, its identity's object id is pinned, so that a
// resource created later under the same name does not inherit.
//
// Agents have a handler of their own, [ControlPlane.FeedHandler], behind a
// verified client certificate. Which cluster a peer is comes from
// Config.Peer alone, never from a path, header or body (items 19, 20); a feed
// ends with the certificate and when the cluster is re-enrolled, re-created or
// deleted, and a report from an older enrolment is refused in the same
// transaction that would have written it. A heartbeat is sent only while the
// state that it repeats was proven within the last 5 s, by the store's watch or
// by a new read: an agent that hears us need not wonder what we missed.
//
// # Operations
//
// A PUT of a binding writes the binding (Updating, generation + 1), its
// operation and a pending mark in one transaction, and in the same one ends
// the operation it supersedes:
//
//	PUT ──► InProgress ──agent: in force──► Succeeded   binding Succeeded
//	            │ ├──────agent: final──────► Failed      RoleNotAllowed
//	            │ ├──────deadline──────────► Failed      AgentNotConnected,
//	            │ │                                      AgentNotResponding, ApplyFailed
//	            │ └──────next PUT, DELETE──► Canceled
//	            └ no join token was ever issued: Succeeded at once
//
// A failed binding becomes Succeeded when the agent reports it in force later;
// its operation stays Failed, since that is what its client was told. DELETE
// removes the binding at once and leaves a tombstone for the agent to clean up
// after; its operation ends once Config.Settled says that the gateway has
// seen it. All of this is in the store: [ControlPlane.Run] takes up pending
// operations after a restart, and several servers may run on one store, as
// every step is a transaction on what it read.
//
// # Policies
//
// A cluster and a binding may each have an access policy: a lock, an end, source
// ranges. It has a path of its own and is part of the record that it bounds
// (policies.go), so it is deleted with it, and a binding that is created with
// one in its own PUT never exists without. Its write is answered once the
// gateway has it in force. The feed tells agents of locks and ends.
//
// What it does not do: it forwards nothing to clusters, issues no tokens or
// certificates (Config.Enrol and Config.IssueJoinToken do), and verifies no
// token itself.
package controlplane
