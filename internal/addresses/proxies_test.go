package addresses_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/addresses"
)

func trusted(t testing.TB, ranges ...string) addresses.TrustedProxies {
	t.Helper()
	return addresses.TrustedProxies{Set: set(t, new(addresses.Tags), ranges...)}
}

func TestClient(t *testing.T) {
	proxies := trusted(t, "127.0.0.1", "10.0.0.0/8", "2001:db8::/32")
	for _, tc := range []struct {
		name, remote string
		lines        []string
		want         string // "" for a refusal
		says         string
	}{
		{"no proxy", "203.0.113.9:1000", nil, "203.0.113.9", ""},
		{"spoofed", "203.0.113.9:1000", []string{"10.0.0.1", "garbage"}, "203.0.113.9", ""},
		{"IPv4 in IPv6", "[::ffff:203.0.113.9]:1000", []string{"1.1.1.1"}, "203.0.113.9", ""},
		{"with a zone", "[fe80::1%eth0]:1000", nil, "fe80::1", ""},
		{"proxy without the header", "127.0.0.1:1000", nil, "127.0.0.1", ""},
		{"one proxy", "127.0.0.1:1000", []string{"203.0.113.9"}, "203.0.113.9", ""},
		{"proxy in IPv6 form", "[::ffff:127.0.0.1]:1000", []string{"203.0.113.9"}, "203.0.113.9", ""},
		{"IPv6 proxy", "[2001:db8::1]:1000", []string{"2001:db9::7"}, "2001:db9::7", ""},
		{"spoofed before a proxy", "127.0.0.1:1000", []string{"10.9.9.9, 203.0.113.9"}, "203.0.113.9", ""},
		{"garbage before a client", "127.0.0.1:1000", []string{"<script>,, ,203.0.113.9"}, "203.0.113.9", ""},
		{"two proxies", "127.0.0.1:1000", []string{"1.1.1.1, 203.0.113.9 ,\t10.0.0.2"}, "203.0.113.9", ""},
		{"several lines, in order", "127.0.0.1:1000", []string{"1.1.1.1", "203.0.113.9", "10.0.0.2,10.0.0.3"}, "203.0.113.9", ""},
		{"nobody but proxies", "127.0.0.1:1000", []string{"10.0.0.1, 10.0.0.2"}, "10.0.0.1", ""},
		{"with ports", "127.0.0.1:1000", []string{"203.0.113.9:4711, 10.0.0.2:80"}, "203.0.113.9", ""},
		{"IPv6 with a port", "127.0.0.1:1000", []string{"[2001:db9::7]:4711"}, "2001:db9::7", ""},
		{"IPv6 in brackets", "127.0.0.1:1000", []string{"[2001:db9::7]"}, "2001:db9::7", ""},
		{"IPv4 in IPv6, forwarded", "127.0.0.1:1000", []string{"::ffff:203.0.113.9"}, "203.0.113.9", ""},

		{"garbage", "127.0.0.1:1000", []string{"203.0.113.9, garbage"}, "", `"garbage"`},
		{"garbage behind a proxy", "127.0.0.1:1000", []string{"203.0.113.9, unknown, 10.0.0.2"}, "", "trusted proxy 10.0.0.2 holds"},
		{"empty", "127.0.0.1:1000", []string{""}, "", `""`},
		{"empty entry", "127.0.0.1:1000", []string{"203.0.113.9,"}, "", `""`},
		{"empty line", "127.0.0.1:1000", []string{"203.0.113.9", ""}, "", `""`},
		{"a zone", "127.0.0.1:1000", []string{"fe80::1%eth0"}, "", "fe80"},
		{"leading zero", "127.0.0.1:1000", []string{"203.0.113.09"}, "", "203.0.113.09"},
		{"half a bracket", "127.0.0.1:1000", []string{"[2001:db9::7"}, "", "[2001"},
		{"IPv4 in brackets", "127.0.0.1:1000", []string{"[203.0.113.9]"}, "", "[203"},
		{"wrong port", "127.0.0.1:1000", []string{"203.0.113.9:99999"}, "", "99999"},
		{"a range", "127.0.0.1:1000", []string{"203.0.113.0/24"}, "", "/24"},
		{"no remote address", "pipe", nil, "", `"pipe"`},
	} {
		got, err := proxies.Client(&http.Request{RemoteAddr: tc.remote, Header: http.Header{"X-Forwarded-For": tc.lines}})
		if tc.want == "" {
			if !errors.Is(err, access.ErrInvalid) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: %s, %v", tc.name, got, err)
			}
			continue
		}
		if err != nil || got != addr(t, tc.want) {
			t.Errorf("%s: %s, %v", tc.name, got, err)
		}
	}
	// Of a refused request the last address that is known is told.
	got, err := proxies.Client(&http.Request{RemoteAddr: "127.0.0.1:1", Header: http.Header{"X-Forwarded-For": {"x, 10.0.0.7"}}})
	if err == nil || got != addr(t, "10.0.0.7") {
		t.Errorf("refused: %s, %v", got, err)
	}
	// Without a list the header is nobody's word.
	got, err = addresses.TrustedProxies{}.Client(&http.Request{RemoteAddr: "127.0.0.1:1", Header: http.Header{"X-Forwarded-For": {"203.0.113.9"}}})
	if err != nil || got != addr(t, "127.0.0.1") {
		t.Errorf("without a list: %s, %v", got, err)
	}
}

// FuzzClient: whatever the header says, an answer is a plain address, and the
// part left of a client changes nothing.
func FuzzClient(f *testing.F) {
	for _, seed := range []string{"203.0.113.9", "1.1.1.1, 10.0.0.1", "[::1]:80", ",", "fe80::1%x", "10.0.0.1,10.0.0.2"} {
		f.Add(seed, "x")
	}
	proxies := trusted(f, "127.0.0.1", "10.0.0.0/8")
	client := func(value string) (netip.Addr, error) {
		return proxies.Client(&http.Request{RemoteAddr: "127.0.0.1:1", Header: http.Header{"X-Forwarded-For": {value}}})
	}
	f.Fuzz(func(t *testing.T, value, spoofed string) {
		got, err := client(value)
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Fatalf("%q: %s, %v", value, got, err)
		}
		if err != nil && !errors.Is(err, access.ErrInvalid) {
			t.Fatalf("%q: %v", value, err)
		}
		if err == nil && !proxies.Set.Contains(got) {
			again, err := client(spoofed + "," + value)
			if err != nil || again != got {
				t.Fatalf("%q in front of %q: %s, %v", spoofed, value, again, err)
			}
		}
	})
}

// v2 is a PROXY protocol header of version 2.
func v2(command, family byte, rest string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{0x20 | command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

const tcp4 = "\xcb\x00\x71\x09\x7f\x00\x00\x01\x12\x67\x01\xbb" // 203.0.113.9:4711 to 127.0.0.1:443

func TestOrigin(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	const sent = "a TLS handshake"
	for _, tc := range []struct {
		name, proxies, header string
		want                  string // the client, "peer" for the connection's own, or "" for a refusal
	}{
		{"version 1", "127.0.0.1", "PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\n", "203.0.113.9:4711"},
		{"version 1, IPv6", "127.0.0.1", "PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", "[2001:db8::7]:4711"},
		{"version 1, unknown", "127.0.0.1", "PROXY UNKNOWN\r\n", "peer"},
		{"version 2", "127.0.0.1", v2(1, 0x11, tcp4), "203.0.113.9:4711"},
		{"version 2 with an extension", "127.0.0.1", v2(1, 0x11, tcp4+"\x04\x03\x00"+strings.Repeat("x", 0x300)), "203.0.113.9:4711"},
		{"version 2, local", "127.0.0.1", v2(0, 0, ""), "peer"},
		{"not trusted", "127.0.0.2", "", "peer"},

		{"no header", "127.0.0.1", "", ""},
		{"version 1, garbage", "127.0.0.1", "PROXY TCP4 here there 1 2\r\n", ""},
		{"version 1, without end", "127.0.0.1", "PROXY TCP4 " + strings.Repeat("1", 300), ""},
		{"version 2, datagrams", "127.0.0.1", v2(1, 0x12, tcp4), ""},
		{"version 2, a socket's path", "127.0.0.1", v2(1, 0x31, strings.Repeat("x", 216)), ""},
		{"version 2, unknown transport", "127.0.0.1", v2(1, 0x13, tcp4), ""},
		{"version 2, too long", "127.0.0.1", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + tcp4, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			conn, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.WriteString(client, tc.header+sent); err != nil {
				t.Fatal(err)
			}
			client.(*net.TCPConn).CloseWrite()
			origin, err := trusted(t, tc.proxies).Origin(conn)
			if tc.want == "" {
				if !errors.Is(err, access.ErrInvalid) {
					t.Errorf("accepted, or refused with %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if below, wraps := origin.(interface{ NetConn() net.Conn }); origin != conn && (!wraps || below.NetConn() != conn) {
				t.Error("the connection below cannot be had, to reset it or to bound its silence")
			}
			want := tc.want
			if want == "peer" {
				want = client.LocalAddr().String()
			}
			got, err := io.ReadAll(origin)
			if origin.RemoteAddr().String() != want || string(got) != sent || err != nil {
				t.Errorf("from %s: %q, %v; want %s", origin.RemoteAddr(), got, err, want)
			}
		})
	}
}
