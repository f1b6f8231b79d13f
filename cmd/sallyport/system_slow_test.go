package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/idp"
)

// TestSystemSlow has clients that do not read what they asked for, or take their
// time to send what they promised. Their neighbours do not notice, and nothing is
// lost in the end (checklist, item 32).
func TestSystemSlow(t *testing.T) {
	s := newBound(t)
	ways := s.ways()
	gated, plain := ways[0], ways[1]
	version := fillNamespace(t, plain)
	list := httpExchange{method: "GET", path: "/api/v1/namespaces/" + plain.namespace + "/configmaps?resourceVersion=" + version + "&resourceVersionMatch=Exact"}
	whole := plain.http(t, "h2").do(t, list).body
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run("unread lists over "+protocol, func(t *testing.T) { s.testUnreadLists(t, protocol, list.path, whole) })
		t.Run("a body at a trickle over "+protocol, func(t *testing.T) { s.testTrickle(t, protocol, gated) })
		t.Run("half a body over "+protocol, func(t *testing.T) { s.testHalf(t, protocol, gated) })
	}
}

// slowClient speaks one protocol with the gateway and takes in little before it
// is read from.
func (s *bound) slowClient(t *testing.T, protocol string) *http.Client {
	t.Helper()
	transport := s.transport()
	transport.DisableCompression = true
	transport.ForceAttemptHTTP2 = protocol == "h2"
	transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok && protocol != "h2" {
			tcp.SetReadBuffer(256 << 10)
		}
		return conn, err
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ask sends one request as the source, and returns its answer, unread.
func (s *bound) ask(t *testing.T, client *http.Client, method, path string, body io.Reader, size int64) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, s.url+"/k8s"+s.clusterID+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.ml.token(idp.DataPlaneAudience))
	if body != nil {
		req.ContentLength = size
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// neighbours asks as others do, and over the same connection where there is one.
func (s *bound) neighbours(t *testing.T, client *http.Client) {
	t.Helper()
	var worst time.Duration
	for i := range 20 {
		begin := time.Now()
		if _, err := services(t, s.client); err != nil {
			t.Errorf("neighbour %d: %v", i, err)
		}
		worst = max(worst, time.Since(begin))
	}
	resp := s.ask(t, client, "GET", "/version", nil, 0)
	if _, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a neighbour of the same client: %d, %v", resp.StatusCode, err)
	}
	t.Logf("the slowest of 20 neighbours took %s", worst.Round(time.Millisecond))
}

func (s *bound) testUnreadLists(t *testing.T, protocol, path string, whole []byte) {
	const lists = 12
	client, since := s.slowClient(t, protocol), len(s.records())
	var answers []*http.Response
	for range lists {
		answers = append(answers, s.ask(t, client, "GET", path, nil, 0))
	}
	s.neighbours(t, client)
	// What a socket's buffers take in is the kernel's choice, a stream's window
	// is the client's.
	if ended := s.listsEnded(since, path); protocol == "h2" && ended > 0 {
		t.Errorf("%d lists of %d bytes went somewhere while nobody read them", ended, len(whole))
	}
	for i, resp := range answers {
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(body, whole) {
			t.Errorf("list %d has %d bytes of %d in the end: status %d, %v", i, len(body), len(whole), resp.StatusCode, err)
		}
	}
}

// listsEnded counts the lists that began and ended since that many records.
func (s *bound) listsEnded(since int, path string) (n int) {
	path, _, _ = strings.Cut(path, "?")
	begun := map[string]bool{}
	for _, r := range s.records()[since:] {
		switch {
		case r.Stage == audit.Decision && strings.HasSuffix(r.Path, path):
			begun[r.ID] = true
		case r.Stage == audit.Complete && begun[r.ID]:
			n++
		}
	}
	return n
}

func (s *bound) testTrickle(t *testing.T, protocol string, w *way) {
	client := s.slowClient(t, protocol)
	data, err := json.Marshal(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "trickled-" + protocol[:2]}, Data: map[string]string{"a": strings.Repeat("x", 100)}})
	if err != nil {
		t.Fatal(err)
	}
	body, write := io.Pipe()
	said := make(chan struct{})
	go func() {
		defer close(said)
		for i, b := range data {
			if _, err := write.Write([]byte{b}); err != nil {
				t.Errorf("byte %d of %d: %v", i, len(data), err)
				return
			}
			if i%20 == 0 {
				if _, err := services(t, s.client); err != nil {
					t.Errorf("a neighbour at byte %d: %v", i, err)
				}
			}
		}
		write.Close()
	}()
	resp := s.ask(t, client, "POST", "/api/v1/namespaces/"+w.namespace+"/configmaps", body, int64(len(data)))
	<-said
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusCreated {
		t.Errorf("%d %s, %v", resp.StatusCode, text, err)
	}
}

// testHalf stops in the middle of a body. The API server's answer, when it has
// waited long enough, ends the request.
func (s *bound) testHalf(t *testing.T, protocol string, w *way) {
	client, since := s.slowClient(t, protocol), len(s.records())
	body, write := io.Pipe()
	defer write.Close()
	go io.WriteString(write, `{"kind":`)
	resp := s.ask(t, client, "POST", "/api/v1/namespaces/"+w.namespace+"/configmaps?timeout=2s", body, 1000)
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("%d %s, %v", resp.StatusCode, text, err)
	}
	s.await("the request is recorded as ended", func() bool {
		return slices.ContainsFunc(s.records()[since:], func(r audit.Record) bool {
			return r.Stage == audit.Complete && r.Status == http.StatusGatewayTimeout && strings.HasSuffix(r.Path, "/configmaps")
		})
	})
}
