package tunnel

import (
	"context"
	"net"
)

// Connect opens one TLS connection to the gateway as [Dial] does, through the
// proxy if there is one, and leaves its use to the caller. Of cfg it needs
// Address and TLS.
func Connect(ctx context.Context, cfg DialConfig) (net.Conn, error) {
	host, _, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return nil, err
	}
	return (&dialer{cfg: cfg, host: host}).connect(ctx)
}
