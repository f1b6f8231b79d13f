package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/gateway"
)

// A client of HTTP/1.1 that stops in the middle of its request's body is
// answered all the same, and its connection ends, though nobody reads the body.
func TestBodyThatDoesNotCome(t *testing.T) {
	for token, want := range map[string]int{"good": 200, "bad": 401} {
		r := newRig(t)
		s := r.serve(t, false)
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		check(t, err)
		defer conn.Close()
		if got := halfPost(t, conn, token); got.StatusCode != want || !got.Close {
			t.Errorf("%s: %v", token, got)
		}
	}
}

// halfPost sends a request with half of its body over HTTP/1.1, and returns the
// whole answer.
func halfPost(t testing.TB, conn net.Conn, token string) *http.Response {
	t.Helper()
	conn.SetDeadline(time.Now().Add(limit))
	fmt.Fprintf(conn, "POST %s/api/v1/namespaces/d/pods HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\nContent-Length: 8\r\n\r\nhalf", base, token)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	check(t, err)
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return resp
}

// A cluster's answer that comes before the request's body has ended reaches the
// client, whatever HTTP they speak; the request ends with it, and so does all
// that read the body.
func TestAnswerBeforeTheBody(t *testing.T) {
	const answer = `{"kind":"Status","code":504}`
	second := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		io.ReadFull(req.Body, make([]byte, 4))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusGatewayTimeout)
		io.WriteString(w, answer)
	}))
	second.EnableHTTP2 = true
	second.StartTLS()
	defer second.Close()
	first := answersHalf(t, second.TLS, answer)
	for upstream, address := range map[string]string{"HTTP/1.1": first, "HTTP/2": second.Listener.Addr().String()} {
		for _, protocol := range []string{"http/1.1", "h2"} {
			t.Run(protocol+" to "+upstream, func(t *testing.T) {
				r := newRig(t)
				stop := r.connect(t, proxyTo(t, address, trusting(second)))
				s := r.serve(t, true)
				var resp *http.Response
				if protocol == "h2" {
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					body, write := io.Pipe()
					defer write.Close()
					go write.Write([]byte("half"))
					req, _ := http.NewRequestWithContext(ctx, "POST", s.URL+base+"/api/v1/namespaces/d/pods", body)
					req.Header.Set("Authorization", "Bearer good")
					req.ContentLength = 8
					var err error
					resp, err = s.Client().Do(req)
					check(t, err)
					defer resp.Body.Close()
				} else {
					conn, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{RootCAs: trusting(s).RootCAs, ServerName: "example.com", NextProtos: []string{protocol}})
					check(t, err)
					defer conn.Close()
					resp = halfPost(t, conn, "good")
					if rest, err := io.ReadAll(conn); len(rest) > 0 || err != nil {
						t.Errorf("the connection does not end: %q, %v", rest, err)
					}
				}
				if body, err := io.ReadAll(resp.Body); resp.StatusCode != 504 || string(body) != answer || resp.Close != (protocol != "h2") {
					t.Errorf("%v, %q, %v", resp, body, err)
				}
				stop() // waits for the requests under way
				records := r.audited()
				if last := records[len(records)-1]; last.Stage != audit.Complete || last.Status != 504 || last.Reason != "" {
					t.Errorf("recorded %+v", last)
				}
			})
		}
	}
}

// answersHalf is a server of HTTP/1.1 that answers 504 when it has half a body,
// which net/http does not.
func answersHalf(t testing.TB, config *tls.Config, answer string) (address string) {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	check(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(limit))
				lines := bufio.NewReader(conn)
				req, err := http.ReadRequest(lines)
				if err != nil {
					return
				}
				io.ReadFull(req.Body, make([]byte, 4))
				fmt.Fprintf(conn, "HTTP/1.1 504 Gateway Timeout\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(answer), answer)
				io.Copy(io.Discard, conn) // until the other end leaves
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().String()
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

// An answer ends the connection if the body is being read and has not ended,
// and waits for a body that nobody began to read; neither without a limit.
func TestBodyThatIsLate(t *testing.T) {
	for _, tc := range []struct {
		name        string
		size        int64
		first       bool
		read        int
		closes      bool
		before, end int // deadlines set with the answer, and by its end
	}{
		{"HTTP/2", 8, false, 4, false, 0, 0},
		{"half, by length", 8, true, 4, true, 0, 2},
		{"half, chunked", -1, true, 4, true, 0, 2},
		{"whole, by length", 8, true, 8, false, 0, 0},
		{"whole, chunked", -1, true, 9, false, 0, 0},
		{"not read", 8, true, 0, false, 1, 1},
	} {
		var d deadlines
		body, answered, end := gateway.NewUpload(io.NopCloser(strings.NewReader("halfhalf")), tc.size, tc.first, &d)
		if tc.read > 0 {
			io.ReadFull(body, make([]byte, tc.read))
		}
		h := http.Header{}
		answered(h)
		if closes := h.Get("Connection") == "close"; closes != tc.closes || len(d.set) != tc.before {
			t.Errorf("%s: with the answer %v, deadlines %v", tc.name, h, d.set)
		}
		if n, err := body.Read(make([]byte, 1)); !tc.first || tc.read > 0 {
			// An application may answer while it reads.
		} else if n != 0 || err == nil {
			t.Errorf("%s: read beside net/http", tc.name)
		}
		end()
		if len(d.set) != tc.end || tc.end > 0 && !d.set[tc.end-1].After(time.Now()) {
			t.Errorf("%s: in the end deadlines %v", tc.name, d.set)
		}
		if n, _ := body.Read(make([]byte, 1)); tc.closes && n != 0 {
			t.Errorf("%s: read behind the end", tc.name)
		}
	}
}
