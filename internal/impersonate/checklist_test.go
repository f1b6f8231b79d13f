package impersonate_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/tunnel"
)

// A Connection header lists names that proxies then delete. Set before that, an
// identity is gone and the request runs as the agent itself (golang/go#50580):
// whichever of its names a client lists, and beside whatever else, it arrives.
func TestItem03NamedInConnection(t *testing.T) {
	own := slices.Sorted(maps.Keys(identity()))
	lists := map[string]string{
		"all":             strings.Join(own, ", "),
		"all, lower case": strings.ToLower(strings.Join(own, ",")),
		"user and group":  "Impersonate-User, Impersonate-Group",
		"with close":      "close, impersonate-user",
		"the claim":       strings.Join([]string{tunnel.HeaderBinding, tunnel.HeaderBindingUID, tunnel.HeaderSource, tunnel.HeaderRequestID}, ", "),
		"every header":    "Host, Authorization, Accept, User-Agent, Connection",
	}
	for _, name := range own {
		lists["only "+name] = name
		lists["TE and "+name] = "TE, " + name
	}
	for name, list := range lists {
		r := newRig(t, false)
		got := r.raw(t, "GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nConnection: "+list+"\r\nImpersonate-Uid: evil\r\nimpersonate_user: evil\r\nX-Remote-User: evil\r\nConnection: close\r\n"+claim()+"\r\n")
		if requests := r.requests(); !strings.HasPrefix(got, "HTTP/1.1 200") || len(requests) != 1 {
			t.Errorf("%s: %d requests, %.200s", name, len(requests), got)
		} else {
			checkIdentity(t, name, requests[0])
		}
		// Mixed with an upgrade, as it comes through the tunnel and as it does not.
		r = newRig(t, false)
		r.raw(t, "GET /api/v1/namespaces/d/pods/p/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, "+list+"\r\nUpgrade: SPDY/3.1\r\nConnection: close\r\n"+claim()+"\r\n")
		r.do(t, func(req *http.Request) {
			asUpgrade(req, "/api/v1/namespaces/d/pods/p/exec")
			req.Header.Set("Connection", "Upgrade, "+list)
			req.Header.Set("Impersonate-User", "evil")
		})
		upgraded := false
		for _, req := range r.requests() {
			kind := name
			if req.Header.Get("Upgrade") != "" {
				kind, upgraded = "upgrade, "+name, true
			}
			checkIdentity(t, kind, req)
		}
		if !upgraded {
			t.Errorf("%s: no upgrade reached the API server", name)
		}
	}
}

// FuzzItem06Names takes names and ids from where the API stores them to the
// headers that an API server reads: they are refused, or arrive as they are, and
// no other header with them.
func FuzzItem06Names(f *testing.F) {
	for _, name := range []string{"B1", "a", "", "a\r\nImpersonate-Group: system:masters", "a\x00", "ä", "system:masters", "a b", strings.Repeat("a", 25), "A-1", "-", "*"} {
		f.Add(name, bindingUID, source)
		f.Add("B1", bindingUID+name, source)
		f.Add("B1", bindingUID, source+name)
	}
	r := newRig(f, true)
	r.known = func(tunnel.Claim) error { return nil } // what is known is what the API stored
	f.Fuzz(func(t *testing.T, name, uid, text string) {
		id, err := access.ParseResourceID(text)
		stored := err == nil && access.CheckBindingName(name) == nil && access.IsGUID(uid)
		req := httptest.NewRequest("GET", "/api/v1/pods", nil).WithContext(context.WithoutCancel(t.Context()))
		tunnel.StampClaim(req.Header, access.Grant{Binding: name, BindingUID: uid, Source: id}, requestID)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		resp := w.Result()
		io.Copy(io.Discard, resp.Body)
		r.mu.Lock()
		got := r.got
		r.got = nil
		r.mu.Unlock()
		if !stored {
			if len(got) != 0 || tunnel.Refused(resp.Header) == nil {
				t.Fatalf("%q %q %q: %d requests, %v", name, uid, text, len(got), resp.Header)
			}
			return
		}
		if len(got) != 1 {
			t.Fatalf("%q %q %q: %d requests, %v", name, uid, text, len(got), tunnel.Refused(resp.Header))
		}
		want := identity()
		want.Set("Impersonate-User", "aks:trustedaccess:"+name)
		want.Set("Impersonate-Extra-Sallyport.dev%2fbinding-Uid", uid)
		want.Set("Impersonate-Extra-Sallyport.dev%2fsource", text)
		for _, harmless := range []string{"Accept-Encoding", "User-Agent"} {
			got[0].Header.Del(harmless)
		}
		if !maps.EqualFunc(got[0].Header, want, slices.Equal) {
			t.Fatalf("%q %q %q: the API server saw %v", name, uid, text, got[0].Header)
		}
	})
}

// The agent dials one address, whatever a request names: of none of these does
// the API server, or anybody else, hear.
func TestItem12DialsOneAddress(t *testing.T) {
	evil := trap(t)
	for name, text := range map[string]string{
		"CONNECT":              "CONNECT " + evil.Addr().String() + " HTTP/1.1\r\nHost: " + evil.Addr().String() + "\r\n",
		"CONNECT to metadata":  "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n",
		"metadata, two hosts":  "GET http://169.254.169.254//latest HTTP/1.1\r\nHost: 169.254.169.254\r\n",
		"scheme of its own":    "GET gopher://" + evil.Addr().String() + "/../x HTTP/1.1\r\nHost: x\r\n",
		"authority as a path":  "GET //" + evil.Addr().String() + "/api HTTP/1.1\r\nHost: x\r\n",
		"host in front of dot": "GET /..//" + evil.Addr().String() + "/api HTTP/1.1\r\nHost: x\r\n",
	} {
		r := newRig(t, false)
		r.raw(t, text+"Connection: close\r\n"+claim()+"\r\n")
		if n := len(r.requests()); n != 0 || r.dials.count() != 0 {
			t.Errorf("%s: %d requests, %d dials", name, n, r.dials.count())
		}
	}
	// What is a request goes to the one address, under its own name.
	for _, host := range []string{evil.Addr().String(), "169.254.169.254", "kubernetes.default.svc", "[::1]:1"} {
		r := newRig(t, false)
		r.raw(t, "GET http://"+host+"/api HTTP/1.1\r\nHost: "+host+"\r\nX-Forwarded-Host: "+host+"\r\nConnection: close\r\n"+claim()+"\r\n")
		if got := r.requests(); len(got) != 1 || got[0].Host != r.dials.Addr().String() || r.dials.count() != 1 {
			t.Errorf("%s: %d requests, %d dials", host, len(got), r.dials.count())
		}
	}
	if n := evil.count(); n != 0 {
		t.Errorf("%d dials elsewhere", n)
	}
}

// A gateway that was taken over says what it likes; a binding that this agent
// does not know by that name, uid and source makes no call. (System tests try
// the same with a real agent.)
func TestItem23ForgedClaimsAreRefused(t *testing.T) {
	id, err := access.ParseResourceID(source)
	check(t, err)
	other, err := access.ParseResourceID(source + "2")
	check(t, err)
	for name, forged := range map[string]access.Grant{
		"binding that is not there": {Binding: "nobody", BindingUID: requestID, Source: id},
		"name with a foreign uid":   {Binding: "B1", BindingUID: requestID, Source: id},
		"uid under another name":    {Binding: "B2", BindingUID: bindingUID, Source: id},
		"another source":            {Binding: "B1", BindingUID: bindingUID, Source: other},
		"an admin's name":           {Binding: "system:masters", BindingUID: bindingUID, Source: id},
	} {
		r := newRig(t, false)
		resp := r.do(t, func(req *http.Request) {
			tunnel.StripPrivate(req.Header)
			tunnel.StampClaim(req.Header, forged, requestID)
			req.Header.Set("Impersonate-User", "kubernetes-admin")
			req.Header.Set("Impersonate-Group", "system:masters")
		})
		if resp.StatusCode != http.StatusForbidden || tunnel.Refused(resp.Header) == nil || r.dials.count() != 0 || len(r.requests()) != 0 {
			t.Errorf("%s: %d, %d dials, %d requests", name, resp.StatusCode, r.dials.count(), len(r.requests()))
		}
	}
}
