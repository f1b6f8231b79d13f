package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/internal/idp"
)

// TestSystemApplications: what mlworkload is for. An application in the cluster,
// which only the API server reaches, answers through services/proxy and
// pods/proxy as it does straight through the API server. And a server of an
// aggregated API has its resources used, and knows whom it serves.
func TestSystemApplications(t *testing.T) {
	p := newPrivate(t, "mlworkload", "--set-flag", "aggregator-reject-forwarding-redirect=false")
	if p == nil {
		return
	}
	ml := p.source("ml")
	p.bind("private", "ml", ml.id, mlworkload)
	through := http.Client{Transport: p.transport()}
	direct, err := rest.HTTPClientFor(p.adminConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(direct.CloseIdleConnections)
	app := &application{private: p, token: ml.token(idp.DataPlaneAudience), through: &through, direct: direct}
	app.serve()

	t.Run("services proxy", func(t *testing.T) { app.testCompared(t, "services/score:web/proxy") })
	t.Run("streaming", app.testStreaming)
	t.Run("upgrade", app.testUpgrade)
	t.Run("pods proxy", func(t *testing.T) {
		const path = "pods/app:8080/proxy"
		if resp, body := app.do(t, app.through, exchange{method: "GET", path: path + "/echo"}); resp.StatusCode != http.StatusForbidden {
			t.Errorf("no role holds pods/proxy, but: %d %s", resp.StatusCode, body)
		}
		s := p.streaming(ml)
		s.grant("pods-proxy", "aks:trustedaccess:ml", rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"pods/proxy"}})
		app.testCompared(t, path)
	})
	t.Run("Item08 aggregated API", func(t *testing.T) { p.testAggregated(t, ml) })
}

// application is an HTTP server in the cluster, and two ways to it: with the
// source's token through the gateway, and as admin straight to the API server.
type application struct {
	*private
	token           string
	through, direct *http.Client
	next            chan string // what the stream is to say
}

// serve starts the application, and makes the pod and the service that lead to
// it, as a scheduler, a kubelet and a controller would.
func (a *application) serve() {
	a.t.Helper()
	a.next = make(chan string)
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", echoRequest)
	mux.HandleFunc("/echo/", echoRequest)
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, `<html><body><a href="/next">next</a><img src="pic.png"></body></html>`)
	})
	mux.HandleFunc("/to/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Query().Get("location"))
		w.WriteHeader(http.StatusFound)
	})
	mux.HandleFunc("/trailers", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		io.WriteString(w, "body")
		w.Header().Set("Grpc-Status", "0")
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			select {
			case line := <-a.next:
				fmt.Fprintf(w, "data: %s\n\n", line)
				http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\nX-App: %s\r\n\r\n", r.Header.Get("X-App"))
		io.Copy(conn, buffered)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: soon}
	ln := a.machine.listen(appIP + ":8080")
	go server.Serve(ln)
	a.t.Cleanup(func() { server.Close() })
	a.route("score", "web", 8080)
}

// echoRequest answers with the request as the application has it.
func echoRequest(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for name, value := range map[string]string{
		"Content-Type": "application/json", "X-App-Answer": "1", "x_under.score": "2", "Grpc-Encoding": "identity", "Etag": `"v1"`,
		"Set-Cookie": "a=b", "Access-Control-Allow-Origin": "*",
	} {
		w.Header()[http.CanonicalHeaderKey(name)] = []string{value}
	}
	w.WriteHeader(http.StatusAccepted)
	json.NewEncoder(w).Encode(echoed{Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery, Header: r.Header, Body: body})
}

type echoed struct {
	Method, Path, Query string
	Header              http.Header
	Body                []byte
}

// route makes the pod app, if it is not there, and a service that leads to one
// of its ports.
func (p *private) route(service, port string, number int32) {
	p.t.Helper()
	core, ctx := p.kube.admin.CoreV1(), p.t.Context()
	pod, err := core.Pods("default").Get(ctx, "app", metav1.GetOptions{})
	if err != nil {
		// A node that is nobody's, so that no kubelet has a say.
		pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "app"}, Spec: corev1.PodSpec{NodeName: "elsewhere", Containers: []corev1.Container{{Name: "main", Image: "none"}}}}
		if pod, err = core.Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			p.t.Fatal(err)
		}
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: appIP, PodIPs: []corev1.PodIP{{IP: appIP}}}
		if pod, err = core.Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
			p.t.Fatal(err)
		}
	}
	if _, err := core.Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: service},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: port, Port: 443}}},
	}, metav1.CreateOptions{}); err != nil {
		p.t.Fatal(err)
	}
	makeEndpoints(p.t, p.kube.admin, service, port, number, pod)
}

// exchange is one request to an application. Its path begins with the resource
// in the namespace default, and goes on behind the proxy; absolute is for others.
type exchange struct {
	method, path, absolute string
	header                 http.Header
	body                   string
}

func (a *application) do(t *testing.T, by *http.Client, e exchange) (*http.Response, string) {
	t.Helper()
	base := "https://" + net.JoinHostPort(apiIP, apiPort)
	if by == a.through {
		base = a.url + "/k8s" + a.id
	}
	req, err := http.NewRequestWithContext(t.Context(), e.method, base+cmp.Or(e.absolute, "/api/v1/namespaces/default/"+e.path), strings.NewReader(e.body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, e.header)
	if by == a.through {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	client := *by
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", e.method, e.path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", e.method, e.path, err)
	}
	return resp, string(body)
}

// testCompared sends each request both ways. What differs is said here.
func (a *application) testCompared(t *testing.T, proxy string) {
	header := http.Header{
		"X-App": {"one", "two"}, "X_under.score": {"3"}, "Traceparent": {"00-1-2-01"}, "Grpc-Timeout": {"1S"}, "Cookie": {"c=d"},
		"Accept-Language": {"de"}, "Content-Type": {"application/x-anything"}, "User-Agent": {"scorer/1"}, "Accept-Encoding": {"gzip"},
	}
	binary := string(randomBytes(1<<20, 7))
	for _, e := range []exchange{
		{method: "GET", path: "/echo?a=1&a=2&b=%2F%20x&c"},
		{method: "GET", path: "/echo/"},
		{method: "GET", path: "/echo/with%20space/"},
		{method: "POST", path: "/echo", body: binary},
		{method: "PUT", path: "/echo/x", body: "put"},
		{method: "PATCH", path: "/echo", body: "patch"},
		{method: "DELETE", path: "/echo", body: "delete"},
		{method: "HEAD", path: "/echo"},
		{method: "GET", path: "/page"},
		{method: "GET", path: "/trailers"},
		{method: "GET", path: "/nothing"},
		{method: "GET", path: "/to/x?location=/next?q=1"},
		{method: "GET", path: "/to/x?location=sibling"},
		{method: "GET", path: "/to/x?location=../up"},
		{method: "GET", path: "/to/x?location=http://" + appIP + ":8080/absolute"},
	} {
		e.path, e.header = proxy+e.path, header
		t.Run(e.method+" "+strings.TrimPrefix(e.path, proxy), func(t *testing.T) { a.compare(t, e) })
	}
	elsewhere := exchange{method: "GET", path: proxy + "/to/x?location=https://elsewhere.example/"}
	if resp, body := a.do(t, a.through, elsewhere); resp.StatusCode != http.StatusBadGateway || resp.Header.Get("Location") != "" {
		t.Errorf("a redirect to another host: %d %s", resp.StatusCode, body)
	}
}

func (a *application) compare(t *testing.T, e exchange) {
	want, wantBody := a.do(t, a.direct, e)
	got, gotBody := a.do(t, a.through, e)
	if got.StatusCode != want.StatusCode {
		t.Errorf("status %d, straight %d: %s", got.StatusCode, want.StatusCode, gotBody)
	}
	if strings.Contains(e.path, "/echo") && e.method != "HEAD" {
		wantBody, gotBody = seen(t, wantBody), seen(t, gotBody)
	}
	if gotBody != wantBody {
		t.Errorf("body\n%.2000s\nstraight\n%.2000s", gotBody, wantBody)
	}
	wantHeader := want.Header.Clone()
	for _, stopped := range []string{"Set-Cookie", "Access-Control-Allow-Origin"} { // they act on an origin
		delete(wantHeader, stopped)
	}
	for name, values := range wantHeader {
		if slices.Contains([]string{"Date", "Audit-Id", "Content-Length", "Location"}, name) {
			continue
		}
		if !slices.Equal(got.Header[name], values) {
			t.Errorf("header %s: %q, straight %q", name, got.Header[name], values)
		}
	}
	if set := got.Header["Set-Cookie"]; len(set) > 0 {
		t.Errorf("a cookie: %q", set)
	}
	if fmt.Sprint(got.Trailer) != fmt.Sprint(want.Trailer) {
		t.Errorf("trailers %v, straight %v", got.Trailer, want.Trailer)
	}
	a.compareLocations(t, got, want)
}

// compareLocations follows both as a client would: they must lead to the same.
func (a *application) compareLocations(t *testing.T, got, want *http.Response) {
	wantURL, err := want.Location()
	if err != nil {
		if got.Header.Get("Location") != "" {
			t.Errorf("redirects to %s, straight not", got.Header.Get("Location"))
		}
		return
	}
	gotURL, err := got.Location()
	if err != nil {
		t.Errorf("redirect: %v, straight to %s", err, wantURL)
		return
	}
	if path, ok := strings.CutPrefix(gotURL.RequestURI(), "/k8s"+a.id); !ok || path != wantURL.RequestURI() || !strings.HasPrefix(a.url, "https://"+gotURL.Host) {
		t.Errorf("redirects to %s, straight to %s", gotURL, wantURL)
	}
}

// seen is what the application has of a request, less what names who sent it.
func seen(t *testing.T, body string) string {
	t.Helper()
	var e echoed
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("not from the application: %.300s", body)
	}
	for name := range e.Header {
		if name == "Audit-Id" || name == "X-Forwarded-For" || name == "Content-Length" {
			delete(e.Header, name)
		}
		if strings.HasPrefix(name, "Authorization") || strings.HasPrefix(name, "Impersonate") || strings.HasPrefix(name, "X-Sallyport") {
			t.Errorf("the application got %s", name)
		}
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// testStreaming reads each event before the next is sent.
func (a *application) testStreaming(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", a.url+"/k8s"+a.id+"/api/v1/namespaces/default/services/score:web/proxy/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	answer := make(chan *http.Response, 1)
	go func() {
		defer close(answer)
		if resp, err := a.through.Do(req); err == nil {
			answer <- resp
		}
	}()
	var lines *bufio.Reader
	for _, event := range []string{"one", "two", "three"} {
		select {
		case a.next <- event:
		case <-ctx.Done():
			t.Fatal("the application was not asked")
		}
		if lines == nil {
			resp := <-answer
			if resp == nil || resp.Header.Get("Content-Type") != "text/event-stream" {
				t.Fatalf("no stream: %v", resp)
			}
			defer resp.Body.Close()
			lines = bufio.NewReader(resp.Body)
		}
		if line, err := lines.ReadString('\n'); err != nil || line != "data: "+event+"\n" {
			t.Fatalf("%q, %v", line, err)
		}
		lines.ReadString('\n')
	}
}

// testUpgrade speaks another protocol with the application, both ways.
func (a *application) testUpgrade(t *testing.T) {
	conn := a.dialTLS(t)
	defer conn.Close()
	fmt.Fprintf(conn, "GET /k8s%s/api/v1/namespaces/default/services/score:web/proxy/upgrade HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nX-App: mine\r\n\r\n",
		a.id, strings.TrimPrefix(a.url, "https://"), a.token)
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("X-App") != "mine" {
		t.Fatalf("%v, %v", resp, err)
	}
	data := randomBytes(100_000, 3)
	go conn.Write(data)
	answer := make([]byte, len(data))
	if _, err := io.ReadFull(reader, answer); err != nil || !bytes.Equal(answer, data) {
		t.Errorf("the application's echo: %v", err)
	}
}

// makeEndpoints does a controller's work: Endpoints, which services/proxy reads,
// and an EndpointSlice, which the aggregator does.
func makeEndpoints(t *testing.T, admin *kubernetes.Clientset, service, port string, number int32, pod *corev1.Pod) {
	t.Helper()
	ref := &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: pod.Name, UID: pod.UID}
	//lint:ignore SA1019 it is deprecated, and what services/proxy of 1.36 still reads
	endpoints := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: service},
		//lint:ignore SA1019 as above
		Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: appIP, TargetRef: ref}}, Ports: []corev1.EndpointPort{{Name: port, Port: number}}}},
	}
	if _, err := admin.CoreV1().Endpoints("default").Create(t.Context(), endpoints, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DiscoveryV1().EndpointSlices("default").Create(t.Context(), endpointSlice(service, port, number, ref), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}
