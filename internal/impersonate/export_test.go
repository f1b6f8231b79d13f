package impersonate

import (
	"net/http"

	"github.com/sallyport/sallyport/internal/tunnel"
)

// NewRoundTripper returns the last step before the API server, with next in
// the API server's place.
func NewRoundTripper(next http.RoundTripper, token func() (string, error)) http.RoundTripper {
	return roundTripper{next: next, token: token, headers: tunnel.NewAllowList()}
}
