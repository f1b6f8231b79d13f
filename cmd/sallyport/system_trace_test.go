package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/internal/idp"
)

// span is what a collector was told, with the service that told it.
type span struct {
	*tracev1.Span
	service string
}

// collector is a small OpenTelemetry collector: OTLP over HTTP.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	spans []span
	raw   strings.Builder
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request collectorv1.ExportTraceServiceRequest
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &request) != nil {
			http.Error(w, "not OTLP", http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw.Write(body)
		for _, resource := range request.ResourceSpans {
			service := ""
			for _, kv := range resource.Resource.Attributes {
				if kv.Key == "service.name" {
					service = kv.Value.GetStringValue()
				}
			}
			for _, scope := range resource.ScopeSpans {
				for _, s := range scope.Spans {
					c.spans = append(c.spans, span{s, service})
				}
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	c.Config.SetKeepAlivesEnabled(false) // or connections would outlive the servers
	c.Start()
	t.Cleanup(c.Close)
	return c
}

// linked returns the spans of the trace that links to the client's own.
func (c *collector) linked(clientTrace string) []span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var id []byte
	for _, s := range c.spans {
		for _, l := range s.Links {
			if hex.EncodeToString(l.TraceId) == clientTrace {
				id = s.TraceId
			}
		}
	}
	var of []span
	for _, s := range c.spans {
		if id != nil && string(s.TraceId) == string(id) {
			of = append(of, s)
		}
	}
	return of
}

// TestSystemTrace: one request is one trace, with spans of the server and of
// the agent, in which the client's own trace is a link and no secret is told.
func TestSystemTrace(t *testing.T) {
	c := newCollector(t)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50") // ms between exports
	s := newSystem(t, "--otlp-endpoint", c.URL)
	id := s.register("prod")
	agent := s.install("prod", mlworkload)
	for half := range agent.args {
		agent.args[half] = append(agent.args[half], "--otlp-endpoint", c.URL)
	}
	agent.start()
	ml := s.source("ml")
	s.bind("prod", "b1", ml.id, mlworkload)

	const theirs = "0af7651916cd43dd8448eb211c80319c"
	token := ml.token(idp.DataPlaneAudience)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/k8s"+id+"/api/v1/namespaces/default/services?labelSelector=canary%3Dsecret", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Traceparent", "00-"+theirs+"-b7ad6b7169203331-01")
	resp, err := (&http.Client{Transport: s.transport()}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %s", resp.Status)
	}

	want := []string{
		"sallyport-agent: agent, below forward",
		"sallyport-server: authenticate, below gateway list resource",
		"sallyport-server: authorize, below gateway list resource",
		"sallyport-server: forward, below gateway list resource",
		"sallyport-server: gateway list resource, below nothing",
	}
	var got []string
	s.await("the collector has the whole trace", func() bool {
		spans := c.linked(theirs)
		names := map[string]string{"": "nothing"}
		for _, sp := range spans {
			names[string(sp.SpanId)] = sp.Name
		}
		got = nil
		for _, sp := range spans {
			got = append(got, fmt.Sprintf("%s: %s, below %s", sp.service, sp.Name, names[string(sp.ParentSpanId)]))
		}
		slices.Sort(got)
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		t.Errorf("the trace has\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	s.await("the control plane's spans are there", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.ContainsFunc(c.spans, func(sp span) bool {
			return strings.HasPrefix(sp.Name, "PUT /subscriptions/{subscription}/") && strings.HasSuffix(sp.Name, "/trustedAccessRoleBindings/{binding}")
		})
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, secret := range []string{token, "eyJ", "canary"} {
		if strings.Contains(c.raw.String(), secret) {
			t.Errorf("%.10q... was sent to the collector", secret)
		}
	}
	for _, sp := range c.spans {
		if hex.EncodeToString(sp.TraceId) == theirs {
			t.Errorf("span %s took the client's trace id", sp.Name)
		}
	}
}
