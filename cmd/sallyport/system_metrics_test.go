package main

import (
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// metricsURL is where a process of ours serves its metrics, as its log says.
func metricsURL(t *testing.T, p *process) string {
	t.Helper()
	found := regexp.MustCompile(`msg=metrics address=(\S+)`).FindAllStringSubmatch(p.log.String(), -1)
	if len(found) != 1 {
		t.Fatalf("the log of %s names %d addresses of metrics", p.name, len(found))
	}
	return "http://" + found[0][1]
}

// fetch is one GET on a loopback port.
func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// Names and help texts keep to the rules of the ecosystem, as its own linter
// reads them. etcd's names are etcd's.
func lint(t *testing.T, exposition string) {
	t.Helper()
	problems, err := promlint.New(strings.NewReader(exposition)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "sallyport_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestMetricsOfAServer(t *testing.T) {
	s := newSystem(t)
	s.must("cluster", "register", "-n", "prod", "-l", "eastus")
	at := metricsURL(t, s.server)
	_, text := fetch(t, at+"/metrics")
	lint(t, text)
	for _, want := range []string{
		`sallyport_build_info{`,
		"sallyport_authorize_clusters 1\n",
		`sallyport_controlplane_requests_total{code="201",method="PUT",route="/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.ContainerService/managedClusters/{cluster}"} 1`,
		`sallyport_idp_tokens_issued_total{grant="client_credentials"}`,
		`sallyport_authenticate_tokens_total{audience="arm",outcome="accepted"}`,
		`sallyport_audit_records_total{stage="consent"}`,
		`sallyport_store_watch_proven_timestamp_seconds{kind="bindings"}`,
		"etcd_mvcc_db_total_size_in_bytes", "go_goroutines", "process_open_fds",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in what is served", want)
		}
	}
	for _, endpoint := range []string{"/livez", "/readyz"} {
		for _, base := range []string{at, s.url} {
			status, body := 0, ""
			if base == at {
				status, body = fetch(t, base+endpoint)
			} else {
				resp, text := s.send(http.MethodGet, endpoint, "", "")
				status, body = resp.StatusCode, text
			}
			if status != http.StatusOK || body != "ok\n" {
				t.Errorf("%s%s: %d %q", base, endpoint, status, body)
			}
		}
	}
	if _, body := fetch(t, at+"/readyz?verbose"); body != "[+]index ok\n[+]store ok\n[+]audit ok\nreadyz check passed\n" {
		t.Errorf("/readyz?verbose says %q", body)
	}
	if status, _ := fetch(t, at+"/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("/debug/pprof/ is answered with %d", status)
	}
	if resp, _ := s.send(http.MethodGet, "/metrics", "", ""); resp.StatusCode == http.StatusOK {
		t.Error("the port that is open to everybody serves metrics")
	}
}

// What is not said to listen elsewhere listens on loopback only (checklist,
// item 41).
func TestItem41DefaultsAreLoopback(t *testing.T) {
	cfg := defaultServerConfig()
	for name, addr := range map[string]string{"the TLS port": cfg.Listen, "the identity endpoint": cfg.IdentityListen, "metrics": cfg.MetricsListen} {
		host, _, err := net.SplitHostPort(addr)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			t.Errorf("%s listens on %q by default: %v", name, addr, err)
		}
	}
}

func TestMetricsPortIsTaken(t *testing.T) {
	s := newSystem(t)
	taken := strings.TrimPrefix(metricsURL(t, s.server), "http://")
	s.refused(exitFailed, []string{taken, "--metrics-listen"}, "server", "--data-dir", t.TempDir(),
		"--listen", "127.0.0.1:0", "--identity-listen", "127.0.0.1:0", "--metrics-listen", taken)
}
