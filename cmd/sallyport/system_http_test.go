package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// TestSystemHTTP holds plain answers of the API server against what came through
// the gateway, over HTTP/1.1 and HTTP/2: status, headers and every byte.
func TestSystemHTTP(t *testing.T) {
	s := newBound(t)
	ways := s.ways()
	gated, plain := ways[0], ways[1]
	version := fillNamespace(t, plain)
	for _, protocol := range []string{"http/1.1", "h2"} {
		through, straight := gated.http(t, protocol), plain.http(t, protocol)
		for _, c := range httpExchanges(plain.namespace, version) {
			t.Run(protocol+" "+c.name, func(t *testing.T) {
				a, b := through.do(t, c), straight.do(t, c)
				if protocol == "h2" != (a.ProtoMajor == 2) || a.ProtoMajor != b.ProtoMajor {
					t.Errorf("protocols %s and %s", a.Proto, b.Proto)
				}
				if a.StatusCode != b.StatusCode || a.StatusCode != c.status {
					t.Errorf("status %d, straight %d; want %d", a.StatusCode, b.StatusCode, c.status)
				}
				if len(a.body) < c.atLeast || !bytes.Equal(a.body, b.body) {
					t.Errorf("%d bytes %.300q\nstraight %d bytes %.300q", len(a.body), a.body, len(b.body), b.body)
				}
				compareHeaders(t, a.Header, b.Header)
			})
		}
	}
}

// fillNamespace creates 60 ConfigMaps, 3 MB, and returns the version at which
// they are all there.
func fillNamespace(t *testing.T, w *way) (version string) {
	t.Helper()
	for i := range 60 {
		data := hex.EncodeToString(randomBytes(25_000, byte(i)))
		_, err := w.client.CoreV1().ConfigMaps(w.namespace).Create(t.Context(),
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("big-%02d", i)}, Data: map[string]string{"random": data}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	list, err := w.client.CoreV1().ConfigMaps(w.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.ResourceVersion
}

// httpExchange is a request, and what both ways must answer.
type httpExchange struct {
	name, method, path, body string
	header                   map[string]string
	status                   int
	atLeast                  int // bytes
}

func httpExchanges(namespace, version string) []httpExchange {
	const (
		table    = "application/json;as=Table;v=v1;g=meta.k8s.io"
		partial  = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
		protobuf = "application/vnd.kubernetes.protobuf"
		jsonType = "application/json"
	)
	maps := "/api/v1/namespaces/" + namespace + "/configmaps"
	all := maps + "?resourceVersion=" + version + "&resourceVersionMatch=Exact"
	accept := func(types string) map[string]string { return map[string]string{"Accept": types} }
	body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"big-00"}}`
	return []httpExchange{
		{name: "list", method: "GET", path: all, status: 200, atLeast: 3_000_000},
		{name: "list, gzip", method: "GET", path: all, header: map[string]string{"Accept-Encoding": "gzip"}, status: 200, atLeast: 1_500_000},
		{name: "list, protobuf", method: "GET", path: all, header: accept(protobuf), status: 200, atLeast: 3_000_000},
		{name: "list, protobuf and gzip", method: "GET", path: all, header: map[string]string{"Accept": protobuf, "Accept-Encoding": "gzip"}, status: 200, atLeast: 1_500_000},
		{name: "list, metadata", method: "GET", path: all, header: accept(partial), status: 200, atLeast: 5_000},
		{name: "list, YAML", method: "GET", path: all + "&limit=1", header: accept("application/yaml"), status: 200, atLeast: 50_000},
		{name: "list, CBOR", method: "GET", path: all + "&limit=1", header: accept("application/cbor"), status: 406},
		{name: "page", method: "GET", path: all + "&limit=7", status: 200, atLeast: 350_000},
		{name: "table", method: "GET", path: "/api/v1/namespaces/" + namespace + "/secrets", header: accept(table), status: 200},
		{name: "HEAD", method: "HEAD", path: "/healthz", status: 200},
		{name: "HEAD of a resource", method: "HEAD", path: maps + "/big-00", status: 405},
		{name: "bad version", method: "GET", path: maps + "?resourceVersion=x", status: 400},
		{name: "watch, end", method: "GET", path: maps + "?watch=1&timeoutSeconds=1&resourceVersion=" + version, status: 200},
		{name: "watch by path", method: "GET", path: "/api/v1/watch/namespaces/" + namespace + "/configmaps/big-00?timeoutSeconds=1&resourceVersion=" + version, status: 200},
		{name: "exists already", method: "POST", path: maps, body: body, header: map[string]string{"Content-Type": jsonType}, status: 409},
		{name: "dry run", method: "DELETE", path: maps + "/big-00?dryRun=All", status: 200},
		{name: "bad media type", method: "POST", path: maps, body: body, header: map[string]string{"Content-Type": "text/html"}, status: 415},
		{name: "bad patch type", method: "PATCH", path: maps + "/big-00", body: "{}", header: map[string]string{"Content-Type": jsonType}, status: 415},
		{name: "bad JSON", method: "POST", path: maps, body: "{", header: map[string]string{"Content-Type": jsonType}, status: 400},
		{name: "unknown field", method: "POST", path: maps + "?dryRun=All&fieldValidation=Warn", body: strings.Replace(body, `"kind"`, `"knd":1,"kind"`, 1), header: map[string]string{"Content-Type": jsonType}, status: 409},
		{name: "too large", method: "POST", path: maps, body: strings.Repeat(" ", 3<<20) + body, header: map[string]string{"Content-Type": jsonType}, status: 413},
		{name: "as large as may be", method: "POST", path: maps, body: strings.Repeat(" ", 3<<20-len(body)) + body, header: map[string]string{"Content-Type": jsonType}, status: 409},
		{name: "64 KiB of headers", method: "GET", path: maps + "/big-00", header: map[string]string{"User-Agent": strings.Repeat("a", 32<<10), "Accept": "application/json, " + strings.Repeat("text/plain;q=0.1, ", 1800) + "*/*;q=0"}, status: 200, atLeast: 50_000},
		{name: "method", method: "PUT", path: maps, body: body, header: map[string]string{"Content-Type": jsonType}, status: 405},
		{name: "no such object", method: "GET", path: maps + "/none", status: 404},
		{name: "no such API", method: "GET", path: "/apis/none.example.com/v1/things", status: 404},
		{name: "escaped name", method: "GET", path: maps + "/a%20b%3Fc", status: 404},
		{name: "field selector", method: "GET", path: all + "&fieldSelector=metadata.name%3Dbig-07", status: 200, atLeast: 50_000},
		{name: "version", method: "GET", path: "/version", status: 200, atLeast: 100},
		{name: "paths", method: "GET", path: "/", status: 200, atLeast: 1000},
		{name: "readyz", method: "GET", path: "/readyz?verbose", status: 200, atLeast: 1000},
		{name: "openapi v2", method: "GET", path: "/openapi/v2", status: 200, atLeast: 1_000_000},
		{name: "openapi v2, protobuf and gzip", method: "GET", path: "/openapi/v2",
			header: map[string]string{"Accept": "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "Accept-Encoding": "gzip"}, status: 200, atLeast: 100_000},
		{name: "openapi v3", method: "GET", path: "/openapi/v3/apis/apps/v1", status: 200, atLeast: 100_000},
		{name: "discovery", method: "GET", path: "/apis",
			header: accept("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"), status: 200, atLeast: 10_000},
		{name: "key set", method: "GET", path: "/openid/v1/jwks", status: 200, atLeast: 300},
	}
}

// httpClient speaks one protocol on one way.
type httpClient struct {
	*http.Client
	server string
}

func (w *way) http(t *testing.T, protocol string) httpClient {
	t.Helper()
	config := rest.CopyConfig(w.config)
	config.NextProtos, config.DisableCompression = []string{protocol}, true
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return httpClient{client, w.server}
}

// httpAnswer is one with its body read.
type httpAnswer struct {
	*http.Response
	body []byte
}

func (h httpClient) do(t *testing.T, c httpExchange) httpAnswer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), c.method, h.server+c.path, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range c.header {
		req.Header.Set(name, value)
	}
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("after %d bytes: %v", len(body), err)
	}
	return httpAnswer{resp, body}
}

// compareHeaders allows for what the gateway adds, and for what is another in
// each answer.
func compareHeaders(t *testing.T, gated, plain http.Header) {
	t.Helper()
	for _, name := range []string{"Audit-Id", "Date"} {
		if gated.Get(name) == "" && plain.Get(name) != "" {
			t.Errorf("no %s", name)
		}
		gated.Del(name)
		plain.Del(name)
	}
	if gated.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("X-Content-Type-Options is %q", gated.Get("X-Content-Type-Options"))
	}
	gated.Del("X-Content-Type-Options")
	plain.Del("X-Content-Type-Options")
	if !maps.EqualFunc(gated, plain, slices.Equal) {
		t.Errorf("headers %v\nstraight %v", gated, plain)
	}
}
