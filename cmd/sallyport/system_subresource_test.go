package main

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idp"
)

// TestSystemItem13ProxyNeedsTheRole: through services/proxy, pods/proxy and
// nodes/proxy a caller reaches whatever the API server reaches. Who has not that
// very subresource in a role is refused by the cluster, and the audit log says
// what was asked.
func TestSystemItem13ProxyNeedsTheRole(t *testing.T) {
	const vaults, backup = "Microsoft.DataProtection/backupVaults", "Microsoft.DataProtection/backupVaults/backup-operator"
	s := newSystem(t)
	cluster := s.register("private")
	s.install("private", "mlworkload,backup-operator").start()
	file := filepath.Join(t.TempDir(), "vault.identity")
	s.must("resource", "create", "-n", "vault", "--type", vaults, "-l", "eastus", "--identity-file", file)
	vault := source{s, get[string](s, readID, "resource", "show", "-n", "vault", "--type", vaults), file}
	ml := s.source("ml")
	s.bind("private", "vault", vault.id, backup)
	s.bind("private", "ml", ml.id, mlworkload)

	for _, c := range []struct {
		binding  string
		source   source
		path     string
		resource string
		code     int
	}{
		{"vault", vault, "/api/v1/namespaces/default/services/https:kubernetes:443/proxy/", "services", http.StatusForbidden},
		{"vault", vault, "/api/v1/namespaces/default/pods/p:8080/proxy/", "pods", http.StatusForbidden},
		{"vault", vault, "/api/v1/nodes/n:10250/proxy/pods", "nodes", http.StatusForbidden},
		{"ml", ml, "/api/v1/namespaces/default/pods/p:8080/proxy/", "pods", http.StatusForbidden},
		{"ml", ml, "/api/v1/nodes/n:10250/proxy/run/default/p/c?cmd=id", "nodes", http.StatusForbidden},
		{"ml", ml, "/api/v1/namespaces/default/services/none:80/proxy/", "services", http.StatusNotFound}, // the role names it; there is no such service
	} {
		resp, body := s.send(http.MethodGet, "/k8s"+cluster+c.path, c.source.token(idp.DataPlaneAudience), "")
		if resp.StatusCode != c.code || c.code == http.StatusForbidden && !strings.Contains(body, `cannot get resource \"`+c.resource+`/proxy\"`) {
			t.Errorf("%s asks for %s: %d %s", c.binding, c.path, resp.StatusCode, body)
		}
		var done audit.Record
		s.await("the completion is recorded", func() bool {
			for _, r := range s.records() {
				if r.ID == resp.Header.Get("Audit-Id") && r.Stage == audit.Complete {
					done = r
				}
			}
			return done.ID != ""
		})
		if done.Status != c.code || done.Verb != "get" || done.Resource != c.resource || done.Subresource != "proxy" || done.Binding != c.binding || done.Source != c.source.id {
			t.Errorf("%s asks for %s: recorded as %+v", c.binding, c.path, done)
		}
	}
}
