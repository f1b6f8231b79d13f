//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestKillGroupDeletion kills the server as soon as it has accepted the deletion
// of a resource group, and again and again when it is up. Each server goes on
// where the one before was: nothing can be created in the group, and at the end
// nothing is left of it.
func TestKillGroupDeletion(t *testing.T) {
	const resources, kills = 200, 4
	r := &killRig{dir: t.TempDir(), operations: &killOperations{}}
	self, err := exec.LookPath("sallyport") // this test binary, as a command: see TestMain
	if err != nil {
		t.Fatal(err)
	}
	web, identity := killAddresses(t)
	r.server = &killChild{name: "server", ready: true, log: filepath.Join(r.dir, "server.log"), args: []string{self, "server",
		"--data-dir", filepath.Join(r.dir, "server"), "--listen", web, "--identity-listen", identity, "--metrics-listen", "127.0.0.1:0"}}
	t.Cleanup(func() { r.server.kill(t) })
	r.base = r.server.start(t)
	r.connect(t)
	send := func(method, path, body string) (*http.Response, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), killPatience)
		defer cancel()
		token, err := r.tokens.Bearer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(path, "?") {
			path += "?api-version=2024-03-01"
		}
		req, err := http.NewRequestWithContext(ctx, method, r.base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		transport := r.transport(t)
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(text)
	}

	group := r.subscription.String() + "/resourceGroups/doomed"
	if resp, body := send(http.MethodPut, group, `{"location":"eastus"}`); resp.StatusCode != http.StatusCreated {
		t.Fatalf("create the group: %d %s", resp.StatusCode, body)
	}
	site := func(i int) string { return fmt.Sprintf("%s/providers/Microsoft.Web/sites/s%d", group, i) }
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < resources; i += 8 {
				if resp, body := send(http.MethodPut, site(i), `{"location":"eastus","identity":{"type":"SystemAssigned"}}`); resp.StatusCode != http.StatusCreated {
					t.Errorf("create %s: %d %s", site(i), resp.StatusCode, body)
				}
			}
		})
	}
	wg.Wait()
	resp, body := send(http.MethodDelete, group, "")
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("delete the group: %d %s", resp.StatusCode, body)
	}
	location := strings.TrimPrefix(resp.Header.Get("Location"), r.base)
	for range kills {
		r.server.kill(t)
		r.server.start(t)
		if resp, body := send(http.MethodPut, site(resources), `{"location":"eastus"}`); resp.StatusCode != http.StatusConflict && resp.StatusCode != http.StatusNotFound {
			t.Errorf("create in the group: %d %s", resp.StatusCode, body)
		}
		if resp, body := send(http.MethodGet, group, ""); resp.StatusCode != http.StatusNotFound && !strings.Contains(body, `"Deleting"`) {
			t.Errorf("the group: %d %s", resp.StatusCode, body)
		}
	}
	for deadline := time.Now().Add(killPatience); ; {
		resp, body := send(http.MethodGet, location, "")
		if resp.StatusCode == http.StatusOK {
			break
		}
		if resp.StatusCode != http.StatusAccepted || time.Now().After(deadline) {
			t.Fatalf("the operation: %d %s\n%s", resp.StatusCode, body, r.server.tail())
		}
	}
	if resp, body := send(http.MethodGet, group, ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("the group: %d %s", resp.StatusCode, body)
	}
	if _, body := send(http.MethodGet, r.subscription.String()+"/resources", ""); strings.Contains(body, "/doomed/") {
		t.Errorf("left: %s", body)
	}

	// Each piece is in the record, whichever server took it away.
	log, err := os.ReadFile(filepath.Join(r.dir, "server", "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[string]bool{}
	for line := range strings.Lines(string(log)) {
		var rec struct{ Method, Path string }
		if err := json.Unmarshal([]byte(line), &rec); err == nil && rec.Method == http.MethodDelete {
			recorded[rec.Path] = true
		}
	}
	for i := range resources {
		if !recorded[site(i)] {
			t.Errorf("the deletion of %s is not in the audit log", site(i))
		}
	}
}
