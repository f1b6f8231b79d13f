package gateway

import (
	"fmt"
	"net/http"
	"net/netip"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
)

// origin finds where a request comes from, notes it in rec, and refuses those
// that may not ask from there. It comes before everything else is judged: they
// then hear the same whatever path or token they try, learn nothing but their
// own address, and cost no signature check.
func (g *Gateway) origin(r *http.Request, rec *audit.Record) (netip.Addr, error) {
	from, err := g.cfg.Address(r)
	if from.IsValid() {
		rec.Remote = from.String()
	}
	if err != nil {
		return from, err
	}
	return from, g.serves(from)
}

// serves refuses an address that nobody may ask from.
func (g *Gateway) serves(from netip.Addr) error {
	if g.cfg.From != nil && !g.cfg.From(from) {
		return fmt.Errorf("the source address %s is not among those that this gateway serves (--allow-from): %w", from, access.ErrForbidden)
	}
	return nil
}
