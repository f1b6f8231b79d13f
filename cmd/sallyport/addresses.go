package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/addresses"
)

// serviceTagsEvery is how often the service-tag file is looked at; it is read
// only when it has changed.
const serviceTagsEvery = 5 * time.Second

// addressRules is what the flags about source addresses come to.
type addressRules struct {
	proxies addresses.TrustedProxies
	from    func(netip.Addr) bool // --allow-from; nil without it
}

func openServiceTags(cfg serverConfig) (*addresses.Tags, error) {
	if cfg.ServiceTags == "" {
		return &addresses.Tags{}, nil
	}
	tags, err := addresses.OpenServiceTags(cfg.ServiceTags)
	if err != nil {
		return nil, fmt.Errorf("--service-tags: %w", err)
	}
	return tags, nil
}

func newAddressRules(cfg serverConfig, tags *addresses.Tags) (r addressRules, err error) {
	if len(cfg.AllowFrom) > 0 {
		allowed, err := tags.Set(cfg.AllowFrom)
		if err != nil {
			return r, fmt.Errorf("--allow-from: %w", err)
		}
		r.from = allowed.Contains
	}
	if r.proxies.Set, err = tags.Set(cfg.TrustedProxies); err != nil {
		return r, fmt.Errorf("--trusted-proxies: %w", err)
	}
	if cfg.ProxyProtocol && len(cfg.TrustedProxies) == 0 {
		return r, fmt.Errorf("--proxy-protocol needs --trusted-proxies: it says whose PROXY headers are believed: %w", access.ErrInvalid)
	}
	return r, nil
}

// remote is a caller's address for logs and records, and to count failed
// sign-ins by. It decides nothing else, so of
// a request whose address is in doubt it tells the last one that is known.
func (r addressRules) remote(req *http.Request) string {
	from, _ := r.proxies.Client(req)
	return from.String()
}
