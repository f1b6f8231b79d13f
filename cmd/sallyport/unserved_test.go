package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestUnservedIsToldOnceAndBounded(t *testing.T) {
	var log bytes.Buffer
	u := &unserved{log: slog.New(slog.NewTextHandler(&log, nil))}
	tell := u.of("graph")
	ask := func(path, client string) {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("User-Agent", client)
		tell(r)
	}
	for range 3 {
		ask("/v1.0/devices?secret=canary", "az/1")
	}
	ask("/v1.0/devices", "az/2")
	if lines := strings.Count(log.String(), "\n"); lines != 2 || strings.Contains(log.String(), "canary") {
		t.Errorf("%d lines, want one for each client and no query:\n%s", lines, log.String())
	}
	for i := range 2 * maxUnserved {
		ask(fmt.Sprint("/", i), "az/1")
	}
	if len(u.seen) != maxUnserved || len(u.ring) != maxUnserved {
		t.Errorf("it remembers %d and %d requests, want at most %d", len(u.seen), len(u.ring), maxUnserved)
	}
	log.Reset()
	ask(fmt.Sprint("/", 2*maxUnserved-1), "az/1")
	ask("/v1.0/devices", "az/1") // forgotten meanwhile
	if lines := strings.Count(log.String(), "\n"); lines != 1 {
		t.Errorf("%d lines, want only that of the oldest:\n%s", lines, log.String())
	}
}

// TestSystemUnserved asks each part for something that it does not have.
func TestSystemUnserved(t *testing.T) {
	s := newSystem(t)
	arm, graph := s.operatorToken(), s.applicationToken("https://graph.microsoft.com/")
	for _, c := range []struct{ part, path, token, code string }{
		{"controlplane", "/subscriptions/" + testSubscription + "/no-such-thing?api-version=2021-04-01", arm, "code"},
		{"graph", "/graph/v1.0/no-such-thing", graph, "ResourceNotFound"},
		{"idp", "/common/oauth2/v2.0/no-such-thing", "", "AADSTS"},
	} {
		for range 2 {
			resp, body := s.send(http.MethodGet, c.path, c.token, "")
			if resp.StatusCode != http.StatusNotFound || !strings.Contains(body, c.code) {
				t.Errorf("%s: %s %s", c.path, resp.Status, body)
			}
		}
		path, _, _ := strings.Cut(c.path, "?")
		line := "not served; please report this line\" part=" + c.part + " method=GET path=" + path + " client=Go-http-client"
		if n := strings.Count(s.logs.String(), line); n != 1 {
			t.Errorf("%s: told %d times, want once", c.path, n)
		}
	}
}
