package client

import (
	"context"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/access"
)

// AccessPolicy bounds the access to a cluster, or by one binding.
type AccessPolicy struct {
	Body
	ID         string                 `json:"id"`
	ETag       string                 `json:"etag"`
	Properties AccessPolicyProperties `json:"properties"`
}

// AccessPolicyProperties is what an owner writes; a write replaces all of it.
type AccessPolicyProperties struct {
	ExpiresOn           time.Time `json:"expiresOn,omitzero"` // zero: never
	Locked              bool      `json:"locked"`
	LockReason          string    `json:"lockReason,omitempty"` // told to those who are refused
	AllowedSourceRanges []string  `json:"allowedSourceRanges,omitempty"`
}

// policyPath is our extension resource under a cluster or a binding.
func policyPath(target access.ResourceID) string {
	return target.String() + "/providers/Sallyport.Gateway/accessPolicies/default"
}

// AccessPolicy reads the policy of a cluster or a binding. The error wraps
// access.ErrNotFound when nothing bounds it.
func (c *Client) AccessPolicy(ctx context.Context, target access.ResourceID) (AccessPolicy, error) {
	var p AccessPolicy
	return p, c.get(ctx, policyPath(target), genericVersion, &p)
}

// PutAccessPolicy writes the policy of a cluster or a binding, over the one
// that was read with etag, or with "" where there must be none. When it returns
// the gateway has it in force. The error wraps access.ErrConflict when another
// write came between.
func (c *Client) PutAccessPolicy(ctx context.Context, target access.ResourceID, props AccessPolicyProperties, etag string) (AccessPolicy, error) {
	var p AccessPolicy
	body := struct {
		Properties AccessPolicyProperties `json:"properties"`
	}{props}
	r, err := c.sendIf(ctx, http.MethodPut, c.resolve(policyPath(target), genericVersion), body, condition(etag))
	if err != nil {
		return p, err
	}
	return p, r.into(&p)
}

// DeleteAccessPolicy removes the policy that was read with etag, or any with
// "*". existed is false when there was none.
func (c *Client) DeleteAccessPolicy(ctx context.Context, target access.ResourceID, etag string) (existed bool, err error) {
	header := http.Header{}
	if etag != "*" {
		header.Set("If-Match", etag)
	}
	r, err := c.sendIf(ctx, http.MethodDelete, c.resolve(policyPath(target), genericVersion), nil, header)
	return r.status != http.StatusNoContent, err
}

// condition is the header under which a resource is written.
func condition(etag string) http.Header {
	if etag == "" {
		return http.Header{"If-None-Match": {"*"}}
	}
	return http.Header{"If-Match": {etag}}
}
