package controlplane

import (
	"context"
	"net/http"

	"github.com/sallyport/sallyport/internal/arm"
)

// getMetadata tells a client that was given this host's name where the rest
// is: here, or for one that was led to us as the public cloud's own host, at
// that cloud's other hosts, which then lead here too. No sign-in is needed
// (spec/identity.md 6.1).
func (c *ControlPlane) getMetadata(_ context.Context, q *request) (reply, error) {
	version, err := arm.CheckAPIVersion(q.http.URL.Query(), "", "metadata/endpoints", "")
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: arm.NewMetadata(q.http.Host, version)}, nil
}
