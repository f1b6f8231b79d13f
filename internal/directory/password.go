package directory

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/sallyport/sallyport/access"
)

// The cost of argon2id: OWASP's first recommendation (password storage cheat
// sheet, 2025), 19 MiB and two passes on one thread.
const (
	passwordMemory = 19 << 10 // KiB
	passwordPasses = 2
	passwordKey    = 32 // bytes
	passwordScheme = "argon2id-19m-2$"
)

// CheckPassword says what is wrong with a new password: Entra wants 8 to 256
// characters. The error wraps [access.ErrInvalid] and does not quote it.
func CheckPassword(password string) error {
	if n := len([]rune(password)); n < 8 || n > 256 {
		return fmt.Errorf("a password must have 8 to 256 characters, this one has %d: %w", n, access.ErrInvalid)
	}
	return nil
}

// HashPassword returns what is stored of a password.
func HashPassword(password string) string {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails: crypto/rand ends the program instead
	return passwordScheme + encode(salt) + "$" + encode(passwordHash(password, salt))
}

// PasswordIs reports whether a stored hash is of this password. The hash of a
// user that does not exist is "": it costs the same time, so that the time
// does not tell who exists, and it matches nothing.
func PasswordIs(stored, password string) bool {
	rest, known := strings.CutPrefix(stored, passwordScheme)
	salt, want, _ := strings.Cut(rest, "$")
	raw, err := base64.RawStdEncoding.DecodeString(salt)
	got := passwordHash(password, raw)
	return known && err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(encode(got))) == 1
}

func passwordHash(password string, salt []byte) []byte {
	return argon2.IDKey([]byte(password), salt, passwordPasses, passwordMemory, 1, passwordKey)
}

func encode(raw []byte) string { return base64.RawStdEncoding.EncodeToString(raw) }
