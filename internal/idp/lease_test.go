package idp_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/idp"
)

// TestLease: a lease names its caller, for one audience, and ends.
func TestLease(t *testing.T) {
	w := newWorld(t)
	caller := access.Principal{TenantID: strings.ToUpper(tenant), ObjectID: clientOID, AppID: clientID}
	token, expires, err := w.Lease(t.Context(), caller, idp.KubernetesAudience, time.Hour)
	if err != nil || !expires.Equal(start.Add(time.Hour)) {
		t.Fatalf("expires %s, %v", expires, err)
	}
	v := w.verifier(t, false, idp.KubernetesAudience)
	p, err := v.Principal(t.Context(), token)
	if err != nil || p.ObjectID != clientOID || p.AppID != clientID || p.TenantID != tenant || !p.Resource.IsZero() {
		t.Errorf("principal %+v, %v", p, err)
	}
	w.now = start.Add(time.Hour + 2*time.Minute)
	if _, err := v.Principal(t.Context(), token); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("after its end: %v", err)
	}
	caller.TenantID = "99999999-9999-9999-9999-999999999999"
	if _, _, err := w.Lease(t.Context(), caller, idp.KubernetesAudience, time.Hour); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("another tenant's caller: %v", err)
	}
	caller.TenantID = tenant
	if _, _, err := w.Lease(t.Context(), caller, "https://elsewhere.test", time.Hour); !errors.Is(err, access.ErrNotFound) {
		t.Errorf("another audience: %v", err)
	}
}
