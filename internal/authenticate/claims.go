package authenticate

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/access"
)

const (
	// skew is how far the issuer's clock may be off (item 14).
	skew = 60 * time.Second
	// maxLifetime caps exp - iat (item 17). Managed-identity tokens live 24 h
	// and 5 min.
	maxLifetime = 25 * time.Hour
	// maxTime is the last second of the year 9999.
	maxTime = 253402300799
)

// claims are those of a token whose signature has been verified. Names are
// case-sensitive, as they are in RFC 7519.
type claims jwt.MapClaims

// text returns a claim that must be a string when it is there.
func (c claims) text(name string) (value string, ok bool, err error) {
	v, ok := c[name]
	if !ok {
		return "", false, nil
	}
	s, isString := v.(string)
	if !isString {
		return "", false, refuse(Invalid, "the token's claim %s must be a string", name)
	}
	return s, true, nil
}

// instant returns a claim of whole seconds since 1970 (RFC 7519 2; Entra
// sends whole seconds).
func (c claims) instant(name string) (t time.Time, ok bool, err error) {
	v, ok := c[name]
	if !ok {
		return time.Time{}, false, nil
	}
	number, isNumber := v.(json.Number)
	seconds, parseErr := number.Int64()
	if !isNumber || parseErr != nil || seconds <= 0 || seconds > maxTime {
		return time.Time{}, false, refuse(Invalid, "the token's claim %s must be a whole number of seconds since 1970", name)
	}
	return time.Unix(seconds, 0).UTC(), true, nil
}

// principal checks the claims against the configuration and the clock, in the
// order of spec/identity.md 1.5.
func (v *Verifier) principal(c claims, issuer Issuer, now time.Time) (access.Principal, error) {
	if err := v.checkAudience(c); err != nil {
		return access.Principal{}, err
	}
	expires, err := checkTimes(c, now)
	if err != nil {
		return access.Principal{}, err
	}
	if err := checkTenant(c, issuer); err != nil {
		return access.Principal{}, err
	}
	p := access.Principal{Issuer: issuer.Issuer, TenantID: issuer.TenantID, Expires: expires}
	oid, _, err := c.text("oid")
	if err != nil {
		return access.Principal{}, err
	}
	if !access.IsGUID(oid) {
		return access.Principal{}, refuse(Invalid, "the token's claim oid is %s; it must be a GUID", quote(c["oid"]))
	}
	p.ObjectID = strings.ToLower(oid)
	for _, name := range []string{"appid", "azp"} { // v1, v2
		app, ok, err := c.text(name)
		if err != nil {
			return access.Principal{}, err
		}
		if ok {
			p.AppID = app
			break
		}
	}
	if p.Resource, err = sourceOf(c); err != nil {
		return access.Principal{}, err
	}
	if p.Groups, err = groupsOf(c); err != nil {
		return access.Principal{}, err
	}
	if p.UsedBy, err = resourceIn(c, "xms_az_rid"); err != nil {
		return access.Principal{}, err
	}
	if v.requireSource {
		if err := checkSource(c, p.Resource); err != nil {
			return access.Principal{}, err
		}
	}
	return p, nil
}

func (v *Verifier) checkAudience(c claims) error {
	aud, ok := c["aud"].(string)
	if !ok {
		return refuse(WrongAudience, "the token's audience must be one string: %s", v.accepted())
	}
	if why, ok := v.unserved[aud]; ok {
		return refuse(WrongAudience, "%s", why)
	}
	if !slices.Contains(v.audiences, aud) {
		return refuse(WrongAudience, "the token is for audience %q, but must be for %s", access.Clip(aud, maxQuoted), v.accepted())
	}
	return nil
}

// accepted lists the audiences for a refusal.
func (v *Verifier) accepted() string {
	quoted := make([]string, len(v.audiences))
	for i, a := range v.audiences {
		quoted[i] = quote(a)
	}
	return strings.Join(quoted, " or ")
}

// checkTimes wants exp and iat, honours nbf, and returns exp.
func checkTimes(c claims, now time.Time) (time.Time, error) {
	exp, hasExp, err := c.instant("exp")
	if err != nil {
		return time.Time{}, err
	}
	iat, hasIat, err := c.instant("iat")
	if err != nil {
		return time.Time{}, err
	}
	nbf, hasNbf, err := c.instant("nbf")
	if err != nil {
		return time.Time{}, err
	}
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case !hasExp || !hasIat:
		return time.Time{}, refuse(Invalid, "the token must say when it was issued (iat) and when it expires (exp)")
	case !now.Before(exp.Add(skew)):
		return time.Time{}, refuse(Expired, "the token expired at %s; it is now %s", stamp(exp), stamp(now))
	case iat.After(now.Add(skew)):
		return time.Time{}, refuse(Invalid, "the token was issued at %s, in the future: it is now %s", stamp(iat), stamp(now))
	case hasNbf && nbf.After(now.Add(skew)):
		return time.Time{}, refuse(Invalid, "the token is not valid before %s; it is now %s", stamp(nbf), stamp(now))
	case exp.Sub(iat) > maxLifetime:
		return time.Time{}, refuse(Invalid, "the token lives %s; at most %s is accepted", exp.Sub(iat), maxLifetime)
	}
	return exp, nil
}

// checkTenant ties the token to the issuer's tenant and version: the same oid
// in another tenant is somebody else (item 16).
func checkTenant(c claims, issuer Issuer) error {
	tid, _, err := c.text("tid")
	if err != nil {
		return err
	}
	if !strings.EqualFold(tid, issuer.TenantID) {
		return refuse(WrongTenant, "the token's tenant is %s, but its issuer %q speaks for tenant %q", quote(c["tid"]), issuer.Issuer, issuer.TenantID)
	}
	version, ok, err := c.text("ver")
	if err != nil {
		return err
	}
	if ok && issuer.Version != "" && version != issuer.Version {
		return refuse(Invalid, "the token's version is %q, but its issuer %q issues version %q", access.Clip(version, maxQuoted), issuer.Issuer, issuer.Version)
	}
	return nil
}

// sourceOf returns the resource behind a managed-identity token, or the zero
// id when there is no xms_mirid. The id is compared as typed segments later,
// so one that does not parse is refused here (item 15).
func sourceOf(c claims) (access.ResourceID, error) {
	return resourceIn(c, "xms_mirid")
}

// resourceIn returns the resource that a claim names, zero without it.
func resourceIn(c claims, claim string) (access.ResourceID, error) {
	text, ok, err := c.text(claim)
	if err != nil || !ok {
		return access.ResourceID{}, err
	}
	id, err := access.ParseResourceID(text)
	if err != nil {
		return access.ResourceID{}, refuse(Invalid, "the token's claim %s is not a resource id: %v", claim, err)
	}
	if id.Type() == "" {
		return access.ResourceID{}, refuse(Invalid, "the token's claim %s is %q; it must name a resource, not a subscription or group", claim, access.Clip(text, maxQuoted))
	}
	return id, nil
}

// groupsOf returns the groups of a token, by their object ids (spec/identity.md
// 1.2). A token of somebody in too many says where to ask for them, which is
// not done here: such a caller has none.
func groupsOf(c claims) ([]string, error) {
	v, ok := c["groups"]
	if !ok {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, refuse(Invalid, "the token's claim groups must be a list")
	}
	groups := make([]string, len(list))
	for i, v := range list {
		group, _ := v.(string)
		if !access.IsGUID(group) {
			return nil, refuse(Invalid, "the token's claim groups has %s; each must be a GUID", quote(v))
		}
		groups[i] = strings.ToLower(group)
	}
	return groups, nil
}

// checkSource holds a token of the data plane to what only a system-assigned
// managed identity has (spec/identity.md 1.3, last points).
func checkSource(c claims, source access.ResourceID) error {
	if source.IsZero() {
		return refuse(Invalid, "the token has no xms_mirid: only a resource's own managed identity is accepted here, not a user or an application")
	}
	// The whole subtree, so that a child of an identity is no way around.
	if strings.HasPrefix(strings.ToLower(source.Type())+"/", strings.ToLower(access.UserAssignedType)+"/") {
		return refuse(Invalid, "the token is of the user-assigned identity %q; only a resource's system-assigned identity is accepted", access.Clip(source.String(), maxQuoted))
	}
	if idtyp, ok := c["idtyp"]; ok && idtyp != "app" {
		return refuse(Invalid, "the token's claim idtyp is %s; a managed identity's is \"app\"", quote(idtyp))
	}
	if _, ok := c["scp"]; ok {
		return refuse(Invalid, "the token has scp, so it is a user's; a managed identity's has none")
	}
	if sub, ok := c["sub"].(string); !ok || sub != c["oid"] {
		return refuse(Invalid, "the token's claims sub and oid differ; in a managed identity's token they are equal")
	}
	return nil
}
