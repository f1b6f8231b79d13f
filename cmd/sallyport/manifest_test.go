package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestManifestToken: an enrolled cluster's agent gets no join token that
// nobody would use, unless the owner asks for one.
func TestManifestToken(t *testing.T) {
	const agent = testCluster + "/providers/Sallyport.Gateway/agents/default"
	token, err := testJoinToken()
	if err != nil {
		t.Fatal(err)
	}
	hash := "sha256:" + strings.Repeat("ab", 32)
	for _, tt := range []struct {
		name       string
		generation int
		flags      []string
		asks       string // body of the POST for a token; "" for none
		stderr     []string
	}{
		{"first time", 0, nil, `{}`, []string{"issued a join token for cluster prod"}},
		{"enrolled", 3, nil, "", []string{"cluster prod is enrolled (enrolment 3), so the YAML holds no join token; with --reenrol it does"}},
		{"enrolled, again", 3, []string{"--reenrol"}, `{}`, []string{"issued a join token", "rollout restart"}},
		{"enrolled, reset", 3, []string{"--reset"}, `{"reset":true}`, []string{"issued a join token", "it is a reset", "delete Secret sallyport-join", "rollout restart"}},
		{"first time, reset", 0, []string{"--reset"}, `{"reset":true}`, []string{"issued a join token", "it is a reset"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeARM(t, map[string]string{
				"GET " + agent:                 fmt.Sprintf(`200 {"properties":{"generation":%d,"gatewayAddress":"gateway.test:8443","caHash":%q}}`, tt.generation, hash),
				"POST " + agent + "/joinToken": fmt.Sprintf(`200 {"token":%q,"expiresOn":"2026-01-02T03:04:05Z"}`, token),
			})
			code, stdout, stderr := f.run(t, "", append([]string{"agent", "manifest", "-n", "prod", "--roles", "mlworkload"}, tt.flags...)...)
			if code != 0 {
				t.Fatalf("code %d\n%s", code, stderr)
			}
			for _, want := range tt.stderr {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr lacks %q:\n%s", want, stderr)
				}
			}
			for _, want := range []string{"gateway.test:8443", hash, testCluster, "services/proxy"} {
				if !strings.Contains(stdout, want) {
					t.Errorf("the manifest lacks %q", want)
				}
			}
			given := tt.asks != ""
			for _, mark := range []string{"sallyport-join-v1.", "kind: Secret\n", "--join-token-file"} {
				if strings.Contains(stdout, mark) != given {
					t.Errorf("the manifest holds %q: %v, want %v", mark, !given, given)
				}
			}
			if body := f.bodies["POST "+agent+"/joinToken"]; body != tt.asks {
				t.Errorf("asked for a token with %q, want %q", body, tt.asks)
			}
		})
	}
}
