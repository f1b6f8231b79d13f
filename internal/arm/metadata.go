package arm

import (
	"net"
	"slices"
	"strings"
)

// MetadataAuthentication is where and for what clients get tokens.
type MetadataAuthentication struct {
	LoginEndpoint    string   `json:"loginEndpoint"`
	Audiences        []string `json:"audiences"`
	Tenant           string   `json:"tenant,omitempty"`
	IdentityProvider string   `json:"identityProvider,omitempty"`
}

// MetadataFlat is the answer of api-version 2015-01-01, which az cloud register
// reads.
type MetadataFlat struct {
	GalleryEndpoint string                 `json:"galleryEndpoint"`
	GraphEndpoint   string                 `json:"graphEndpoint"`
	PortalEndpoint  string                 `json:"portalEndpoint"`
	Authentication  MetadataAuthentication `json:"authentication"`
}

// MetadataCloud is the answer of later versions, which Terraform reads, and az
// in an array (spec/identity.md 6.1).
type MetadataCloud struct {
	Portal               string                 `json:"portal"`
	Authentication       MetadataAuthentication `json:"authentication"`
	Media                string                 `json:"media"`
	GraphAudience        string                 `json:"graphAudience"`
	Graph                string                 `json:"graph"`
	Name                 string                 `json:"name"`
	Suffixes             map[string]string      `json:"suffixes"`
	Batch                string                 `json:"batch"`
	ResourceManager      string                 `json:"resourceManager"`
	VMImageAliasDoc      string                 `json:"vmImageAliasDoc"`
	ActiveDirectoryLake  string                 `json:"activeDirectoryDataLake"`
	SQLManagement        string                 `json:"sqlManagement"`
	MicrosoftGraph       string                 `json:"microsoftGraphResourceId"`
	AppInsights          string                 `json:"appInsightsResourceId"`
	AppInsightsTelemetry string                 `json:"appInsightsTelemetryChannelResourceId"`
	Attestation          string                 `json:"attestationResourceId"`
	SynapseAnalytics     string                 `json:"synapseAnalyticsResourceId"`
	LogAnalytics         string                 `json:"logAnalyticsResourceId"`
	OSSRDBMS             string                 `json:"ossrdbmsResourceId"`
	Gallery              string                 `json:"gallery"`
}

// IsAzureHost reports whether a client asked for the public cloud's resource
// manager by its own name.
func IsAzureHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return slices.Contains([]string{"management.azure.com", "management.core.windows.net"}, strings.ToLower(host))
}

// NewMetadata is the answer of GET /metadata/endpoints in a version: one
// object, in 2019-05-01 an array of it, in 2015-01-01 a flat one. Its
// addresses are of host, the request's. Those of services that nobody here has
// are the public cloud's.
func NewMetadata(host, version string) any {
	own := "https://" + host
	login, graph, microsoftGraph := own, own+"/graph/", own+"/graph/"
	cloud := MetadataCloud{
		Name: "Sallyport", Portal: own, ResourceManager: own,
		Media: "https://rest.media.azure.net", Batch: "https://batch.core.windows.net/",
		VMImageAliasDoc:     "https://raw.githubusercontent.com/Azure/azure-rest-api-specs/master/arm-compute/quickstart-templates/aliases.json",
		ActiveDirectoryLake: "https://datalake.azure.net/", SQLManagement: "https://management.core.windows.net:8443/",
		AppInsights: "https://api.applicationinsights.io", AppInsightsTelemetry: "https://dc.applicationinsights.azure.com/v2/track",
		Attestation: "https://attest.azure.net", SynapseAnalytics: "https://dev.azuresynapse.net",
		LogAnalytics: "https://api.loganalytics.io", OSSRDBMS: "https://ossrdbms-aad.database.windows.net", Gallery: "https://gallery.azure.com/",
		Suffixes: map[string]string{
			"storage": "core.windows.net", "keyVaultDns": "vault.azure.net", "mhsmDns": "managedhsm.azure.net",
			"sqlServerHostname": "database.windows.net", "acrLoginServer": "azurecr.io",
			"azureDataLakeStoreFileSystem": "azuredatalakestore.net", "azureDataLakeAnalyticsCatalogAndJob": "azuredatalakeanalytics.net",
			"storageSyncEndpointSuffix": "afs.azure.net", "azureFrontDoorEndpointSuffix": "azurefd.net",
			"mysqlServerEndpoint": "mysql.database.azure.com", "postgresqlServerEndpoint": "postgres.database.azure.com",
			"mariadbServerEndpoint": "mariadb.database.azure.com", "synapseAnalytics": "dev.azuresynapse.net", "attestationEndpoint": "attest.azure.net",
		},
	}
	if IsAzureHost(host) {
		login, graph, microsoftGraph = "https://login.microsoftonline.com", "https://graph.windows.net/", "https://graph.microsoft.com/"
		cloud.Name, cloud.Portal, cloud.ResourceManager = "AzureCloud", "https://portal.azure.com", "https://management.azure.com/"
	}
	authentication := MetadataAuthentication{LoginEndpoint: login, Audiences: []string{"https://management.core.windows.net/", "https://management.azure.com/"}}
	if version == "2015-01-01" {
		return MetadataFlat{GalleryEndpoint: cloud.Gallery, GraphEndpoint: graph, PortalEndpoint: cloud.Portal, Authentication: authentication}
	}
	authentication.Tenant, authentication.IdentityProvider = "common", "AAD"
	cloud.Authentication, cloud.Graph, cloud.GraphAudience, cloud.MicrosoftGraph = authentication, graph, graph, microsoftGraph
	if version == "2019-05-01" {
		return []MetadataCloud{cloud}
	}
	return cloud
}
