package controlplane_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestMatch: If-Match and If-None-Match, as ARM has them (spec/identity.md 6.6).
func TestMatch(t *testing.T) {
	f := newFixture(t, nil)
	do := func(method, url, header, value, body string) *http.Response {
		r := httptest.NewRequestWithContext(t.Context(), method, url+version, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer owner")
		r.Header.Set(header, value)
		w := httptest.NewRecorder()
		f.cp.ServeHTTP(w, r)
		return w.Result()
	}
	for _, c := range []struct{ url, body string }{{vault, `{"tags":{"a":"b"}}`}, {cluster, `{"location":"eastus"}`}} {
		other := c.url + "2"
		if got := do("PUT", other, "If-Match", "*", c.body).StatusCode; got != 412 {
			t.Errorf("PUT %s If-Match *: %d, want 412", other, got)
		}
		if got := do("DELETE", other, "If-Match", "*", "").StatusCode; got != 404 {
			t.Errorf("DELETE %s If-Match *: %d, want 404", other, got)
		}
		if got := do("PUT", other, "If-None-Match", "*", c.body).StatusCode; got != 201 {
			t.Errorf("PUT %s If-None-Match *: %d, want 201", other, got)
		}
		if got := do("PUT", other, "If-None-Match", "*", c.body).StatusCode; got != 412 {
			t.Errorf("PUT %s If-None-Match * again: %d, want 412", other, got)
		}
		tag := do("GET", other, "Accept", "*/*", "").Header.Get("ETag")
		if tag == "" {
			t.Fatalf("%s has no ETag", other)
		}
		changed := strings.Replace(c.body, "}", `,"kind":"k"}`, 1)
		if c.url == vault {
			changed = `{"tags":{"a":"c"}}`
		}
		if got := do("PUT", other, "If-Match", tag, changed).StatusCode; got != 200 {
			t.Errorf("PUT %s If-Match %s: %d, want 200", other, tag, got)
		}
		for _, method := range []string{"PUT", "PATCH", "DELETE"} {
			if got := do(method, other, "If-Match", tag, c.body).StatusCode; got != 412 {
				t.Errorf("%s %s If-Match of before: %d, want 412", method, other, got)
			}
		}
		if got := do("DELETE", other, "If-Match", "*", "").StatusCode; got != 200 && got != 202 {
			t.Errorf("DELETE %s If-Match *: %d", other, got)
		}
	}
}
