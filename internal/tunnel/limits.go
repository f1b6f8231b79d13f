package tunnel

import (
	"net/http"
	"time"
)

// HeaderLimit is the most header of a request that goes through a tunnel, as
// HTTP/2 counts it: name, value and 32 bytes a field (RFC 9113, 6.5.2). It lets
// 64 KiB pass in 500 fields.
const HeaderLimit = 80 << 10

// HeaderSize returns the size of h in that count.
func HeaderSize(h http.Header) int {
	size := 0
	for name, values := range h {
		for _, value := range values {
			size += len(name) + len(value) + 32
		}
	}
	return size
}

// The bounds of a connection.
const (
	// maxStreams is how many requests, watches and upgrades one connection
	// carries at once. Beyond it RoundTrip refuses; it does not queue.
	maxStreams = 1000

	// maxConnections is how many connections one cluster may have: enough for
	// an agent of several replicas and a change of guard, and a bound on what
	// one cluster can make the gateway hold.
	maxConnections = 8

	// maxResting is how many more may be out of service, ending their last
	// requests; one more, and the oldest is cut.
	maxResting = 16

	// MaxDialled is how many connections one agent may keep up: two agents of two
	// and their replacements fit maxConnections.
	MaxDialled = 4

	// Receive windows, up at the agent and down at the gateway. A stream's window
	// over the round-trip time bounds its speed (1 MiB over 50 ms: 20 MB/s) and is
	// the memory one stalled stream can hold; downloads get more, because lists
	// and watches are where the bytes are. The connection's window is the sum of
	// all: anything less, and enough stalled streams block every other one.
	upStreamWindow   = 512 << 10
	upConnWindow     = maxStreams * upStreamWindow
	downStreamWindow = 1 << 20
	downConnWindow   = maxStreams * downStreamWindow

	// frameSize is how long one stream may keep the connection to itself. The
	// smallest allowed costs throughput, the default of 1 MiB would hold
	// everyone up for seconds on a slow uplink.
	frameSize = 64 << 10

	// maxHeaderBytes lets [HeaderLimit] pass in either direction, with an address
	// of 32 KiB and room for our own headers: the ends refuse what is larger, so
	// that HTTP/2 need not.
	maxHeaderBytes = 128 << 10
)

// The bounds of liveness. Silence is counted in ticks of our own clock: a
// process that was itself stopped finds one late tick, not a silent peer.
const (
	beatEvery   = 500 * time.Millisecond
	doubtTicks  = 2 // requests go elsewhere if they can
	silentTicks = 4 // dead after 2 to 2.5 s; a lost packet is sent again after 0.2, 0.6, 1.4 s

	// proveTimeout is for the first beat, when thousands of agents may be
	// reconnecting at once.
	proveTimeout = 10 * time.Second

	// writeTimeout is how long the other end may take nothing of what is written
	// to it. It may be alive, by what it sends, and hold every request's end.
	writeTimeout = 10 * time.Second

	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
)

// The bounds of an upgrade: what the API server may take to answer, how long a
// client may be silent behind the end, how much header the API server may send,
// and the size of one chunk of a spliced stream.
const (
	answerTimeout   = 30 * time.Second
	lingerTimeout   = 30 * time.Second
	maxAnswerHeader = 64 << 10
	chunkSize       = 32 << 10
)

// http2Only is HTTP/2 without TLS of net/http's making: the TLS is ours,
// underneath, with an ALPN name of our own.
func http2Only() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}
