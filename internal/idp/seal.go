package idp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
)

// errNotSealed says that a value was not made by seal for that purpose.
var errNotSealed = errors.New("not sealed here")

// derive makes a key for one purpose out of the provider's own (RFC 5869), so
// that what is made for one is worth nothing for another.
func (k *Keys) derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, k.headerKey, nil, "sallyport idp "+purpose, 32)
	if err != nil {
		panic(err) // only of a length that SHA-256 cannot give
	}
	return key
}

func (k *Keys) aead(purpose string) cipher.AEAD {
	block, err := aes.NewCipher(k.derive(purpose))
	if err != nil {
		panic(err) // only of a key of another length
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// seal makes of v a text that nobody else can read, make or change. A refresh
// token is one: it survives a restart, and nothing of it is stored.
func (k *Keys) seal(purpose string, v any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(k.aead(purpose).Seal(nil, nil, raw, []byte(purpose))), nil
}

// open reads into v what seal made for the same purpose.
func (k *Keys) open(purpose, sealed string, v any) error {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil {
		return errNotSealed
	}
	if raw, err = k.aead(purpose).Open(nil, nil, raw, []byte(purpose)); err != nil {
		return errNotSealed
	}
	return json.Unmarshal(raw, v)
}

// pairwise is the claim sub of a user's token: the same for one application,
// and of no use to two that compare notes (OpenID Connect Core 8.1).
func (k *Keys) pairwise(objectID, appID string) string {
	mac := hmac.New(sha256.New, k.derive("pairwise"))
	mac.Write([]byte(objectID + "\x00" + appID))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// random is a text of 256 bits that cannot be guessed.
func random() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)
}
