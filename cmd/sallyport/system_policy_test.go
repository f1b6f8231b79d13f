package main

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idp"
)

// TestSystemPolicies shuts the door on a live watch, a live exec over
// WebSocket and a plain request in every way a policy can, says why, and opens
// it again.
func TestSystemPolicies(t *testing.T) {
	s := newStreaming(t)
	p := streamProtocols()[0]
	p.kubectl(t)
	ml := []string{"--cluster-name", "private", "-n", "ml"}
	before := s.cluster().versions(t)
	private := []string{"--cluster-name", "private"}
	for _, tc := range []struct {
		name       string
		shut, open []string
		says       string
	}{
		{"binding locked", append([]string{"lock", "--reason", "incident 4711"}, ml...), append([]string{"unlock"}, ml...), `binding "ml" is locked: incident 4711`},
		{"cluster locked", append([]string{"lock", "--reason", "upgrade"}, private...), append([]string{"unlock"}, private...), "cluster private is locked: upgrade"},
		{"binding expires", append([]string{"expire", "--in", "1s"}, ml...), append([]string{"expire", "--never"}, ml...), `access to binding "ml" expired on 20`},
		{"cluster expires", append([]string{"expire", "--in", "1s"}, private...), append([]string{"expire", "--never"}, private...), "access to cluster private expired on 20"},
		{"binding's ranges", append([]string{"restrict", "--allow-from", "192.0.2.0/24"}, ml...), append([]string{"restrict", "--anywhere"}, ml...), `address 127.0.0.1 is not in the source ranges that binding "ml" allows`},
		{"cluster's ranges", append([]string{"restrict", "--allow-from", "2001:db8::/32"}, private...), append([]string{"restrict", "--anywhere"}, private...), "address 127.0.0.1 is not in the source ranges that cluster private allows"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.system.t = t
			events := watchServices(t, s.client)
			command, ended := echo(t)
			k := s.live("exec", append([]string{"exec", "-i", "idle", "--"}, command...)...)
			k.shows("ready\n")
			begin := time.Now()
			s.must(tc.shut...)
			t.Logf("acknowledged after %s", time.Since(begin).Round(time.Millisecond))
			events.ends()
			k.ends()
			s.inputEnded("the exec", ended)
			t.Logf("watch and exec have ended after %s", time.Since(begin).Round(time.Millisecond))
			s.saysWhy(tc.says)

			s.must(tc.open...)
			// The agent hears of it on its own feed.
			s.await("the door is open again", func() bool { _, err := services(t, s.client); return err == nil })
			watchServices(t, s.client)
			if err := execute(t.Context(), p, s.config, s.client, "idle", remotecommand.StreamOptions{Stdout: io.Discard}, "true"); err != nil {
				t.Errorf("exec: %v", err)
			}
		})
		s.system.t = t
	}
	if after := s.cluster().versions(t); !slices.Equal(before, after) {
		t.Errorf("the roles are to stay in the cluster as they are:\n%v\n%v", before, after)
	}
}

// saysWhy asks once more, by a plain request and an exec: both are refused with
// 403 and the reason, and the audit log has who was cut for it.
func (s *streaming) saysWhy(says string) {
	s.t.Helper()
	_, err := services(s.t, s.client)
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), says) {
		s.t.Errorf("a request: %v, want a 403 that says %q", err, says)
	}
	err = execute(s.t.Context(), streamProtocols()[0], s.config, s.client, "idle", remotecommand.StreamOptions{Stdout: io.Discard}, "true")
	if err == nil || !strings.Contains(err.Error(), says) {
		s.t.Errorf("an exec: %v, want %q", err, says)
	}
	s.await("the audit log has the reason", func() bool {
		return slices.ContainsFunc(s.records(), func(r audit.Record) bool {
			return r.Stage == audit.Decision && r.Allowed != nil && !*r.Allowed && strings.Contains(r.Reason, says)
		})
	})
}

// TestSystemSourceDeleted deletes the source under its live watch and exec.
func TestSystemSourceDeleted(t *testing.T) {
	s := newStreaming(t)
	streamProtocols()[0].kubectl(t)
	events := watchServices(t, s.client)
	command, ended := echo(t)
	k := s.live("exec", append([]string{"exec", "-i", "idle", "--"}, command...)...)
	k.shows("ready\n")
	through := s.gatewayClient(s.clusterID, s.ml.token(idp.DataPlaneAudience)) // a token that stays valid
	s.must("resource", "delete", "-n", "ml", "--type", workspaceType, "--yes")
	events.ends()
	k.ends()
	s.inputEnded("the exec", ended)
	if _, err := services(t, through); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "was deleted") {
		t.Errorf("the deleted source: %v", err)
	}
}

// TestSystemBoundsOutliveRestarts: a lock, and a binding born with its end, are
// as they were when the server comes back.
func TestSystemBoundsOutliveRestarts(t *testing.T) {
	s := newBound(t)
	other := s.source("other")
	s.must("rolebinding", "create", "--cluster-name", "private", "-n", "short", "-s", other.id, "-r", mlworkload, "--expires-in", "1h")
	through, locked := other.client(s.clusterID), s.ml.client(s.clusterID)
	if _, err := services(t, through); err != nil {
		t.Fatal(err)
	}
	s.must("lock", "--cluster-name", "private", "-n", "ml", "--reason", "over the weekend")
	s.stop(s.server)
	s.start()
	s.await("the other binding works again", func() bool { _, err := services(t, through); return err == nil })
	if _, err := services(t, locked); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "over the weekend") {
		t.Errorf("after the restart: %v", err)
	}
	contains(t, "rolebinding show", s.cli("rolebinding", "show", "--cluster-name", "private", "-n", "ml").stderr, "binding ml is LOCKED: over the weekend")
	contains(t, "rolebinding show", s.cli("rolebinding", "show", "--cluster-name", "private", "-n", "short").stderr, "access to binding short expires 20")
	s.must("unlock", "--cluster-name", "private", "-n", "ml")
	s.await("unlocked", func() bool { _, err := services(t, locked); return err == nil })
	s.must("expire", "--cluster-name", "private", "-n", "short", "--at", "2020-01-01T00:00:00Z")
	if _, err := services(t, through); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "expired on 2020-01-01") {
		t.Errorf("expired: %v", err)
	}
}
