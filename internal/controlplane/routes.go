package controlplane

import (
	"context"
	"net/http"

	"github.com/sallyport/sallyport/internal/arm"
)

// who may use a route.
type who int

const (
	owner    who = iota // whose role assignments allow the action at the path's scope
	listed              // who has a role at the scope, above or below; the handler shows what he may read
	signedIn            // any authenticated caller; the handler decides
	open                // the handler checks its caller itself
)

// route is one row of the table. Rows are tried in order, so the general ones
// stand last.
type route struct {
	method  string
	pattern arm.Pattern
	who     who
	serve   func(context.Context, *request) (reply, error)
}

// table is every route of the ARM API.
func (c *ControlPlane) table() []route {
	const (
		sub     = "/subscriptions/{subscription}"
		group   = sub + "/resourceGroups/{group}"
		aks     = "/providers/Microsoft.ContainerService"
		cluster = group + aks + "/managedClusters/{cluster}"
		binding = cluster + "/trustedAccessRoleBindings/{binding}"
		ours    = "/providers/Sallyport.Gateway"
		agent   = cluster + ours + "/agents/default"
		policy  = ours + "/accessPolicies/default"

		authorization   = "/providers/Microsoft.Authorization"
		managedIdentity = "/providers/Microsoft.ManagedIdentity"
		federated       = group + managedIdentity + "/userAssignedIdentities/{identity}/federatedIdentityCredentials"

		place = sub + aks + "/locations/{location}"
		arc   = group + "/providers/Microsoft.Kubernetes/connectedClusters/{connected}"

		extensions = "/providers/Microsoft.KubernetesConfiguration/extensions"
		extension  = extensions + "/{extension}"

		features      = sub + "/providers/Microsoft.Features"
		feature       = features + "/providers/{namespace}/features/{feature}"
		registrations = "/subscriptionFeatureRegistrations"
		registration  = features + "/featureProviders/{namespace}" + registrations + "/{feature}"

		get, put, patch, del, post, head = http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodPost, http.MethodHead
	)
	type row struct {
		method, path string
		who          who
		serve        func(context.Context, *request) (reply, error)
	}
	rows := []row{
		{get, "/subscriptions", signedIn, c.listSubscriptions},
		{get, sub, listed, c.getSubscription},
		{put, sub, signedIn, c.putSubscription},
		{get, "/tenants", signedIn, c.listTenants},

		{get, federated, owner, c.listFederatedCredentials},
		{get, federated + "/{credential}", owner, c.getFederatedCredential},
		{put, federated + "/{credential}", owner, c.putFederatedCredential},
		{del, federated + "/{credential}", owner, c.deleteFederatedCredential},

		{get, authorization + "/roleDefinitions", signedIn, c.listRoleDefinitions},
		{get, authorization + "/roleDefinitions/{definition}", signedIn, c.getRoleDefinition},
		{get, "/metadata/endpoints", open, c.getMetadata},
		{get, ours + "/azureHosts/default", open, c.getAzureHosts},

		{get, "/providers", signedIn, c.listProviders},
		{get, "/providers/{namespace}", signedIn, c.getProvider},
		{get, sub + "/locations", listed, c.listLocations},
		{get, sub + "/providers", listed, c.listProviders},
		{get, sub + "/providers/{namespace}", listed, c.getProvider},
		{post, sub + "/providers/{namespace}/register", owner, c.postRegister},
		{post, sub + "/providers/{namespace}/unregister", owner, c.postUnregister},

		{get, features + "/features", listed, c.listFeatures},
		{get, features + "/providers/{namespace}/features", listed, c.listFeatures},
		{get, feature, listed, c.getFeature},
		{post, feature + "/register", owner, c.postRegisterFeature},
		{post, feature + "/unregister", owner, c.postUnregisterFeature},
		{get, features + registrations, listed, c.listFeatures},
		{get, features + "/featureProviders/{namespace}" + registrations, listed, c.listFeatures},
		{get, registration, listed, c.getFeature},
		{put, registration, owner, c.postRegisterFeature},
		{del, registration, owner, c.deleteFeature},

		{get, sub + ours + "/auditRecords", owner, c.tailAuditRecords},
		{get, sub + ours + "/auditRecords/{record}", owner, c.getAuditRecord},

		{get, sub + "/resourceGroups", listed, c.listGroups},
		{get, group, owner, c.getGroup},
		{head, group, owner, c.headGroup},
		{put, group, owner, c.putGroup},
		{patch, group, owner, c.patchGroup},
		{del, group, owner, c.deleteGroup},
		{get, sub + "/operationresults/{operation}", signedIn, c.getOperationResult},

		{get, place + "/trustedAccessRoles", owner, c.listRoles},
		{get, place + "/operations/{operation}", signedIn, c.getOperation},
		{get, place + "/operationresults/{operation}", signedIn, c.getOperationResult},

		{get, sub + aks + "/managedClusters", listed, c.listClusters},
		{get, group + aks + "/managedClusters", listed, c.listClusters},
		{get, cluster, owner, c.getCluster},
		{put, cluster, owner, c.putCluster},
		{patch, cluster, owner, c.patchCluster},
		{del, cluster, owner, c.deleteCluster},
		{get, cluster + ours + "/status/default", owner, c.getClusterStatus},
		{post, cluster + "/listClusterUserCredential", owner, c.postUserCredential},
		{post, cluster + "/listClusterAdminCredential", owner, c.postAdminCredential},
		{post, cluster + "/accessProfiles/{profile}/listCredential", owner, c.postAccessProfile},
		{get, cluster + "/maintenanceConfigurations", owner, c.listMaintenance},
		{get, cluster + "/maintenanceConfigurations/{configuration}", owner, c.getMaintenance},

		{get, cluster + extensions, owner, c.listExtensions},
		{get, cluster + extension, owner, c.getExtension},
		{put, cluster + extension, owner, c.putExtension},
		{patch, cluster + extension, owner, c.patchExtension},
		{del, cluster + extension, owner, c.deleteExtension},
		{get, cluster + extension + "/operations/{operation}", owner, c.getExtensionOperation},
		{get, arc + extensions, owner, c.listExtensions},
		{get, arc + extension, owner, c.getExtension},
		{put, arc + extension, owner, c.putExtension},
		{patch, arc + extension, owner, c.patchExtension},
		{del, arc + extension, owner, c.deleteExtension},
		{get, arc + extension + "/operations/{operation}", owner, c.getExtensionOperation},

		{get, cluster + "/trustedAccessRoleBindings", owner, c.listBindings},
		{get, binding, owner, c.getBinding},
		{put, binding, owner, c.putBinding},
		{del, binding, owner, c.deleteBinding},
		{get, binding + ours + "/status/default", owner, c.getBindingStatus},

		{get, cluster + "/azureResourceRoleBindings", owner, c.listAzureBindings},
		{get, cluster + "/azureResourceRoleBindings/{binding}", owner, c.getAzureBinding},
		{put, cluster + "/azureResourceRoleBindings/{binding}", owner, c.putAzureBinding},
		{del, cluster + "/azureResourceRoleBindings/{binding}", owner, c.deleteAzureBinding},

		{get, cluster + policy, owner, c.getPolicy},
		{put, cluster + policy, owner, c.putPolicy},
		{del, cluster + policy, owner, c.deletePolicy},
		{get, binding + policy, owner, c.getPolicy},
		{put, binding + policy, owner, c.putPolicy},
		{del, binding + policy, owner, c.deletePolicy},

		{post, cluster + ours + "/gateways/default/explain", owner, c.postExplain},

		{get, agent, owner, c.getAgent},
		{post, agent + "/joinToken", owner, c.postJoinToken},
		{post, agent + "/enrol", open, c.postEnrol},
		{post, agent + "/certificate", open, c.postEnrol},

		{post, group + "/providers/{resource:resource}" + ours + "/managedIdentities/default/listCredentials", owner, c.postListCredentials},
		{post, sub + "/providers/{resource:resource}" + ours + "/managedIdentities/default/listCredentials", owner, c.postListCredentials},
		{get, group + "/resources", listed, c.listAllResources},
		{get, sub + "/resources", listed, c.listAllResources},
		{get, group + "/providers/{resource:resource}", owner, c.getResource},
		{head, group + "/providers/{resource:resource}", owner, c.headResource},
		{put, group + "/providers/{resource:resource}", owner, c.putResource},
		{patch, group + "/providers/{resource:resource}", owner, c.patchResource},
		{del, group + "/providers/{resource:resource}", owner, c.deleteResource},
		{get, group + "/providers/{type:collection}", listed, c.listResources},
		{get, sub + "/providers/{resource:resource}", owner, c.getResource},
		{head, sub + "/providers/{resource:resource}", owner, c.headResource},
		{put, sub + "/providers/{resource:resource}", owner, c.putResource},
		{patch, sub + "/providers/{resource:resource}", owner, c.patchResource},
		{del, sub + "/providers/{resource:resource}", owner, c.deleteResource},
		{get, sub + "/providers/{type:collection}", listed, c.listResources},
	}
	// Extension resources that any scope has; before those, which would take them
	// for generic resources.
	var anywhere []row
	for _, scope := range []string{sub, group, sub + "/providers/{resource:resource}", group + "/providers/{resource:resource}"} {
		assignment, definition := scope+authorization+"/roleAssignments/{assignment}", scope+authorization+"/roleDefinitions/{definition}"
		anywhere = append(anywhere,
			row{get, scope + managedIdentity + "/identities/default", owner, c.getIdentity},
			row{get, scope + authorization + "/roleAssignments", owner, c.listRoleAssignments},
			row{get, assignment, owner, c.getRoleAssignment},
			row{put, assignment, owner, c.putRoleAssignment},
			row{del, assignment, owner, c.deleteRoleAssignment},
			row{get, scope + authorization + "/roleDefinitions", listed, c.listRoleDefinitions},
			row{get, definition, listed, c.getRoleDefinition},
			row{put, definition, owner, c.writeRoleDefinition},
			row{del, definition, owner, c.writeRoleDefinition},
		)
	}
	rows = append(anywhere, rows...)
	routes := make([]route, len(rows))
	for i, row := range rows {
		routes[i] = route{method: row.method, pattern: arm.ParsePattern(row.path), who: row.who, serve: row.serve}
	}
	return routes
}

// match finds the route of a request. Without one, allowed holds the methods
// that the path is served with.
func (c *ControlPlane) match(method string, path arm.Path) (rt *route, vars arm.Vars, allowed []string) {
	first := "" // the pattern that answers for the path, with all its methods
	for i := range c.routes {
		rt := &c.routes[i]
		vars, ok := rt.pattern.Match(path)
		if !ok || first != "" && rt.pattern.String() != first {
			continue
		}
		if rt.method == method {
			return rt, vars, nil
		}
		first, allowed = rt.pattern.String(), append(allowed, rt.method)
	}
	return nil, nil, allowed
}
