package client

import "context"

// AzureHosts are the names of Azure's hosts on which the server answers.
type AzureHosts struct {
	Body
	Properties struct {
		Hosts         []string `json:"hosts"`         // in lower case
		CACertificate string   `json:"caCertificate"` // PEM; constrained to the hosts
	} `json:"properties"`
}

// AzureHosts asks for them, and for the CA by which the server proves to be
// them. The answer is as good as the connection to the server.
func (c *Client) AzureHosts(ctx context.Context) (AzureHosts, error) {
	var h AzureHosts
	return h, c.get(ctx, "/providers/Sallyport.Gateway/azureHosts/default", genericVersion, &h)
}
