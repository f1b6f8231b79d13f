package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// What the tests reach for beside [Run].
const (
	MaxSilence = maxSilence
	MinBackoff = minBackoff
	MaxBackoff = maxBackoff
)

// Known is the proxy's knowledge of the cluster's bindings.
type Known struct{ *known }

// NewKnown returns knowledge that cuts in live and reads the clock now.
func NewKnown(live *tunnel.Live, now func() time.Time) Known { return Known{newKnown(live, now)} }

// Update takes the whole desired state.
func (k Known) Update(d access.Desired) { k.update(d) }

// Check holds a claim against what is known.
func (k Known) Check(c tunnel.Claim) error { return k.check(c) }

// Retry is retry.
func Retry(ctx context.Context, log *slog.Logger, what string, f func(context.Context) error) error {
	return retry(ctx, log, what, f)
}

// Mailbox is a mailbox of integers.
type Mailbox struct{ *mailbox[int] }

// NewMailbox returns an empty one.
func NewMailbox() Mailbox { return Mailbox{newMailbox[int]()} }

// Put puts a value in.
func (m Mailbox) Put(v int) { m.put(v) }

// Take waits for a value.
func (m Mailbox) Take(ctx context.Context) (int, error) { return m.take(ctx) }

// Poll takes a value if there is one.
func (m Mailbox) Poll() (int, bool) { return m.poll() }

// IssuerOf reads the issuer from a discovery document.
func IssuerOf(document []byte) (string, error) { return issuerOf(document) }

// TokenOf returns a function that reads a directory's API token through the cache.
func TokenOf(dir string) func() (string, error) { return newTokenCache(dir).token }

// Retired reports whether an error means that the certificate was refused.
func Retired(err error) bool { return retired(err) }

// Run is run.
func (k Known) Run(ctx context.Context) error { return k.run(ctx) }
