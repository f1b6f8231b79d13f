// Package enroll makes a cluster's agents known to the gateway: join tokens,
// the agents' own certificate authority, and certificates. Both ends live
// here, because they change and are tested together.
//
// How trust comes about, step by step:
//
//  1. The owner asks the control plane for a join token ([Server.NewJoinToken]).
//     It carries the gateway's address, the hash of the agents' CA key and a
//     secret. It works once and for an hour; the store keeps only its hash.
//  2. The agent shows it once ([Client.Enrol], [Server.Enrol]) and so records
//     the cluster's service-account issuer and public keys. The enrolment
//     raises the cluster's generation, which retires all earlier certificates
//     (security checklist, item 19). Once there is an identity on record, the
//     next enrolment must be proven by it: whoever got hold of a join token,
//     which any reader of the agent's Secret can, has nothing. Only a token
//     that the owner asked for as a reset replaces keys that are gone.
//  3. From then on each pod shows its projected service-account token and a
//     certificate request, and gets a certificate for a day
//     ([Credentials.TLS], [Server.Certificate]). Its key is made in memory and
//     never written: no Secret exists that a binding could read.
//  4. Agents connect with that certificate on protocols (ALPN) of their own.
//     [Authority.AgentTLS] demands it, and [Authority.Peer] reads from it, and
//     from nothing the agent says, which cluster and role this is (item 20).
//
// Why the agent is safe: it accepts only a server certificate that leads to
// the CA key named in the join token, for the one name [ServerName]. Public
// roots are not consulted, so whoever takes over the gateway's DNS name gets
// no tunnel and no service-account token (item 21).
//
// Why the server is safe: service-account tokens are checked against the keys
// recorded for that one cluster and against one audience; the token's subject
// decides which of the two roles may be had; the request must be signed with
// the key that gets the certificate; and a certificate holds the cluster's
// uid, so a cluster registered again under an old name does not inherit.
//
// What this package does not do: it keeps nothing but the CA (the store is
// behind [Records]), it does not route (the control plane does), it does not
// decide whether a generation is current (the caller's index does, through a
// func), and it does not dial tunnels.
package enroll
