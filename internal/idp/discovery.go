package idp

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// document is a discovery document (OpenID Connect Discovery 1.0, section 3)
// with Entra's additions (spec/identity.md 1.7).
type document struct {
	Issuer                string   `json:"issuer"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	TokenEndpoint         string   `json:"token_endpoint"`
	DeviceEndpoint        string   `json:"device_authorization_endpoint"`
	JWKSURI               string   `json:"jwks_uri"`
	UserinfoEndpoint      string   `json:"userinfo_endpoint"`
	EndSessionEndpoint    string   `json:"end_session_endpoint"`
	AuthMethods           []string `json:"token_endpoint_auth_methods_supported"`
	ResponseModes         []string `json:"response_modes_supported"`
	ResponseTypes         []string `json:"response_types_supported"`
	SubjectTypes          []string `json:"subject_types_supported"`
	Algorithms            []string `json:"id_token_signing_alg_values_supported"`
	Scopes                []string `json:"scopes_supported"`
	Claims                []string `json:"claims_supported"`
	RegionScope           *string  `json:"tenant_region_scope"`
	CloudInstanceName     string   `json:"cloud_instance_name"`
	CloudGraphHostName    string   `json:"cloud_graph_host_name"`
	GraphHost             string   `json:"msgraph_host"`
	RBACURL               string   `json:"rbac_url"`
	KerberosEndpoint      string   `json:"kerberos_endpoint"`
}

func discoveryV1(p *Provider, c *call) (any, *oauthError) {
	return p.discovery(c.request, c.tenant, func(_, id string) string { return tokenIssuer(id) }, "")
}

func discoveryV2(p *Provider, c *call) (any, *oauthError) {
	return p.discovery(c.request, c.tenant, issuerV2, "/v2.0")
}

// discovery describes the endpoints of one tenant and version. The v1 document
// names [Provider.Issuer], as this provider's tokens do and as Entra's does: an
// API server that is to trust them reads it (spec/identity.md, GUARD). The
// issuer of the v2 document, which MSAL reads, is on our own host, since MSAL
// refuses one that is not on the authority's.
func (p *Provider) discovery(r *http.Request, tenant string, issuer func(host, tenant string) string, version string) (any, *oauthError) {
	id, failure := p.tenantID(r.Context(), tenant)
	if failure != nil {
		return nil, failure
	}
	host := p.cfg.BaseURL(r)
	named := id
	if id == "{tenantid}" { // only the issuer is a template; endpoints are callable
		named = tenant
	}
	base, browser := host+"/"+named, p.forBrowser(r)+"/"+named
	graph := strings.TrimPrefix(host, "https://")
	return document{
		Issuer:                issuer(host, id),
		AuthorizationEndpoint: browser + "/oauth2" + version + "/authorize",
		TokenEndpoint:         base + "/oauth2" + version + "/token",
		DeviceEndpoint:        base + "/oauth2" + version + "/devicecode",
		JWKSURI:               base + "/discovery" + version + "/keys",
		UserinfoEndpoint:      host + "/oidc/userinfo",
		EndSessionEndpoint:    browser + "/oauth2" + version + "/logout",
		AuthMethods:           []string{"client_secret_post", "private_key_jwt", "client_secret_basic"},
		ResponseModes:         []string{"query", "form_post"},
		ResponseTypes:         []string{"code"},
		SubjectTypes:          []string{"pairwise"},
		Algorithms:            []string{"RS256"},
		Scopes:                []string{"openid", "profile", "email", "offline_access"},
		Claims:                []string{"sub", "iss", "aud", "exp", "iat", "nbf", "tid", "oid", "ver", "appid", "idtyp"},
		CloudInstanceName:     graph,
		CloudGraphHostName:    graph,
		GraphHost:             graph,
		RBACURL:               host,
		KerberosEndpoint:      base + "/kerberos",
	}, nil
}

// jwksOf serves the same keys for each tenant that exists.
func jwksOf(p *Provider, c *call) (any, *oauthError) {
	if _, failure := p.tenantID(c.request.Context(), c.tenant); failure != nil {
		return nil, failure
	}
	return json.RawMessage(p.cfg.Keys.JWKS()), nil
}

// instanceAnswer is that of spec/identity.md 7.2.
type instanceAnswer struct {
	Discovery  string     `json:"tenant_discovery_endpoint"`
	APIVersion string     `json:"api-version"`
	Metadata   []struct{} `json:"metadata"` // empty is accepted
}

// loginHosts are Entra's own, which reach this provider through the proxy of
// `sallyport run` (spec/identity.md 7.2, 7.3).
func loginHosts() []string {
	return []string{"login.microsoftonline.com", "login.microsoft.com", "login.windows.net", "sts.windows.net"}
}

// instance tells MSAL that an authority is genuine and where its discovery
// document is. It vouches only for hosts that lead here.
func instance(p *Provider, c *call) (any, *oauthError) {
	if c.tenant != "common" {
		return nil, notFound()
	}
	r := c.request
	query := r.URL.Query()
	authority, err := url.Parse(query.Get("authorization_endpoint"))
	unknown := fail(http.StatusBadRequest, "invalid_instance", 50049, "Unknown or invalid instance: authorization_endpoint must be an https URL on this host.")
	if err != nil || authority.Scheme != "https" || authority.User != nil {
		return nil, unknown
	}
	if !p.isOwnHost(r, authority.Host) {
		return nil, unknown
	}
	path, ok := cleanPath(authority.EscapedPath())
	named, _, _ := strings.Cut(path, "/")
	if !ok {
		return nil, unknown
	}
	if _, failure := p.tenantID(r.Context(), named); failure != nil {
		return nil, failure
	}
	version := query.Get("api-version")
	if version != "1.0" {
		version = "1.1"
	}
	return instanceAnswer{
		Discovery:  "https://" + strings.ToLower(authority.Host) + "/" + named + "/v2.0/.well-known/openid-configuration",
		APIVersion: version,
		Metadata:   []struct{}{},
	}, nil
}
