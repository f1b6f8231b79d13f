package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/audit"
)

// kubeEvent is what is read of a line of kube-apiserver's audit log.
type kubeEvent struct {
	AuditID      string `json:"auditID"`
	Verb         string `json:"verb"`
	RequestURI   string `json:"requestURI"`
	User         struct{ Username string }
	Impersonated struct {
		Username string
		Groups   []string
		Extra    map[string][]string
	} `json:"impersonatedUser"`
}

// TestSystemAudit follows one request through both audit logs, and looks for
// secrets in everything that is written. All parts log all they can.
func TestSystemAudit(t *testing.T) {
	s := newSystem(t, "-v")
	cluster := s.register("private")
	agent := s.install("private", "mlworkload")
	for half := range agent.args {
		agent.args[half] = append(agent.args[half], "-v")
	}
	agent.start()
	ml, stranger := s.source("ml"), s.source("stranger")
	s.bind("private", "ml", ml.id, mlworkload)
	through := ml.client(cluster)
	addService(t, through, "audited")
	if _, err := services(t, stranger.client(cluster)); err == nil {
		t.Error("a source without consent got through")
	}
	uid := s.bindingUID("private", "ml")

	var decision, complete, refusal, consent audit.Record
	for _, r := range s.records() {
		switch {
		case r.Stage == audit.Decision && r.Method == "POST":
			decision = r
		case r.Stage == audit.Decision && r.Allowed != nil && !*r.Allowed:
			refusal = r
		case r.Stage == audit.Complete && r.ID == decision.ID:
			complete = r
		case r.Stage == audit.Consent && strings.HasSuffix(r.Action, "trustedAccessRoleBindings/write"):
			consent = r
		}
	}
	if decision.ID == "" || complete.ID != decision.ID || complete.Status != 201 || complete.Bytes == 0 {
		t.Errorf("decision %+v and completion %+v do not make one request", decision, complete)
	}
	if decision.Source != ml.id || decision.Binding != "ml" || decision.BindingUID != uid || !strings.EqualFold(decision.Cluster, cluster) {
		t.Errorf("the decision says %+v", decision)
	}
	if decision.Verb != "create" || decision.Resource != "services" || decision.Namespace != "default" || len(decision.Roles) != 1 || decision.Roles[0] != mlworkload ||
		decision.Remote != "127.0.0.1" || decision.Allowed == nil || !*decision.Allowed || complete.Duration <= 0 {
		t.Errorf("the decision %+v or the completion %+v lacks what was done, by which roles, from where, how long", decision, complete)
	}
	if refusal.Source != stranger.id || !strings.Contains(refusal.Reason, "no trusted access role binding") {
		t.Errorf("the refusal says %+v", refusal)
	}
	if oid := s.operatorOID(); consent.ObjectID != oid {
		t.Errorf("the consent is recorded of object %q, but it was the operator, %s: %+v", consent.ObjectID, oid, consent)
	}
	detail, _ := consent.Detail.(map[string]any)
	if detail["bindingUid"] != uid || detail["source"] != ml.id {
		t.Errorf("the consent says %+v", consent)
	}
	s.checkKubeAudit(agent.kube, decision.ID, ml.id, uid)
	s.checkNoSecrets(agent, ml)
}

// operatorOID reads the object id from the operator's own token.
func (s *system) operatorOID() string {
	s.t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(s.operatorToken(), ".")[1])
	if err != nil {
		s.t.Fatal(err)
	}
	var claims struct{ OID string }
	if err := json.Unmarshal(payload, &claims); err != nil {
		s.t.Fatal(err)
	}
	return claims.OID
}

// checkKubeAudit looks for the request under the same id, and as whom.
func (s *system) checkKubeAudit(kube *kubeCluster, id, source, uid string) {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(kube.dir, "audit.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, id) {
			continue
		}
		var e kubeEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			s.t.Fatal(err)
		}
		if e.AuditID != id || e.Verb != "create" || e.User.Username != "system:serviceaccount:sallyport-system:sallyport-proxy" {
			s.t.Errorf("the API server recorded %+v", e)
		}
		if e.Impersonated.Username != "aks:trustedaccess:ml" || !slices.Contains(e.Impersonated.Groups, "aks:trustedaccess") {
			s.t.Errorf("the API server recorded the user %+v", e.Impersonated)
		}
		for key, want := range map[string]string{"sallyport.dev/binding-uid": uid, "sallyport.dev/source": source} {
			if got := e.Impersonated.Extra[key]; !slices.Equal(got, []string{want}) {
				s.t.Errorf("the API server recorded the extra %s %q, want %q", key, got, want)
			}
		}
		return
	}
	s.t.Errorf("request %s is not in the API server's audit log", id)
}

// checkNoSecrets looks for everything secret in everything that is written
// down: logs, and the audit log.
func (s *system) checkNoSecrets(agent *installed, w source) {
	s.t.Helper()
	op, err := (&cli{operatorFile: filepath.Join(s.dir, "operator.json")}).operator()
	if err != nil {
		s.t.Fatal(err)
	}
	identity, err := loadIdentity(w.identity)
	if err != nil {
		s.t.Fatal(err)
	}
	records, err := os.ReadFile(filepath.Join(s.dir, "audit.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	join, err := os.ReadFile(filepath.Join(agent.dir, "reconciler", "join", "token"))
	if err != nil {
		s.t.Fatal(err)
	}
	for name, text := range map[string]string{"the logs": s.logs.String(), "the audit log": string(records)} {
		if len(text) < 1000 {
			s.t.Errorf("%s have only %d bytes", name, len(text))
		}
		for what, secret := range map[string]string{
			"a token": "eyJ", "the join token": string(join)[:40], "the operator's secret": op.ClientSecret, "the identity's secret": identity.Header,
		} {
			if i := strings.Index(text, secret); i >= 0 {
				s.t.Errorf("%s hold %s: ...%s", name, what, text[max(0, i-200):i])
			}
		}
	}
}
