package gateway_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
)

// TestSourceAddress: who may not ask from where he is hears one thing, whatever
// he asks, and nothing is looked up for him.
func TestSourceAddress(t *testing.T) {
	outside := func(a netip.Addr) bool { return a != netip.MustParseAddr("192.0.2.1") }
	noToken := get("/api/v1/pods")
	noToken.Header.Del("Authorization")
	for name, req := range map[string]*http.Request{
		"a good request": get("/api/v1/pods"),
		"no token":       noToken,
		"spoofed":        withHeader(get("/api/v1/pods"), "X-Forwarded-For", "203.0.113.9"),
		"no such path":   get("/api/../x"),
		"CONNECT":        request(http.MethodConnect, "/api/v1/pods", nil),
	} {
		r := newRig(t)
		r.from = outside
		err := status(t, r.do(req))
		if err.ErrStatus.Code != 403 || !strings.Contains(err.ErrStatus.Message, "source address 192.0.2.1 ") {
			t.Errorf("%s: %d %s", name, err.ErrStatus.Code, err.ErrStatus.Message)
		}
		if !slices.Equal(r.steps, []string{"audit decision"}) || r.records[0].Remote != "192.0.2.1" || *r.records[0].Allowed {
			t.Errorf("%s: %v, %+v", name, r.steps, r.records)
		}
	}

	r := newRig(t)
	r.from = outside
	r.address = func(*http.Request) (netip.Addr, error) { return netip.MustParseAddr("2001:db8::7"), nil }
	if resp := r.do(get("/api/v1/pods")); resp.StatusCode != 200 {
		t.Errorf("an address that is served: %d", resp.StatusCode)
	}
	if r.records[0].Remote != "2001:db8::7" || r.records[1].Remote != "2001:db8::7" {
		t.Errorf("recorded: %+v", r.records)
	}

	r = newRig(t)
	r.address = func(*http.Request) (netip.Addr, error) {
		return netip.MustParseAddr("10.0.0.7"), fmt.Errorf("forwarded for \"x\": %w", access.ErrInvalid)
	}
	if err := status(t, r.do(get("/api/v1/pods"))); err.ErrStatus.Code != 400 || !strings.Contains(err.ErrStatus.Message, `forwarded for "x"`) {
		t.Errorf("an unknown address: %+v", err.ErrStatus)
	}
	if !slices.Equal(r.steps, []string{"audit decision"}) || r.records[0].Remote != "10.0.0.7" {
		t.Errorf("an unknown address: %v, %+v", r.steps, r.records)
	}
}

func withHeader(r *http.Request, name, value string) *http.Request {
	r.Header.Set(name, value)
	return r
}
