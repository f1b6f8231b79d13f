package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// 64 KiB of headers, and an address of almost 32 KiB beside them, pass a real
// tunnel in either direction. More is refused by the end that first has it, and
// a neighbour's stream on the same tunnel goes on.
func TestLargeHeaders(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	r.connect(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		if strings.HasSuffix(req.URL.Path, "/neighbour") { // the neighbour
			http.NewResponseController(w).Flush()
			select {
			case <-release:
				io.WriteString(w, "still here")
			case <-req.Context().Done():
			}
			return
		}
		total := 0
		for name, values := range req.Header {
			if strings.HasPrefix(name, "X-") {
				total += len(values[0])
			}
		}
		if strings.HasSuffix(req.URL.Path, "/large") {
			w.Header().Set("X-Answer", strings.Repeat("a", 64<<10))
		}
		fmt.Fprint(w, total)
	}))
	for name, secure := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		s := r.serve(t, secure)
		send := func(path string, fields, size int) *http.Response {
			req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+base+appPath+path, nil)
			check(t, err)
			req.Header.Set("Authorization", "Bearer good")
			for i := range fields {
				req.Header.Set(fmt.Sprintf("X-%d", i), strings.Repeat("v", size/fields))
			}
			resp, err := s.Client().Do(req)
			check(t, err)
			return resp
		}
		neighbour := send("neighbour", 0, 0)
		for _, tc := range []struct {
			path         string
			fields, size int
			status       int
		}{
			{"x", 1, 64 << 10, 200}, {"x", 256, 64 << 10, 200}, {"large", 8, 64 << 10, 200}, {"x?" + strings.Repeat("q", 31<<10), 64, 64 << 10, 200},
			{"x", 1, 81 << 10, 431}, {"x", 200, 100 << 10, 431}, {"x", 3000, 3000, 431},
		} {
			resp := send(tc.path, tc.fields, tc.size)
			if tc.status == 431 {
				if err := status(t, resp); resp.StatusCode != 431 || err.ErrStatus.Reason != "RequestHeaderFieldsTooLarge" {
					t.Errorf("%s: %d fields of %d bytes: %d %v", name, tc.fields, tc.size, resp.StatusCode, err)
				}
				continue
			}
			text, err := io.ReadAll(resp.Body)
			check(t, err)
			resp.Body.Close()
			if resp.StatusCode != tc.status || string(text) != fmt.Sprint(tc.size) || tc.path == "large" && len(resp.Header.Get("X-Answer")) != 64<<10 {
				t.Errorf("%s: %d fields of %d bytes: %d %s", name, tc.fields, tc.size, resp.StatusCode, text)
			}
		}
		letGo(t, release)
		if text, err := io.ReadAll(neighbour.Body); err != nil || string(text) != "still here" {
			t.Errorf("%s: the neighbour got %q, %v", name, text, err)
		}
		neighbour.Body.Close()
	}
}

// letGo lets one waiter go on.
func letGo(t *testing.T, release chan<- struct{}) {
	t.Helper()
	select {
	case release <- struct{}{}:
	case <-time.After(limit):
		t.Fatal("the neighbour's stream is gone")
	}
}
