package authenticate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// Entra returns the two issuers of one tenant of Microsoft Entra ID, v1 and
// v2 (spec/identity.md 1.1). Which of them signs is the resource's setting;
// ARM and Trusted Access use v1. A nil client is the default one.
func Entra(tenantID string, client *http.Client) []Issuer {
	tenantID = strings.ToLower(tenantID)
	login := "https://login.microsoftonline.com/" + tenantID
	issuers := []Issuer{
		{Issuer: "https://sts.windows.net/" + tenantID + "/", TenantID: tenantID, Version: "1.0"},
		{Issuer: login + "/v2.0", TenantID: tenantID, Version: "2.0"},
	}
	issuers[0].Fetch = FetchURL(client, login+"/.well-known/openid-configuration", issuers[0])
	issuers[1].Fetch = FetchURL(client, login+"/v2.0/.well-known/openid-configuration", issuers[1])
	return issuers
}

// FetchURL returns an [Issuer.Fetch] that reads the issuer's discovery
// document and then the JWKS it names. It uses https only, follows redirects
// only within one host, and reads at most 1 MiB of each; the time limit is the
// caller's. The document's own issuer must be issuer.Issuer, written out or
// with Entra's {tenantid} for the tenant. A nil client is the default one.
func FetchURL(client *http.Client, discoveryURL string, issuer Issuer) func(ctx context.Context) ([]byte, error) {
	if client == nil {
		client = http.DefaultClient
	}
	strict := *client
	strict.CheckRedirect = sameHost
	strict.Jar = nil
	return func(ctx context.Context) ([]byte, error) {
		raw, err := get(ctx, &strict, discoveryURL)
		if err != nil {
			return nil, err
		}
		var doc struct {
			Issuer  string `json:"issuer"`
			JWKSURI string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(raw, &doc); err != nil {
			return nil, fmt.Errorf("discovery document %s is not JSON: %w", discoveryURL, err)
		}
		if fillTenant(doc.Issuer, issuer.TenantID) != issuer.Issuer {
			return nil, fmt.Errorf("discovery document %s is of issuer %q, expected %q", discoveryURL, access.Clip(doc.Issuer, maxQuoted), issuer.Issuer)
		}
		return get(ctx, &strict, doc.JWKSURI)
	}
}

// sameHost is an http.Client.CheckRedirect.
func sameHost(r *http.Request, via []*http.Request) error {
	switch {
	case r.URL.Scheme != "https" || r.URL.Host != via[0].URL.Host:
		return fmt.Errorf("redirected to %s://%s, which is not followed", r.URL.Scheme, r.URL.Host)
	case len(via) >= 3:
		return errors.New("redirected more than 3 times")
	}
	return nil
}

func get(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("address %q must be an https URL", access.Clip(address, maxQuoted))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is lost when closing a body that was read
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", address, resp.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxJWKS+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", address, err)
	}
	if len(raw) > maxJWKS {
		return nil, fmt.Errorf("%s answered more than %d bytes", address, maxJWKS)
	}
	return raw, nil
}
