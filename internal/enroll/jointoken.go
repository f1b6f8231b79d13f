package enroll

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
)

const (
	joinPrefix   = "sallyport-join-v1."
	maxJoinToken = 8 << 10 // bytes of text
	secretSize   = 32
)

// JoinToken is the right to enrol one cluster's agent once, and all that the
// agent needs to find the gateway and to know it. [JoinToken.Text] writes it
// out; every other way of printing leaves the secret away.
type JoinToken struct {
	Address    string // host:port of the gateway
	ClusterID  access.ResourceID
	ClusterUID string
	CAHash     string // see [Authority.CAHash]
	ID         string // names the token in the store; a GUID

	secret []byte // 32 random bytes
}

// joinWire is the JSON inside a join token.
type joinWire struct {
	Address    string            `json:"address"`
	ClusterID  access.ResourceID `json:"clusterId"`
	ClusterUID string            `json:"clusterUid"`
	CAHash     string            `json:"caHash"`
	ID         string            `json:"id"`
	Secret     []byte            `json:"secret"`
}

// newJoinToken draws a new token for a cluster.
func newJoinToken(address, caHash string, cluster access.Cluster) (JoinToken, error) {
	t := JoinToken{Address: address, ClusterID: cluster.ID, ClusterUID: cluster.UID, CAHash: caHash, ID: uuid.NewString(), secret: make([]byte, secretSize)}
	rand.Read(t.secret) // never fails, see crypto/rand
	return t, t.check()
}

// ParseJoinToken reads what [JoinToken.Text] wrote:
//
//	sallyport-join-v1.<base64url of JSON {address, clusterId, clusterUid, caHash, id, secret}>
//
// and nothing else: text that parses encodes to the same bytes, so there are
// no duplicate or unknown keys, padding or white space. The error wraps
// [access.ErrInvalid] and never quotes the token.
func ParseJoinToken(text string) (JoinToken, error) {
	fail := func(why string) (JoinToken, error) {
		return JoinToken{}, fmt.Errorf("join token %s: %w", why, access.ErrInvalid)
	}
	if len(text) > maxJoinToken {
		return fail(fmt.Sprintf("is longer than %d characters", maxJoinToken))
	}
	encoded, ok := strings.CutPrefix(text, joinPrefix)
	if !ok {
		return fail(fmt.Sprintf("must begin with %q", joinPrefix))
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return fail("is not base64url without padding; was it copied whole?")
	}
	var wire joinWire
	if err := json.Unmarshal(raw, &wire); err != nil {
		return fail("does not hold the JSON that it should; was it copied whole?")
	}
	t := JoinToken{Address: wire.Address, ClusterID: wire.ClusterID, ClusterUID: wire.ClusterUID, CAHash: wire.CAHash, ID: wire.ID, secret: wire.Secret}
	if err := t.check(); err != nil {
		return JoinToken{}, fmt.Errorf("join token: %w", err)
	}
	if t.Text() != text {
		return fail("is not in canonical form")
	}
	return t, nil
}

func (t JoinToken) check() error {
	if err := checkAddress(t.Address); err != nil {
		return err
	}
	if err := checkCAHash(t.CAHash); err != nil {
		return err
	}
	switch {
	case !t.ClusterID.IsType(access.ClusterType):
		return fmt.Errorf("cluster id %q must be of type %s: %w", access.Clip(t.ClusterID.String(), maxQuoted), access.ClusterType, access.ErrInvalid)
	case !access.IsGUID(t.ClusterUID):
		return fmt.Errorf("cluster uid %q must be a GUID: %w", access.Clip(t.ClusterUID, maxQuoted), access.ErrInvalid)
	case !access.IsGUID(t.ID):
		return fmt.Errorf("id %q must be a GUID: %w", access.Clip(t.ID, maxQuoted), access.ErrInvalid)
	case len(t.secret) != secretSize:
		return fmt.Errorf("secret of %d bytes must have %d: %w", len(t.secret), secretSize, access.ErrInvalid)
	}
	return nil
}

// Text writes the token out, secret included, for the one who will install
// the agent. It is also the bearer token of the enrolment.
func (t JoinToken) Text() string {
	raw, err := json.Marshal(joinWire{Address: t.Address, ClusterID: t.ClusterID, ClusterUID: t.ClusterUID, CAHash: t.CAHash, ID: t.ID, Secret: t.secret})
	if err != nil {
		return "" // cannot be: strings and bytes only
	}
	return joinPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

// String names the token without its secret, for logs (checklist, item 39).
func (t JoinToken) String() string {
	return fmt.Sprintf("join token %s for cluster %s", t.ID, t.ClusterID)
}

// GoString is String, so that %#v is safe too.
func (t JoinToken) GoString() string { return t.String() }

// LogValue is String, for package slog.
func (t JoinToken) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Client returns a client for the gateway and cluster that the token names.
func (t JoinToken) Client() *Client {
	return &Client{Address: t.Address, ClusterID: t.ClusterID, CAHash: t.CAHash}
}

// secretHash is what the store keeps. A plain hash is enough for 32 random
// bytes: there is nothing to guess.
func (t JoinToken) secretHash() []byte {
	sum := sha256.Sum256(t.secret)
	return sum[:]
}

// StoredToken is the server's side of a join token.
type StoredToken struct {
	ID         string
	Cluster    access.ResourceID
	ClusterUID string
	SecretHash []byte // SHA-256
	Expires    time.Time
	// Reset is the owner's word that the recorded keys are gone or rotated, or
	// that it is another cluster: the enrolment need not prove them.
	Reset bool
}

// For says whether the token is for this registration of its cluster; one
// made again under the same name is another. The error wraps
// [access.ErrConflict].
func (t StoredToken) For(c access.Cluster) error {
	if !t.Cluster.Equal(c.ID) || t.ClusterUID != c.UID {
		return fmt.Errorf("join token %s is for uid %s of cluster %s, which now has %s: %w", t.ID, t.ClusterUID, t.Cluster, c.UID, access.ErrConflict)
	}
	return nil
}

// Admit returns the cluster as it is after the enrolment, with the issuer, the
// keys and a generation one higher, if the token admits it: same token,
// cluster, registration and secret, and not past its end. A cluster that has an
// enrolment must also be proven to be the one recorded, unless the token is a
// reset: a join token alone, which may lie unused in a Secret, must not be
// enough to take an agent's place. c is the cluster that the transaction
// replaces, so the keys asked are those in force.
//
// The error wraps [access.ErrUnauthenticated] and is the same for each cause
// but expiry and a missing proof, which only the holder of the secret is told.
func (t StoredToken) Admit(e Enrolment, c access.Cluster) (access.Cluster, error) {
	same := len(t.SecretHash) == sha256.Size && subtle.ConstantTimeCompare(t.SecretHash, e.SecretHash) == 1
	if !same || t.ID != e.TokenID || !t.Cluster.Equal(e.Cluster) || t.ClusterUID != e.ClusterUID || t.For(c) != nil {
		return access.Cluster{}, errJoinToken()
	}
	if !e.At.Before(t.Expires) {
		return access.Cluster{}, fmt.Errorf("join token ended at %s; ask for a new one: %w", t.Expires.UTC().Format(time.RFC3339), access.ErrUnauthenticated)
	}
	if c.Generation > 0 && !t.Reset && (e.proves == nil || e.proves(c.AgentIssuer, c.AgentKeys) != nil) {
		return access.Cluster{}, errForeignProof()
	}
	c.AgentIssuer, c.AgentKeys = e.Issuer, e.Keys
	c.Generation++
	return c, nil
}

// errJoinToken is the one answer to a token that is unknown, used or wrong.
func errJoinToken() error {
	return fmt.Errorf("join token is unknown, used already or not for this cluster; ask for a new one: %w", access.ErrUnauthenticated)
}

// errForeignProof is the answer to who cannot show a service-account token of
// the cluster as it is recorded.
func errForeignProof() error {
	return fmt.Errorf("this cluster is enrolled, and the proof is not of its recorded issuer and keys; if its service-account keys were rotated or are gone, or it is another cluster, have its owner issue a join token with --reset: %w", access.ErrUnauthenticated)
}

// checkAddress accepts host:port, where host is a DNS name or an IP address.
func checkAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || n == 0 || strconv.FormatUint(n, 10) != port || !isHost(host) {
		return fmt.Errorf("address %q must be host:port, such as gateway.example.com:443: %w", access.Clip(s, maxQuoted), access.ErrInvalid)
	}
	return nil
}

func isHost(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Zone() == ""
	}
	if host == "" || len(host) > 253 {
		return false
	}
	for i := range len(host) {
		c := host[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}
