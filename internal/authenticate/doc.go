// Package authenticate turns a bearer token into an [access.Principal].
//
// A token is believed only as far as its issuer is trusted, and issuers are
// configuration: each is one exact "iss", tied to one tenant, with keys that
// come from nowhere but that issuer. Real Entra ([Entra]) and the embedded
// identity provider are configured the same way.
//
// The order of the checks is that of spec/identity.md 1.5:
//
//  1. form: at most 16 KiB, three parts of strict base64url, JSON objects
//     without duplicate names at any depth;
//  2. header: RS256 and a kid, nothing that names a key ("jku", "x5u", "jwk",
//     "x5c") or changes the meaning ("crit");
//  3. issuer by exact "iss", then the signature with that issuer's key;
//  4. audience, times, tenant and version;
//  5. on the data plane ([Config.RequireSource]) the managed identity:
//     "xms_mirid" as a typed resource id, system-assigned.
//
// Nothing of a token is used before its signature holds, except "iss" and
// "kid", which are only looked up in maps (checklist items 14 to 16).
//
// The audience must be a string. RFC 7519 allows an array, but no issuer here
// sends one, and a token for two audiences can be replayed by either at the
// other; so an array is refused, even of one element.
//
// Keys are cached for a day, refreshed hourly by [Verifier.Run], and on an
// unknown kid at most once per issuer in five minutes, however many callers
// ask (item 18). When an issuer is out of reach its last good keys serve for
// 24 hours. Verified tokens are remembered by SHA-256 for at most two minutes,
// and forgotten when the keys change: the expiry of a token still ends it.
//
// A refusal is a [*Refusal]: its text says which value was wrong and what is
// accepted, it is meant for the caller, and it never holds the token (items
// 17 and 39). This package does not decide what a principal may do, and does
// not look at TLS or at the request.
package authenticate
