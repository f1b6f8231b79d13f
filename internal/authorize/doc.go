// Package authorize turns an authenticated caller and a cluster into a Grant,
// or says why there is none; and a caller and a scope into Rights on ARM.
//
// Grant decides who, and whether the owner consented; it never looks at verbs or
// resources, which Kubernetes RBAC decides in the cluster. The decision reads
// an index in memory that a watch of the store keeps true. Three properties
// make that safe:
//
//   - Fresh or shut. The watch proves its progress about once a second. When
//     nothing was heard for [Config.MaxAge], [Index.Grant] refuses with
//     access.ErrUnavailable: an index that cannot prove it is current might
//     still hold a consent that was withdrawn.
//   - Whole values. Sources are compared as typed resource ids, never as text
//     prefixes, together with the tenant and, where consent pinned it, the
//     object id of the identity, so a re-created resource inherits nothing.
//   - No gap. A caller registers its request as live, then asks
//     [Index.Holds] again, then forwards. A deletion that arrives before the
//     second look is seen by it; one that arrives after finds the request
//     registered and cuts it through [Config.Revoked] (checklist, item 26).
//
// A policy of the cluster or of the binding can bound what was consented to:
// locked, expired, or from an address outside its ranges means ErrForbidden,
// with the reason. Policies are part of the records they bound, so they are as
// fresh as those and never seen apart from them. Grant and Holds look at the
// clock themselves; [Index.Run] cuts what is live when its time is over. A
// change that leaves out a range cuts all of the binding's requests: those from
// addresses that are still allowed come back.
//
// When several bindings of a cluster name the same source, the oldest that is
// in force and admits speaks for it: Kubernetes knows each binding as a user of its own,
// and one request can be one user only.
//
// The other half, [Roles], says who may do what on ARM, by role assignments:
// Azure's rule, effective actions being those of each role less its notActions,
// united over the roles assigned at a scope and above it (spec/identity.md 5.6).
// It keeps nothing: each answer reads the assignments, at one scope after the
// other, so there is no copy that could be old. [Rights] is that answer as a
// value; what was not read for it, it does not allow.
package authorize
