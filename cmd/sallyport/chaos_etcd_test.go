package main

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/internal/idp"
)

// chaosEtcd is an external etcd that can be stopped and started on its folder.
type chaosEtcd struct {
	t      *testing.T
	dir    string
	listen url.URL
	server *embed.Etcd
}

func newChaosEtcd(t *testing.T) *chaosEtcd {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	e := &chaosEtcd{t: t, dir: filepath.Join(t.TempDir(), "etcd"), listen: url.URL{Scheme: "http", Host: ln.Addr().String()}}
	t.Cleanup(e.stop)
	return e
}

func (e *chaosEtcd) start() {
	e.t.Helper()
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"} // a label: nothing listens there
	cfg := embed.NewConfig()
	cfg.Dir, cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = e.dir, nil, []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{e.listen}, []url.URL{e.listen}
	cfg.TickMs, cfg.ElectionMs = 20, 100
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	var err error
	if e.server, err = embed.StartEtcd(cfg); err != nil {
		e.t.Fatal(err)
	}
	select {
	case <-e.server.Server.ReadyNotify():
	case <-time.After(time.Minute):
		e.t.Fatal("etcd was not ready within a minute")
	}
}

func (e *chaosEtcd) stop() {
	if e.server != nil {
		e.server.Close()
		e.server = nil
	}
}

// compact drops every version but the newest, as an operator's job may at any
// time.
func (e *chaosEtcd) compact() {
	e.t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{e.listen.String()}, DialTimeout: soon, Logger: zap.NewNop()})
	if err != nil {
		e.t.Fatal(err)
	}
	defer client.Close()
	now, err := client.Get(e.t.Context(), "/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err == nil {
		_, err = client.Compact(e.t.Context(), now.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) { // nothing was written since the last time
		e.t.Fatal(err)
	}
}

// TestChaosEtcd stops an external etcd under a running system and compacts it,
// with a watch open: without etcd nobody gets in once nothing proves the consents
// fresh, and no write is acknowledged; with it everything goes on, and what was
// withdrawn stays so.
func TestChaosEtcd(t *testing.T) {
	etcd := newChaosEtcd(t)
	etcd.start()
	s := newBound(t, "--etcd-endpoints", etcd.listen.String())
	gone := s.source("gone")
	s.bind("private", "gone", gone.id, inference)
	tokens := map[string]string{"ml": s.ml.token(idp.DataPlaneAudience), "gone": gone.token(idp.DataPlaneAudience)}
	status := func(who string) int {
		t.Helper()
		resp, _ := s.send(http.MethodGet, "/k8s"+s.clusterID+"/api/v1/namespaces/default/pods", tokens[who], "")
		return resp.StatusCode
	}
	becomes := func(who string, want int) {
		t.Helper()
		s.await(who+" is answered otherwise", func() bool { return status(who) == want })
	}
	becomes("gone", http.StatusOK)
	operator := s.operatorToken()
	rounds := 1
	if os.Getenv("SALLYPORT_CHAOS") != "" {
		rounds = 3
	}
	for round := range rounds {
		watch, err := s.client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=none"})
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			s.must("rolebinding", "delete", "--cluster-name", "private", "-n", "gone", "--yes")
		}
		etcd.compact()
		becomes("ml", http.StatusOK)
		etcd.stop()
		becomes("ml", http.StatusServiceUnavailable)
		if resp, text := s.send(http.MethodPut, s.clusterID+"/providers/Sallyport.Gateway/accessPolicies/default?api-version=2025-10-01", operator, `{"properties":{"locked":true}}`); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a write that cannot be stored is answered with %d %s", resp.StatusCode, text)
		}
		etcd.start()
		etcd.compact()
		becomes("ml", http.StatusOK)
		if got := status("gone"); got != http.StatusForbidden {
			t.Errorf("round %d: withdrawn consent is answered with %d", round, got)
		}
		watch.Stop()
		s.refused(exitNotFound, nil, "rolebinding", "show", "--cluster-name", "private", "-n", "gone")
	}
	s.agent.stop()
	s.stop(s.server)
	etcd.stop()
}
