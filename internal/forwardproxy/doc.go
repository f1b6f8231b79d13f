// Package forwardproxy is the loopback proxy of `sallyport run`: the way by
// which one child process, and what it starts, reaches the server under
// Azure's own host names, without being told of it (spec/identity.md 7.3).
//
// Every request must show the proxy's password, which is random, made with the
// proxy, and given to the child in its environment alone. So another user of
// the machine, who can reach the port, has no use of it. Then:
//
//   - CONNECT to a relayed host, port 443, is led to the server's TLS port. The
//     bytes are relayed as they are: the server ends the TLS, with a
//     certificate by the name in the handshake, and the proxy sees nothing.
//   - http://169.254.169.254, where machines in Azure find their own identity,
//     is answered by who the child is: passed to the server's managed-identity
//     endpoint with the child's identity header, which the child never sees;
//     or, without an identity, as on a machine that has none.
//   - What was asked for ([Config.Allowed]) is dialled.
//   - Nothing else passes: 403 with the reason, reported once for each host.
//
// Why a child cannot get further than that: names are compared whole, what is
// dialled is either the server's address from the configuration or an entry of
// the allow-list, never an address of the child's; an allowed host that
// resolves to the metadata address is still only that host; and hop-by-hop
// headers, the password among them, end here.
//
// Not here: environment and files of the child, which are the wiring's.
package forwardproxy
