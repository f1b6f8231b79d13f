package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/internal/idp"
)

// TestSystemCertificatesRenewed has certificates of a few seconds: a watch and
// an exec live through three renewals, under load. Then the proxy gets no more
// certificates, and they are cut when the last one ends.
func TestSystemCertificatesRenewed(t *testing.T) {
	const life, renewals = 6 * time.Second, 3
	s := newBound(t, "--agent-certificate-lifetime", life.String())
	s.pod("idle", false)
	command, _ := echo(t)
	exec := s.live("exec", append([]string{"exec", "-i", "idle", "--"}, command...)...)
	exec.says("hello")
	exec.shows("hello\n")
	watch, err := s.client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=news"})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	stop := s.load(2)

	begin, before := time.Now(), s.tunnels()
	for i := range renewals {
		s.await("both tunnels are replaced", func() bool { return s.tunnels() >= before+2*(i+1) })
	}
	t.Logf("%d renewals in %s; %d requests, none failed", renewals, time.Since(begin).Round(time.Millisecond), stop())
	exec.says("still there")
	exec.shows("still there\n")
	s.pod("news", false)
	select {
	case event := <-watch.ResultChan():
		if pod, ok := event.Object.(*corev1.Pod); !ok || pod.Name != "news" {
			t.Errorf("the watch says %v", event)
		}
	case <-time.After(soon):
		t.Error("the watch says nothing")
	}

	// The gateway knows this account no more: nothing proves the agent anew.
	s.agent.write("proxy/account/gateway-token", []byte("not a token"))
	begin = time.Now()
	if code := exec.ends(); code == 0 {
		t.Error("an exec that was cut ended as if it had not been")
	}
	t.Logf("without renewal the exec was cut after %s (life of a certificate: %s)", time.Since(begin).Round(time.Millisecond), life)
	if !strings.Contains(s.server.log.String(), "the agent's certificate has ended") {
		t.Error("the server's log does not say why")
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range watch.ResultChan() { // until it is closed
		}
	}()
	select {
	case <-ended:
	case <-time.After(soon):
		t.Error("the watch goes on")
	}
	if resp, text := s.send(http.MethodGet, "/k8s"+s.clusterID+"/api/v1/namespaces/default/pods", s.ml.token(idp.DataPlaneAudience), ""); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without a valid certificate a request was answered with %d %s", resp.StatusCode, text)
	}
}
