package controlplane

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
)

// The credentials of a cluster are kubeconfigs for its developers. They lead to
// the gateway, which holds no credential of the cluster's itself, and so does
// nobody who reads one. A user's has no secret: kubelogin asks the identity
// provider for a token of the developer's own. An administrator's has a token
// that names its reader and ends soon; what that may do is the cluster's
// decision, never system:masters. Reading either is recorded like a write.

// Fixed identifiers of AKS's Entra applications (spec/identity.md).
const (
	aksServerApp = "6dae42f8-4368-4678-94ff-3960e28e3630"
	aksClientApp = "80faf920-1908-4b52-b5ef-a8e7bedfc67a"
)

// Names of a cluster's credentials, as in accessProfiles/{name}.
const (
	clusterUser  = "clusterUser"
	clusterAdmin = "clusterAdmin"
)

// maxLease is how long an administrator's token may be good.
const maxLease = time.Hour

// Lease is a token that is good for a short time.
type Lease struct {
	Token   string
	Expires time.Time
}

// kubeconfigs is the answer of the two actions of a cluster.
type kubeconfigs struct {
	Kubeconfigs []kubeconfig `json:"kubeconfigs"`
}

type kubeconfig struct {
	Name  string `json:"name"`
	Value []byte `json:"value"` // base64 in JSON
}

func (c *ControlPlane) postUserCredential(ctx context.Context, q *request) (reply, error) {
	return q.credential(ctx, clusterUser)
}

func (c *ControlPlane) postAdminCredential(ctx context.Context, q *request) (reply, error) {
	return q.credential(ctx, clusterAdmin)
}

func (q *request) credential(ctx context.Context, name string) (reply, error) {
	_, text, err := q.kubeconfig(ctx, name)
	return reply{status: http.StatusOK, body: kubeconfigs{[]kubeconfig{{Name: name, Value: text}}}}, err
}

// accessProfile is the older form of the same.
type accessProfile struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	Location   string `json:"location"`
	Properties struct {
		KubeConfig string `json:"kubeConfig"`
	} `json:"properties"`
}

func (c *ControlPlane) postAccessProfile(ctx context.Context, q *request) (reply, error) {
	name := ""
	for _, known := range []string{clusterUser, clusterAdmin} {
		if strings.EqualFold(q.vars["profile"], known) {
			name = known
		}
	}
	if name == "" {
		return reply{}, &arm.Error{Status: http.StatusNotFound, Code: "NotFound", Bare: true,
			Message: "Could not find the access profile '" + access.Clip(q.vars["profile"], 100) + "'; a cluster has 'clusterUser' and 'clusterAdmin'."}
	}
	cluster, text, err := q.kubeconfig(ctx, name)
	if err != nil {
		return reply{}, err
	}
	profile := accessProfile{ID: cluster.ID.String() + "/accessProfiles/" + name, Name: name, Type: "Microsoft.ContainerService/ManagedClusters/AccessProfiles", Location: cluster.Location}
	profile.Properties.KubeConfig = base64.StdEncoding.EncodeToString(text)
	return reply{status: http.StatusOK, body: profile}, nil
}

// kubeconfig makes a credential of the path's cluster for the caller, after its
// reading was recorded. There is one gateway to reach a cluster by, so the
// query's server-fqdn chooses nothing.
func (q *request) kubeconfig(ctx context.Context, name string) (access.Cluster, []byte, error) {
	item, err := q.cluster(ctx)
	if err != nil {
		return access.Cluster{}, nil, err
	}
	cluster := item.Value
	config := newKubeconfig(cluster, "https://"+q.c.cfg.GatewayAddress+"/k8s"+cluster.ID.String(), q.c.cfg.CACertificates())
	if name == clusterUser {
		form := strings.ToLower(q.http.URL.Query().Get("format"))
		if err := q.asUser(ctx, &config, cluster, form); err != nil {
			return cluster, nil, err
		}
		if err := q.allow(map[string]any{"clusterUid": cluster.UID, "credential": name}); err != nil {
			return cluster, nil, err
		}
		text, err := yaml.Marshal(config)
		return cluster, text, err
	}
	lease, err := q.adminLease(ctx, cluster)
	if err != nil {
		return cluster, nil, err
	}
	if err := q.allow(map[string]any{"clusterUid": cluster.UID, "credential": name, "expires": lease.Expires.UTC().Format(time.RFC3339)}); err != nil {
		return cluster, nil, err
	}
	if err := asAdmin(&config, cluster, lease); err != nil {
		return cluster, nil, err
	}
	text, err := yaml.Marshal(config)
	note := fmt.Sprintf("# The token names who asked for it and ends at %s; whoever holds it is that one until then.\n", lease.Expires.UTC().Format(time.RFC3339))
	return cluster, append([]byte(note), text...), err
}

// adminLease refuses where the cluster's owner turned local accounts off, and
// where the caller is of a tenant that this server issues no tokens for.
func (q *request) adminLease(ctx context.Context, cluster access.Cluster) (Lease, error) {
	local, err := arm.HasLocalAccounts(cluster)
	if err != nil {
		return Lease{}, err
	}
	if !local {
		return Lease{}, &arm.Error{Status: http.StatusBadRequest, Code: "BadRequest", Bare: true,
			Message: "Getting static credential is not allowed because this cluster is set to disable local accounts."}
	}
	if q.c.cfg.IssueLease == nil {
		return Lease{}, arm.NoRoute(q.path)
	}
	lease, err := q.c.cfg.IssueLease(ctx, q.caller, aksServerApp, maxLease)
	if errors.Is(err, access.ErrNotFound) {
		return Lease{}, &arm.Error{Status: http.StatusBadRequest, Code: "BadRequest", Bare: true,
			Message: fmt.Sprintf("An administrator's credential is a token of the embedded identity provider, and this server issues none in tenant '%s', yours. Use listClusterUserCredential.", q.caller.TenantID)}
	}
	return lease, err
}
