package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sallyport/sallyport/internal/audit"
)

// kid is the id of the key that signed a token.
func kid(t *testing.T, token string) string {
	t.Helper()
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Header["kid"].(string)
}

// TestSystemKeys replaces the keys of a running server: tokens of the old key
// are good until it is retired, records stay readable, and each change is in
// the audit log.
func TestSystemKeys(t *testing.T) {
	s := newSystem(t)
	s.register("keys")
	keys := func(args ...string) string {
		t.Helper()
		return s.must(slices.Concat([]string{"keys"}, args, []string{"--data-dir", s.dir})...)
	}
	answers := func(token string) int {
		t.Helper()
		resp, _ := s.send(http.MethodGet, "/subscriptions?api-version=2022-12-01", token, "")
		return resp.StatusCode
	}
	old, oldForGraph := s.operatorToken(), s.applicationToken("https://graph.microsoft.com/")
	contains(t, "keys list", keys("list"), kid(t, old), "signs", "encrypts")

	// Published first.
	keys("rotate", "signing")
	if now := s.operatorToken(); kid(t, now) != kid(t, old) {
		t.Error("the new key signs before others can know it")
	}
	contains(t, "keys list", keys("list"), "published")
	s.refused(exitConflict, []string{"is published already"}, "keys", "rotate", "signing", "--data-dir", s.dir)

	// Others may have the old one: the new one signs now, the old one is retired.
	keys("rotate", "signing", "--at-once")
	var fresh string
	s.await("the new key signs", func() bool {
		fresh = s.operatorToken()
		return kid(t, fresh) != kid(t, old)
	})
	if got := []int{answers(old), answers(fresh)}; !slices.Equal(got, []int{200, 200}) {
		t.Errorf("the old and the new key's tokens are answered %v, want 200 for both", got)
	}
	s.refused(exitConflict, []string{"is the one that signs"}, "keys", "retire", "signing", kid(t, fresh), "--data-dir", s.dir)
	keys("retire", "signing", kid(t, old))
	if got := []int{answers(old), answers(fresh)}; !slices.Equal(got, []int{401, 200}) {
		t.Errorf("after the old key was retired its tokens and the new one's are answered %v, want 401 and 200", got)
	}

	if resp, body := s.send(http.MethodGet, "/graph/v1.0/organization", oldForGraph, ""); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("after the old key was retired Graph answers its token with %s %s", resp.Status, body)
	}

	keys("rotate", "encryption")
	s.must("cluster", "show", "-n", "keys")
	s.private()
	s.stop(s.server)
	s.start()
	s.must("cluster", "show", "-n", "keys")
	if answers(fresh) != 200 {
		t.Error("a restart lost the signing key")
	}

	actions := map[string]int{}
	for _, r := range s.records() {
		if r.Stage == audit.Consent && strings.HasPrefix(r.Remote, "local") {
			actions[r.Action]++
		}
	}
	if actions["Sallyport.Gateway/keys/rotate/action"] != 4 || actions["Sallyport.Gateway/keys/retire/action"] != 2 {
		t.Errorf("the audit log has %v", actions)
	}
	s.refused(exitUnavailable, []string{"hint: is it running?"}, "keys", "list", "--data-dir", t.TempDir())
}

// TestSystemKeyFile: without its key file, or with another, the server does not
// start, changes nothing, and says what to do.
func TestSystemKeyFile(t *testing.T) {
	s := newSystem(t)
	s.register("sealed")
	s.stop(s.server)
	file, kept := filepath.Join(s.dir, "encryption.key"), filepath.Join(t.TempDir(), "kept.key")
	if err := os.Rename(file, kept); err != nil {
		t.Fatal(err)
	}
	refused := func(says ...string) {
		t.Helper()
		var stderr bytes.Buffer
		code := s.run(t.Context(), []string{"server", "--data-dir", s.dir, "--listen", "127.0.0.1:0", "--identity-listen", "127.0.0.1:0", "--metrics-listen", ""},
			strings.NewReader(""), &bytes.Buffer{}, &stderr)
		if code == exitOK {
			t.Error("the server ran without its key file")
		}
		contains(t, "the server", stderr.String(), says...)
	}
	refused("put back the copy", "--encryption-key-file")
	if _, err := os.Stat(file); err == nil {
		t.Error("a new key file was made")
	}
	if err := os.WriteFile(file, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused("mode 0644", "chmod 600")
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("put back the copy")

	s.start("--encryption-key-file", kept)
	s.must("cluster", "show", "-n", "sealed")
}
