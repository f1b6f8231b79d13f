package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/internal/idp"
	"github.com/sallyport/sallyport/internal/keyring"
)

// secretShapes are what every secret of some kind looks like, known here or not.
var secretShapes = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.|PRIVATE KEY-----|sallyport-join-v1\.[A-Za-z0-9_-]{10,}`)

// TestItem39SystemKeepsItsSecrets runs a whole system, logging all it can and
// traced, through consent, requests, refusals, new keys and a backup, and then
// looks for its secrets: in logs, audit records, traces, metrics, answers,
// process arguments and every file. They are in the files they are for, mode
// 0600, and nowhere else.
func TestItem39SystemKeepsItsSecrets(t *testing.T) {
	var mu sync.Mutex
	var traced []byte
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		traced = append(traced, body...)
	}))
	t.Cleanup(collector.Close)
	s := newBound(t, "--verbose", "--otlp-endpoint", collector.URL)
	op, err := (&cli{operatorFile: filepath.Join(s.dir, "operator.json")}).operator()
	if err != nil {
		t.Fatal(err)
	}
	identity, err := os.ReadFile(s.ml.identity)
	if err != nil {
		t.Fatal(err)
	}
	header := regexp.MustCompile(`[0-9a-f-]{36}\.[A-Za-z0-9_-]{43}`).FindString(string(identity))
	join, err := os.ReadFile(filepath.Join(s.agent.dir, "reconciler", "join", "token"))
	if err != nil || header == "" {
		t.Fatalf("no identity header or join token: %v", err)
	}
	token := s.ml.token(idp.DataPlaneAudience)
	secrets := map[string]string{
		"the operator's secret": op.ClientSecret, "an identity header": header, "a join token": strings.TrimSpace(string(join)),
		"a source's token": token, "the operator's token": s.operatorToken(),
	}
	for half := range s.agent.args {
		for _, file := range []string{"token", "gateway-token"} {
			data, err := os.ReadFile(filepath.Join(s.agent.dir, half, "account", file))
			if err != nil {
				t.Fatal(err)
			}
			secrets["a pod's "+file+" of the "+half] = strings.TrimSpace(string(data))
		}
	}

	var said strings.Builder
	path := "/k8s" + s.clusterID + "/api/v1/namespaces/default/pods"
	for _, send := range []struct{ path, token string }{
		{path, token}, {path, token[:len(token)-4] + "AAAA"}, {path, op.ClientSecret}, {path + "?access_token=" + token, ""},
		{"/subscriptions?api-version=2022-12-01", token}, {s.clusterID + "?api-version=2025-10-01", header},
	} {
		_, text := s.send(http.MethodGet, send.path, send.token, "")
		fmt.Fprintln(&said, text)
	}
	if _, err := s.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	for _, args := range [][]string{{"keys", "rotate", "signing", "--at-once"}, {"keys", "rotate", "encryption"}, {"keys", "list", "-o", "json"}, {"backup", backup}} {
		r := s.cli(append(args, "--data-dir", s.dir)...)
		fmt.Fprintln(&said, r.stdout, r.stderr)
	}
	secrets["an encryption key"] = encryptionSecret(t, s.dir)
	address := regexp.MustCompile(`msg=metrics address=(\S+)`).FindStringSubmatch(s.server.log.String())
	if address == nil {
		t.Fatal("the log does not say where the metrics are")
	}
	resp, err := http.Get("http://" + address[1] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || len(metrics) == 0 {
		t.Fatalf("metrics: %d bytes, %v", len(metrics), err)
	}
	s.agent.stop()
	s.stop(s.server) // the last spans are sent
	collector.Close()

	mu.Lock()
	defer mu.Unlock()
	if len(traced) == 0 {
		t.Error("nothing was traced")
	}
	look := func(where string, text string) {
		t.Helper()
		for what, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s: holds %s", where, what)
			}
		}
		if found := secretShapes.FindString(text); found != "" {
			t.Errorf("%s: holds %.30q", where, found)
		}
	}
	look("the logs", s.logs.String())
	look("the traces", string(traced))
	look("the metrics", string(metrics))
	look("answers and output", said.String())
	processes(look)
	s.private()
	files(t, s.dir, look)
	if info, err := os.Stat(backup); err != nil || info.Mode() != 0o600 {
		t.Errorf("the backup: %v, %v, want mode 0600", info, err)
	}
}

// encryptionSecret is the newest key of the key file, as it is written there.
func encryptionSecret(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, encryptionKeyFile)
	if _, err := keyring.Open(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Keys []struct {
			Key string `json:"key"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(data, &file); err != nil || len(file.Keys) < 2 || file.Keys[0].Key == "" {
		t.Fatalf("key file: %d keys, %v", len(file.Keys), err)
	}
	return file.Keys[0].Key
}

// processes looks into the arguments of every process that runs, which all
// users can read.
func processes(look func(where, text string)) {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		if data, err := os.ReadFile(name); err == nil && strings.Contains(string(data), "sallyport") {
			look(name, string(data))
		}
	}
}

// files looks into every file of the data folder but those that are for
// secrets, etcd's and the audit log's included.
func files(t *testing.T, dir string, look func(where, text string)) {
	t.Helper()
	secret := regexp.MustCompile(`^(operator\.json|encryption\.key|(keys|ca|hosts)/.*)$`)
	held, looked := 0, 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if secret.MatchString(name) {
			held++
			return nil
		}
		data, err := os.ReadFile(path)
		looked++
		look(name, string(bytes.ReplaceAll(data, make([]byte, 512), nil))) // etcd's log is mostly room for more
		return err
	})
	if err != nil || held < 5 || looked < 4 {
		t.Errorf("%d files for secrets, %d others, %v", held, looked, err)
	}
}
