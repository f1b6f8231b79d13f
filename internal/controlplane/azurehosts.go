package controlplane

import (
	"context"
	"net/http"

	"github.com/sallyport/sallyport/internal/arm"
)

// azureHosts tells `sallyport run` on which of Azure's host names this server
// answers, and whom to believe there.
type azureHosts struct {
	ID         string               `json:"id"`
	Name       string               `json:"name"`
	Type       string               `json:"type"`
	Properties azureHostsProperties `json:"properties"`
}

type azureHostsProperties struct {
	Hosts         []string `json:"hosts"`
	CACertificate string   `json:"caCertificate"` // PEM
}

// getAzureHosts needs no sign-in: what it tells is in every TLS handshake too.
// A client must ask by a name of the server's own, which it has reason to trust.
func (c *ControlPlane) getAzureHosts(_ context.Context, q *request) (reply, error) {
	if _, err := arm.CheckAPIVersion(q.http.URL.Query(), "", "azureHosts", ""); err != nil {
		return reply{}, err
	}
	if len(c.cfg.AzureHosts) == 0 {
		return reply{}, arm.NoRoute(q.path)
	}
	return reply{status: http.StatusOK, body: azureHosts{
		ID: q.path.String(), Name: "default", Type: "Sallyport.Gateway/azureHosts",
		Properties: azureHostsProperties{Hosts: c.cfg.AzureHosts, CACertificate: c.cfg.AzureHostsCA},
	}}, nil
}
