package idp

import (
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/durable"
)

// appServiceAnswer is that of App Service and Azure ML: all values are strings.
type appServiceAnswer struct {
	AccessToken string `json:"access_token"`
	ClientID    string `json:"client_id"`
	ExpiresOn   string `json:"expires_on"`
	NotBefore   string `json:"not_before"`
	Resource    string `json:"resource"`
	TokenType   string `json:"token_type"`
}

func answerAppService(p *Provider, r *msiRequest) (any, *oauthError) {
	identity, t, failure := p.identityToken(r)
	return appServiceAnswer{
		AccessToken: t.token, ClientID: identity.AppID, Resource: r.form.Get("resource"), TokenType: "Bearer",
		ExpiresOn: strconv.FormatInt(t.expires.Unix(), 10), NotBefore: strconv.FormatInt(t.notBefore.Unix(), 10),
	}, failure
}

// answerAppService2017 is the older version, whose expires_on is a date.
func answerAppService2017(p *Provider, r *msiRequest) (any, *oauthError) {
	identity, t, failure := p.identityToken(r)
	const date = "1/2/2006 3:04:05 PM -07:00"
	return appServiceAnswer{
		AccessToken: t.token, ClientID: identity.AppID, Resource: r.form.Get("resource"), TokenType: "Bearer",
		ExpiresOn: t.expires.UTC().Format(date), NotBefore: t.notBefore.UTC().Format(date),
	}, failure
}

// imdsAnswer is that of IMDS, Cloud Shell and Arc: strings as well.
type imdsAnswer struct {
	AccessToken  string `json:"access_token"`
	ClientID     string `json:"client_id"`
	ExpiresIn    string `json:"expires_in"`
	ExpiresOn    string `json:"expires_on"`
	ExtExpiresIn string `json:"ext_expires_in"`
	NotBefore    string `json:"not_before"`
	RefreshToken string `json:"refresh_token"`
	Resource     string `json:"resource"`
	TokenType    string `json:"token_type"`
}

func answerIMDS(p *Provider, r *msiRequest) (any, *oauthError) {
	identity, t, failure := p.identityToken(r)
	// A token may be one of earlier: what is left of it counts.
	left := strconv.FormatInt(max(0, t.expires.Unix()-p.cfg.Now().Unix()-1), 10)
	return imdsAnswer{
		AccessToken: t.token, ClientID: identity.AppID, Resource: r.form.Get("resource"), TokenType: "Bearer",
		ExpiresIn: left, ExtExpiresIn: left,
		ExpiresOn: strconv.FormatInt(t.expires.Unix(), 10), NotBefore: strconv.FormatInt(t.notBefore.Unix(), 10),
	}, failure
}

const (
	arcPurpose = "arc challenge"
	arcLife    = 5 * time.Minute
)

// arcSecret is what a challenge's file holds, sealed.
type arcSecret struct {
	UID     string `json:"uid"`
	Expires int64  `json:"expires"`
}

// proveArc is Arc's way: the caller is told a file, and by its content shows
// that it may read what the machine's owner may. The file is short-lived; the
// resource is the path's, and the file's.
func proveArc(p *Provider, r *msiRequest) *oauthError {
	uid := strings.TrimSuffix(strings.TrimPrefix(r.path, ArcPath), InstanceTokenPath)
	if p.cfg.ArcTokens == "" || !access.IsGUID(uid) {
		return fail(http.StatusNotFound, "not_found", 0, "There is no such endpoint: the server was not started with a folder for Arc's challenges.")
	}
	now := p.cfg.Now()
	if header := r.Header.Get("Authorization"); header != "" {
		sealed, ok := strings.CutPrefix(header, "Basic ")
		var s arcSecret
		if err := p.cfg.Keys.open(arcPurpose, strings.TrimSpace(sealed), &s); !ok || err != nil || s.UID != uid || now.Unix() >= s.Expires {
			return fail(http.StatusUnauthorized, "access_denied", 0, "The Authorization header is not the content of the challenge's file, or it is too old.")
		}
		r.uid = uid
		return nil
	}
	// Only for what exists: nobody fills the folder with files.
	if _, err := p.cfg.Directory.ManagedIdentity(r.Context(), uid, WantedIdentity{}); err != nil {
		return badRequest("Identity not found")
	}
	sealed, err := p.cfg.Keys.seal(arcPurpose, arcSecret{uid, now.Add(arcLife).Unix()})
	file := filepath.Join(p.cfg.ArcTokens, uid+".key")
	if err == nil {
		err = durable.Replace(file, []byte(sealed))
	}
	if err != nil {
		failure := fail(http.StatusInternalServerError, "unknown", 0, "The challenge could not be written.")
		failure.cause = err
		return failure
	}
	r.header.Set("WWW-Authenticate", "Basic realm="+file)
	return fail(http.StatusUnauthorized, "unauthorized_client", 0, "Missing Basic Authorization header: its value is in the file that WWW-Authenticate names.")
}

const instancePath = "/metadata/instance"

// instanceMetadata is a little of what IMDS says of a machine.
type instanceMetadata struct {
	Compute instanceCompute `json:"compute"`
	Network struct{}        `json:"network"`
}

type instanceCompute struct {
	Environment    string `json:"azEnvironment"`
	Location       string `json:"location"`
	Name           string `json:"name"`
	Provider       string `json:"provider"`
	Group          string `json:"resourceGroupName"`
	ResourceID     string `json:"resourceId"`
	SubscriptionID string `json:"subscriptionId"`
	VMID           string `json:"vmId"`
}

// plainText is an answer that is not JSON.
type plainText string

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store, no-cache")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write([]byte(text))
}

// answerInstance tells a workload where it runs: as the resource it is.
func answerInstance(p *Provider, r *msiRequest) (any, *oauthError) {
	identity, failure := p.identity(r)
	if failure != nil {
		return nil, failure
	}
	id := identity.ResourceID
	namespace, _, _ := strings.Cut(id.Type(), "/")
	compute := instanceCompute{
		Environment: "AzurePublicCloud", Location: identity.Location, Name: id.Name(), Provider: namespace,
		Group: id.ResourceGroup(), ResourceID: id.String(), SubscriptionID: id.Subscription(), VMID: r.uid,
	}
	switch strings.TrimPrefix(r.path, instancePath) {
	case "":
		return instanceMetadata{Compute: compute}, nil
	case "/compute":
		return compute, nil
	case "/compute/location": // MSAL asks for its region
		return plainText(compute.Location), nil
	}
	return nil, fail(http.StatusNotFound, "not_found", 0, "There is no such instance metadata.")
}
