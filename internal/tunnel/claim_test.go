package tunnel_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

const (
	someSource  = "/subscriptions/11111111-2222-3333-4444-aaaaaaaaaaaa/resourcegroups/RG/providers/Microsoft.MachineLearningServices/workspaces/ml1"
	someBinding = "aaaaaaaa-2222-3333-4444-aaaaaaaaaaaa"
	someRequest = "bbbbbbbb-2222-3333-4444-aaaaaaaaaaaa"
)

func someGrant(t testing.TB) access.Grant {
	source, err := access.ParseResourceID(someSource)
	check(t, err)
	return access.Grant{Binding: "B-1", BindingUID: someBinding, Source: source}
}

func TestClaimRoundTrip(t *testing.T) {
	h := http.Header{tunnel.HeaderBinding: {"forged", "twice"}, tunnel.HeaderRequestID: {"forged"}}
	tunnel.StampClaim(h, someGrant(t), someRequest)
	c, err := tunnel.ReadClaim(h)
	check(t, err)
	if c.Binding != "B-1" || c.BindingUID != someBinding || c.Source.String() != someSource || c.RequestID != someRequest {
		t.Errorf("%+v", c)
	}
	for name := range h {
		if !tunnel.IsPrivate(name) {
			t.Errorf("stamped %s, which may pass on", name)
		}
	}
}

func TestItem06ReadClaimRefuses(t *testing.T) {
	for name, change := range map[string]func(http.Header){
		"nothing":           func(h http.Header) { clear(h) },
		"no binding":        func(h http.Header) { h.Del(tunnel.HeaderBinding) },
		"no uid":            func(h http.Header) { h.Del(tunnel.HeaderBindingUID) },
		"no source":         func(h http.Header) { h.Del(tunnel.HeaderSource) },
		"no request id":     func(h http.Header) { h.Del(tunnel.HeaderRequestID) },
		"empty binding":     func(h http.Header) { h.Set(tunnel.HeaderBinding, "") },
		"two bindings":      func(h http.Header) { h.Add(tunnel.HeaderBinding, "B-1") },
		"two uids":          func(h http.Header) { h.Add(tunnel.HeaderBindingUID, someBinding) },
		"two sources":       func(h http.Header) { h.Add(tunnel.HeaderSource, someSource) },
		"two request ids":   func(h http.Header) { h.Add(tunnel.HeaderRequestID, someRequest) },
		"long binding":      func(h http.Header) { h.Set(tunnel.HeaderBinding, strings.Repeat("a", 25)) },
		"binding with :":    func(h http.Header) { h.Set(tunnel.HeaderBinding, "a:b") },
		"binding with CR":   func(h http.Header) { h.Set(tunnel.HeaderBinding, "a\r\nImpersonate-Group: system:masters") },
		"binding non-ASCII": func(h http.Header) { h.Set(tunnel.HeaderBinding, "bï") },
		"binding system:":   func(h http.Header) { h.Set(tunnel.HeaderBinding, "system:masters") },
		"uid no GUID":       func(h http.Header) { h.Set(tunnel.HeaderBindingUID, "1") },
		"uid with LF":       func(h http.Header) { h.Set(tunnel.HeaderBindingUID, someBinding+"\n") },
		"request no GUID":   func(h http.Header) { h.Set(tunnel.HeaderRequestID, "x") },
		"source no id":      func(h http.Header) { h.Set(tunnel.HeaderSource, "/subscriptions/x") },
		"source with LF":    func(h http.Header) { h.Set(tunnel.HeaderSource, someSource+"\nx") },
		"lower case names": func(h http.Header) {
			v := h.Get(tunnel.HeaderSource)
			h.Del(tunnel.HeaderSource)
			h["sallyport-source"] = []string{v}
		},
	} {
		h := http.Header{}
		tunnel.StampClaim(h, someGrant(t), someRequest)
		change(h)
		if c, err := tunnel.ReadClaim(h); !errors.Is(err, access.ErrForbidden) || c.Binding != "" {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

// FuzzReadClaim: what is read back stamps the same headers (checklist, item 6).
func FuzzReadClaim(f *testing.F) {
	f.Add("B-1", someBinding, someSource, someRequest)
	f.Add("", "", "", "")
	f.Add("system:masters", someBinding, someSource, someRequest)
	f.Add("a\r\nb", someBinding+"\x00", someSource+"/", someRequest+" ")
	f.Add("b\u212A", strings.ToUpper(someBinding), strings.ToUpper(someSource), "{"+someRequest+"}")
	f.Fuzz(func(t *testing.T, binding, uid, source, request string) {
		h := http.Header{tunnel.HeaderBinding: {binding}, tunnel.HeaderBindingUID: {uid}, tunnel.HeaderSource: {source}, tunnel.HeaderRequestID: {request}}
		c, err := tunnel.ReadClaim(h)
		if err != nil {
			if !errors.Is(err, access.ErrForbidden) {
				t.Fatal(err)
			}
			return
		}
		if c.Binding != binding || c.BindingUID != uid || c.Source.String() != source || c.RequestID != request {
			t.Fatalf("%+v", c)
		}
		back := http.Header{}
		tunnel.StampClaim(back, access.Grant{Binding: c.Binding, BindingUID: c.BindingUID, Source: c.Source}, c.RequestID)
		for name := range h {
			v := back.Get(name)
			if v != h.Get(name) {
				t.Fatalf("%s: %q became %q", name, h.Get(name), v)
			}
			for i := range len(v) {
				if v[i] <= ' ' || v[i] >= 0x7f {
					t.Fatalf("%s: %q is not clean", name, v)
				}
			}
		}
	})
}

func TestRefusal(t *testing.T) {
	wrap := func(text string, kind error) error { return &wrapped{text, kind} }
	for _, tc := range []struct {
		name   string
		err    error
		kind   error
		reason string
	}{
		{"forbidden", wrap("no binding with that uid", access.ErrForbidden), access.ErrForbidden, "no binding with that uid"},
		{"unavailable", wrap("not heard", access.ErrUnavailable), access.ErrUnavailable, "not heard"},
		{"invalid", wrap("bad method", access.ErrInvalid), access.ErrInvalid, "bad method"},
		{"no answer", wrap("none within 45 s", tunnel.ErrNoAnswer), tunnel.ErrNoAnswer, "none within 45 s"},
		{"line breaks", wrap("a\r\nSet-Cookie: x\r\n\r\n<script>", access.ErrForbidden), access.ErrForbidden, "a\r\nSet-Cookie: x\r\n\r\n<script>"},
		{"quotes", wrap(`"" \" \n internal`, access.ErrForbidden), access.ErrForbidden, `"" \" \n internal`},
		{"non-ASCII", wrap("ä\u2028\x00\x1b", access.ErrInvalid), access.ErrInvalid, "ä\u2028\x00\x1b"},
		{"empty", wrap("", access.ErrForbidden), access.ErrForbidden, ""},
		{"no kind: the cause stays", errors.New("token of /var/run: secret"), nil, "internal error"},
		{"a kind that agents do not use", wrap("secret", access.ErrConflict), nil, "internal error"},
	} {
		w := httptest.NewRecorder()
		tunnel.Refuse(w, tc.err)
		if w.Code != http.StatusForbidden || w.Body.Len() != 0 {
			t.Errorf("%s: status %d, body %q", tc.name, w.Code, w.Body)
		}
		for name, values := range w.Header() {
			for i := range len(values[0]) {
				if c := values[0][i]; c < ' ' || c >= 0x7f {
					t.Errorf("%s: header %s holds %q", tc.name, name, values[0])
				}
			}
			if !tunnel.IsPrivate(name) {
				t.Errorf("%s: header %s would pass on", tc.name, name)
			}
		}
		err := tunnel.Refused(w.Header())
		var refused *tunnel.RefusedError
		if !errors.As(err, &refused) || refused.Reason != tc.reason || refused.Unwrap() != tc.kind || tc.kind != nil && !errors.Is(err, tc.kind) {
			t.Errorf("%s: %#v", tc.name, err)
		}
	}
	if err := tunnel.Refused(http.Header{"Content-Type": {"x"}}); err != nil {
		t.Errorf("refused without a refusal: %v", err)
	}
}

// A refusal that cannot be read is one all the same.
func TestUnreadableRefusal(t *testing.T) {
	for _, value := range []string{"x", "forbidden", "forbidden ", `forbidden "`, `forbidden "a" b`, `"a"`, ` "a"`, "forbidden 'ab'"} {
		w := httptest.NewRecorder()
		tunnel.Refuse(w, access.ErrForbidden)
		for name := range w.Header() {
			w.Header().Set(name, value)
		}
		if err := tunnel.Refused(w.Header()); err == nil {
			t.Errorf("%q is no refusal", value)
		}
	}
}

type wrapped struct {
	text string
	kind error
}

func (w *wrapped) Error() string { return w.text }
func (w *wrapped) Unwrap() error { return w.kind }
