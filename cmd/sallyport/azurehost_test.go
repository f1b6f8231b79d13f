package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/gateway"
	"github.com/sallyport/sallyport/internal/idp"
)

// watchedBody says whether a backup could have begun while it was read.
type watchedBody struct {
	io.Reader
	s    *server
	free bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	if b.s.writes.TryLock() {
		b.free = true
		b.s.writes.Unlock()
	}
	return b.Reader.Read(p)
}

func (b *watchedBody) Close() error { return nil }

// TestWritesHoldABackupOff: by whatever name a write comes, no backup begins in
// the middle of it.
func TestWritesHoldABackupOff(t *testing.T) {
	for _, host := range []string{"gateway.example.com:8443", "login.microsoftonline.com", "LOGIN.microsoftonline.com.:443"} {
		t.Run(host, func(t *testing.T) {
			s := bareServer(t)
			body := &watchedBody{Reader: strings.NewReader("grant_type=none"), s: s}
			r := httptest.NewRequest(http.MethodPost, "/common/oauth2/token", nil)
			r.Host, r.Body = host, body
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			answer := httptest.NewRecorder()
			s.serveWeb(answer, r)
			if answer.Code != http.StatusBadRequest || !strings.Contains(answer.Body.String(), "AADSTS70003") {
				t.Errorf("%d %s", answer.Code, answer.Body)
			}
			if body.free {
				t.Error("a backup could have begun in the middle of the write")
			}
			if !s.writes.TryLock() {
				t.Error("a backup cannot begin after it")
			}
		})
	}
}

// bareServer has an identity provider that knows nobody, and no cluster's host.
func bareServer(t *testing.T) *server {
	t.Helper()
	keys, err := idp.OpenKeys(t.TempDir()+"/keys", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	provider, err := idp.New(idp.Config{
		BaseURL:   func(r *http.Request) string { return "https://" + r.Host },
		Keys:      keys,
		Directory: identities{Directory: directory.New(nil)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &server{idp: provider, gateway: &gateway.Gateway{}}
}
