package authenticate_test

import (
	"testing"

	"github.com/sallyport/sallyport/internal/authenticate"
)

// TestUnserved: the bearer of a good token that is not accepted here is told why.
func TestUnserved(t *testing.T) {
	cfg := config(newSource(), &clock{t: start})
	cfg.Unserved = map[string]string{"https://else.test": "developers come later"}
	_, err := newVerifier(t, cfg).Principal(t.Context(), token(fields{"aud": "https://else.test"}))
	if r := refusal(t, err); r.Code != authenticate.WrongAudience || r.Message != "developers come later" {
		t.Errorf("refusal: %+v", r)
	}
}
