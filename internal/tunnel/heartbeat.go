package tunnel

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"sync"
	"time"
)

// The heartbeat is one stream per connection, opened by the gateway and
// answered by the agent's end of this package before any handler. Both sides
// write a beat of eight bytes each beatEvery, whether or not the other was
// heard: so each end receives something twice a second, and its silence means
// death, even if the other direction is so full that answers take minutes.
// The gateway's beats carry its clock and are echoed, which gives the RTT; the
// agent's own carry zero. One long stream, not a request a second, so that it
// cannot be locked out when all streams are in use.
const (
	heartbeatPath = "/.sallyport/heartbeat"
	beatSize      = 8
)

// Beats with the highest bit are words, by which a connection enters and leaves
// service. Each is said once at most.
const (
	wordBit     = 1 << 63
	wordServing = wordBit | 1 // gateway: requests come here from now on
	wordLeaving = wordBit | 2 // agent: send nothing new here
	wordLast    = wordBit | 3 // gateway: nothing new will follow
)

// beats is the body of the heartbeat request: Read gives what push and say were
// given.
type beats struct {
	next chan uint64
	done chan struct{}
	once sync.Once
}

func newBeats() *beats {
	// A beat and the gateway's two words, so that a word is never lost.
	return &beats{next: make(chan uint64, 3), done: make(chan struct{})}
}

// push sends a beat, or skips it when something before has not left yet.
func (b *beats) push(v uint64) {
	if len(b.next) == 0 {
		b.next <- v
	}
}

// say sends a word. Like push it has one caller, the link's own goroutine.
func (b *beats) say(word uint64) { b.next <- word }

func (b *beats) Read(p []byte) (int, error) {
	if len(p) < beatSize {
		return 0, io.ErrShortBuffer // net/http reads with a buffer of a frame
	}
	select {
	case v := <-b.next:
		binary.BigEndian.PutUint64(p, v)
		return beatSize, nil
	case <-b.done:
		return 0, io.EOF
	}
}

func (b *beats) Close() error {
	b.once.Do(func() { close(b.done) })
	return nil
}

// readBeats calls heard with each beat until r ends.
func readBeats(r io.Reader, heard func(uint64)) error {
	var p [beatSize]byte
	for {
		if _, err := io.ReadFull(r, p[:]); err != nil {
			return err
		}
		heard(binary.BigEndian.Uint64(p[:]))
	}
}

// answerBeats is the agent's end of the heartbeat stream. It says the words
// that it is given, and calls hear with those it hears.
func answerBeats(w http.ResponseWriter, r *http.Request, words <-chan uint64, hear func(word uint64)) {
	ctx, cancel := context.WithCancel(r.Context())
	var mu sync.Mutex
	write := func(v uint64) {
		mu.Lock()
		defer mu.Unlock()
		w.Write(binary.BigEndian.AppendUint64(nil, v)) // a failure ends r.Body as well
		http.NewResponseController(w).Flush()
	}
	var ticking sync.WaitGroup
	ticking.Go(func() {
		t := time.NewTicker(beatEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				write(0)
			case word := <-words:
				write(word)
			case <-ctx.Done():
				return
			}
		}
	})
	defer ticking.Wait()
	defer cancel()
	readBeats(r.Body, func(v uint64) { // ends with the connection, which has its own error
		if v&wordBit != 0 {
			hear(v)
			return
		}
		write(v)
	})
}
