// Package tunnel carries HTTP requests over connections that the agent dials;
// both ends live here, because they change together and are tested together.
//
// # How data passes
//
// The agent dials the gateway with TLS ([Dial]), several times, and then serves
// HTTP/2 on each connection. The gateway hands the accepted, authenticated connection to
// [Hub.Serve] and is the HTTP/2 client on it: [Hub.To] gives a RoundTripper,
// each request is one stream, and flow control, multiplexing, cancellation and
// abort are those of net/http itself (http.ClientConn at the gateway,
// http.Server on a listener of one connection at the agent). Nothing of HTTP/2
// is written here.
//
// A request that upgrades (exec, attach, port-forward) becomes one full-duplex
// stream: [ServeUpgrade] at the gateway, [HandleUpgrade] at the agent.
//
// # What it does not do
//
// It decides nothing about requests: who may ask and as whom is settled above
// ([Peer] is what the caller read in the agent's certificate; the agent says
// nothing about itself that is believed: checklist 20). It does not authenticate
// connections, does not choose response headers, and sends a request again only
// if no agent has looked at it.
//
// # Why it is safe
//
//   - One stalled request cannot stall its neighbours (checklist 32): at both
//     ends the connection's receive window holds the full window of every stream
//     that may be open at once, so there is no order of stalls that exhausts it.
//   - A dead or wedged connection is noticed by both ends within 2.5 s
//     (checklist 35), and a merely busy one is not taken for dead: each end sends
//     a beat each half second whatever the other does, and any byte received
//     is a sign of life.
//   - A connection is given requests only after the agent's process has echoed a
//     beat through it, and an older generation of a cluster never displaces or
//     joins a newer one (checklist 19).
//   - No request begins on a connection whose certificate has ended, and what
//     still runs there is cut unless the cluster's agent has proved itself anew.
//     An agent that leaves fails no request (DESIGN.md has both arguments).
//   - After an answer other than 101 nothing is spliced: the bytes a client sends
//     behind a refused upgrade are never read, let alone forwarded (checklist 7).
//   - Every number is bounded and stands in limits.go (checklist 30); every
//     goroutine is ended by the call that started it (checklist 33).
//
// # What net/http could not do
//
// Two exceptions, each replaced by a few lines of our own on top of a stream:
//
//   - Its keep-alive (HTTP2Config.SendPingTimeout, PingTimeout) takes only the
//     answer to its PING as life, so data that arrives while that answer waits
//     in the queue of a saturated link does not count, and the connection is cut. It
//     is left off; heartbeat.go does it.
//   - Its server cannot end a response before the handler returns, and a handler
//     that has returned cannot read: no half-close towards the client. So the
//     downward half of an upgraded stream is sent in length-prefixed chunks, the
//     empty chunk being the end (splice.go).
package tunnel
