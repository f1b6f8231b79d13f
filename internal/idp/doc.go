// Package idp is a small OpenID Connect issuer: the offline stand-in for
// Microsoft Entra ID. Real Entra, where there is one, is configuration of
// package authenticate; this one lets unmodified Azure clients sign in with no
// cloud in reach.
//
// It has two doors. [Provider.ServeHTTP] is the login host behind TLS:
// discovery, keys, and tokens for applications that know a secret.
// [Provider.ManagedIdentity] is for the loopback port: a resource's tokens, by
// the protocol of App Service, to who holds the resource's identity header.
// Who exists is asked of a [Directory] at each request, so that what is deleted
// gets no token. All tokens are v1 (issuer https://sts.windows.net/{tenant}/),
// which is what ARM and Trusted Access use (spec/identity.md 1.1), and so says
// the v1 discovery document. The issuer in the v2 document, which clients read,
// is on the provider's own host, since they insist on that (1.7).
//
// Why it is safe:
//
//   - Only managed identities get xms_mirid, and their claims come from the
//     directory, never from the request.
//   - Tokens are only for audiences that are known: ARM's, Trusted Access's,
//     and those the wiring allows.
//   - An identity header is an HMAC of the resource's uid under a key that
//     stays here. Nothing is stored, so nothing can leak from the store, and
//     a resource created again under its name has another uid and header.
//   - The managed-identity port refuses X-Forwarded-For and wants a header
//     that no browser or naive proxy sends, as the real endpoints do.
//   - Paths are parsed, not cleaned; bodies are bounded; a parameter given
//     twice is refused; nothing is taken from the query of a token request.
//   - Logs have names and codes, never a secret or a token (checklist item 39).
//
// Not here: authorization (a token says who, not what), users and sign-in
// pages, refresh tokens, device code, federated credentials. Their grants are
// answered with unsupported_grant_type.
package idp
