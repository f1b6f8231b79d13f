// Package store keeps the words of package access in etcd, with versions and
// watch.
//
// There is one implementation. With [Config].Dir an etcd server runs in this
// process, listens nowhere, and is spoken to by function calls; with
// [Config].Endpoints the same code speaks to an external cluster. Above the
// connection nothing differs, so versions and watch have one meaning, and
// tests run what production runs.
//
// # Kinds
//
// A [Store] has one [Kind] for each sort of record: Clusters, Bindings,
// Operations and so on, each with five operations: Get, List, Put if version,
// Delete if version, and Follow, the watch. A file per family (cluster.go,
// rolebinding.go, ...) says what its records are and what their key is. A
// version is etcd's modification revision: it grows with each write, is never
// used twice for one key, and 0 stands for "does not exist".
//
// [Store.Commit] writes several records, of several kinds, all or none, under
// conditions on their versions. A rule over many records ("at most 200
// bindings in a cluster") is kept by updating one record that all writers of
// the rule update, so that of two who read the same state only one commits.
//
// # Why it is safe
//
//   - Nothing acknowledged is lost: a write returns after etcd has synced its
//     log to disk (on a majority, with an external cluster).
//   - Reads are linearizable: Get and List show every write that was
//     acknowledged before they began.
//   - [Kind.Follow] never lets a consumer believe in old state: each [Update]
//     says as of when it was proven complete (DESIGN.md has the argument).
//   - Keys are folded to lower case, as ARM ids compare, and prefixes end at a
//     segment, so "c1" never matches "c10" (security checklist, item 15).
//   - Every value is encrypted and bound to its key (package keyring), so who
//     can read the disk or the etcd learns no more than keys, and who can write
//     to it can forge nothing.
//   - Secrets that only need to be compared are kept as hashes.
//
// It does not decide who may read or write (the control plane does), does not
// validate words beyond their key and size, keeps no history, and caches
// nothing. Errors wrap one of access's kinds: ErrNotFound, ErrConflict,
// ErrInvalid, and ErrUnavailable for every failure of etcd; a call whose
// context was cancelled by the caller returns that cancellation.
package store
