package tunnel

import "strings"

// An application behind pods/proxy or services/proxy has headers of its own,
// of any name, and they pass in both directions. Elsewhere an allow-list
// decides. Here the space of names is open, so this file says what does not
// pass, and why that is enough:
//
//   - What a hop of ours or the API server itself reads is a closed set, and all
//     of it stops: identity, authorization, the tunnel's own headers, those of
//     one connection, and those that say which method or which address a request
//     really had. A header nobody on the way reads can mislead only the
//     application, which any caller of the API server's proxy could do as well.
//   - An answer acts on whoever reads it. A navigating browser sends no bearer
//     token and is refused before the application is asked; what a browser would
//     render nevertheless is put in a sandbox by the gateway. What is left is
//     what HTTP clients and proxies act on by name, and all of it stops: cookies
//     and policies of an origin that every cluster may share, redirects in other
//     forms than Location, challenges, other addresses for this origin, and
//     commands to a proxy in front of the gateway.
//
// Cookie passes and Set-Cookie does not: the gateway's origin has no session
// that a cookie could ride, but a cookie set by one cluster's application would
// be sent to the next cluster's.
//
// Names are compared without regard to case and with the underscore taken for
// the dash, as some servers behind us do; a name with any other character than
// letters, digits, dashes, underscores and dots does not pass.

// toApplication reports whether a client's header may travel to an application.
func toApplication(name string) bool {
	return passes(name, []string{
		"impersonate*", "x-remote-*", "remote-*", "authorization", "proxy*", "audit-id", // identity
		"x-ms-client-principal*", "x-goog-authenticated-*", "x-auth-request-*", "x-webauth-*", "x-forwarded-*", "forwarded", "via", "x-real-ip", "x-client-ip", "x-client-cert*", "client-cert*", "ssl-client-*", "x-ssl-client-*", "x-cluster-client-ip", "true-client-ip", "cf-connecting-*", "x-envoy-*", // what only a proxy may say
		"x-original-*", "x-rewrite-url", "x-http-method*", "x-method-override", // another path or method than was decided on
		"host", "expect", // of the message itself
	})
}

// fromApplication reports whether an application's header may travel to a
// client.
func fromApplication(name string) bool {
	return passes(name, []string{
		"set-cookie*", "clear-site-data", "strict-transport-security", "public-key-pins*", "expect-ct", "content-security-policy*", "x-content-security-policy*", "x-webkit-csp*", "permissions-policy*", "feature-policy", "document-policy*", "referrer-policy",
		"cross-origin-*", "access-control-*", "timing-allow-origin", "origin-agent-cluster", "x-frame-options", "x-content-type-options", "x-xss-protection", "x-permitted-cross-domain-policies", "service-worker-*", "sourcemap", "x-sourcemap", "speculation-rules", "supports-loading-mode", // policies of an origin
		"nel", "report-to", "reporting-endpoints", "alt-svc", "alt-used", "refresh", // other addresses
		"www-authenticate", "proxy*", "authentication-*", "authorization", "impersonate*", // challenges
		"x-accel-*", "x-sendfile*", "x-lighttpd-*", "x-litespeed-*", "x-reproxy-*", "surrogate-*", "audit-id", // commands to a proxy
		"expect", "host",
	})
}

// passes reports whether a name is well formed, of no connection's and no
// private header, and none of stopped, where a last * stands for any rest.
func passes(name string, stopped []string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	folded := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	if folded == "" || IsPrivate(folded) {
		return false
	}
	for _, hop := range hopHeaders() {
		if strings.EqualFold(folded, hop) {
			return false
		}
	}
	for _, s := range stopped {
		prefix, open := strings.CutSuffix(s, "*")
		if folded == s || open && strings.HasPrefix(folded, prefix) {
			return false
		}
	}
	return true
}
