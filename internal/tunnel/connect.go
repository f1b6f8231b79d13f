package tunnel

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"
)

// connect dials, through the proxy if there is one, and makes the handshake.
func (d *dialer) connect(ctx context.Context, cfg *tls.Config, turn int) (net.Conn, error) {
	raw, err := d.reach(ctx, turn)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		Underlying(raw).Close()
		return nil, fmt.Errorf("TLS handshake with %s: %w", d.cfg.Address, err)
	}
	if conn.ConnectionState().NegotiatedProtocol == "" && len(cfg.NextProtos) > 0 {
		Underlying(raw).Close()
		return nil, fmt.Errorf("%s took none of the protocols %q (hint: is something between us ending the TLS?)", d.cfg.Address, cfg.NextProtos)
	}
	return conn, nil
}

// direct dials the gateway's addresses one after the other, beginning with the
// turn-th, so that connections of different turns end up at different ones.
func (d *dialer) direct(ctx context.Context, turn int) (net.Conn, error) {
	var nd net.Dialer
	host, port, err := net.SplitHostPort(d.cfg.Address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nd.DialContext(ctx, "tcp", d.cfg.Address)
	}
	resolve := d.cfg.Resolve
	if resolve == nil {
		resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	addrs, err := resolve(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("look up the gateway: %w", err)
	}
	slices.SortFunc(addrs, netip.Addr.Compare) // resolvers change the order; the turns shall not
	var failed []error
	for i := range addrs {
		addr := addrs[(turn+i)%len(addrs)]
		conn, err := dialOne(ctx, &nd, net.JoinHostPort(addr.Unmap().String(), port), dialTimeout/time.Duration(len(addrs)))
		if err == nil {
			return conn, nil
		}
		failed = append(failed, err)
	}
	if len(failed) == 0 {
		return nil, fmt.Errorf("look up the gateway: %s has no address", host)
	}
	return nil, errors.Join(failed...)
}

func dialOne(ctx context.Context, nd *net.Dialer, addr string, limit time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, max(limit, time.Second))
	defer cancel()
	return nd.DialContext(ctx, "tcp", addr)
}

// reach opens the byte stream to the gateway: TCP, or a proxy's CONNECT.
func (d *dialer) reach(ctx context.Context, turn int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	proxy, err := d.proxy()
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		return d.direct(ctx, turn)
	}
	var nd net.Dialer
	port := map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	if port == "" {
		return nil, fmt.Errorf("proxy %s has scheme %q; http and https are known", proxy.Host, proxy.Scheme)
	}
	conn, err := nd.DialContext(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), cmp.Or(proxy.Port(), port)))
	if err != nil {
		return nil, fmt.Errorf("reach proxy: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	tunnel, err := d.connectVia(ctx, conn, proxy)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("through proxy %s: %w", proxy.Host, err)
	}
	return tunnel, nil
}

// proxy asks the caller for the proxy. Its error is not passed on: net/http's
// quotes the whole URL, password included.
func (d *dialer) proxy() (*url.URL, error) {
	if d.cfg.Proxy == nil {
		return nil, nil
	}
	target := &url.URL{Scheme: "https", Host: d.cfg.Address}
	u, err := d.cfg.Proxy(&http.Request{Method: http.MethodConnect, URL: target, Host: target.Host, Header: http.Header{}})
	if err != nil {
		return nil, errors.New("the proxy setting is not a valid URL (hint: look at HTTPS_PROXY)")
	}
	return u, nil
}

// connectVia asks the proxy at the end of conn for a stream to the gateway.
func (d *dialer) connectVia(ctx context.Context, conn net.Conn, proxy *url.URL) (net.Conn, error) {
	if proxy.Scheme == "https" {
		t := tls.Client(conn, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12})
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = t
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: d.cfg.Address}, Host: d.cfg.Address, Header: http.Header{}}
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	defer conn.SetDeadline(time.Time{})
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	br := bufio.NewReader(io.LimitReader(conn, maxAnswerHeader))
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("CONNECT %s answered %d", d.cfg.Address, resp.StatusCode)
	}
	if br.Buffered() > 0 {
		return nil, errors.New("bytes behind the answer to CONNECT, before we spoke") // TLS servers wait for us
	}
	return conn, nil
}

// Connect opens one TLS connection to the gateway as [Dial] does, through the
// proxy if there is one, and leaves its use to the caller. Of cfg it needs
// Address and TLS.
func Connect(ctx context.Context, cfg DialConfig) (net.Conn, error) {
	host, _, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return nil, err
	}
	d := newDialer(cfg, host)
	tlsConfig, err := d.tls(ctx)
	if err != nil {
		return nil, err
	}
	return d.connect(ctx, tlsConfig, d.first)
}
