package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/gateway"
)

// 64 KiB of headers, and an address of almost 32 KiB beside them, pass a real
// tunnel in either direction. More is refused by the end that first has it, and
// a neighbour's stream on the same tunnel goes on.
func TestItem30LargeHeaders(t *testing.T) {
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

// limited is a rig of two clusters and any number of bindings: a caller's token
// names its binding.
func limited(t testing.TB, binding, cluster gateway.Limits, now func() time.Time) *rig {
	t.Helper()
	r := newRigWith(t, func(cfg *gateway.Config) {
		cfg.BindingLimits, cfg.ClusterLimits, cfg.Now = binding, cluster, now
	})
	r.authenticate = func(token string) (access.Principal, error) {
		return access.Principal{TenantID: "tenant", ObjectID: token, Resource: id(t, source), Expires: time.Now().Add(time.Hour)}, nil
	}
	r.grant = func(p access.Principal, c access.ResourceID) (access.Grant, error) {
		return access.Grant{Cluster: c, ClusterUID: c.Name(), Binding: p.ObjectID, BindingUID: c.Name() + "/" + p.ObjectID, Source: p.Resource}, nil
	}
	return r
}

// as is a GET by a binding in a cluster.
func as(binding, clusterName, path string) *http.Request {
	r := get(path)
	r.URL.Path = strings.Replace(r.URL.Path, base, strings.TrimSuffix(base, "c1")+clusterName, 1)
	r.RequestURI = r.URL.RequestURI()
	r.Header.Set("Authorization", "Bearer "+binding)
	return r
}

// TestItem38TooMany: what is beyond a limit of requests or of streams is told
// when to come back, reaches nobody, is recorded and counted; whom the limit is
// not about is served.
func TestItem38TooMany(t *testing.T) {
	for _, tc := range []struct {
		limit            string
		binding, cluster gateway.Limits
		over             [2]string   // binding and cluster of the request that is too much
		served           [][2]string // and of some that are not
		retry            int
	}{
		{"binding_requests", gateway.Limits{Requests: 2}, gateway.Limits{}, [2]string{"noisy", "c1"}, [][2]string{{"quiet", "c1"}, {"noisy", "c2"}}, 1},
		{"cluster_requests", gateway.Limits{}, gateway.Limits{Requests: 2}, [2]string{"quiet", "c1"}, [][2]string{{"quiet", "c2"}, {"noisy", "c2"}}, 1},
		{"binding_streams", gateway.Limits{Streams: 4}, gateway.Limits{}, [2]string{"noisy", "c1"}, [][2]string{{"quiet", "c1"}, {"noisy", "c2"}}, 5},
		{"cluster_streams", gateway.Limits{}, gateway.Limits{Streams: 4}, [2]string{"quiet", "c1"}, [][2]string{{"quiet", "c2"}, {"noisy", "c2"}}, 5},
	} {
		t.Run(tc.limit, func(t *testing.T) {
			now := time.Unix(1_800_000_000, 0)
			r := limited(t, tc.binding, tc.cluster, func() time.Time { return now })
			r.authenticate = func(token string) (access.Principal, error) {
				return access.Principal{TenantID: "tenant", ObjectID: token, Resource: id(t, source), Expires: time.Now().Add(time.Hour)}, nil
			}
			// Four watches are the limit, in either sense.
			streams := strings.HasSuffix(tc.limit, "streams")
			begun, end := make(chan struct{}), make(chan struct{})
			r.answer = func(*http.Request) (*http.Response, error) {
				if streams {
					begun <- struct{}{}
					<-end
				}
				return answer(200, nil, "{}"), nil
			}
			var watches sync.WaitGroup
			watch := func() {
				watches.Go(func() {
					if resp := r.do(as("noisy", "c1", "/api/v1/pods?watch=1")); resp.StatusCode != 200 {
						t.Errorf("within the limit: %d", resp.StatusCode)
					}
				})
			}
			for range 4 {
				if watch(); streams {
					receive(t, begun, "a watch")
				} else {
					watches.Wait()
				}
			}
			forwarded := len(r.requests())

			over := make(chan *http.Response, 1)
			go func() { over <- r.do(as(tc.over[0], tc.over[1], "/api/v1/pods")) }()
			resp := receive(t, over, "the answer to one too many, which is not to be forwarded")
			err := status(t, resp)
			seconds, ok := apierrors.SuggestsClientDelay(err)
			if resp.StatusCode != http.StatusTooManyRequests || !apierrors.IsTooManyRequests(err) || !ok || seconds != tc.retry || resp.Header.Get("Retry-After") != fmt.Sprint(tc.retry) {
				t.Errorf("%d, Retry-After %q, %d s, %v", resp.StatusCode, resp.Header.Get("Retry-After"), seconds, err)
			}
			if n := len(r.requests()); n != forwarded {
				t.Errorf("%d requests forwarded", n-forwarded)
			}
			records := r.audited()
			if rec := records[len(records)-1]; rec.Stage != audit.Decision || *rec.Allowed || !strings.Contains(rec.Reason, "limit") && !strings.Contains(rec.Reason, "a second") || rec.BindingUID == "" {
				t.Errorf("record %+v", rec)
			}
			if a, b := r.value(t, "sallyport_gateway_throttled_total", "limit="+tc.limit), r.value(t, "sallyport_gateway_refusals_total", "step=limit", "reason="+tc.limit); a != 1 || b != 1 {
				t.Errorf("counted %v and %v", a, b)
			}

			// A neighbour; and the same one, when it has waited or its streams have ended.
			neighbours := tc.served
			if streams {
				for range 4 {
					end <- struct{}{}
				}
				watches.Wait()
			} else {
				now = now.Add(time.Second)
			}
			neighbours = append(neighbours, tc.over)
			for _, n := range neighbours {
				answered := make(chan int, 1)
				go func() { answered <- r.do(as(n[0], n[1], "/api/v1/pods")).StatusCode }()
				if streams {
					receive(t, begun, "the request of "+n[0])
					end <- struct{}{}
				}
				if code := receive(t, answered, "an answer"); code != 200 {
					t.Errorf("%s in %s: %d", n[0], n[1], code)
				}
			}
		})
	}
}

// TestItem38RefusedTakesNothing: what a binding is refused costs
// its cluster no request, and what a cluster refuses costs the binding none.
func TestItem38RefusedTakesNothing(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	r := limited(t, gateway.Limits{Requests: 2}, gateway.Limits{Requests: 3}, func() time.Time { return now })
	codes := func(binding string, n int) (ok int) {
		for range n {
			if r.do(as(binding, "c1", "/api")).StatusCode == 200 {
				ok++
			}
		}
		return ok
	}
	if a, b := codes("noisy", 100), codes("quiet", 100); a != 4 || b != 2 {
		t.Errorf("%d and %d served at first, want 4 and 2: the cluster's 6", a, b)
	}
	now = now.Add(time.Second)
	if a, b := codes("noisy", 100), codes("quiet", 100); a != 2 || b != 1 {
		t.Errorf("%d and %d served in the next second, want 2 and 1: the cluster's 3", a, b)
	}
}

// TestItem38SharesAreForgotten: limits are kept for those who use them.
func TestItem38SharesAreForgotten(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	r := limited(t, gateway.Limits{Requests: 10}, gateway.Limits{Requests: 1000}, func() time.Time { return now })
	for i := range 500 {
		r.do(as(fmt.Sprint("binding", i), "c1", "/api"))
	}
	if n := r.Shares(); n != 501 {
		t.Errorf("%d shares", n)
	}
	now = now.Add(2 * time.Minute)
	r.do(as("binding0", "c1", "/api"))
	if n := r.Shares(); n != 2 {
		t.Errorf("%d shares after a quiet time", n)
	}
}

// TestItem38Addresses: an address is bounded in size.
func TestItem38Addresses(t *testing.T) {
	for size, want := range map[int]int{32<<10 - 200: 200, 33 << 10: 400, 1 << 20: 400} {
		r := newRig(t)
		if resp := r.do(get("/api/v1/pods?x=" + strings.Repeat("a", size-len(base)))); resp.StatusCode != want {
			t.Errorf("%d bytes: %d", size, resp.StatusCode)
		}
	}
}
