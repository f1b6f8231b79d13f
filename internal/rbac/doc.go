// Package rbac keeps a ClusterRole and a ClusterRoleBinding for each role of
// each binding true in the cluster, and writes the manifest that installs the
// agent with no more rights than its owner chose.
//
// A [Reconciler] takes the whole desired state ([access.Desired]) again and
// again, compares it with what the API server lists, writes the difference,
// asks the API server whether the result is in force, and reports. It keeps no
// plan and no history: a restart, a lost message or a hand edit all end in the
// same next pass. Watches only say when to look; what is decided is decided on
// a fresh list.
//
// The order inside a pass is what makes it safe. First the proxy's right to
// impersonate is narrowed to bindings that are still wanted, so a deleted
// binding is shut before anything else happens. Then the objects of deleted
// bindings go. Then roles of the others are created or repaired, and only then
// is a new binding's user added to the proxy's ClusterRole. A role that an
// update removed goes last, when its replacement was seen to work, so the old
// grant serves until the new one does.
//
// Why a control plane that is taken over is not cluster-admin here (security
// checklist, items 23 to 25):
//
//   - The account holds no bind, and escalate on one ClusterRole only. It
//     holds the union of the roles the owner chose ("the ceiling"), so the API
//     server refuses, by its own escalation check, any role above it.
//   - An admission policy limits that account to our names, subjects and
//     impersonate rules, and to RBAC at all: it grants the ceiling and writes
//     nothing by it. Admission sees no reads, so what the ceiling may read,
//     the account may read.
//   - The proxy's account may impersonate named users, one group and two
//     extras with exact values. A rule with an empty resourceNames list would
//     mean "all", so with no bindings there is no rule.
//   - With [Constrained] that account may be those users only to do what the
//     bindings' roles say, and holds no legacy impersonate.
//
// Ownership is name plus uid: an object is ours if it carries our label and
// the uid of a binding the control plane told us of, or if this process has
// seen it do so. Anything else of our names is foreign: it is reported and
// never touched, and a binding of ours never points at it.
//
// The package does not watch bindings, hold certificates or carry traffic, and
// it does not decide which roles exist: [access.Catalogue] does.
package rbac
