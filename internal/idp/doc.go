// Package idp is an Entra-compatible identity provider: the offline stand-in
// for Microsoft Entra ID. Real Entra, where there is one, is configuration of
// package authenticate; this one lets unmodified Azure clients sign in with no
// cloud in reach.
//
// It has two doors. [Provider.ServeHTTP] is the login host behind TLS:
// discovery, keys, tokens for applications that prove themselves by a secret or
// a certificate, and for people: in a browser (authorization code with PKCE), by a
// device's code, or by password.
// [Provider.ManagedIdentity] is for the loopback port: a resource's tokens, by
// the protocols of App Service, IMDS, Azure ML, Cloud Shell and Arc.
// Who exists is asked of a [Directory] at each request, so that what is deleted
// gets no token. The API that a token is for decides its version; Microsoft's
// own take v1 (issuer https://sts.windows.net/{tenant}/, spec/identity.md 1.1),
// and so says the v1 discovery document. The issuer in the v2 document, which
// clients read, and of v2 tokens is on the provider's own host, since clients
// insist on that (1.7).
//
// Why it is safe:
//
//   - Only managed identities get xms_mirid, and their claims come from the
//     directory, never from the request.
//   - Tokens are only for APIs that the directory knows.
//   - An identity header is an HMAC of the resource's uid under a key that
//     stays here. Nothing is stored, so nothing can leak from the store, and
//     a resource created again under its name has another uid and header.
//   - The managed-identity port refuses X-Forwarded-For and wants a header
//     that no browser or naive proxy sends, as the real endpoints do.
//   - Refresh tokens and what a sign-in page hands on are sealed (AES-GCM) under
//     keys derived for one purpose each. There are no cookies.
//   - Passwords are guessed ten times a minute at most, and a wrong one tells
//     nothing about the user.
//   - Paths are parsed, not cleaned; bodies are bounded; a parameter given
//     twice is refused; nothing is taken from the query of a token request.
//   - Logs have names and codes, never a secret or a token (checklist item 39).
//
// Not here: authorization (a token says who, not what), consent, federated
// credentials, on-behalf-of. docs/decisions/0015 has the reasons.
package idp
