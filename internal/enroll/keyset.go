package enroll

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/strictjson"
)

const (
	maxKeys    = 32
	minRSABits = 2048
	maxRSABits = 8192
)

// keySet holds a cluster's service-account keys by key id. The type of a key
// fixes its algorithm: a token cannot choose one (checklist, item 14).
type keySet map[string]verifyKey

type verifyKey struct {
	alg    string // RS256 or ES256
	public any    // *rsa.PublicKey or *ecdsa.PublicKey
}

// jwk is a public key of RFC 7517 and RFC 7518, section 6.
type jwk struct {
	Use string `json:"use,omitempty"`
	Kty string `json:"kty"`
	Kid string `json:"kid"`
	Alg string `json:"alg,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	// D is set only to notice, and refuse, a private key.
	D string `json:"d,omitempty"`
}

type jwks struct {
	Keys []jwk `json:"keys"`
}

// parseKeySet reads a JWKS. Keys of other kinds than RSA (2048 to 8192 bits)
// and EC P-256, or not for signatures, are left out; at least one must remain.
// canonical is the set again with the fields used and no others, fit to be
// recorded. The error wraps [access.ErrInvalid].
func parseKeySet(data []byte) (set keySet, canonical []byte, err error) {
	fail := func(format string, args ...any) (keySet, []byte, error) {
		return nil, nil, fmt.Errorf("key set: "+format+": %w", append(args, access.ErrInvalid)...)
	}
	if err := strictjson.Check(data, jsonRules()); err != nil {
		return fail("%v", err)
	}
	var in, out jwks
	if err := json.Unmarshal(data, &in); err != nil {
		return fail("not a JWKS, an object with an array of keys")
	}
	if len(in.Keys) > maxKeys {
		return fail("%d keys, at most %d are accepted", len(in.Keys), maxKeys)
	}
	set = keySet{}
	for _, k := range in.Keys {
		if k.D != "" || k.Kty == "oct" {
			return fail("key %q is a secret one; only public keys belong here", access.Clip(k.Kid, maxQuoted))
		}
		public, ok, err := k.parse()
		if err != nil {
			return fail("key %q: %v", access.Clip(k.Kid, maxQuoted), err)
		}
		if !ok {
			continue
		}
		if _, twice := set[k.Kid]; twice || k.Kid == "" {
			return fail("key id %q must be there and occur once", access.Clip(k.Kid, maxQuoted))
		}
		set[k.Kid] = public
		out.Keys = append(out.Keys, k)
	}
	if len(set) == 0 {
		return fail("no usable key among %d; RSA of %d to %d bits (RS256) and EC P-256 (ES256) are", len(in.Keys), minRSABits, maxRSABits)
	}
	canonical, err = json.Marshal(out)
	if err != nil {
		return fail("%v", err)
	}
	return set, canonical, nil
}

// parse returns false for a key of a kind that is not used here.
func (k jwk) parse() (verifyKey, bool, error) {
	if k.Use != "" && k.Use != "sig" {
		return verifyKey{}, false, nil
	}
	key := verifyKey{}
	var err error
	switch {
	case k.Kty == "RSA":
		key.alg = "RS256"
		key.public, err = k.rsa()
	case k.Kty == "EC" && k.Crv == "P-256":
		key.alg = "ES256"
		key.public, err = k.ecdsa()
	default:
		return verifyKey{}, false, nil
	}
	if err != nil {
		return verifyKey{}, false, err
	}
	return key, k.Alg == "" || k.Alg == key.alg, nil
}

func (k jwk) rsa() (*rsa.PublicKey, error) {
	n, err := bytesOf(k.N)
	if err != nil {
		return nil, fmt.Errorf("n: %v", err)
	}
	e, err := bytesOf(k.E)
	if err != nil {
		return nil, fmt.Errorf("e: %v", err)
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, fmt.Errorf("RSA key of %d bits, must have %d to %d", bits, minRSABits, maxRSABits)
	}
	if exponent.BitLen() > 31 || exponent.Bit(0) == 0 || exponent.Int64() < 3 {
		return nil, fmt.Errorf("RSA exponent must be odd, at least 3 and below 2^31")
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, nil
}

func (k jwk) ecdsa() (*ecdsa.PublicKey, error) {
	x, err := bytesOf(k.X)
	if err != nil {
		return nil, fmt.Errorf("x: %v", err)
	}
	y, err := bytesOf(k.Y)
	if err != nil {
		return nil, fmt.Errorf("y: %v", err)
	}
	if len(x) != 32 || len(y) != 32 { // RFC 7518, 6.2.1.2: full size
		return nil, fmt.Errorf("coordinates of %d and %d bytes, must have 32", len(x), len(y))
	}
	point := append(append([]byte{4}, x...), y...)
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point) // checks that it is on the curve
}

func bytesOf(s string) ([]byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) == 0 {
		return nil, fmt.Errorf("must be base64url without padding and not empty")
	}
	return raw, nil
}
