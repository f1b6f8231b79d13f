package impersonate_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/tunnel"
)

// An answer whose headers would not fit the tunnel ends here, as a refusal that
// invites no repetition.
func TestAnswerWithHugeHeaders(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		r := newRig(t, http2)
		r.setAnswer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Huge", strings.Repeat("x", 2*tunnel.HeaderLimit))
		})
		var refused *tunnel.RefusedError
		if err := tunnel.Refused(r.do(t, nil).Header); !errors.As(err, &refused) || refused.Unwrap() != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
