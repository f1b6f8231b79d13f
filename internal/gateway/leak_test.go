package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/gateway"
)

// TestItem33AbortedRequestsLeaveNothing breaks off ten thousand requests in five
// ways, through the gateway, a real tunnel and the agent's proxy, and counts
// goroutines and file descriptors.
func TestItem33AbortedRequestsLeaveNothing(t *testing.T) {
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case strings.HasSuffix(req.URL.Path, "/exec"):
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nhello")
			io.Copy(io.Discard, conn)
		case req.Method == http.MethodPost:
			io.Copy(io.Discard, req.Body)
		case req.URL.RawQuery == "":
			io.WriteString(w, "{}")
		default:
			if req.URL.Query().Get("watch") != "" {
				io.WriteString(w, "event")
				http.NewResponseController(w).Flush()
			}
			<-req.Context().Done()
		}
	}))
	api.EnableHTTP2 = true
	api.StartTLS()
	defer api.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	check(t, gone.Close())
	r := clusters(t, gateway.Limits{}, gateway.Limits{}, map[string]http.Handler{
		"c1":   proxyTo(t, api.Listener.Addr().String(), trusting(api)),
		"dead": proxyTo(t, gone.Addr().String(), trusting(api)),
	})
	r.quiet = true
	s, plain := r.serve(t, true), r.serve(t, false)
	ask := func(ctx context.Context, method, clusterName, path string, body io.Reader) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, method, s.URL+strings.TrimSuffix(base, "c1")+clusterName+path, body)
		check(t, err)
		req.Header.Set("Authorization", "Bearer b")
		return s.Client().Do(req)
	}
	abort := map[string]func(){
		"before the answer": func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if resp, err := ask(ctx, "GET", "c1", "/api/v1/pods?limit=1", nil); err == nil {
				resp.Body.Close()
			}
		},
		"in the answer": func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if resp, err := ask(ctx, "GET", "c1", "/api/v1/pods?watch=1", nil); err != nil {
				t.Error(err)
			} else if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
				t.Error(err)
			}
		},
		"in the request": func() {
			ctx, cancel := context.WithCancel(t.Context())
			body, w := io.Pipe()
			go func() { io.WriteString(w, "half"); cancel() }()
			if resp, err := ask(ctx, "POST", "c1", "/api/v1/pods", body); err == nil {
				resp.Body.Close()
			}
			w.Close()
		},
		"no API server": func() {
			resp, err := ask(t.Context(), "GET", "dead", "/api/v1/pods", nil)
			check(t, err)
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("no API server: %d", resp.StatusCode)
			}
		},
		"exec": func() {
			conn, err := net.Dial("tcp", plain.Listener.Addr().String())
			check(t, err)
			conn.SetDeadline(time.Now().Add(limit))
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer b\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", base+execPath)
			if n, err := io.ReadFull(conn, make([]byte, len("HTTP/1.1 101"))); err != nil {
				t.Error(n, err)
			}
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		},
	}
	kinds := map[string]int64{"before the answer": 4000, "in the answer": 4000, "in the request": 1000, "no API server": 800, "exec": 200}
	// What stays open by right is open before the count.
	for kind := range kinds {
		abort[kind]()
	}
	idle := func() {
		s.Client().CloseIdleConnections()
		if resp, err := ask(t.Context(), "GET", "c1", "/api/v1/pods", nil); err == nil {
			resp.Body.Close()
		}
	}
	idle()
	beforeG, beforeF := atRest(t, r)
	for kind, n := range kinds {
		var next atomic.Int64
		var workers sync.WaitGroup
		for range 20 {
			workers.Go(func() {
				for next.Add(1) <= n && !t.Failed() {
					abort[kind]()
				}
			})
		}
		workers.Wait()
	}
	idle()
	afterG, afterF := atRest(t, r)
	t.Logf("goroutines: %d before, %d after; file descriptors: %d before, %d after", beforeG, afterG, beforeF, afterF)
	if afterG > beforeG || afterF > beforeF {
		buf := make([]byte, 1<<20)
		t.Errorf("left behind: %d goroutines, %d files\n%s", afterG-beforeG, afterF-beforeF, buf[:runtime.Stack(buf, true)])
	}
}

// atRest waits until no request is live and nothing ends any more, and counts
// goroutines and open files.
func atRest(t testing.TB, r *rig) (goroutines, files int) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	same := 0
	for end := time.Now().Add(limit); same < 25; <-tick.C {
		g, f := runtime.NumGoroutine(), openFiles(t)
		if same++; g != goroutines || f != files || len(r.live.UIDs()) != 0 {
			goroutines, files, same = g, f, 0
		}
		if time.Now().After(end) {
			t.Fatalf("no rest: %d goroutines, %d files, live %v", g, f, r.live.UIDs())
		}
	}
	return goroutines, files
}

// openFiles is how many file descriptors this process has; 0 where it cannot be
// told.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}
