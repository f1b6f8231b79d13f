package arm_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
)

func TestCheckMatch(t *testing.T) {
	const is = "v1"
	for _, tc := range []struct {
		name, header, value, version string
		ok                           bool
	}{
		{"no condition", "Accept", "*", is, true},
		{"the same", "If-Match", `"v1"`, is, true},
		{"one of several", "If-Match", `"v0", "v1"`, is, true},
		{"another", "If-Match", `"v0"`, is, false},
		{"unquoted", "If-Match", `v1`, is, false},
		{"weak", "If-Match", `W/"v1"`, is, false},
		{"any", "If-Match", "*", is, true},
		{"any of nothing", "If-Match", "*", "", false},
		{"empty tag of nothing", "If-Match", `""`, "", false},
		{"empty", "If-Match", "", is, false},
		{"must not exist, does", "If-None-Match", "*", is, false},
		{"must not exist, does not", "If-None-Match", "*", "", true},
		{"must not be this", "If-None-Match", `"v1"`, is, false},
		{"must not be that", "If-None-Match", `"v0"`, is, true},
	} {
		r := &http.Request{Header: http.Header{}}
		r.Header.Set(tc.header, tc.value)
		err := arm.CheckMatch(r, tc.version)
		var e *arm.Error
		if tc.ok && err != nil || !tc.ok && (!errors.As(err, &e) || e.Status != http.StatusPreconditionFailed || !errors.Is(err, access.ErrConflict)) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// FuzzParsePolicy: what is taken is within the limits, and its own words are
// taken for the same.
func FuzzParsePolicy(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"locked":true,"lockReason":"why"}`, `{"expiresOn":"2026-12-24T19:00:00+01:00"}`, `{"expiresOn":"0001-01-01T00:00:00Z"}`,
		`{"allowedSourceRanges":["10.0.0.0/8","AzureCloud"]}`, `{"lock":true}`, `null`, `[]`, `{"expiresOn":null}`, `{"LOCKED":true}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := arm.ParsePolicy(json.RawMessage(text))
		if err != nil {
			var e *arm.Error
			if !errors.As(err, &e) || e.Status != http.StatusBadRequest {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if err := access.CheckPolicy(p); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if !p.ExpiresOn.IsZero() && p.ExpiresOn.Location() != time.UTC {
			t.Errorf("%q: in %s", text, p.ExpiresOn.Location())
		}
		path := arm.Path{"subscriptions", "s", "providers", "Sallyport.Gateway", "accessPolicies", "default"}
		own, err := json.Marshal(arm.NewAccessPolicy(path, p).Properties)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := arm.ParsePolicy(own); err != nil || !again.SameBounds(p) {
			t.Errorf("%q: again %s: %+v, %v", text, own, again, err)
		}
	})
}
