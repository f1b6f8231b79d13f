// Package directory knows who exists: tenants, applications and their service
// principals, users and groups. The identity provider asks it whom to believe,
// and Graph shows and changes it.
//
// Records are the store's. What is added here is what more than one reader
// must see alike:
//
//   - a tenant is named by its id or by a verified domain ([Directory.Tenant]);
//   - Microsoft's own applications, which clients name by their fixed ids,
//     exist in every tenant without a record ([FirstParty]);
//   - an API is named by its id or one of its URIs ([Directory.API]);
//   - membership of groups is transitive ([Directory.Groups]).
//
// Passwords of people are kept as argon2id ([HashPassword]), since they can be
// guessed; secrets of applications are random and kept as SHA-256 (package
// idp). A user has a stamp that is new whenever the password changes or the
// user is disabled: what was given out under an older one is worth nothing.
//
// Errors wrap one of access's kinds. Not here: who may ask, and the protocols.
package directory
