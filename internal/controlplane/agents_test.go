package controlplane_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/controlplane"
)

const agentPath = cluster + "/providers/Sallyport.Gateway/agents/default"

// TestJoinToken: a reset is asked for in so many words, and recorded.
func TestJoinToken(t *testing.T) {
	for _, tt := range []struct {
		body   string
		status int
		reset  bool
	}{
		{"", 200, false},
		{`{}`, 200, false},
		{`{"reset":false}`, 200, false},
		{`{"reset":true}`, 200, true},
		{`{"reset":"true"}`, 400, false},
		{`[]`, 400, false},
	} {
		t.Run(tt.body, func(t *testing.T) {
			var issued []bool
			f := newFixture(t, func(cfg *controlplane.Config) {
				cfg.IssueJoinToken = func(_ context.Context, c access.Cluster, reset bool) (string, time.Time, error) {
					issued = append(issued, reset)
					return "join-canary", cfg.Now().Add(time.Hour), nil
				}
			})
			f.want(tt.status, "POST", agentPath+"/joinToken"+version, tt.body)
			if ok := tt.status == 200; ok != (len(issued) == 1) || ok && issued[0] != tt.reset {
				t.Errorf("issued %v", issued)
			}
			for _, r := range f.auditOf(func(audit.Record) bool { return true }) {
				detail, err := json.Marshal(r.Detail)
				must(t, err)
				if *r.Allowed != (tt.status == 200) || strings.Contains(string(detail), `"reset":true`) != tt.reset {
					t.Errorf("record: %+v %s", r, detail)
				}
			}
		})
	}
}

// TestJoinTokenFails: without a token no agent can come, so nothing may wait
// for one.
func TestJoinTokenFails(t *testing.T) {
	f := newFixture(t, func(cfg *controlplane.Config) {
		cfg.IssueJoinToken = func(context.Context, access.Cluster, bool) (string, time.Time, error) {
			return "", time.Time{}, errors.Join(errors.New("the store is away"), access.ErrUnavailable)
		}
	})
	if resp := f.do("owner", "POST", agentPath+"/joinToken"+version, ""); resp.StatusCode != 503 {
		t.Errorf("status %d, want 503", resp.StatusCode)
	}
	item, err := f.store.Clusters.Get(t.Context(), cluster)
	must(t, err)
	if item.Value.JoinIssued {
		t.Error("the cluster's writes wait for an agent that has no token")
	}
}

// TestAgentStatusNamesGateway: an agent can be installed without a token.
func TestAgentStatusNamesGateway(t *testing.T) {
	f := newFixture(t, nil)
	v, _ := f.want(200, "GET", agentPath+version, "")
	if at(v, "properties.gatewayAddress") != "gateway.test:8443" || at(v, "properties.caHash") != "sha256:ca" {
		t.Errorf("status: %v", v)
	}
}
