package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/addresses"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/controlplane"
)

const (
	policyOf      = "/providers/Sallyport.Gateway/accessPolicies/default"
	clusterPolicy = cluster + policyOf + version
	bindingPolicy = binding + policyOf + version
)

func withRanges(cfg *controlplane.Config) {
	cfg.CheckRanges = func(ranges []string) error {
		_, err := new(addresses.Tags).Set(ranges)
		return err
	}
}

// doIf sends a request as the owner with a condition, such as "If-Match".
func (f *fixture) doIf(method, url, body, header, value string) (int, string, http.Header) {
	r := httptest.NewRequestWithContext(f.t.Context(), method, url, strings.NewReader(body))
	r.Host = "arm.test:8443"
	r.Header.Set("Authorization", "Bearer owner")
	r.Header.Set(header, value)
	w := httptest.NewRecorder()
	f.cp.ServeHTTP(w, r)
	text, _ := io.ReadAll(w.Result().Body)
	return w.Code, string(text), w.Header()
}

func TestPolicyIsAResource(t *testing.T) {
	for name, url := range map[string]string{"cluster": clusterPolicy, "binding": bindingPolicy} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, withRanges)
			f.want(201, "PUT", binding+version, consentV)
			v, _ := f.want(404, "GET", url, "")
			if at(v, "error.code") != "ResourceNotFound" {
				t.Error(v)
			}
			f.want(204, "DELETE", url, "")
			v, header := f.want(201, "PUT", url, `{"properties":{"expiresOn":"2026-12-24T20:00:00+02:00","locked":true,"lockReason":"incident 7","allowedSourceRanges":["10.0.0.0/8"]}}`)
			path, _, _ := strings.Cut(url, "?")
			for at2, want := range map[string]any{
				"id": path, "name": "default", "type": "Sallyport.Gateway/accessPolicies", "etag": header.Get("ETag"),
				"properties.expiresOn": "2026-12-24T18:00:00Z", "properties.locked": true, "properties.lockReason": "incident 7", "properties.allowedSourceRanges.0": "10.0.0.0/8",
				"systemData.lastModifiedBy": callers()["owner"].ObjectID,
			} {
				if at(v, at2) != want {
					t.Errorf("%s: %v, want %v", at2, at(v, at2), want)
				}
			}
			if again, _ := f.want(200, "GET", url, ""); fmt.Sprint(again) != fmt.Sprint(v) {
				t.Errorf("read back %v", again)
			}
			// What a PUT leaves out bounds nothing.
			v, _ = f.want(200, "PUT", url, `{"properties":{}}`)
			if p := fmt.Sprint(v["properties"]); p != "map[locked:false]" {
				t.Error(p)
			}
			f.want(200, "DELETE", url, "")
			f.want(404, "GET", url, "")
		})
	}
}

func TestPolicyRefusals(t *testing.T) {
	f := newFixture(t, withRanges)
	f.want(201, "PUT", binding+version, consentV)
	for _, tc := range []struct {
		name, body, says string
	}{
		{"nothing", `{}`, "'properties' is required"},
		{"null", `{"properties":null}`, "'properties' is required"},
		{"a misspelt lock", `{"properties":{"lock":true}}`, "unknown field"},
		{"a lock in words", `{"properties":{"locked":"yes"}}`, "locked"},
		{"no time", `{"properties":{"expiresOn":"tomorrow"}}`, "such as 2026-12-24T18:00:00Z"},
		{"no time zone", `{"properties":{"expiresOn":"2026-12-24T18:00:00"}}`, "such as 2026-12-24T18:00:00Z"},
		{"zero time", `{"properties":{"expiresOn":"0001-01-01T00:00:00Z"}}`, "zero time"},
		{"reason alone", `{"properties":{"lockReason":"x"}}`, "locked is not true"},
		{"twice", `{"properties":{"locked":true,"Locked":false}}`, "twice"},
		{"host bits", `{"properties":{"allowedSourceRanges":["10.0.0.1/8"]}}`, "10.0.0.0/8"},
		{"a tag nobody knows", `{"properties":{"allowedSourceRanges":["AzureCloud"]}}`, "AzureCloud"},
	} {
		for _, url := range []string{clusterPolicy, bindingPolicy} {
			v, _ := f.want(400, "PUT", url, tc.body)
			if !strings.Contains(fmt.Sprint(v), tc.says) {
				t.Errorf("%s: %v", tc.name, v)
			}
			f.want(404, "GET", url, "")
		}
		withBody := strings.Replace(consentV, `"roles"`, `"accessPolicy":`+strings.TrimSuffix(strings.TrimPrefix(tc.body, `{"properties":`), "}")+`,"roles"`, 1)
		if tc.name != "nothing" && tc.name != "null" {
			f.want(400, "PUT", cluster+"/trustedAccessRoleBindings/b2"+version, withBody)
		}
	}
	f.want(404, "PUT", cluster+"/trustedAccessRoleBindings/b9"+policyOf+version, `{"properties":{"locked":true}}`)
	for caller, want := range map[string]int{"stranger": 403, "source": 403, "twin": 403, "": 401} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			for _, url := range []string{clusterPolicy, bindingPolicy} {
				want := want
				if caller == "twin" && method == "GET" { // it has a role, and may see what it may not write
					want = 404
				}
				if resp := f.do(caller, method, url, `{"properties":{"locked":true}}`); resp.StatusCode != want {
					t.Errorf("%s of %s by %q: %d, want %d", method, url, caller, resp.StatusCode, want)
				}
			}
		}
	}
}

// Without somebody to enforce them, ranges are refused and not kept.
func TestRangesNeedAnEnforcer(t *testing.T) {
	f := newFixture(t, nil)
	f.want(400, "PUT", clusterPolicy, `{"properties":{"allowedSourceRanges":["10.0.0.0/8"]}}`)
}

func TestPolicyConditions(t *testing.T) {
	f := newFixture(t, nil)
	const lock = `{"properties":{"locked":true}}`
	if code, text, _ := f.doIf("PUT", clusterPolicy, lock, "If-Match", "*"); code != 412 {
		t.Errorf("nothing to match: %d %s", code, text)
	}
	code, _, header := f.doIf("PUT", clusterPolicy, lock, "If-None-Match", "*")
	first := header.Get("ETag")
	if code != 201 || first == "" {
		t.Fatalf("create: %d, etag %q", code, first)
	}
	if code, text, _ := f.doIf("PUT", clusterPolicy, lock, "If-None-Match", "*"); code != 412 {
		t.Errorf("create again: %d %s", code, text)
	}
	code, _, header = f.doIf("PUT", clusterPolicy, `{"properties":{}}`, "If-Match", `"other", `+first)
	if code != 200 || header.Get("ETag") == first {
		t.Errorf("replace: %d, etag %q", code, header.Get("ETag"))
	}
	for _, tag := range []string{first, "W/" + header.Get("ETag"), "other"} {
		for _, method := range []string{"PUT", "DELETE"} {
			if code, text, _ := f.doIf(method, clusterPolicy, lock, "If-Match", tag); code != 412 || !strings.Contains(text, "PreconditionFailed") {
				t.Errorf("%s of %s: %d %s", method, tag, code, text)
			}
		}
	}
	if code, text, _ := f.doIf("DELETE", clusterPolicy, "", "If-Match", header.Get("ETag")); code != 200 {
		t.Errorf("delete: %d %s", code, text)
	}
}

// Of many that change one policy at once by read and If-Match, none is lost.
func TestPolicyRace(t *testing.T) {
	f := newFixture(t, withRanges)
	f.want(201, "PUT", clusterPolicy, `{"properties":{}}`)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for {
				v, header := f.want(200, "GET", clusterPolicy, "")
				ranges := []string{fmt.Sprintf(`"10.0.0.%d"`, i)}
				if have, ok := at(v, "properties.allowedSourceRanges").([]any); ok {
					for _, r := range have {
						ranges = append(ranges, fmt.Sprintf("%q", r))
					}
				}
				code, text, _ := f.doIf("PUT", clusterPolicy, `{"properties":{"allowedSourceRanges":[`+strings.Join(ranges, ",")+`]}}`, "If-Match", header.Get("ETag"))
				if code == 200 {
					return
				}
				if code != 412 {
					t.Errorf("%d %s", code, text)
					return
				}
			}
		})
	}
	wg.Wait()
	v, _ := f.want(200, "GET", clusterPolicy, "")
	if have, _ := at(v, "properties.allowedSourceRanges").([]any); len(have) != 8 {
		t.Errorf("%v", have)
	}
}

// The policy dies with what it bounds: nothing created later inherits it.
func TestPolicyIsNotInherited(t *testing.T) {
	f := newFixture(t, nil)
	f.want(201, "PUT", binding+version, consentV)
	f.want(201, "PUT", bindingPolicy, `{"properties":{"locked":true}}`)
	f.want(201, "PUT", clusterPolicy, `{"properties":{"locked":true}}`)
	f.want(201, "PUT", binding+version, consentV) // an update keeps it
	f.want(200, "PUT", cluster+version, `{"location":"eastus"}`)
	f.want(200, "GET", bindingPolicy, "")
	f.want(200, "GET", clusterPolicy, "")
	f.want(202, "DELETE", binding+version, "")
	f.want(201, "PUT", binding+version, consentV)
	f.want(404, "GET", bindingPolicy, "")
	f.want(202, "DELETE", cluster+version, "")
	f.want(201, "PUT", cluster+version, `{"location":"eastus"}`)
	f.want(404, "GET", clusterPolicy, "")
}

func TestBindingCreatedWithItsBound(t *testing.T) {
	f := newFixture(t, nil)
	until := func(at string) string {
		return strings.Replace(consentV, `"roles"`, `"accessPolicy":{"expiresOn":"`+at+`"},"roles"`, 1)
	}
	v, _ := f.want(201, "PUT", binding+version, until("2026-12-24T18:00:00Z"))
	read, _ := f.want(200, "GET", binding+version, "")
	if at(v, "properties.accessPolicy") != nil || at(read, "properties.accessPolicy") != nil {
		t.Errorf("shown in the binding's own body: %v, %v", v, read)
	}
	item, err := f.store.Bindings.Get(t.Context(), binding)
	must(t, err)
	if want := time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC); !item.Value.Policy.ExpiresOn.Equal(want) || item.Value.Generation != 1 {
		t.Errorf("stored: %+v", item.Value)
	}
	written, _ := f.want(200, "GET", bindingPolicy, "")
	if at(written, "properties.expiresOn") != "2026-12-24T18:00:00Z" || at(written, "systemData.lastModifiedBy") != callers()["owner"].ObjectID {
		t.Error(written)
	}
	f.want(201, "PUT", binding+version, until("2026-12-24T18:00:00Z")) // sent again
	v, _ = f.want(409, "PUT", binding+version, until("2027-12-24T18:00:00Z"))
	if v["code"] != "PropertyChangeNotAllowed" {
		t.Error(v)
	}
	// Whoever sends the creation again does not undo a lock.
	f.want(200, "PUT", bindingPolicy, `{"properties":{"expiresOn":"2026-12-24T18:00:00Z","locked":true}}`)
	f.want(409, "PUT", binding+version, until("2026-12-24T18:00:00Z"))
	f.want(201, "PUT", binding+version, consentV)
	if v, _ := f.want(200, "GET", bindingPolicy, ""); at(v, "properties.locked") != true {
		t.Error(v)
	}
	records := f.auditOf(func(r audit.Record) bool {
		return strings.Contains(fmt.Sprint(r.Detail), "policy:map[expiresOn:2026-12-24")
	})
	if len(records) == 0 {
		t.Error("the bound is not in the record of the consent")
	}
}

func TestPolicyWritesAreRecordedFirst(t *testing.T) {
	f := newFixture(t, nil)
	f.want(201, "PUT", clusterPolicy, `{"properties":{"locked":true,"lockReason":"why"}}`)
	records := f.auditOf(func(r audit.Record) bool { return r.Action == "Sallyport.Gateway/accessPolicies/write" })
	if len(records) != 1 || records[0].Stage != audit.Consent || !*records[0].Allowed || !strings.Contains(fmt.Sprint(records[0].Detail), "lockReason:why") || !strings.EqualFold(records[0].Cluster, cluster) {
		t.Errorf("%+v", records)
	}
	f.mu.Lock()
	f.noAudit = true
	f.mu.Unlock()
	f.want(503, "DELETE", clusterPolicy, "")
	if v, _ := f.want(200, "GET", clusterPolicy, ""); at(v, "properties.locked") != true {
		t.Errorf("not recorded, and done: %v", v)
	}
}

// The answer says that the gateway has it, or that it has not.
func TestPolicyWaitsForTheGateway(t *testing.T) {
	asked := map[string]int64{}
	var fail error
	settle := func(kind string) func(context.Context, int64) error {
		return func(_ context.Context, revision int64) error {
			asked[kind] = revision
			return fail
		}
	}
	f := newFixture(t, func(c *controlplane.Config) { c.Settled, c.ClusterSettled = settle("binding"), settle("cluster") })
	f.want(201, "PUT", binding+version, consentV)
	for kind, url := range map[string]string{"binding": bindingPolicy, "cluster": clusterPolicy} {
		fail = nil
		clear(asked)
		f.want(201, "PUT", url, `{"properties":{"locked":true}}`)
		if len(asked) != 1 || asked[kind] == 0 {
			t.Errorf("%s: asked %v", kind, asked)
		}
		fail = errors.New("lagging")
		v, _ := f.want(504, "PUT", url, `{"properties":{}}`)
		if at(v, "error.code") != "PolicyNotConfirmed" {
			t.Error(v)
		}
		if v, _ := f.want(200, "GET", url, ""); at(v, "properties.locked") != false {
			t.Error(v)
		}
	}
}

// The agent is told of each change, with the cluster's policy folded in.
func TestFeedTellsOfPolicies(t *testing.T) {
	f := newFixture(t, nil)
	f.enrolled(1)
	f.want(201, "PUT", binding+version, consentV)
	s, code := f.agent(reconciler()).open()
	if code != 200 {
		t.Fatal(code)
	}
	is := func(locked bool, expires string) func(access.Desired) bool {
		at, _ := time.Parse(time.RFC3339, expires)
		return func(d access.Desired) bool {
			return len(d.Bindings) == 1 && d.Bindings[0].Locked == locked && d.Bindings[0].ExpiresOn.Equal(at)
		}
	}
	s.until("the first", is(false, ""))
	f.want(201, "PUT", bindingPolicy, `{"properties":{"expiresOn":"2026-12-24T18:00:00Z"}}`)
	s.until("the binding's end", is(false, "2026-12-24T18:00:00Z"))
	f.want(201, "PUT", clusterPolicy, `{"properties":{"expiresOn":"2026-12-24T17:00:00Z","locked":true}}`)
	s.until("the cluster's lock and earlier end", is(true, "2026-12-24T17:00:00Z"))
	f.want(200, "DELETE", clusterPolicy, "")
	s.until("the binding's again", is(false, "2026-12-24T18:00:00Z"))
}
