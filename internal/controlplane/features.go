package controlplane

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
)

// Preview features are registered for nothing but the record: no feature turns
// anything on or off here. Scripts written for the cloud register them first
// and wait for the state, so any name is taken, in any provider there is.

// knownFeatures are listed before anybody registered them.
func knownFeatures() []access.Registration {
	const aks = "Microsoft.ContainerService"
	var all []access.Registration
	for _, name := range []string{"AKS-ExtensionManager", "AKS-KedaPreview", "EnableAPIServerVnetIntegrationPreview", "NodeOsUpgradeChannelPreview", "TrustedAccessPreview"} {
		all = append(all, access.Registration{Namespace: aks, Feature: name, State: access.NotRegistered})
	}
	return all
}

var featureForm = regexp.MustCompile(`^[A-Za-z0-9._()-]{1,128}$`)

// feature says which feature the path names, in its usual casing.
func (q *request) feature(ctx context.Context) (namespace, feature string, err error) {
	n, err := q.namespace(ctx, q.vars["namespace"])
	if err != nil {
		return "", "", err
	}
	feature = q.vars["feature"]
	if !featureForm.MatchString(feature) {
		return "", "", &arm.Error{Status: http.StatusNotFound, Code: "FeatureNotFound", Message: "The feature '" + access.Clip(feature, 100) + "' could not be found."}
	}
	for _, known := range knownFeatures() {
		if strings.EqualFold(known.Namespace, n.Name) && strings.EqualFold(known.Feature, feature) {
			feature = known.Feature
		}
	}
	return n.Name, feature, nil
}

// features are those known and those that the subscription said something of,
// in the path's provider or in all.
func (q *request) features(ctx context.Context) ([]access.Registration, error) {
	items, _, err := q.c.store.Registrations.List(ctx, q.subscription.Value.ID.Key()+"/")
	if err != nil {
		return nil, err
	}
	var all []access.Registration
	for _, item := range items {
		if item.Value.Feature != "" {
			all = append(all, item.Value)
		}
	}
	for _, known := range knownFeatures() {
		if !slices.ContainsFunc(all, func(r access.Registration) bool {
			return strings.EqualFold(r.Namespace, known.Namespace) && strings.EqualFold(r.Feature, known.Feature)
		}) {
			known.Subscription = q.subscription.Value.ID
			all = append(all, known)
		}
	}
	if namespace := q.vars["namespace"]; namespace != "" {
		all = slices.DeleteFunc(all, func(r access.Registration) bool { return !strings.EqualFold(r.Namespace, namespace) })
	}
	return all, nil
}

// listFeatures answers in the form that its path asks for.
func (c *ControlPlane) listFeatures(ctx context.Context, q *request) (reply, error) {
	all, err := q.features(ctx)
	if err != nil {
		return reply{}, err
	}
	page, err := arm.Paginate(q.http, all, arm.PageSize, func(r access.Registration) string {
		return strings.ToLower(r.Namespace + "/" + r.Feature)
	})
	shown := arm.List[any]{Value: []any{}, NextLink: page.NextLink}
	for _, r := range page.Value {
		shown.Value = append(shown.Value, q.showFeature(r))
	}
	return reply{status: http.StatusOK, body: shown}, err
}

func (q *request) showFeature(r access.Registration) any {
	if strings.Contains(q.route, "subscriptionFeatureRegistrations") {
		return arm.NewFeatureRegistration(q.subscription.Value.TenantID, r)
	}
	return arm.NewFeature(r)
}

func (c *ControlPlane) getFeature(ctx context.Context, q *request) (reply, error) {
	namespace, feature, err := q.feature(ctx)
	if err != nil {
		return reply{}, err
	}
	r, err := q.registration(ctx, namespace, feature)
	return reply{status: http.StatusOK, body: q.showFeature(r.Value)}, err
}

func (c *ControlPlane) postRegisterFeature(ctx context.Context, q *request) (reply, error) {
	return q.writeFeature(ctx, access.Registered)
}

func (c *ControlPlane) postUnregisterFeature(ctx context.Context, q *request) (reply, error) {
	return q.writeFeature(ctx, access.Unregistered)
}

func (q *request) writeFeature(ctx context.Context, state access.RegistrationState) (reply, error) {
	namespace, feature, err := q.feature(ctx)
	if err != nil {
		return reply{}, err
	}
	r, err := q.register(ctx, namespace, feature, state)
	return reply{status: http.StatusOK, body: q.showFeature(r)}, err
}

// deleteFeature is unregister in the newer form.
func (c *ControlPlane) deleteFeature(ctx context.Context, q *request) (reply, error) {
	_, err := q.writeFeature(ctx, access.Unregistered)
	return reply{status: http.StatusOK}, err
}
