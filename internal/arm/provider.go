package arm

import (
	_ "embed"
	"strings"

	"github.com/sallyport/sallyport/access"
)

//go:embed providers.txt
var providerText string

//go:embed locations.txt
var locationText string

// Namespace is a resource provider that clients may look up.
type Namespace struct {
	Name  string
	Types []ResourceType
}

// ResourceType is one type of a namespace, with the api-versions that clients
// are offered for it, newest first.
type ResourceType struct {
	Name     string // without the namespace: "managedClusters/agentPools"
	Versions []string
}

// offered are the api-versions of a type that providers.txt does not name.
func offered() []string { return []string{"2024-01-01"} }

// Namespaces returns the resource providers of the shipped list.
func Namespaces() []Namespace {
	var all []Namespace
	for line := range strings.Lines(providerText) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || fields[0] == "#":
		case line[0] == '\t':
			last := &all[len(all)-1]
			last.Types = append(last.Types, ResourceType{Name: fields[0], Versions: fields[1:]})
		default:
			all = append(all, Namespace{Name: fields[0]})
		}
	}
	return all
}

// With returns n with a type that it may not have, in any casing.
func (n Namespace) With(typ string) Namespace {
	for _, t := range n.Types {
		if strings.EqualFold(t.Name, typ) {
			return n
		}
	}
	n.Types = append(n.Types[:len(n.Types):len(n.Types)], ResourceType{Name: typ, Versions: offered()})
	return n
}

// Provider is a resource provider's body (spec/identity.md 6.8), within a
// subscription or, with ID and RegistrationState left out, of the tenant.
type Provider struct {
	ID                 string         `json:"id"`
	Namespace          string         `json:"namespace"`
	RegistrationPolicy string         `json:"registrationPolicy,omitempty"`
	RegistrationState  string         `json:"registrationState,omitempty"`
	ResourceTypes      []ProviderType `json:"resourceTypes"`
}

// ProviderType is what az, Terraform and azcore choose an api-version from.
type ProviderType struct {
	ResourceType      string         `json:"resourceType"`
	Locations         []string       `json:"locations"` // display names
	APIVersions       []string       `json:"apiVersions"`
	DefaultAPIVersion string         `json:"defaultApiVersion,omitempty"`
	APIProfiles       []any          `json:"apiProfiles"`
	Aliases           []any          `json:"aliases,omitempty"`
	Capabilities      string         `json:"capabilities"`
	Properties        map[string]any `json:"properties,omitempty"`
}

// NewProvider shows a namespace below scope: a subscription's path, or "".
func NewProvider(scope string, n Namespace, state access.RegistrationState, locations []Location) Provider {
	p := Provider{ID: scope + "/providers/" + n.Name, Namespace: n.Name, ResourceTypes: []ProviderType{}}
	if scope != "" {
		p.RegistrationPolicy, p.RegistrationState = "RegistrationRequired", string(state)
	}
	names := make([]string, len(locations))
	for i, l := range locations {
		names[i] = l.DisplayName
	}
	for _, t := range n.Types {
		shown := ProviderType{ResourceType: t.Name, Locations: names, APIVersions: t.Versions, APIProfiles: []any{},
			Capabilities: "CrossResourceGroupResourceMove, CrossSubscriptionResourceMove, SystemAssignedResourceIdentity, SupportsTags, SupportsLocation"}
		for _, version := range t.Versions {
			if !strings.HasSuffix(version, "preview") {
				shown.DefaultAPIVersion = version
				break
			}
		}
		p.ResourceTypes = append(p.ResourceTypes, shown)
	}
	return p
}

// Location is a region, as a subscription's list shows it.
type Location struct {
	ID                  string           `json:"id"`
	Name                string           `json:"name"`
	Type                string           `json:"type"`
	DisplayName         string           `json:"displayName"`
	RegionalDisplayName string           `json:"regionalDisplayName"`
	Metadata            LocationMetadata `json:"metadata"`
}

// LocationMetadata is the part that az filters and prints.
type LocationMetadata struct {
	RegionType     string `json:"regionType"`
	RegionCategory string `json:"regionCategory"`
	Geography      string `json:"geography"`
	GeographyGroup string `json:"geographyGroup"`
}

// Locations returns Azure's public regions for the subscription's path.
func Locations(subscription string) []Location {
	var all []Location
	for line := range strings.Lines(locationText) {
		if line[0] == '#' {
			continue
		}
		field := strings.Split(strings.TrimSpace(line), "|")
		all = append(all, Location{
			ID: subscription + "/locations/" + field[0], Name: field[0], Type: "Region", DisplayName: field[1],
			RegionalDisplayName: "(" + field[2] + ") " + field[1],
			Metadata:            LocationMetadata{RegionType: "Physical", RegionCategory: "Recommended", Geography: field[2], GeographyGroup: field[2]},
		})
	}
	return all
}

// Feature is a preview feature's body (spec/identity.md 6.8).
type Feature struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"` // namespace/feature
	Type       string            `json:"type"`
	Properties FeatureProperties `json:"properties"`
}

// FeatureProperties holds the state.
type FeatureProperties struct {
	State access.RegistrationState `json:"state"`
}

// NewFeature shows a feature's state.
func NewFeature(r access.Registration) Feature {
	return Feature{
		ID:         r.Subscription.String() + "/providers/Microsoft.Features/providers/" + r.Namespace + "/features/" + r.Feature,
		Name:       r.Namespace + "/" + r.Feature,
		Type:       "Microsoft.Features/providers/features",
		Properties: FeatureProperties{State: r.State},
	}
}

// FeatureRegistration is the newer form of the same state.
type FeatureRegistration struct {
	ID         string                        `json:"id"`
	Name       string                        `json:"name"`
	Type       string                        `json:"type"`
	Properties FeatureRegistrationProperties `json:"properties"`
}

// FeatureRegistrationProperties names what is registered, and where.
type FeatureRegistrationProperties struct {
	TenantID          string                   `json:"tenantId"`
	SubscriptionID    string                   `json:"subscriptionId"`
	FeatureName       string                   `json:"featureName"`
	DisplayName       string                   `json:"displayName"`
	ProviderNamespace string                   `json:"providerNamespace"`
	ApprovalType      string                   `json:"approvalType"`
	RegistrationDate  string                   `json:"registrationDate,omitempty"`
	State             access.RegistrationState `json:"state"`
}

// NewFeatureRegistration shows a feature's state.
func NewFeatureRegistration(tenantID string, r access.Registration) FeatureRegistration {
	shown := FeatureRegistration{
		ID:   r.Subscription.String() + "/providers/Microsoft.Features/featureProviders/" + r.Namespace + "/subscriptionFeatureRegistrations/" + r.Feature,
		Name: r.Feature,
		Type: "Microsoft.Features/featureProviders/subscriptionFeatureRegistrations",
		Properties: FeatureRegistrationProperties{
			TenantID: tenantID, SubscriptionID: r.Subscription.Subscription(), FeatureName: r.Feature, DisplayName: r.Feature,
			ProviderNamespace: r.Namespace, ApprovalType: "AutoApproval", State: r.State,
		},
	}
	if !r.Changed.IsZero() {
		shown.Properties.RegistrationDate = FormatTime(r.Changed)
	}
	return shown
}
