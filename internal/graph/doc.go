// Package graph is the small part of Microsoft Graph that `az ad` and Azure's
// clients call: the directory's users, groups, applications and service
// principals, read and written.
//
// A request is authenticated (a token of this tenant for Graph), matched with a
// row of the table in routes.go, and, if it writes, held to be an operator's
// and recorded in the audit log before it is done. Everybody in a tenant may
// read it, as Entra lets members by default; nobody reads another.
//
// Objects are shown as Graph shows them, with $filter, $select, $top and
// $skiptoken, from the store's records. Applications keep the members that mean
// nothing here (appRoles, tags, optionalClaims, ...) as they were written and
// show them again. Microsoft's own applications and the managed identities of
// resources are among the service principals, and cannot be written. Passwords
// of applications are made here and shown once; only hashes are kept.
//
// Not here: licences, devices, directory roles, federated credentials, delta
// queries, batches. What is not served is a 404 or an error that says so, never
// an empty success.
package graph
