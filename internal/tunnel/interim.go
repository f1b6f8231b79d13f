package tunnel

import (
	"context"
	"fmt"
	"net/http/httptrace"
	"net/textproto"

	"github.com/sallyport/sallyport/access"
)

// maxInterim is how many interim answers (1xx) a request may get; net/http sets
// no limit once somebody looks at them, as its reverse proxy does.
const maxInterim = 5

// BoundInterim returns the context for a request whose other end must not keep
// it with interim answers for ever. It has to be set before the reverse proxy
// sets its own trace: the hook of the outermost decides.
func BoundInterim(ctx context.Context) context.Context {
	n := 0
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			if n++; n > maxInterim {
				return fmt.Errorf("more than %d interim answers: %w", maxInterim, access.ErrUnavailable)
			}
			return nil
		},
	})
}
