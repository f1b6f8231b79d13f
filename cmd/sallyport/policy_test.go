package main

import (
	"strings"
	"testing"
)

const (
	policyPath = bindingPath + "/providers/Sallyport.Gateway/accessPolicies/default"
	policyBody = `{"id":"` + policyPath + `","etag":"\"v1\"","properties":{"locked":false,"expiresOn":"2099-12-24T18:00:00Z","allowedSourceRanges":["10.0.0.0/8"]}}`
	changed    = `412 {"error":{"code":"PreconditionFailed","message":"The resource was changed meanwhile."}}`
)

// A verb keeps what others wrote, and reads again when they were quicker.
func TestPolicyVerbsReadAndWrite(t *testing.T) {
	lock := []string{"lock", "-g", "rg", "--cluster-name", "prod", "-n", "b1", "--reason", "why"}
	f := newFakeARM(t, map[string]string{
		"GET " + policyPath: "200 " + policyBody,
		"PUT " + policyPath: changed, "PUT " + policyPath + "+": "200 " + policyBody,
	})
	if code, stdout, stderr := f.run(t, "", lock...); code != exitOK || !strings.Contains(stdout, "2099-12-24T18:00:00Z") {
		t.Errorf("%d\n%s%s", code, stdout, stderr)
	}
	if want := `{"properties":{"expiresOn":"2099-12-24T18:00:00Z","locked":true,"lockReason":"why","allowedSourceRanges":["10.0.0.0/8"]}}`; f.bodies["PUT "+policyPath] != want {
		t.Errorf("sent %s", f.bodies["PUT "+policyPath])
	}
	f = newFakeARM(t, map[string]string{"GET " + policyPath: "200 " + policyBody, "PUT " + policyPath: changed})
	if code, _, stderr := f.run(t, "", lock...); code != exitConflict || !strings.Contains(stderr, "changed by others again and again") {
		t.Errorf("%d %s", code, stderr)
	}
	unconfirmed := `504 {"error":{"code":"PolicyNotConfirmed","message":"The access policy is stored, but"}}`
	f = newFakeARM(t, map[string]string{"PUT " + policyPath: unconfirmed})
	if code, _, stderr := f.run(t, "", lock...); code == exitOK || !strings.Contains(stderr, "PolicyNotConfirmed") {
		t.Errorf("a lock that is not confirmed: %d %s", code, stderr)
	}
}

// A binding that was to have an end does not stay without one.
func TestExpiresInNeedsAServerThatKnows(t *testing.T) {
	create := []string{"rolebinding", "create", "-g", "rg", "--cluster-name", "prod", "-n", "b1", "-s", testSource, "-r", testRole, "--expires-in", "2h"}
	answers := map[string]string{
		"GET " + bindingPath: notFound, "PUT " + bindingPath: "201 " + bindingBody, "DELETE " + bindingPath: "204 ",
	}
	f := newFakeARM(t, answers)
	code, _, stderr := f.run(t, "", create...)
	if code != exitUnavailable || !strings.Contains(stderr, "would never have expired, and was deleted again") {
		t.Errorf("%d %s", code, stderr)
	}
	if last := f.calls[len(f.calls)-1]; last != "DELETE "+bindingPath {
		t.Errorf("calls %q", f.calls)
	}
	if !strings.Contains(f.bodies["PUT "+bindingPath], `"accessPolicy":{"expiresOn":"20`) {
		t.Error(f.bodies["PUT "+bindingPath])
	}
}
