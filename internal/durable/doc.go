// Package durable writes small private files that a later start depends on or
// that hold secrets: keys, the agents' CA, the operator's credentials,
// kubeconfigs.
//
// Both functions write a new file of mode 0600 beside the one that is meant and
// give it the name when all of it is on disk. So a reader, another process or
// the next start after a crash finds the file whole or not at all, and when
// they return nil, content and name are on disk.
//
// They differ where the name is taken. [Create] gives it by a hard link, which
// then fails: of several processes that make one key at once, one wins, and the
// others read what it made. [Replace] gives it by a rename, which puts the new
// file in the place of the old in one step.
//
// [SyncDir] is for who renames files of his own.
//
// Not here: reading, folders, and whether a file may be replaced at all. Errors
// are those of package os with the path; their kind is the caller's to say.
package durable
