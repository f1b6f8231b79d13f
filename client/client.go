package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// api-versions sent, one for each namespace; spec/trusted-access.md 1.4.
const (
	containerVersion    = "2025-10-01" // Microsoft.ContainerService
	subscriptionVersion = "2022-12-01"
	groupVersion        = "2021-04-01" // Microsoft.Resources
	genericVersion      = "2024-01-01" // any other type, and our own Sallyport.Gateway
)

// Limits. ARM's own bodies end at 8 MB (spec/identity.md 6.4).
const (
	maxBody     = 8 << 20
	maxPages    = 1000
	maxAttempts = 4
	maxBackoff  = 30 * time.Second // a longer Retry-After is not obeyed but reported
)

// Config says which control plane to talk to, and as whom.
type Config struct {
	// Server is the base URL, such as "https://127.0.0.1:8443"; no path. Plain
	// http is refused, because every request carries a token.
	Server string
	// RootCAs verifies the server. Nil means the system's roots.
	RootCAs *x509.CertPool
	// Token gives the bearer token of each request, such as
	// [TokenSource.Bearer]. Required.
	Token func(context.Context) (string, error)
	// HTTP replaces the client that is made from RootCAs. Its redirect policy
	// is not used.
	HTTP *http.Client
	// RequestTimeout bounds one request with its reply. 0 means 60 s.
	RequestTimeout time.Duration
	// WaitTimeout bounds [Poller.Wait]. 0 means 30 min; the real service needs
	// about six (spec/trusted-access.md 2.1).
	WaitTimeout time.Duration
}

// Client calls the control plane. It is safe for concurrent use.
type Client struct {
	base           *url.URL
	token          func(context.Context) (string, error)
	http           *http.Client
	requestTimeout time.Duration
	waitTimeout    time.Duration
}

// New makes a client; it makes no request. The error wraps access.ErrInvalid.
func New(cfg Config) (*Client, error) {
	base, err := baseURL(cfg.Server)
	if err != nil {
		return nil, err
	}
	if cfg.Token == nil {
		return nil, fmt.Errorf("client of %s: Config.Token is missing: %w", base, access.ErrInvalid)
	}
	c := &Client{
		base:           base,
		token:          cfg.Token,
		http:           httpClient(cfg.HTTP, cfg.RootCAs),
		requestTimeout: cfg.RequestTimeout,
		waitTimeout:    cfg.WaitTimeout,
	}
	if c.requestTimeout == 0 {
		c.requestTimeout = 60 * time.Second
	}
	if c.waitTimeout == 0 {
		c.waitTimeout = 30 * time.Minute
	}
	return c, nil
}

// baseURL checks an address that gets secrets.
func baseURL(server string) (*url.URL, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("server %q must be an https URL without a path, such as https://127.0.0.1:8443: %w", server, access.ErrInvalid)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// httpClient copies given, or makes one that trusts roots. Redirects are never
// followed: a token must not follow a reply to where it points.
func httpClient(given *http.Client, roots *x509.CertPool) *http.Client {
	var c http.Client
	if given != nil {
		c = *given
	} else {
		c.Transport = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			ForceAttemptHTTP2:     true,
			TLSHandshakeTimeout:   10 * time.Second,
			IdleConnTimeout:       30 * time.Second,
			ResponseHeaderTimeout: 60 * time.Second,
		}
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// CloseIdleConnections closes connections that wait for the next request.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// Body is the reply as the server wrote it. It is embedded in every typed
// value, so that a tool can print what a struct would drop.
type Body struct {
	Raw json.RawMessage `json:"-"`
}

func (b *Body) keep(raw json.RawMessage) { b.Raw = raw }

// keeper is a typed value that keeps its body.
type keeper interface{ keep(json.RawMessage) }

// decodeProperties reads the properties of one of our extension resources into
// v. A body without the wrapper is taken as the properties themselves.
func decodeProperties(body []byte, v any) error {
	var wrapped struct {
		Properties json.RawMessage `json:"properties"`
	}
	if err := json.Unmarshal(body, &wrapped); err != nil {
		return err
	}
	if wrapped.Properties != nil {
		body = wrapped.Properties
	}
	return json.Unmarshal(body, v)
}

// reply is a whole, successful HTTP reply.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// into decodes the body; an empty one leaves v as it is.
func (r reply) into(v keeper) error {
	if len(r.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(r.body, v); err != nil {
		return fmt.Errorf("reply with status %d: %w", r.status, err)
	}
	v.keep(r.body)
	return nil
}

// get reads one resource.
func (c *Client) get(ctx context.Context, path, version string, v keeper) error {
	r, err := c.send(ctx, http.MethodGet, c.resolve(path, version), nil)
	if err != nil {
		return err
	}
	return r.into(v)
}

// list reads all pages and hands each item over.
func (c *Client) list(ctx context.Context, path, version string, item func(json.RawMessage) error) error {
	next := c.resolve(path, version)
	for range maxPages {
		r, err := c.send(ctx, http.MethodGet, next, nil)
		if err != nil {
			return err
		}
		var page struct {
			Value    []json.RawMessage `json:"value"`
			NextLink string            `json:"nextLink"`
		}
		if err := json.Unmarshal(r.body, &page); err != nil {
			return fmt.Errorf("list %s: %w", path, err)
		}
		for _, raw := range page.Value {
			if err := item(raw); err != nil {
				return fmt.Errorf("list %s: %w", path, err)
			}
		}
		if page.NextLink == "" {
			return nil
		}
		if next, err = c.follow(page.NextLink); err != nil {
			return err
		}
	}
	return fmt.Errorf("list %s: more than %d pages: %w", path, maxPages, access.ErrUnavailable)
}

// listOf reads all pages into typed values.
func listOf[T any, P interface {
	*T
	keeper
}](ctx context.Context, c *Client, path, version string) ([]T, error) {
	all := []T{}
	err := c.list(ctx, path, version, func(raw json.RawMessage) error {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		P(&v).keep(raw)
		all = append(all, v)
		return nil
	})
	return all, err
}

// resolve makes the URL of a path. The path was built from parsed resource ids
// or escaped segments, so it holds no query.
func (c *Client) resolve(path, version string) *url.URL {
	return c.base.JoinPath(path).ResolveReference(&url.URL{RawQuery: url.Values{"api-version": {version}}.Encode()})
}

// follow takes path and query of a URL that a reply named, never its host.
func (c *Client) follow(link string) (*url.URL, error) {
	u, err := url.Parse(link)
	if err != nil || !strings.HasPrefix(u.Path, "/") {
		return nil, fmt.Errorf("server named the malformed URL %q: %w", link, access.ErrUnavailable)
	}
	u.Scheme, u.Host, u.User, u.Fragment = c.base.Scheme, c.base.Host, nil, ""
	return u, nil
}

// send makes a request and reads the whole reply, an [*Error] for a status
// above 299. GET, PUT and DELETE are repeated after 429 and 503.
func (c *Client) send(ctx context.Context, method string, u *url.URL, body any) (reply, error) {
	return c.sendIf(ctx, method, u, body, nil)
}

// sendIf is send with further headers, such as If-Match.
func (c *Client) sendIf(ctx context.Context, method string, u *url.URL, body any, header http.Header) (reply, error) {
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return reply{}, fmt.Errorf("%s %s: %w", method, u.Path, err)
		}
	}
	attempts := maxAttempts
	if method != http.MethodGet && method != http.MethodPut && method != http.MethodDelete {
		attempts = 1
	}
	return retry(ctx, attempts, func() (reply, error) {
		token, err := c.token(ctx)
		if err != nil {
			return reply{}, fmt.Errorf("token for %s: %w", c.base, err)
		}
		return roundTrip(ctx, c.http, c.requestTimeout, func(ctx context.Context) (*http.Request, error) {
			req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(payload))
			if err != nil {
				return nil, err
			}
			for name, values := range header {
				req.Header[name] = values
			}
			req.Header.Set("Authorization", "Bearer "+token)
			req.Header.Set("Accept", "application/json")
			if payload != nil {
				req.Header.Set("Content-Type", "application/json")
			}
			return req, nil
		})
	})
}

// retry repeats try while it ends in 429 or 503, waiting as the server asks and
// otherwise 1, 2, 4 s. A wait of more than maxBackoff is not made: the caller
// gets the refusal.
func retry(ctx context.Context, attempts int, try func() (reply, error)) (reply, error) {
	backoff := time.Second
	for attempt := 1; ; attempt++ {
		r, err := try()
		var refused *Error
		if err == nil || attempt >= attempts || !errors.As(err, &refused) ||
			refused.Status != http.StatusTooManyRequests && refused.Status != http.StatusServiceUnavailable {
			return r, err
		}
		wait, ok := retryAfter(r.header, time.Now())
		if !ok {
			wait, backoff = backoff, backoff*2
		}
		if wait > maxBackoff {
			return r, err
		}
		if sleep(ctx, wait) != nil {
			return r, err // the refusal says more than "canceled"
		}
	}
}

// roundTrip makes one request within its limit. A failure below HTTP wraps
// access.ErrUnavailable, unless the caller's own context ended.
func roundTrip(ctx context.Context, h *http.Client, limit time.Duration, build func(context.Context) (*http.Request, error)) (reply, error) {
	reqCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := build(reqCtx)
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", err, access.ErrInvalid)
	}
	resp, err := h.Do(req)
	if err != nil {
		return reply{}, transportError(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return reply{}, transportError(ctx, fmt.Errorf("%s %s: reply: %w", req.Method, req.URL.Path, err))
	}
	if len(body) > maxBody {
		return reply{}, fmt.Errorf("%s %s: reply of more than %d bytes: %w", req.Method, req.URL.Path, maxBody, access.ErrUnavailable)
	}
	r := reply{status: resp.StatusCode, header: resp.Header, body: body}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return r, newError(resp.StatusCode, resp.Header, body)
	}
	return r, nil
}

func transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	return fmt.Errorf("%w: %w", err, access.ErrUnavailable)
}

// retryAfter reads the header as seconds or as a date (RFC 9110 10.2.3); ok is
// false when there is none to obey.
func retryAfter(h http.Header, now time.Time) (wait time.Duration, ok bool) {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseInt(text, 10, 32); err == nil && n >= 0 {
		return time.Duration(n) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now)), true
	}
	return 0, false
}

// sleep waits, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
