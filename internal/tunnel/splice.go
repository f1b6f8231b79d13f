package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// An upgraded stream's downward half is chunks: four bytes of length, then as
// many bytes. The empty chunk is the API server's end of stream, after which
// the upward half may go on. A response that ends without it was cut short: so
// an abort and an end differ also where net/http would show both as EOF.
const chunkHeader = 4

// sendChunks copies src to w until src ends, then sends the empty chunk.
func sendChunks(w http.ResponseWriter, src io.Reader) error {
	rc := http.NewResponseController(w)
	buf := make([]byte, chunkHeader+chunkSize)
	send := func(n int) error {
		binary.BigEndian.PutUint32(buf, uint32(n))
		if _, err := w.Write(buf[:chunkHeader+n]); err != nil {
			return fmt.Errorf("towards the client: %w", err)
		}
		return rc.Flush()
	}
	for {
		n, err := src.Read(buf[chunkHeader:])
		if n > 0 {
			if err := send(n); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return send(0)
		}
		if err != nil {
			return fmt.Errorf("from the API server: %w", err)
		}
	}
}

// receiveChunks copies the chunks of src to dst, passes the empty one on as a
// half-close, and returns nil when src has ended after it.
func receiveChunks(dst net.Conn, src io.Reader) (n int64, err error) {
	buf := make([]byte, chunkSize)
	for ended := false; ; {
		if _, err := io.ReadFull(src, buf[:chunkHeader]); err != nil {
			if ended && err == io.EOF {
				return n, nil
			}
			return n, fmt.Errorf("from the agent: %w", noEOF(err))
		}
		size := binary.BigEndian.Uint32(buf)
		if ended || size > chunkSize {
			return n, errors.New("from the agent: malformed chunk")
		}
		if size == 0 {
			ended = true
			closeWrite(dst)
			continue
		}
		if _, err := io.ReadFull(src, buf[:size]); err != nil {
			return n, fmt.Errorf("from the agent: %w", noEOF(err))
		}
		m, err := dst.Write(buf[:size])
		n += int64(m)
		if err != nil {
			return n, fmt.Errorf("to the client: %w", err)
		}
	}
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// closeWrite tells c's other end that no more will come. A connection that
// cannot say so is left open: the end of both halves closes it.
func closeWrite(c net.Conn) {
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		cw.CloseWrite() // a failure shows in the next read or write
	}
}
