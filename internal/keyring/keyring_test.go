package keyring_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/keyring"
)

func open(t *testing.T, path string) *keyring.Ring {
	t.Helper()
	r, err := keyring.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func created(t *testing.T) *keyring.Ring {
	t.Helper()
	r := open(t, filepath.Join(t.TempDir(), "ring"))
	if err := r.Create(); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRing(t *testing.T) {
	r := created(t)
	if !r.AdmitsPlain() {
		t.Error("a new ring must admit what was not sealed yet")
	}
	sealed := r.Seal([]byte("value"), []byte("name"))
	if bytes.Contains(sealed, []byte("value")) || len(sealed) != len("value")+keyring.Overhead {
		t.Errorf("sealed is %q", sealed)
	}
	if again := r.Seal([]byte("value"), []byte("name")); bytes.Equal(again, sealed) {
		t.Error("sealing twice gives the same bytes")
	}
	first := r.Keys()[0].ID
	second, err := r.Add()
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := keyring.KeyOf(r.Seal(nil, nil)); !ok || id != second {
		t.Errorf("sealed with %s, want the newest, %s", id, second)
	}
	for name, r := range map[string]*keyring.Ring{"same": r, "reopened": open(t, r.Path())} {
		if got, err := r.Unseal(sealed, []byte("name")); err != nil || string(got) != "value" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if err := errors.Join(r.Retire(), r.Settle(), r.Drop(time.Now().Add(time.Minute))); err != nil {
		t.Fatal(err)
	}
	if keys := r.Keys(); len(keys) != 1 || keys[0].ID != second || !keys[0].Seals {
		t.Errorf("after dropping %s: %v", first, keys)
	}
	if _, err := r.Unseal(sealed, []byte("name")); err != nil {
		t.Errorf("who was reading goes on reading: %v", err)
	}
	after := open(t, r.Path())
	if after.AdmitsPlain() {
		t.Error("settled was forgotten")
	}
	if _, err := after.Unseal(sealed, []byte("name")); err == nil || !strings.Contains(err.Error(), first) {
		t.Errorf("a dropped key: %v, want an error that names it", err)
	}
}

func TestUnsealRefuses(t *testing.T) {
	r := created(t)
	sealed := r.Seal([]byte("value"), []byte("name"))
	for i := range sealed { // each byte, head included
		other := bytes.Clone(sealed)
		other[i] ^= 0x20
		if _, err := r.Unseal(other, []byte("name")); err == nil {
			t.Errorf("opens with byte %d altered", i)
		}
	}
	if _, err := r.Unseal(sealed, []byte("name2")); err == nil {
		t.Error("opens under another name")
	}
	for _, plain := range []string{"", "{}", "\x00sp1", string(sealed[:keyring.Overhead-1])} {
		if _, err := r.Unseal([]byte(plain), nil); !errors.Is(err, keyring.ErrPlain) {
			t.Errorf("%q: %v, want ErrPlain", plain, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good, err := os.ReadFile(created(t).Path())
	if err != nil {
		t.Fatal(err)
	}
	secret := string(good[bytes.Index(good, []byte(`"key"`))+8:][:20])
	for name, tt := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"readable by others": {string(good), 0o640},
		"empty":              {"", 0o600},
		"no keys":            {`{"keys":[]}`, 0o600},
		"half":               {string(good[:len(good)/2]), 0o600},
		"another file":       {`{"clientSecret":"x"}`, 0o600},
		"short key":          {strings.Replace(string(good), secret, "", 1), 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ring")
			if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
				t.Fatal(err)
			}
			_, err := keyring.Open(path)
			if !errors.Is(err, access.ErrInvalid) || !strings.Contains(err.Error(), path) {
				t.Errorf("error is %v, want ErrInvalid that names the file", err)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error quotes the key: %v", err)
			}
		})
	}
	r := created(t)
	if err := r.Create(); err == nil {
		t.Error("Create replaced a file")
	}
}
