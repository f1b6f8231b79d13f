package client_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

func TestAccessPolicy(t *testing.T) {
	const path = clusterID + "/providers/Sallyport.Gateway/accessPolicies/default"
	var header http.Header
	var body string
	answer := http.StatusOK
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path {
			t.Errorf("path %s", r.URL.Path)
		}
		text, _ := io.ReadAll(r.Body)
		header, body = r.Header, string(text)
		w.WriteHeader(answer)
		if answer == http.StatusOK {
			io.WriteString(w, `{"id":"`+path+`","name":"default","etag":"\"v2\"","properties":{"locked":true,"lockReason":"why","expiresOn":"2026-12-24T18:00:00Z"}}`)
		}
	})
	cluster := parse(t, clusterID)
	p, err := c.AccessPolicy(t.Context(), cluster)
	if err != nil || p.ETag != `"v2"` || !p.Properties.Locked || p.Properties.ExpiresOn != time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC) || len(p.Raw) == 0 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, tc := range []struct{ etag, match, noneMatch string }{{`"v1"`, `"v1"`, ""}, {"", "", "*"}} {
		if _, err := c.PutAccessPolicy(t.Context(), cluster, client.AccessPolicyProperties{Locked: true, LockReason: "why"}, tc.etag); err != nil {
			t.Error(err)
		}
		if header.Get("If-Match") != tc.match || header.Get("If-None-Match") != tc.noneMatch || header.Get("Authorization") != "Bearer tok" {
			t.Errorf("etag %q: %v", tc.etag, header)
		}
		if want := `{"properties":{"locked":true,"lockReason":"why"}}`; body != want {
			t.Errorf("sent %s, want %s", body, want)
		}
	}
	if existed, err := c.DeleteAccessPolicy(t.Context(), cluster, `"v2"`); !existed || err != nil || header.Get("If-Match") != `"v2"` {
		t.Error(existed, err, header)
	}
	answer = http.StatusNoContent
	if existed, err := c.DeleteAccessPolicy(t.Context(), cluster, "*"); existed || err != nil || header.Get("If-Match") != "" {
		t.Error(existed, err, header)
	}
	answer = http.StatusPreconditionFailed
	if _, err := c.PutAccessPolicy(t.Context(), cluster, client.AccessPolicyProperties{}, `"v1"`); !errors.Is(err, access.ErrConflict) {
		t.Error(err)
	}
	answer = http.StatusNotFound
	if _, err := c.AccessPolicy(t.Context(), cluster); !errors.Is(err, access.ErrNotFound) || !strings.Contains(err.Error(), "404") {
		t.Error(err)
	}
}
