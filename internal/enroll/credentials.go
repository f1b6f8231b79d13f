package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Credentials is an agent's certificate and key for one role, got when first
// needed and renewed when less than a third of its life remains. The key is
// made here, new with each certificate, and is never written anywhere. Safe
// for concurrent use.
type Credentials struct {
	client *Client
	role   Role
	token  func() (string, error)

	lock chan struct{}    // one slot: a mutex that gives up with its caller's context
	cert *tls.Certificate // guarded by lock; nil for none
	pin  string           // the CA that was wanted when cert was got; guarded by lock
}

// NewCredentials returns credentials without a certificate yet. token reads
// the pod's projected service-account token; it is called for each renewal,
// because the kubelet replaces the file.
func NewCredentials(client *Client, role Role, token func() (string, error)) *Credentials {
	return &Credentials{client: client, role: role, token: token, lock: make(chan struct{}, 1)}
}

// Role is the role that the certificate is for.
func (c *Credentials) Role() Role { return c.role }

// TLS returns the configuration for dialling the gateway with one of the
// agents' protocols ([ALPNTunnel], [ALPNFeed]), with a certificate that is
// good now; ask again for each connection. When a renewal fails the old
// certificate serves until its end. The error wraps the gateway's kind of
// refusal, or [access.ErrUnavailable].
func (c *Credentials) TLS(ctx context.Context, alpn string) (*tls.Config, error) {
	if err := admits(alpn, c.role); err != nil {
		return nil, err
	}
	config, err := c.client.pinned()
	if err != nil {
		return nil, err
	}
	cert, err := c.current(ctx)
	if err != nil {
		return nil, err
	}
	config.NextProtos = []string{alpn}
	config.Certificates = []tls.Certificate{*cert}
	verify := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		// A server that speaks no ALPN would leave the protocol open.
		if state.NegotiatedProtocol != alpn {
			return fmt.Errorf("gateway chose protocol %q, must be %q: %w", access.Clip(state.NegotiatedProtocol, maxQuoted), alpn, access.ErrUnavailable)
		}
		return verify(state)
	}
	return config, nil
}

// Forget drops the certificate, so that the next [Credentials.TLS] gets a new
// one. Call it when the gateway refuses the certificate: another enrolment of
// this cluster may have retired it.
func (c *Credentials) Forget(ctx context.Context) error {
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	c.cert = nil
	return nil
}

func (c *Credentials) acquire(ctx context.Context) error {
	select {
	case c.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the agent's certificate: %w: %w", ctx.Err(), access.ErrUnavailable)
	}
}

func (c *Credentials) release() { <-c.lock }

func (c *Credentials) current(ctx context.Context) (*tls.Certificate, error) {
	if err := c.acquire(ctx); err != nil {
		return nil, err
	}
	defer c.release()
	now := c.client.now()
	pin := c.client.wanted()
	if c.cert != nil && !due(c.cert.Leaf, now) && c.pin == pin {
		return c.cert, nil
	}
	cert, err := c.obtain(ctx)
	if err == nil {
		c.cert, c.pin = cert, pin
		return cert, nil
	}
	err = fmt.Errorf("get certificate of role %q for cluster %s: %w", c.role, c.client.ClusterID, err)
	if c.cert != nil && now.Before(c.cert.Leaf.NotAfter) {
		if c.client.Log != nil {
			c.client.Log.WarnContext(ctx, "agent certificate not renewed", "until", c.cert.Leaf.NotAfter, "error", err)
		}
		return c.cert, nil
	}
	return nil, err
}

// due reports whether less than a third of the certificate's life remains.
func due(leaf *x509.Certificate, now time.Time) bool {
	return leaf.NotAfter.Sub(now) < leaf.NotAfter.Sub(leaf.NotBefore)/3
}

// obtain makes a key and asks for its certificate.
func (c *Credentials) obtain(ctx context.Context) (*tls.Certificate, error) {
	token, err := c.token()
	if err != nil {
		return nil, fmt.Errorf("read service-account token: %w: %w", err, access.ErrUnavailable)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %v: %w", err, access.ErrUnavailable)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make request: %v: %w", err, access.ErrUnavailable)
	}
	var out certificateResponse
	if err := c.client.post(ctx, CertificatePath, strings.TrimSpace(token), certificateRequest{Role: c.role, CSR: csr}, &out); err != nil {
		return nil, err
	}
	leaf, err := c.accept(out, &key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("answer of the gateway: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// accept checks that the answer is what was asked for, so that a mistake of
// the gateway shows here and not as a handshake that fails without a reason.
func (c *Credentials) accept(out certificateResponse, public *ecdsa.PublicKey) (*x509.Certificate, error) {
	var chain []*x509.Certificate
	for _, text := range []string{out.Certificate, out.CA} {
		block, rest := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
			return nil, fmt.Errorf("certificate and caPem must be one PEM certificate each: %w", access.ErrUnavailable)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", err, access.ErrUnavailable)
		}
		chain = append(chain, cert)
	}
	if err := verifyPinned(chain, c.client.pins(), x509.VerifyOptions{
		CurrentTime: c.client.now(),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return nil, err
	}
	id, err := identityOf(chain[0])
	if err != nil {
		return nil, err
	}
	if id.Role != c.role || !public.Equal(chain[0].PublicKey) {
		return nil, fmt.Errorf("certificate is for role %q, asked was %q, or for another key: %w", id.Role, c.role, access.ErrUnavailable)
	}
	return chain[0], nil
}
