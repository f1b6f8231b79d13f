package graph

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // customKeyIdentifier is a SHA-1 thumbprint
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/store"
)

const (
	maxCredentials = 50 // of each kind
	secretLife     = 2  // years, as Graph's default
	hintLength     = 3
)

func showSecrets(a store.Application) []object {
	shown := []object{}
	for _, s := range a.Secrets {
		shown = append(shown, showSecret(s))
	}
	return shown
}

func showSecret(s store.Secret) object {
	return object{
		"keyId": s.KeyID, "displayName": null(s.Name), "hint": s.Hint, "secretText": nil, "customKeyIdentifier": nil,
		"startDateTime": stamp(s.Start), "endDateTime": stamp(s.End),
	}
}

func showCertificates(a store.Application) []object {
	shown := []object{}
	for _, c := range a.Certificates {
		sum := sha1.Sum(c.DER) //nolint:gosec // an identifier
		shown = append(shown, object{
			"keyId": c.KeyID, "displayName": null(c.Name), "type": "AsymmetricX509Cert", "usage": "Verify", "key": nil,
			"customKeyIdentifier": strings.ToUpper(hex.EncodeToString(sum[:])), "startDateTime": stamp(c.Start), "endDateTime": stamp(c.End),
		})
	}
	return shown
}

// credentialed is the application whose credentials the path names, by its
// registration or its service principal.
func (q *request) credentialed() (store.Item[store.Application], error) {
	if key := q.vars["application"]; key != "" {
		return q.application(key)
	}
	return q.ownPrincipal(q.vars["principal"])
}

func postAddPassword(q *request) (reply, error) {
	item, err := q.credentialed()
	if err != nil {
		return reply{}, err
	}
	wanted, refusal := objectOf(q.body, "passwordCredential")
	if refusal != nil {
		return reply{}, refusal
	}
	a := item.Value
	shown, err := q.addSecret(&a, wanted)
	if err != nil {
		return reply{}, err
	}
	if err := q.commit(object{"appId": a.ClientID, "keyId": shown["keyId"]}, q.store.Applications.Updating(item, a)); err != nil {
		return reply{}, err
	}
	shown["@odata.context"] = q.base + "/$metadata#microsoft.graph.passwordCredential"
	return reply{http.StatusOK, shown}, nil
}

// addSecret makes a secret. Nobody chooses one: it is random, so a fast hash of
// it is kept, and it is shown here and never again.
func (q *request) addSecret(a *store.Application, wanted object) (object, error) {
	if len(a.Secrets) >= maxCredentials {
		return nil, badRequest("An application has at most %d passwords.", maxCredentials)
	}
	start, end, err := q.times(wanted)
	if err != nil {
		return nil, err
	}
	name, _ := wanted["displayName"].(string)
	text := directory.NewSecret()
	s := store.Secret{KeyID: uuid.NewString(), Name: name[:min(len(name), 120)], Hint: text[:hintLength], Hash: []byte(directory.HashSecret(text)), Start: start, End: end}
	a.Secrets = append(slices.Clone(a.Secrets), s)
	shown := showSecret(s)
	shown["secretText"] = text
	return shown, nil
}

// times reads how long a credential is good: from now for two years, if it does
// not say.
func (q *request) times(wanted object) (start, end time.Time, err error) {
	start = q.cfg.Now().UTC()
	end = start.AddDate(secretLife, 0, 0)
	for name, to := range map[string]*time.Time{"startDateTime": &start, "endDateTime": &end} {
		v, _ := field(wanted, name)
		if v == nil {
			continue
		}
		text, _ := v.(string)
		t, err := time.Parse(time.RFC3339, text)
		if err != nil { // Python writes no zone
			if t, err = time.Parse("2006-01-02T15:04:05", strings.TrimSuffix(text, "Z")); err != nil {
				return start, end, invalidValue(name)
			}
		}
		*to = t.UTC()
	}
	if !start.Before(end) {
		return start, end, badRequest("A credential's endDateTime must be later than its startDateTime.")
	}
	return start, end, nil
}

func postRemovePassword(q *request) (reply, error) {
	item, err := q.credentialed()
	if err != nil {
		return reply{}, err
	}
	id, _, refusal := q.text("keyId")
	if refusal != nil {
		return reply{}, refusal
	}
	a := item.Value
	a.Secrets = slices.DeleteFunc(slices.Clone(a.Secrets), func(s store.Secret) bool { return strings.EqualFold(s.KeyID, id) })
	if len(a.Secrets) == len(item.Value.Secrets) {
		return reply{}, badRequest("No password credential found with keyId '%s'.", id)
	}
	return reply{}, q.commit(object{"appId": a.ClientID, "keyId": id}, q.store.Applications.Updating(item, a))
}

// readCertificates replaces an application's certificates by those of a body.
// One without its key is one that is there and stays.
func (q *request) readCertificates(a *store.Application, v any) error {
	list, ok := v.([]any)
	if v != nil && !ok || len(list) > maxCredentials {
		return invalidValue("keyCredentials")
	}
	var all []store.Certificate
	for _, item := range list {
		wanted, _ := item.(object)
		id, _ := wanted["keyId"].(string)
		text, _ := wanted["key"].(string)
		if i := slices.IndexFunc(a.Certificates, func(c store.Certificate) bool { return strings.EqualFold(c.KeyID, id) }); text == "" && i >= 0 {
			all = append(all, a.Certificates[i])
			continue
		}
		cert, err := parseCertificate(text)
		if err != nil {
			return err
		}
		c := store.Certificate{KeyID: uuid.NewString(), DER: cert.Raw, Start: cert.NotBefore.UTC(), End: cert.NotAfter.UTC()}
		c.Name, _ = wanted["displayName"].(string)
		all = append(all, c)
	}
	a.Certificates = all
	return nil
}

// parseCertificate reads base64 of DER, or of PEM as some clients send. What it
// says of its own times counts.
func parseCertificate(text string) (*x509.Certificate, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, invalidValue("keyCredentials.key")
	}
	if block, _ := pem.Decode(raw); block != nil && bytes.HasPrefix(raw, []byte("-----BEGIN")) {
		raw = block.Bytes
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, badRequest("A key credential's key must be a certificate, DER in base64.")
	}
	if key, ok := cert.PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() < 2048 {
		return nil, badRequest("A key credential's certificate must have an RSA key of at least 2048 bits.")
	}
	return cert, nil
}

func firstOf(v any, name string) (object, *Error) {
	list, ok := v.([]any)
	if !ok || len(list) > 1 {
		return nil, invalidValue(name)
	}
	if len(list) == 0 {
		return nil, nil
	}
	first, ok := list[0].(object)
	if !ok {
		return nil, invalidValue(name)
	}
	return first, nil
}
