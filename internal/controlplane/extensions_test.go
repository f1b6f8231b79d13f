package controlplane_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// TestExtensionSecrets: protected settings are in no record, whichever write had
// them.
func TestExtensionSecrets(t *testing.T) {
	f := newFixture(t, nil)
	url := cluster + "/providers/Microsoft.KubernetesConfiguration/extensions/e" + version
	f.want(201, "PUT", url, `{"properties":{"extensionType":"T","configurationProtectedSettings":{"key":"canary"}}}`)
	f.want(202, "PATCH", url, `{"properties":{"configurationProtectedSettings":{"other":"canary"}}}`)
	items, _, err := f.store.Extensions.List(t.Context(), "")
	must(t, err)
	if len(items) != 1 || bytes.Contains(items[0].Value.Document, []byte("canary")) {
		t.Errorf("kept: %d, %s", len(items), items[0].Value.Document)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if text := fmt.Sprintf("%+v", f.records) + f.log.String(); strings.Contains(text, "canary") {
		t.Errorf("logged: %s", text)
	}
}
