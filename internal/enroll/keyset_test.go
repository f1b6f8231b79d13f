package enroll_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/enroll"
)

// FuzzKeySet checks that what is recorded reads again as the same keys: the
// recorded set is what every later token is judged by.
func FuzzKeySet(f *testing.F) {
	f.Add(newKube(f, time.Now).jwks(f))
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"AAAA","y":"AAAA"}]}`))
	f.Add([]byte(`{"keys":[],"KEYS":[]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := enroll.CanonicalKeySet(data)
		if err != nil {
			if !errors.Is(err, access.ErrInvalid) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		second, err := enroll.CanonicalKeySet(first)
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s is recorded as %s and then reads as %s (%v)", data, first, second, err)
		}
	})
}
