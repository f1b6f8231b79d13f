package addresses

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/sallyport/sallyport/access"
)

// TrustedProxies are the addresses of proxies whose word about a client's
// address is taken. The zero value trusts nobody.
type TrustedProxies struct{ Set Set }

// Client returns the address of the client behind a request. It is that of the
// connection, unless the connection comes from a trusted proxy: then it is the
// rightmost address in X-Forwarded-For that is not a trusted proxy's, or the
// leftmost if all are. A trusted proxy without the header speaks for itself.
//
// An entry that must be read and is not an IP address makes an error that wraps
// [access.ErrInvalid]; the address returned with it is the last one that is
// known, so that a refusal can be recorded under it.
func (p TrustedProxies) Client(r *http.Request) (netip.Addr, error) {
	client, err := hostAddr(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address of the connection %q: %w: %w", access.Clip(r.RemoteAddr, maxQuoted), err, access.ErrInvalid)
	}
	client = client.WithZone("") // of a link-local client; no rule can name it
	if !p.Set.Contains(client) {
		return client, nil
	}
	// Several lines are one list (RFC 9110, section 5.3).
	rest, more := strings.Join(r.Header["X-Forwarded-For"], ","), len(r.Header["X-Forwarded-For"]) > 0
	for more && p.Set.Contains(client) {
		entry := rest
		if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
			rest, entry = rest[:comma], rest[comma+1:]
		} else {
			more = false
		}
		entry = strings.Trim(entry, " \t")
		next, err := hostAddr(entry)
		if err != nil || next.Zone() != "" {
			return client, fmt.Errorf("X-Forwarded-For from the trusted proxy %s holds %q, which is not an IP address: %w",
				client, access.Clip(entry, maxQuoted), access.ErrInvalid)
		}
		client = next
	}
	return client, nil
}

// hostAddr reads an address with or without a port: some proxies add the port.
func hostAddr(text string) (netip.Addr, error) {
	if addrPort, err := netip.ParseAddrPort(text); err == nil {
		return addrPort.Addr().Unmap(), nil
	}
	if inner, ok := strings.CutPrefix(text, "["); ok {
		if text, ok = strings.CutSuffix(inner, "]"); !ok || !strings.Contains(text, ":") {
			return netip.Addr{}, fmt.Errorf("unbalanced bracket")
		}
	}
	addr, err := netip.ParseAddr(text)
	return addr.Unmap(), err
}

// Origin returns the connection as its client opened it: from a trusted proxy
// it reads the PROXY protocol header (version 1 or 2), which must be the first
// bytes, and takes the client's address from it; any other connection it
// returns as it is, and what that sends is no header to anybody. A header that
// says LOCAL or UNKNOWN leaves the proxy's own address, as the protocol has it.
//
// Origin waits for the header without a limit of its own: the caller closes the
// connection when it has waited enough. The error wraps [access.ErrInvalid].
func (p TrustedProxies) Origin(conn net.Conn) (net.Conn, error) {
	proxy, err := hostAddr(conn.RemoteAddr().String())
	if err != nil || !p.Set.Contains(proxy) {
		return conn, nil
	}
	reader := bufio.NewReaderSize(conn, headerBuffer)
	header, err := proxyproto.Read(reader)
	if err != nil {
		return nil, fmt.Errorf("PROXY protocol header of the trusted proxy %s: %w: %w", proxy, err, access.ErrInvalid)
	}
	origin := &originConn{Conn: conn, reader: reader, remote: conn.RemoteAddr()}
	if header.Command.IsLocal() {
		return origin, nil
	}
	client, ok := header.SourceAddr.(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("PROXY protocol header of the trusted proxy %s names no TCP client: %w", proxy, access.ErrInvalid)
	}
	origin.remote = client
	return origin, nil
}

// headerBuffer holds a header without long extensions, in bytes. It is small
// because it lives as long as the connection; TLS reads larger pieces past it.
const headerBuffer = 256

// originConn is a connection behind its PROXY header, from the client's address.
type originConn struct {
	net.Conn
	reader *bufio.Reader // has what came behind the header
	remote net.Addr
}

// Read implements [net.Conn].
func (c *originConn) Read(p []byte) (int, error) { return c.reader.Read(p) }

// NetConn returns the connection below, as that of a [tls.Conn] does, for what
// only TCP can: to reset it, or to bound its silence.
func (c *originConn) NetConn() net.Conn { return c.Conn }

// RemoteAddr returns the client's address.
func (c *originConn) RemoteAddr() net.Addr { return c.remote }
