package client_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

// FuzzErrorBody: whatever stands in a refusal, it stays a refusal of its kind.
func FuzzErrorBody(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `[]`, `"x"`, `{"error":null}`, `{"error":"x","error_description":"y"}`, `{"error":{"code":1}}`, `{"error":[]}`,
		`{"code":"NotFound","message":"m","subcode":"s"}`, `{"error":{"code":"c","message":"m"},"code":"other"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			w.Write(body)
		})
		_, err := c.Subscriptions(t.Context())
		var refused *client.Error
		if !errors.As(err, &refused) || refused.Status != http.StatusForbidden || !errors.Is(err, access.ErrForbidden) || err.Error() == "" {
			t.Errorf("err = %v", err)
		}
	})
}
