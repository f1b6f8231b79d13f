package arm

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/sallyport/sallyport/access"
)

// Subscription is a subscription's body (spec/identity.md 6.2).
type Subscription struct {
	ID                  string               `json:"id"`
	AuthorizationSource string               `json:"authorizationSource"`
	ManagedByTenants    []string             `json:"managedByTenants"`
	SubscriptionID      string               `json:"subscriptionId"`
	TenantID            string               `json:"tenantId"`
	DisplayName         string               `json:"displayName"`
	State               string               `json:"state"`
	Policies            SubscriptionPolicies `json:"subscriptionPolicies"`
}

// SubscriptionPolicies are fixed words that clients print.
type SubscriptionPolicies struct {
	LocationPlacementID string `json:"locationPlacementId"`
	QuotaID             string `json:"quotaId"`
	SpendingLimit       string `json:"spendingLimit"`
}

// NewSubscription shows s.
func NewSubscription(s access.Subscription) Subscription {
	return Subscription{
		ID:                  s.ID.String(),
		AuthorizationSource: "RoleBased",
		ManagedByTenants:    []string{},
		SubscriptionID:      s.ID.Subscription(),
		TenantID:            s.TenantID,
		DisplayName:         s.DisplayName,
		State:               "Enabled",
		Policies:            SubscriptionPolicies{LocationPlacementID: "Public_2014-09-01", QuotaID: "PayAsYouGo_2014-09-01", SpendingLimit: "Off"},
	}
}

// Group is a resource group's body.
type Group struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags,omitempty"`
	ManagedBy  string            `json:"managedBy,omitempty"`
	Properties GroupProperties   `json:"properties"`
}

// GroupProperties is a resource group's state.
type GroupProperties struct {
	ProvisioningState string `json:"provisioningState"`
}

// NewGroup shows g.
func NewGroup(g access.ResourceGroup) Group {
	state := "Succeeded"
	if g.Deletion != "" {
		state = "Deleting"
	}
	return Group{
		ID:         g.ID.String(),
		Name:       g.ID.Name(),
		Type:       "Microsoft.Resources/resourceGroups",
		Location:   g.Location,
		Tags:       g.Tags,
		ManagedBy:  g.ManagedBy,
		Properties: GroupProperties{ProvisioningState: state},
	}
}

// Document is a body that we keep and echo without knowing all of it. The
// members we answer for come first and win over the client's.
type Document struct {
	own  []member
	rest map[string]any
}

type member struct {
	name  string
	value any
}

// MarshalJSON writes our members in order, then the rest by name.
func (d Document) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	add := func(name string, value any) error {
		key, err := marshal(name)
		if err != nil {
			return err
		}
		text, err := marshal(value)
		if err != nil {
			return err
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), text...)
		return nil
	}
	for _, m := range d.own {
		if err := add(m.name, m.value); err != nil {
			return nil, err
		}
	}
	// A JSON object of Go is written in the order of its names.
	rest, err := marshal(d.rest)
	if err != nil {
		return nil, err
	}
	if len(d.rest) > 0 {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, rest[1:len(rest)-1]...)
	}
	return append(out, '}'), nil
}

// document reads a kept body and sets aside what the server answers for.
func document(text []byte) (map[string]any, error) {
	rest, err := ParseDocument(text)
	if err != nil {
		return nil, err
	}
	for name := range rest {
		for _, ours := range []string{"id", "name", "type", "location", "systemData", "etag"} {
			if equalFold(name, ours) {
				delete(rest, name)
			}
		}
	}
	return rest, nil
}

func properties(rest map[string]any) map[string]any {
	p, ok := rest["properties"].(map[string]any)
	if !ok {
		p = map[string]any{}
		rest["properties"] = p
	}
	return p
}

// setDefault sets a property that the client left out.
func setDefault(p map[string]any, name string, value any) {
	if have, ok := p[name]; !ok || have == nil {
		p[name] = value
	}
}

// ShownCluster is what a cluster's body says beside what is kept of it.
type ShownCluster struct {
	State string // provisioningState; "" for Succeeded
	Host  string // by which the gateway is reached, without a port
}

// NewCluster shows c with the members that clients read back
// (spec/trusted-access.md 3). Its type is written as the real service does. The
// cluster's name on the network is the gateway's: there is no other way to it.
func NewCluster(c access.Cluster, shown ShownCluster) (Document, error) {
	rest, err := document(c.Document)
	if err != nil {
		return Document{}, err
	}
	p := properties(rest)
	p["provisioningState"] = cmp.Or(shown.State, "Succeeded")
	setDefault(p, "powerState", map[string]any{"code": "Running"})
	if version, ok := p["kubernetesVersion"]; ok {
		setDefault(p, "currentKubernetesVersion", version)
	}
	setDefault(p, "nodeResourceGroup", clip80("MC_"+c.ID.ResourceGroup()+"_"+c.ID.Name()+"_"+c.Location))
	setDefault(p, "enableRBAC", true)
	setDefault(p, "disableLocalAccounts", false)
	setDefault(p, "servicePrincipalProfile", map[string]any{"clientId": "msi"}) // az's table fails without
	setDefault(p, "maxAgentPools", 100)
	setDefault(p, "supportPlan", "KubernetesOfficial")
	p["resourceUID"] = c.UID
	if shown.Host != "" {
		p["fqdn"], p["azurePortalFQDN"] = shown.Host, shown.Host
		if access, ok := p["apiServerAccessProfile"].(map[string]any); ok && access["enablePrivateCluster"] == true {
			p["privateFQDN"] = shown.Host
		}
	}
	if oidc, ok := p["oidcIssuerProfile"].(map[string]any); ok && c.AgentIssuer != "" && oidc["enabled"] == true {
		oidc["issuerURL"] = c.AgentIssuer
	}
	pools, _ := p["agentPoolProfiles"].([]any)
	for _, pool := range pools {
		if pool, ok := pool.(map[string]any); ok {
			setDefault(pool, "provisioningState", "Succeeded")
			setDefault(pool, "powerState", map[string]any{"code": "Running"})
		}
	}
	setDefault(rest, "sku", map[string]any{"name": "Base", "tier": "Free"})
	return Document{
		own: []member{
			{"id", c.ID.String()},
			{"name", c.ID.Name()},
			{"type", "Microsoft.ContainerService/ManagedClusters"},
			{"location", c.Location},
			{"eTag", ClusterETag(c)},
		},
		rest: withIdentity(rest, c.TenantID, nil, c.Uses),
	}, nil
}

// HasLocalAccounts reports whether the cluster's owner left them on, as they are
// unless properties.disableLocalAccounts is true.
func HasLocalAccounts(c access.Cluster) (bool, error) {
	doc, err := document(c.Document)
	if err != nil {
		return false, err
	}
	for name, value := range properties(doc) {
		if equalFold(name, "disableLocalAccounts") {
			return value == false || value == nil, nil // what is neither is no leave
		}
	}
	return true, nil
}

// clip80 keeps a group's name within ARM's limit, as AKS does.
func clip80(s string) string { return s[:min(len(s), 80)] }

// NewResource shows r. A system-assigned identity is shown with its object id,
// which is how clients learn whom they consent to.
func NewResource(r access.Resource) (Document, error) {
	rest, err := document(r.Document)
	if err != nil {
		return Document{}, err
	}
	p := properties(rest)
	if r.ID.IsType(access.UserAssignedType) && r.Identity != nil {
		delete(rest, "identity")
		p["tenantId"], p["principalId"], p["clientId"] = r.TenantID, r.Identity.ObjectID, r.Identity.AppID
		r.Identity = nil
	} else {
		p["provisioningState"] = "Succeeded"
	}
	own := []member{{"id", r.ID.String()}, {"name", r.ID.Name()}, {"type", r.ID.Type()}, {"etag", ETag(ResourceETag(r))}}
	if r.Location != "" {
		own = append(own, member{"location", r.Location})
	}
	return Document{own: own, rest: withIdentity(rest, r.TenantID, r.Identity, r.Uses)}, nil
}

// withIdentity replaces what a client wrote as identity's ids by the true ones.
func withIdentity(rest map[string]any, tenantID string, identity *access.Identity, uses []access.UsedIdentity) map[string]any {
	given, ok := rest["identity"].(map[string]any)
	if !ok {
		given = map[string]any{}
	}
	delete(given, "principalId")
	delete(given, "tenantId")
	delete(given, "userAssignedIdentities")
	if len(uses) > 0 {
		shown := map[string]any{}
		for _, u := range uses {
			shown[u.ID.String()] = map[string]any{"principalId": u.ObjectID, "clientId": u.AppID}
		}
		given["userAssignedIdentities"] = shown
	}
	if identity != nil {
		given["principalId"] = identity.ObjectID
		given["tenantId"] = tenantID
		if _, ok := given["type"]; !ok {
			given["type"] = "SystemAssigned"
		}
	}
	if len(given) > 0 {
		rest["identity"] = given
	}
	return rest
}

// ResourceETag is a resource's entity tag, unquoted: of what a client can read of
// it, so that it changes when that does.
func ResourceETag(r access.Resource) string {
	oid := ""
	if r.Identity != nil {
		oid = r.Identity.ObjectID
	}
	return etag(r.UID, r.Location, oid, string(r.Document))
}

// ClusterETag is a cluster's entity tag, unquoted. What its agent does, and the
// policies, have no part in it.
func ClusterETag(c access.Cluster) string { return etag(c.UID, string(c.Document)) }

func etag(parts ...string) string {
	sum := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}
