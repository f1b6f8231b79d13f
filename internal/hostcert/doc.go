// Package hostcert lets the server answer on the host names of Azure that
// unmodified clients call: the hosts, which part answers on each ([PartOf]),
// and the certificate authority that speaks for them ([Authority]).
//
// A client gets here only when its owner sends it: `sallyport run` gives one
// child process a proxy that leads these names to the server, and a CA file
// that makes it believe the server (spec/identity.md 7.3). The server picks
// the certificate by the name in the TLS handshake (SNI, RFC 6066).
//
// Why the CA is safe to trust. It is not the agents' CA, so whoever has its
// key is no agent and no gateway. It is constrained, critically, to these host
// names, and to no IP address at all (RFC 5280 4.2.1.10): in the hands of a
// thief it can stand in for the same few hosts to the same few processes that
// were told to trust it, and for nothing else. It signs leaves only, for
// servers only. It is made afresh when the list of hosts changes, or when it
// comes near its end: clients fetch the certificate each time they start.
//
// Not here: the proxy, which is package forwardproxy, and what the parts
// answer.
package hostcert
