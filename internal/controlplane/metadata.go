package controlplane

import (
	"context"
	"net/http"

	"github.com/sallyport/sallyport/internal/arm"
)

// metadataAuthentication is where and for what clients get tokens.
type metadataAuthentication struct {
	LoginEndpoint    string   `json:"loginEndpoint"`
	Audiences        []string `json:"audiences"`
	Tenant           string   `json:"tenant,omitempty"`
	IdentityProvider string   `json:"identityProvider,omitempty"`
}

// metadataFlat is the answer of 2015-01-01, which az cloud register reads.
type metadataFlat struct {
	GalleryEndpoint string                 `json:"galleryEndpoint"`
	GraphEndpoint   string                 `json:"graphEndpoint"`
	PortalEndpoint  string                 `json:"portalEndpoint"`
	Authentication  metadataAuthentication `json:"authentication"`
}

// metadataCloud is the answer of later versions, which Terraform reads.
type metadataCloud struct {
	Name                 string                 `json:"name"`
	Portal               string                 `json:"portal"`
	ResourceManager      string                 `json:"resourceManager"`
	Authentication       metadataAuthentication `json:"authentication"`
	Graph                string                 `json:"graph"`
	GraphAudience        string                 `json:"graphAudience"`
	MicrosoftGraph       string                 `json:"microsoftGraphResourceId"`
	ActiveDirectoryLake  string                 `json:"activeDirectoryDataLake"`
	LogAnalyticsResource string                 `json:"logAnalyticsResourceId"`
	Suffixes             map[string]string      `json:"suffixes"`
}

// getMetadata tells a client that was given this host's name where the rest
// is: here. No sign-in is needed (spec/identity.md 6.1). Hosts of services
// that we do not have are those of the public cloud.
func (c *ControlPlane) getMetadata(_ context.Context, q *request) (reply, error) {
	version, err := arm.CheckAPIVersion(q.http.URL.Query(), "", "metadata/endpoints", "")
	if err != nil {
		return reply{}, err
	}
	const graph = "https://graph.microsoft.com/"
	host := "https://" + q.http.Host
	authentication := metadataAuthentication{LoginEndpoint: host, Audiences: []string{"https://management.core.windows.net/", "https://management.azure.com/"}}
	if version == "2015-01-01" {
		return reply{status: http.StatusOK, body: metadataFlat{GraphEndpoint: graph, PortalEndpoint: host, Authentication: authentication}}, nil
	}
	authentication.Tenant, authentication.IdentityProvider = "common", "AAD"
	cloud := metadataCloud{
		Name: "Sallyport", Portal: host, ResourceManager: host, Authentication: authentication,
		Graph: graph, GraphAudience: graph, MicrosoftGraph: graph,
		ActiveDirectoryLake: "https://datalake.azure.net/", LogAnalyticsResource: "https://api.loganalytics.io",
		Suffixes: map[string]string{
			"storage": "core.windows.net", "keyVaultDns": "vault.azure.net", "mhsmDns": "managedhsm.azure.net",
			"sqlServerHostname": "database.windows.net", "acrLoginServer": "azurecr.io",
			"azureDataLakeStoreFileSystem": "azuredatalakestore.net", "azureDataLakeAnalyticsCatalogAndJob": "azuredatalakeanalytics.net",
			"storageSyncEndpointSuffix": "afs.azure.net", "azureFrontDoorEndpointSuffix": "azurefd.net",
		},
	}
	if version == "2019-05-01" {
		return reply{status: http.StatusOK, body: []metadataCloud{cloud}}, nil
	}
	return reply{status: http.StatusOK, body: cloud}, nil
}

// provider is a resource provider's registration (spec/identity.md 6.8).
type provider struct {
	ID                 string   `json:"id"`
	Namespace          string   `json:"namespace"`
	RegistrationPolicy string   `json:"registrationPolicy"`
	RegistrationState  string   `json:"registrationState"`
	ResourceTypes      []string `json:"resourceTypes"`
}

// getProvider answers that any provider is registered: there is nothing to
// register, and clients ask before they go on. Registering is the same answer.
func (c *ControlPlane) getProvider(_ context.Context, q *request) (reply, error) {
	if isWrite(q.http.Method) {
		if err := q.allow(nil); err != nil {
			return reply{}, err
		}
	}
	namespace := q.vars["namespace"]
	return reply{status: http.StatusOK, body: provider{
		ID:        q.subscription.Value.ID.String() + "/providers/" + namespace,
		Namespace: namespace, RegistrationPolicy: "RegistrationRequired", RegistrationState: "Registered", ResourceTypes: []string{},
	}}, nil
}
