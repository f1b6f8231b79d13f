package impersonate_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/sallyport/sallyport/internal/tunnel"
)

// Which headers pass follows from the agent's own reading of the path: an
// application's both ways, and the identity is still the agent's alone.
func TestApplicationHeaders(t *testing.T) {
	const app = "/api/v1/namespaces/d/pods/p/proxy/score"
	for path, passes := range map[string]bool{app: true, "/api/v1/nodes/n/proxy/metrics": false} {
		r := newRig(t, true)
		r.setAnswer(func(w http.ResponseWriter, _ *http.Request) {
			for name, value := range map[string]string{"X-Model": "blue", "Set-Cookie": "a=b", "Sallyport-Upgraded": "websocket", "Content-Type": "text/html"} {
				w.Header().Set(name, value)
			}
			io.WriteString(w, "<a>")
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		})
		resp := r.do(t, func(req *http.Request) {
			req.URL.Path = path
			for name := range identity() {
				req.Header.Set(name, "evil")
			}
			for _, name := range []string{"X-Api-Key", "X-Remote-User", "X-Forwarded-For", "Impersonate-Uid"} {
				req.Header.Set(name, "x")
			}
		})
		io.ReadAll(resp.Body)
		got := r.requests()[0]
		if (got.Header.Get("X-Api-Key") != "") != passes || (resp.Header.Get("X-Model") != "") != passes || (resp.Trailer.Get("Grpc-Status") != "") != passes {
			t.Errorf("%s: sent %v, got %v, trailers %v", path, got.Header, resp.Header, resp.Trailer)
		}
		got.Header.Del("X-Api-Key")
		checkIdentity(t, path, got)
		if resp.Header.Get("Set-Cookie") != "" || resp.Header.Get(tunnel.HeaderUpgraded) != "" {
			t.Errorf("%s: got %v", path, resp.Header)
		}
	}
}
