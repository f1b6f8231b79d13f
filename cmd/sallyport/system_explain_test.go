package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idp"
)

// TestSystemExplain asks what would become of requests, and why what was
// refused was refused: each refusal's id is found, with what would help.
func TestSystemExplain(t *testing.T) {
	s := newSystem(t)
	cluster := s.register("private")
	agent := s.install("private", "mlworkload,inference-v1")
	agent.start()
	ml, stranger := s.source("ml"), s.source("stranger")
	s.bind("private", "ml", ml.id, mlworkload)
	lonely := s.register("lonely")
	s.bind("lonely", "ml", ml.id, mlworkload)

	s.explainQuestions(ml, stranger)
	s.explainRefusals(cluster, lonely, ml, stranger)

	agent.stop()
	s.await("the agent is gone", func() bool { return !s.connected("private") })
	s.refused(exitRefused, []string{"may not list pods", "sallyport cluster show -g sallyport -n private"},
		"explain", "--cluster-name", "private", "--as", ml.id, "--verb", "list", "--resource", "pods")
}

// explainQuestions asks without anybody's doing anything.
func (s *system) explainQuestions(ml, stranger source) {
	s.t.Helper()
	explain := func(as source, args ...string) result {
		s.t.Helper()
		return s.cli(append([]string{"explain", "--cluster-name", "private", "--as", as.id}, args...)...)
	}
	before := len(s.records())
	for _, c := range []struct {
		name   string
		as     source
		args   []string
		code   int
		stdout []string
		stderr []string
	}{
		{"allowed", ml, []string{"--verb", "list", "--resource", "services", "--namespace", "default"}, exitOK,
			[]string{"address", "PASSED", `binding "ml" gives the source ` + mlworkload, "is connected", `the cluster says yes to the user of binding "ml"`, "aks:trustedaccessrolebinding:ml:mlworkload"},
			[]string{"ml may list services in namespace default in cluster private, by binding ml."}},
		{"refused by RBAC", ml, []string{"--verb", "create", "--resource", "pods/exec", "--namespace", "default", "--name", "web"}, exitRefused,
			[]string{"REFUSED", `the cluster says no to the user of binding "ml"`},
			[]string{"ml may not create pods/exec web in namespace default in cluster private", "roles that would allow it: " + inference, "rolebinding update -g sallyport --cluster-name private -n ml -r " + mlworkload + "," + inference}},
		{"allowed by no role", ml, []string{"--verb", "get", "--path", "/metrics"}, exitRefused,
			[]string{"the cluster says no"}, []string{"ml may not get /metrics", "no role that this source may have allows it"}},
		{"everybody may", ml, []string{"--verb", "get", "--path", "/version"}, exitOK, []string{"the cluster says yes"}, nil},
		{"refused by consent", stranger, []string{"--verb", "list", "--resource", "services"}, exitRefused,
			[]string{"consent", "no trusted access role binding of cluster private names the source " + stranger.id},
			[]string{"sallyport rolebinding create -g sallyport --cluster-name private -n NAME -s " + stranger.id + " -r " + mlworkload}},
	} {
		s.t.Run(c.name, func(t *testing.T) {
			r := explain(c.as, c.args...)
			if r.code != c.code {
				t.Errorf("code %d, want %d", r.code, c.code)
			}
			contains(t, "stdout", r.stdout, c.stdout...)
			contains(t, "stderr", r.stderr, c.stderr...)
		})
	}
	for _, r := range s.records()[before:] {
		if r.Stage != audit.Consent || !strings.HasSuffix(r.Action, "/explain/action") || r.Detail == nil {
			s.t.Errorf("a question made the record %+v", r)
		}
	}

	s.must("lock", "--cluster-name", "private", "-n", "ml", "--reason", "incident 4711")
	r := explain(ml, "--verb", "list", "--resource", "services")
	contains(s.t, "a locked binding", r.stdout, "incident 4711")
	contains(s.t, "a locked binding", r.stderr, "sallyport unlock -g sallyport --cluster-name private -n ml")
	s.must("unlock", "--cluster-name", "private", "-n", "ml")

	s.must("restrict", "--cluster-name", "private", "-n", "ml", "--allow-from", "192.0.2.0/24")
	if r := explain(ml, "--verb", "list", "--resource", "services", "--from", "198.51.100.1"); r.code != exitRefused || !strings.Contains(r.stdout, "198.51.100.1 is not in the source ranges") {
		s.t.Errorf("from an address out of range: code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if r := explain(ml, "--verb", "list", "--resource", "services", "--from", "192.0.2.9", "-o", "json"); r.code != exitOK {
		s.t.Errorf("from an address in range: code %d\n%s%s", r.code, r.stdout, r.stderr)
	} else {
		var e access.Explanation
		if err := json.Unmarshal([]byte(r.stdout), &e); err != nil || !e.Allowed || len(e.Steps) != 4 || e.Binding != "ml" || len(e.RolesThatAllow) != 2 {
			s.t.Errorf("%+v, %v", e, err)
		}
	}
	s.must("restrict", "--cluster-name", "private", "-n", "ml", "--anywhere")
}

// explainRefusals has requests refused in each way, and asks why.
func (s *system) explainRefusals(cluster, lonely string, ml, stranger source) {
	s.t.Helper()
	good, foreign := ml.token(idp.DataPlaneAudience), stranger.token(idp.DataPlaneAudience)
	list := "/api/v1/namespaces/default/services"
	for _, c := range []struct {
		name, cluster, path, token string
		before, after              []string
		code                       int
		says                       []string
	}{
		{"unauthenticated", cluster, list, "garbage", nil, nil, 401, []string{"Somebody without an identity, from 127.0.0.1, asked cluster private to list services in namespace default", "Sallyport REFUSED it: ", "not a signed JWT", "hint: the reason is in the token"}},
		{"no binding", cluster, list, foreign, nil, nil, 403, []string{"The source " + stranger.id, "no trusted access role binding", "hint: sallyport rolebinding create -g sallyport --cluster-name private -n NAME -s " + stranger.id + " -r " + mlworkload}},
		{"locked", cluster, list, good, []string{"lock", "--cluster-name", "private", "-n", "ml"}, []string{"unlock", "--cluster-name", "private", "-n", "ml"}, 403, []string{`binding "ml" is locked`, "hint: sallyport unlock -g sallyport --cluster-name private -n ml"}},
		{"RBAC", cluster, "/api/v1/namespaces/default/pods", good, nil, nil, 403, []string{"asked cluster private to list pods in namespace default", "It was allowed by binding ml (uid ", mlworkload, "The cluster REFUSED it: status 403", "hint: roles that would allow it: " + inference}},
		{"agent not connected", lonely, list, good, nil, nil, 503, []string{"Sallyport REFUSED it: ", "hint: sallyport cluster show -g sallyport -n lonely"}},
		{"bad path", cluster, "/api//v1", good, nil, nil, 400, []string{"Sallyport REFUSED it: ", "segment"}},
		{"allowed", cluster, list, good, nil, nil, 200, []string{"It was allowed by binding ml", "The answer was 200, after "}},
	} {
		s.t.Run(c.name, func(t *testing.T) {
			if c.before != nil {
				s.must(c.before...)
			}
			resp, body := s.send(http.MethodGet, "/k8s"+c.cluster+c.path, c.token, "")
			if c.after != nil {
				s.must(c.after...)
			}
			id := resp.Header.Get("Audit-Id")
			if resp.StatusCode != c.code || id == "" {
				t.Fatalf("status %d, want %d; id %q\n%s", resp.StatusCode, c.code, id, body)
			}
			if c.name != "RBAC" && c.code != 200 { // that one is the API server's own
				contains(t, "the refusal", body, "'sallyport explain "+id+"'")
			}
			s.await("the request is complete", func() bool {
				said := s.must("explain", id)
				return c.code == 200 == strings.Contains(said, "The answer was") && (c.name != "RBAC" || strings.Contains(said, "status 403"))
			})
			contains(t, "explain", s.must("explain", id), c.says...)
			contains(t, "explain -o json", s.must("explain", id, "-o", "json"), `"records"`, id)
		})
	}
	s.refused(exitNotFound, []string{"no request "}, "explain", uuid.NewString())
	s.refused(exitUsage, []string{"must be a GUID"}, "explain", "4711")
}
