package authenticate

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/strictjson"
)

const (
	// maxToken bounds a token in bytes before anything looks at it (item 14).
	// Entra's largest, with 200 groups, is below it.
	maxToken = 16 << 10
	// maxDepth bounds the nesting of a header or of claims.
	maxDepth = 16
	// maxKeyID bounds a kid, which is quoted in refusals.
	maxKeyID = 256
)

// BearerToken returns the token of a request's one Authorization header (RFC
// 6750 2.1). None, several, or another scheme is a [*Refusal].
func BearerToken(h http.Header) (string, error) {
	values := h.Values("Authorization")
	if len(values) == 0 {
		return "", refuse(Missing, "Authentication failed. The 'Authorization' header is missing.")
	}
	if len(values) > 1 {
		return "", refuse(Missing, "Authentication failed. There are %d 'Authorization' headers; one is accepted.", len(values))
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", refuse(Missing, "Authentication failed. The 'Authorization' header must be 'Bearer' and a token.")
	}
	return token, nil
}

// checkForm refuses what is not a JWS in compact form (RFC 7515 3.1) with a
// header that we accept, and returns the header's kid. It is stricter than
// the JWT library: that one takes the last of two equal names in JSON, and
// ignores the headers that would name a key.
func checkForm(token string) (kid string, err error) {
	// Base64 decoders skip line breaks, in the signature as well.
	if strings.ContainsAny(token, "\r\n") {
		return "", refuse(Invalid, "the token is not a signed JWT: it has a line break")
	}
	// SplitN bounds what a token of many dots costs (CVE-2025-30204).
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 {
		return "", refuse(Invalid, "the token is not a signed JWT: it must have three parts, separated by dots")
	}
	header, err := decodeObject(parts[0])
	if err != nil {
		return "", refuse(Invalid, "the token's header: %v", err)
	}
	if _, err := decodeObject(parts[1]); err != nil {
		return "", refuse(Invalid, "the token's claims: %v", err)
	}
	return checkHeader(header)
}

// checkHeader admits RS256 with a kid. The headers that bring or name a key, or
// say that another text was signed (b64, RFC 7797), are refused, not ignored: an
// honest issuer here never sends them (item 14).
func checkHeader(raw []byte) (kid string, err error) {
	var header map[string]any // a map, since struct fields would match in any case
	if err := json.Unmarshal(raw, &header); err != nil {
		return "", refuse(Invalid, "the token's header is not JSON")
	}
	for _, name := range []string{"b64", "crit", "jku", "jwk", "x5c", "x5u"} {
		if _, ok := header[name]; ok {
			return "", refuse(Invalid, "the token's header has %q, which is not accepted", name)
		}
	}
	if alg, ok := header["alg"].(string); !ok || alg != "RS256" {
		return "", refuse(Invalid, "the token's alg is %s; only RS256 is accepted", quote(header["alg"]))
	}
	if typ, ok := header["typ"]; ok {
		s, isString := typ.(string)
		if !isString || !slices.Contains([]string{"jwt", "at+jwt"}, strings.ToLower(s)) {
			return "", refuse(Invalid, "the token's typ is %s; only JWT and at+jwt are accepted", quote(typ))
		}
	}
	kid, ok := header["kid"].(string)
	if !ok || kid == "" || len(kid) > maxKeyID {
		return "", refuse(Invalid, "the token's header must have a kid, a string of 1 to %d bytes", maxKeyID)
	}
	return kid, nil
}

// decodeObject decodes one part of a token: unpadded base64url with no stray
// bits, holding one JSON object in UTF-8. Each token has then one spelling, so
// the cache of verified tokens cannot be filled with variants of one.
func decodeObject(part string) ([]byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errors.New("not base64url")
	}
	if !utf8.Valid(raw) {
		return nil, errors.New("not UTF-8")
	}
	// Names that differ in case are two here: claims are read by exact name.
	if err := strictjson.Check(raw, strictjson.Rules{MaxDepth: maxDepth}); err != nil {
		return nil, err
	}
	return raw, nil
}

// quote writes a value of the caller's for a refusal.
func quote(v any) string {
	switch v := v.(type) {
	case nil:
		return "missing"
	case string:
		return fmt.Sprintf("%q", access.Clip(v, maxQuoted))
	default:
		return "not a string"
	}
}
