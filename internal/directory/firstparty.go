package directory

import "github.com/sallyport/sallyport/internal/store"

// Client ids of Microsoft's own applications (spec/identity.md, fixed
// identifiers; ARM's and Graph's are as Entra's portal shows them).
const (
	ARM            = "797f4846-ba00-4fd7-ba43-dac1f8f63013"
	Graph          = "00000003-0000-0000-c000-000000000000"
	TrustedAccess  = "839858a7-cb51-4fcf-ad2f-222fe0d2d0d0"
	AKSServer      = "6dae42f8-4368-4678-94ff-3960e28e3630"
	AzureCLI       = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
	Kubelogin      = "80faf920-1908-4b52-b5ef-a8e7bedfc67a"
	nativeRedirect = "https://login.microsoftonline.com/common/oauth2/nativeclient"
)

// FirstParty returns Microsoft's own applications as they are in a tenant. All
// take v1 tokens (spec/identity.md 1.1). With no tenant they have no object id.
func FirstParty(tenantID string) []store.Application {
	anything := []string{"user_impersonation"}
	apps := []store.Application{
		{ClientID: ARM, Name: "Windows Azure Service Management API", GroupClaims: true, Scopes: anything, IdentifierURIs: []string{
			"https://management.azure.com", "https://management.core.windows.net",
		}},
		{ClientID: Graph, Name: "Microsoft Graph", Scopes: []string{"Directory.AccessAsUser.All", "Group.ReadWrite.All", "User.ReadWrite.All"},
			IdentifierURIs: []string{"https://graph.microsoft.com"}},
		{ClientID: TrustedAccess, Name: "AKS Trusted Access"},
		{ClientID: AKSServer, Name: "Azure Kubernetes Service AAD Server", GroupClaims: true, Scopes: append(anything, "user.read")},
		{ClientID: AzureCLI, Name: "Microsoft Azure CLI", PublicClient: true, RedirectURIs: []string{"http://localhost", nativeRedirect}},
		{ClientID: Kubelogin, Name: "Azure Kubernetes Service AAD Client", PublicClient: true, RedirectURIs: []string{"http://localhost", nativeRedirect}},
	}
	for i := range apps {
		apps[i].TenantID, apps[i].ObjectID = tenantID, objectIn(tenantID, apps[i].ClientID)
	}
	return apps
}
