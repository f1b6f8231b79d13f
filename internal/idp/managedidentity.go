package idp

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// ManagedIdentityPath and ManagedIdentityVersion are those of App Service
// (spec/identity.md 2.2); a client gets them through IDENTITY_ENDPOINT, and its
// secret, [Keys.IdentityHeader], through IDENTITY_HEADER.
const (
	ManagedIdentityPath    = "/msi/token"
	ManagedIdentityVersion = "2019-08-01"
)

// Further endpoints of the managed-identity port. All but Arc's want the
// identity header: from the client itself as X-IDENTITY-HEADER or Secret, or,
// where its protocol has no secret, from the proxy that the client is behind.
const (
	// MachineLearningPath is for MSI_ENDPOINT, with the header as MSI_SECRET.
	MachineLearningPath = "/msi/machinelearning"
	// InstanceTokenPath is IMDS's.
	InstanceTokenPath = "/metadata/identity/oauth2/token"
	// CloudShellPath is for MSI_ENDPOINT without a secret.
	CloudShellPath = "/oauth2/token"
	// ArcPath and a resource's uid come before InstanceTokenPath, for
	// IDENTITY_ENDPOINT with IMDS_ENDPOINT.
	ArcPath = "/arc/"
)

// msiRequest is a request to the managed-identity port, parsed once.
type msiRequest struct {
	*http.Request
	path   string // in lower case, without a slash at the end
	uid    string // of the resource that the caller proved to be
	form   url.Values
	header http.Header // of the answer
}

// msiProtocol is one way in which workloads get their tokens.
type msiProtocol struct {
	name   string // for the log
	method string
	// metadata says that the header "Metadata: true" is wanted, which no
	// browser or naive proxy sends.
	metadata bool
	// prove finds the caller's resource, before anything else is looked at.
	prove func(*Provider, *msiRequest) *oauthError
	// versions are the api-versions that are served; none for any.
	versions []string
	answer   func(*Provider, *msiRequest) (any, *oauthError)
}

// msiProtocolOf picks a request's protocol.
func msiProtocolOf(r *msiRequest) (msiProtocol, bool) {
	const get = http.MethodGet
	switch r.path {
	case ManagedIdentityPath:
		if len(r.Header.Values("Secret")) > 0 {
			return msiProtocol{"app service", get, false, proveBy("Secret"), []string{"2017-09-01"}, answerAppService2017}, true
		}
		return msiProtocol{"app service", get, false, proveBy("X-IDENTITY-HEADER"), []string{ManagedIdentityVersion}, answerAppService}, true
	case MachineLearningPath:
		return msiProtocol{"machine learning", get, false, proveBy("Secret"), []string{"2017-09-01"}, answerAppService}, true
	case InstanceTokenPath:
		return msiProtocol{"imds", get, true, proveBy("X-IDENTITY-HEADER"), nil, answerIMDS}, true
	case CloudShellPath:
		return msiProtocol{"cloud shell", http.MethodPost, true, proveBy("X-IDENTITY-HEADER"), nil, answerIMDS}, true
	}
	if r.path == instancePath || strings.HasPrefix(r.path, instancePath+"/") {
		return msiProtocol{"instance metadata", get, true, proveBy("X-IDENTITY-HEADER"), nil, answerInstance}, true
	}
	if strings.HasPrefix(r.path, ArcPath) && strings.HasSuffix(r.path, InstanceTokenPath) {
		return msiProtocol{"arc", get, true, proveArc, nil, answerIMDS}, true
	}
	return msiProtocol{}, false
}

// msiError has the fields of spec/identity.md 2.1.
type msiError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

// ManagedIdentity returns the handler of the managed-identity port. It is plain
// HTTP, since that is what clients expect, so the wiring must bind it to a
// loopback address.
func (p *Provider) ManagedIdentity() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := &msiRequest{Request: r, path: strings.ToLower(strings.TrimSuffix(r.URL.EscapedPath(), "/")), header: w.Header()}
		protocol, answer, failure := p.managedIdentity(m)
		status := http.StatusOK
		fields := []any{"endpoint", "managed identity", "protocol", protocol, "method", clip(r.Method)}
		if failure != nil {
			status, answer = failure.status, msiError{Error: failure.kind, Description: failure.text}
			fields = append(fields, "error", failure.kind)
			if failure.cause != nil {
				fields = append(fields, "cause", failure.cause)
			}
		}
		if text, ok := answer.(plainText); ok {
			writeText(w, string(text))
		} else {
			writeJSON(w, status, answer)
		}
		p.metrics.answered("managed_identity", status)
		p.cfg.Logger.Info("identity provider", append(fields, "status", status)...)
	})
}

func badRequest(format string, args ...any) *oauthError {
	return fail(http.StatusBadRequest, "invalid_request", 0, format, args...)
}

// managedIdentity answers one request.
func (p *Provider) managedIdentity(r *msiRequest) (protocol string, answer any, failure *oauthError) {
	served, ok := msiProtocolOf(r)
	switch {
	case !ok:
		return "none", nil, fail(http.StatusNotFound, "not_found", 0, "There is no such endpoint; tokens are at %s.", ManagedIdentityPath)
	case r.Method != served.method:
		r.header.Set("Allow", served.method)
		return served.name, nil, fail(http.StatusMethodNotAllowed, "invalid_request", 0, "The endpoint accepts %s.", served.method)
	case len(r.Header.Values("X-Forwarded-For")) > 0: // a proxy was talked into it (spec/identity.md 2.1)
		return served.name, nil, badRequest("A request with X-Forwarded-For is refused: ask directly.")
	case served.metadata && !strings.EqualFold(r.Header.Get("Metadata"), "true"): // the answer to a probe
		return served.name, nil, fail(http.StatusBadRequest, "bad_request_102", 0, "Required metadata header not specified")
	}
	if failure := served.prove(p, r); failure != nil {
		return served.name, nil, failure
	}
	if failure := r.parse(served); failure != nil {
		return served.name, nil, failure
	}
	answer, failure = served.answer(p, r)
	return served.name, answer, failure
}

// proveBy wants the identity header, once, under this name.
func proveBy(name string) func(*Provider, *msiRequest) *oauthError {
	return func(p *Provider, r *msiRequest) *oauthError {
		secrets := r.Header.Values(name)
		if len(secrets) != 1 {
			return badRequest("Required %s header not specified; its value is in IDENTITY_HEADER or MSI_SECRET, and `sallyport run` adds it where a protocol has none.", name)
		}
		uid, ok := p.cfg.Keys.headerUID(secrets[0])
		if !ok {
			return fail(http.StatusUnauthorized, "access_denied", 0, "%s is not valid.", name)
		}
		r.uid = uid
		return nil
	}
}

// parse reads the query, or the form of a POST.
func (r *msiRequest) parse(protocol msiProtocol) *oauthError {
	text := r.URL.RawQuery
	var err error
	if protocol.method == http.MethodPost {
		form, failure := readForm(r.Request)
		if failure != nil {
			return badRequest("%s", failure.text)
		}
		r.form = form
	} else if r.form, err = url.ParseQuery(text); err != nil {
		return badRequest("The query is malformed.")
	}
	if name, ok := repeated(r.form, "api-version", "resource", "client_id", "clientid", "object_id", "principal_id", "mi_res_id", "msi_res_id", "format"); ok {
		return badRequest("The parameter '%s' is given %d times.", name, len(r.form[name]))
	}
	version := r.form.Get("api-version")
	switch {
	case protocol.method == http.MethodPost: // Cloud Shell has none
	case len(protocol.versions) == 0 && !isDate(version): // IMDS has many, and answers all alike
		return badRequest("The api-version '%s' is not supported; it must be a date, such as 2018-02-01.", clip(version))
	case len(protocol.versions) > 0 && !slices.Contains(protocol.versions, version):
		return badRequest("The api-version '%s' is not supported; it must be %s.", clip(version), strings.Join(protocol.versions, " or "))
	}
	return nil
}

// isDate reports whether s begins as yyyy-mm-dd.
func isDate(s string) bool {
	if len(s) < len("2018-02-01") {
		return false
	}
	for i, c := range []byte(s[:10]) {
		if dash := i == 4 || i == 7; dash != (c == '-') || !dash && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// WantedIdentity is which identity a request names; the zero value is the
// resource's own. Clients differ in the parameters they send (2.2).
type WantedIdentity struct {
	ClientID, ObjectID string
	ResourceID         string // as it was sent
}

// Is reports whether an identity is the one that is wanted.
func (w WantedIdentity) Is(identity Identity) bool {
	if w.ResourceID != "" {
		if id, err := access.ParseResourceID(w.ResourceID); err != nil || !id.Equal(identity.ResourceID) {
			return false
		}
	}
	return (w.ClientID == "" || strings.EqualFold(w.ClientID, identity.AppID)) && (w.ObjectID == "" || strings.EqualFold(w.ObjectID, identity.ObjectID))
}

func (r *msiRequest) wanted() (WantedIdentity, *oauthError) {
	var w WantedIdentity
	for name, to := range map[string]*string{
		"client_id": &w.ClientID, "clientid": &w.ClientID,
		"object_id": &w.ObjectID, "principal_id": &w.ObjectID,
		"mi_res_id": &w.ResourceID, "msi_res_id": &w.ResourceID,
	} {
		v := r.form.Get(name)
		if v != "" && *to != "" && *to != v {
			return w, badRequest("The request names two identities.")
		}
		if v != "" {
			*to = v
		}
	}
	return w, nil
}

// identity returns the identity that the caller may use and asks for.
func (p *Provider) identity(r *msiRequest) (Identity, *oauthError) {
	want, failure := r.wanted()
	if failure != nil {
		return Identity{}, failure
	}
	identity, err := p.cfg.Directory.ManagedIdentity(r.Context(), r.uid, want)
	switch {
	case errors.Is(err, access.ErrNotFound) && want != (WantedIdentity{}):
		return identity, badRequest("Identity not found: client_id, object_id or mi_res_id names an identity that this resource does not have.")
	case errors.Is(err, access.ErrNotFound):
		return identity, badRequest("Identity not found")
	case err != nil:
		failure := fail(http.StatusServiceUnavailable, "temporarily_unavailable", 0, "Please try again.")
		failure.cause = err
		return identity, failure
	}
	return identity, nil
}

// identityToken returns a token of the identity for the API that is asked for,
// one made earlier if less than half of its life is over.
func (p *Provider) identityToken(r *msiRequest) (Identity, issued, *oauthError) {
	identity, failure := p.identity(r)
	if failure != nil {
		return identity, issued{}, failure
	}
	audience := r.form.Get("resource")
	want, err := p.apiOf(r, identity.TenantID, audience)
	if errors.Is(err, access.ErrNotFound) {
		return identity, issued{}, fail(http.StatusBadRequest, "invalid_resource", 0, "AADSTS500011: The resource principal named %s was not found in the tenant named %s.", clip(audience), identity.TenantID)
	}
	s := subject{tenantID: identity.TenantID, objectID: identity.ObjectID, appID: identity.AppID, acr: "2", resource: identity.ResourceID.String(), usedBy: identity.UsedBy.String()}
	if err == nil {
		if s.groups, failure = p.groupsFor(r.Context(), want.api, s); failure != nil {
			err = failure.cause
		}
	}
	signer, now := p.cfg.Keys.current(), p.cfg.Now()
	key := tokenKey{target: want.target(p.cfg.Address), kid: signer.kid, subject: s}
	t, ok := p.tokens.get(key, now)
	if err == nil && !ok {
		if t, err = p.mint(signer, s, key.target, managedIdentityLife); err == nil {
			p.tokens.put(key, t, now)
		}
	}
	if err != nil {
		failure := fail(http.StatusInternalServerError, "unknown", 0, "The token could not be made.")
		failure.cause = err
		return identity, issued{}, failure
	}
	p.metrics.tokens.WithLabelValues("managed_identity").Inc()
	return identity, t, nil
}

func (p *Provider) apiOf(r *msiRequest, tenantID, audience string) (wanted, error) {
	w := wanted{audience: audience}
	if audience == "" {
		return w, access.ErrNotFound
	}
	var err error
	w.api, err = p.api(r.Context(), tenantID, audience)
	return w, err
}
