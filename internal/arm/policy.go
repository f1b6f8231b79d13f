package arm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// AccessPolicy is our extension resource under a cluster or a binding:
// {id}/providers/Sallyport.Gateway/accessPolicies/default.
type AccessPolicy struct {
	ID         string                 `json:"id"`
	Name       string                 `json:"name"`
	Type       string                 `json:"type"`
	ETag       string                 `json:"etag"` // as the ETag header, quotes included
	Properties AccessPolicyProperties `json:"properties"`
	SystemData PolicySystemData       `json:"systemData"`
}

// AccessPolicyProperties is what an owner writes, whole: what a PUT leaves out
// bounds nothing.
type AccessPolicyProperties struct {
	ExpiresOn           *time.Time `json:"expiresOn,omitempty"` // RFC 3339
	Locked              bool       `json:"locked"`
	LockReason          string     `json:"lockReason,omitempty"`
	AllowedSourceRanges []string   `json:"allowedSourceRanges,omitempty"`
}

// PolicySystemData says who wrote last.
type PolicySystemData struct {
	LastModifiedBy string    `json:"lastModifiedBy"` // object id
	LastModifiedAt time.Time `json:"lastModifiedAt"`
}

// NewAccessPolicy shows p, which lies at path.
func NewAccessPolicy(path Path, p access.Policy) AccessPolicy {
	return AccessPolicy{
		ID: path.String(), Name: path[len(path)-1], Type: path.Type(), ETag: ETag(p.ETag),
		Properties: PolicyProperties(p),
		SystemData: PolicySystemData{LastModifiedBy: p.Written.ObjectID, LastModifiedAt: p.Written.At.UTC()},
	}
}

// PolicyProperties shows what p bounds.
func PolicyProperties(p access.Policy) AccessPolicyProperties {
	shown := AccessPolicyProperties{Locked: p.Locked, LockReason: p.LockReason, AllowedSourceRanges: p.AllowedSourceRanges}
	if !p.ExpiresOn.IsZero() {
		at := p.ExpiresOn.UTC()
		shown.ExpiresOn = &at
	}
	return shown
}

// ParsePolicy reads the properties of an access policy, from a body that passed
// [CheckBody]. Unlike ARM's own resources it lets no unknown member pass: a
// lock that is misspelt must not be taken for none. The error is an [*Error].
func ParsePolicy(properties json.RawMessage) (access.Policy, error) {
	var p AccessPolicyProperties
	dec := json.NewDecoder(bytes.NewReader(properties))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return access.Policy{}, InvalidContent("an access policy has expiresOn (a time such as 2026-12-24T18:00:00Z), locked, lockReason and allowedSourceRanges (a list): %v", err)
	}
	policy := access.Policy{Locked: p.Locked, LockReason: p.LockReason, AllowedSourceRanges: p.AllowedSourceRanges}
	if p.ExpiresOn != nil {
		if p.ExpiresOn.IsZero() { // inside, that is "never"
			return access.Policy{}, InvalidParameter("properties.expiresOn", "0001-01-01 is the zero time of some languages; leave the property out for access that does not end.")
		}
		policy.ExpiresOn = p.ExpiresOn.UTC()
	}
	if err := access.CheckPolicy(policy); err != nil {
		return access.Policy{}, InvalidParameter("properties", "%s.", access.Message(err))
	}
	return policy, nil
}

// ETag quotes a version as its header does (RFC 9110, section 8.8.3).
func ETag(version string) string { return `"` + version + `"` }

// CheckMatch holds a write's If-Match and If-None-Match (RFC 9110, section
// 13.1) against the version that is there, "" for none. The error is an
// [*Error] with status 412.
func CheckMatch(r *http.Request, version string) error {
	fail := func(format string, args ...any) error {
		return &Error{Status: http.StatusPreconditionFailed, Code: "PreconditionFailed", Message: fmt.Sprintf(format, args...) + "."}
	}
	if want := r.Header.Values("If-Match"); len(want) > 0 {
		switch {
		case version == "":
			return fail("If-Match is given, but there is nothing to match")
		case !lists(want, version):
			return fail("The resource was changed meanwhile: its etag is %s; read it again", ETag(version))
		}
	}
	if unwanted := r.Header.Values("If-None-Match"); version != "" && lists(unwanted, version) {
		return fail("The resource exists already, with etag %s", ETag(version))
	}
	return nil
}

// lists reports whether a header names the version, or any by "*". A weak tag
// names none: two states may share it.
func lists(header []string, version string) bool {
	for tag := range strings.SplitSeq(strings.Join(header, ","), ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == ETag(version) {
			return true
		}
	}
	return false
}
