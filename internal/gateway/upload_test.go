package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/gateway"
)

// A client of HTTP/1.1 that stops in the middle of its request's body is
// answered all the same, and its connection ends.
func TestBodyThatDoesNotCome(t *testing.T) {
	for token, want := range map[string]int{"good": 200, "bad": 401} {
		r := newRig(t)
		s := r.serve(t, false)
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		check(t, err)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(limit))
		fmt.Fprintf(conn, "POST %s/api HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\nContent-Length: 1000\r\n\r\nhalf", base, token)
		lines := bufio.NewReader(conn)
		resp, err := http.ReadResponse(lines, nil)
		if err != nil || resp.StatusCode != want || !resp.Close {
			t.Errorf("%s: %v, %v", token, resp, err)
			continue
		}
		resp.Body.Close()
	}
}

// deadlines is a connection that notes what is set on it.
type deadlines struct {
	http.ResponseWriter
	set []time.Time
}

func (d *deadlines) SetReadDeadline(at time.Time) error {
	d.set = append(d.set, at)
	return nil
}

// The limit is for a body that is not there, and goes with its end: behind that
// it would cut the answer.
func TestBodyThatComesLate(t *testing.T) {
	for _, tc := range []struct {
		name        string
		size        int64
		first       bool
		before, end int // deadlines set by the answer, and after the body's end
	}{
		{"length", 8, true, 1, 2}, {"chunked", -1, true, 1, 2}, {"HTTP/2", 8, false, 0, 0},
	} {
		var d deadlines
		body, hurry := gateway.NewUpload(io.NopCloser(strings.NewReader("halfhalf")), tc.size, tc.first, &d)
		if _, err := io.ReadFull(body, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		hurry()
		if len(d.set) != tc.before || tc.before > 0 && d.set[0].IsZero() {
			t.Errorf("%s: with the answer %v", tc.name, d.set)
		}
		if _, err := io.ReadAll(body); err != nil {
			t.Fatal(err)
		}
		if len(d.set) < tc.end || tc.end > 0 && !d.set[len(d.set)-1].IsZero() {
			t.Errorf("%s: with the end of the body %v", tc.name, d.set)
		}
		d.set = nil
		hurry()
		if len(d.set) != 0 {
			t.Errorf("%s: a whole body is hurried: %v", tc.name, d.set)
		}
	}
}
