package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// guard watches the frames of the gateway's end of a connection for what its
// HTTP/2 client cannot bear. In net/http of Go 1.26 a WINDOW_UPDATE by which a
// stream's window overflows has the client lock a mutex that it holds (x/net has
// mended that, v0.59): every request on the connection would hang for good,
// whatever becomes of its client, and so would who counts the streams of a
// connection or closes it. And each frame of unknown type has it write a line to
// the process's log. An agent that does either is cut instead: Go's own end gives
// no more window than [upStreamWindow] and what it has read, and no such frames.
type guard struct {
	in, out frames

	mu      sync.Mutex
	credits map[uint32]int64 // of streams, beyond their first window: given less used
}

// The bounds of a guard. What a stream may have twice over, when its credit is
// forgotten at its end, is within HTTP/2's own bound of 2^31-1.
const (
	maxCredit       = 512 << 20
	maxFirstWindow  = 16 << 20
	maxCredited     = 4 * maxStreams // streams at a time
	maxSettingsSize = 1 << 10        // bytes of a SETTINGS frame
)

// Frames of HTTP/2 (RFC 9113, 6).
const (
	frameHeader       = 9
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	frameWindowUpdate = 8
	frameContinuation = 9 // the last
	flagEndStream     = 1
	settingWindow     = 4
)

// preface is what a client sends before its first frame (RFC 9113, 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func newGuard() *guard {
	g := &guard{credits: map[uint32]int64{}}
	g.out.skip = len(preface)
	return g
}

var errWindow = errors.New("the agent opens windows that HTTP/2 does not have")

// received takes bytes as they came from the agent, before the client has them.
func (g *guard) received(p []byte) error { return g.in.feed(p, g.arrived) }

// sent takes bytes that are about to go to the agent.
func (g *guard) sent(p []byte) error { return g.out.feed(p, g.leaving) }

func (g *guard) arrived(f frame) error {
	switch {
	case f.kind > frameContinuation:
		return fmt.Errorf("the agent sends frames of unknown type %d", f.kind)
	case f.kind == frameSettings && f.flags == 0:
		for s := f.payload; len(s) >= 6; s = s[6:] {
			if v := binary.BigEndian.Uint32(s[2:]); binary.BigEndian.Uint16(s) == settingWindow && v > maxFirstWindow {
				return fmt.Errorf("%w: %d bytes for each stream", errWindow, v)
			}
		}
	case f.kind == frameWindowUpdate && f.stream != 0 && len(f.payload) == 4:
		g.mu.Lock()
		defer g.mu.Unlock()
		g.credits[f.stream] += int64(binary.BigEndian.Uint32(f.payload) & (1<<31 - 1))
		if g.credits[f.stream] > maxCredit || len(g.credits) > maxCredited {
			return errWindow
		}
	case f.kind == frameReset, f.kind <= frameHeaders && f.flags&flagEndStream != 0:
		g.forget(f.stream)
	}
	return nil
}

func (g *guard) leaving(f frame) error {
	switch f.kind {
	case frameData:
		g.mu.Lock()
		defer g.mu.Unlock()
		if credit, ok := g.credits[f.stream]; ok {
			g.credits[f.stream] = credit - int64(f.size)
		}
	case frameReset:
		g.forget(f.stream)
	}
	return nil
}

func (g *guard) forget(stream uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.credits, stream)
}

// frame is the head of one, and of the two kinds that are looked into, the rest.
type frame struct {
	size        int
	kind, flags byte
	stream      uint32
	payload     []byte
}

// frames cuts a stream of bytes into frames. It is used by one goroutine at a
// time.
type frames struct {
	skip int    // bytes that are of no interest
	head []byte // of a frame that is not whole yet, with the payload if that is wanted
}

// feed calls on with each frame whose head, or payload if it is wanted, is whole.
func (s *frames) feed(p []byte, on func(frame) error) error {
	for len(p) > 0 {
		if n := min(s.skip, len(p)); n > 0 {
			s.skip -= n
			p = p[n:]
			continue
		}
		want := frameHeader
		if len(s.head) >= frameHeader {
			want += s.frame().wanted()
		}
		n := min(want-len(s.head), len(p))
		s.head = append(s.head, p[:n]...)
		p = p[n:]
		if len(s.head) < frameHeader {
			return nil
		}
		f := s.frame()
		if f.kind == frameSettings && f.size > maxSettingsSize {
			return fmt.Errorf("SETTINGS of %d bytes", f.size)
		}
		if len(s.head) < frameHeader+f.wanted() {
			continue
		}
		f.payload = s.head[frameHeader:]
		s.skip = f.size - len(f.payload)
		s.head = s.head[:0]
		if err := on(f); err != nil {
			return err
		}
	}
	return nil
}

// frame reads the head.
func (s *frames) frame() frame {
	h := s.head
	return frame{
		size: int(h[0])<<16 | int(h[1])<<8 | int(h[2]), kind: h[3], flags: h[4],
		stream: binary.BigEndian.Uint32(h[5:]) & (1<<31 - 1),
	}
}

// wanted is how much of the payload is looked into.
func (f frame) wanted() int {
	if f.kind == frameSettings || f.kind == frameWindowUpdate && f.size == 4 {
		return f.size
	}
	return 0
}
