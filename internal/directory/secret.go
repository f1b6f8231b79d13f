package directory

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
)

// NewSecret makes the secret of an application: 32 random bytes, in base64url.
// It never begins with "-", which az would take for an option: `az login -p`
// has it as an argument of its own. That costs a fortieth of a bit.
func NewSecret() string {
	secret := make([]byte, 32)
	for {
		_, _ = rand.Read(secret) // never fails: crypto/rand ends the program instead
		if text := base64.RawURLEncoding.EncodeToString(secret); text[0] != '-' {
			return text
		}
	}
}

// HashSecret returns what is stored of a secret made by [NewSecret].
//
// It is plain SHA-256. Slow hashes (bcrypt, argon2) and salts make up for
// passwords that can be guessed; 256 random bits cannot be, at any speed, and
// a slow hash would only let callers without a secret use up the processor.
func HashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// CheckSecret reports, in constant time, whether hash is of secret. An empty
// or malformed hash matches nothing.
func CheckSecret(hash, secret string) bool {
	return subtle.ConstantTimeCompare([]byte(hash), []byte(HashSecret(secret))) == 1
}
