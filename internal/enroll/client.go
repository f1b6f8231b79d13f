package enroll

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
)

const clientTime = 30 * time.Second // for one whole request

// Client is the agent's end of enrolment, for one cluster at one gateway.
type Client struct {
	Address   string            // host:port of the gateway
	ClusterID access.ResourceID // the cluster this agent is in
	CAHash    string            // of the agents' CA, from the join token; see [Authority.CAHash]
	// Proxy finds the forward proxy for a request, as http.Transport.Proxy
	// does; wiring gives http.ProxyFromEnvironment. Nil dials directly. The
	// proxy sees a CONNECT and then TLS, and cannot read either token.
	Proxy func(*http.Request) (*url.URL, error)
	// Log hears of renewals that failed while the old certificate still
	// serves. Nil drops them.
	Log *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time

	mu      sync.Mutex
	learned []string // what [Client.Trust] put in the place of CAHash
}

// Enrol uses up a join token and records the cluster's service-account issuer
// and JWKS at the gateway. proof is a projected service-account token of the
// reconciler for [Audience]; the gateway refuses keys that do not verify it.
// The error wraps [access.ErrUnauthenticated] for a token that is used,
// ended or wrong, [access.ErrInvalid] for a proof or keys that do not fit, and
// [access.ErrConflict] or [access.ErrUnavailable] when it may be tried again.
// An enrolled cluster's identity is replaced only for a proof of its own, or
// with a token that its owner issued as a reset; else ErrUnauthenticated.
// An answer can be lost after the token was used up, so an agent that tries
// again and is told ErrUnauthenticated should ask for its certificate before
// it gives up.
func (c *Client) Enrol(ctx context.Context, join JoinToken, issuer string, jwks []byte, proof string) error {
	if !join.ClusterID.Equal(c.ClusterID) {
		return fmt.Errorf("enrol cluster %s: the join token is for %s: %w", c.ClusterID, join.ClusterID, access.ErrInvalid)
	}
	if !json.Valid(jwks) {
		return fmt.Errorf("enrol cluster %s: jwks must be JSON: %w", c.ClusterID, access.ErrInvalid)
	}
	var out enrolResponse
	if err := c.post(ctx, EnrolPath, join.Text(), enrolRequest{Issuer: issuer, JWKS: jwks, Proof: proof}, &out); err != nil {
		return fmt.Errorf("enrol cluster %s: %w", c.ClusterID, err)
	}
	if out.ClusterUID != join.ClusterUID {
		return fmt.Errorf("enrol cluster %s: gateway enrolled uid %q, the join token is for %q: %w", c.ClusterID, access.Clip(out.ClusterUID, maxQuoted), join.ClusterUID, access.ErrConflict)
	}
	return nil
}

// post sends one JSON request over a connection of its own: these are rare,
// and nothing then outlives the call.
func (c *Client) post(ctx context.Context, path, bearer string, in, out any) error {
	if err := checkAddress(c.Address); err != nil {
		return err
	}
	config, err := c.pinned()
	if err != nil {
		return err
	}
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%v: %w", err, access.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, clientTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+c.Address+c.ClusterID.String()+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%v: %w", err, access.ErrInvalid)
	}
	req.Host = ServerName
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http(config).Do(req)
	if errors.Is(err, access.ErrUnauthenticated) { // from VerifyConnection
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", err, access.ErrUnavailable) // names the URL, not the headers
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil || len(data) > maxBody {
		return fmt.Errorf("answer of the gateway broke off or is longer than %d bytes: %w", maxBody, access.ErrUnavailable)
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp.StatusCode, data)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("answer of the gateway is not the JSON expected: %w", access.ErrUnavailable)
	}
	return nil
}

func (c *Client) http(config *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  c.Proxy,
			DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    10 * time.Second,
			MaxResponseHeaderBytes: maxBody,
			DisableKeepAlives:      true,
		},
		// A redirect would carry the token on.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// refusal turns an answer that is not 200 into an error of the kind it says.
func refusal(status int, data []byte) error {
	var body errorBody
	if json.Unmarshal(data, &body) != nil || body.Error.Message == "" {
		body.Error.Message = "no reason given"
	}
	kind := access.ErrUnavailable
	for _, k := range errorKinds() {
		if k.status == status {
			kind = k.kind
		}
	}
	const most = 600
	if len(body.Error.Message) > most {
		body.Error.Message = body.Error.Message[:most] + "…"
	}
	return fmt.Errorf("gateway answered %d: %q: %w", status, body.Error.Message, kind)
}

// pinned returns the TLS configuration by which an agent knows its gateway.
//
// The standard verification is replaced, not dropped. It would ask whether
// some public authority, or one that the node trusts, vouches for the name;
// whoever can get such a certificate, by taking the DNS name or the node's
// root store, would be handed service-account tokens and a tunnel into the
// cluster (checklist, item 21). The owner's join token names the one key that
// may vouch, so only that is asked.
func (c *Client) pinned() (*tls.Config, error) {
	pins := c.pins()
	for _, hash := range pins {
		if err := checkCAHash(hash); err != nil {
			return nil, err
		}
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         pinName(pins[len(pins)-1]),
		InsecureSkipVerify: true, // VerifyConnection does it, on every handshake
		VerifyConnection: func(state tls.ConnectionState) error {
			return verifyPinned(state.PeerCertificates, c.pins(), x509.VerifyOptions{
				DNSName:     ServerName,
				CurrentTime: c.now(),
				KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
		},
	}, nil
}

// verifyPinned verifies chain[0] under the one certificate of the chain whose
// key has one of the hashes. That certificate needs no proof of its own: another one
// made for the same key could not sign, since nobody else holds that key.
func verifyPinned(chain []*x509.Certificate, hashes []string, opts x509.VerifyOptions) error {
	if len(chain) < 2 {
		return fmt.Errorf("gateway sent %d certificates, must send its own and its CA: %w", len(chain), access.ErrUnauthenticated)
	}
	for _, ca := range chain[1:] {
		if !slices.Contains(hashes, keyHash(ca)) {
			continue
		}
		opts.Roots = x509.NewCertPool()
		opts.Roots.AddCert(ca)
		if _, err := chain[0].Verify(opts); err != nil {
			return fmt.Errorf("certificate: %v: %w", err, access.ErrUnauthenticated)
		}
		return nil
	}
	return fmt.Errorf("gateway's certificate leads to a CA with key %s, this agent pinned %s; if the gateway's CA was replaced while the agent was away, apply a new manifest ('sallyport agent manifest'): %w", keyHash(chain[len(chain)-1]), strings.Join(hashes, " and "), access.ErrUnauthenticated)
}

func (c *Client) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}
