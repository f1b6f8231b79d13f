package client

import (
	"context"
	"net/http"

	"github.com/sallyport/sallyport/access"
)

// Explanation says what would become of a request.
type Explanation struct {
	Body
	access.Explanation
}

// Explain asks what would become of a source's request to a cluster, of the
// code that decides and of the cluster itself. The source does nothing, and
// nothing in the cluster is read.
func (c *Client) Explain(ctx context.Context, cluster access.ResourceID, q access.Question) (Explanation, error) {
	var e Explanation
	r, err := c.send(ctx, http.MethodPost, c.resolve(cluster.String()+"/providers/Sallyport.Gateway/gateways/default/explain", genericVersion), q)
	if err != nil {
		return e, err
	}
	return e, r.into(&e)
}
