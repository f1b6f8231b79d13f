package enroll

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/strictjson"
)

// The paths that the control plane routes here, each after a cluster's id.
// Both take POST and belong on the TLS port's ordinary protocols: who comes
// here has no certificate yet.
const (
	EnrolPath       = "/providers/Sallyport.Gateway/agents/default/enrol"
	CertificatePath = "/providers/Sallyport.Gateway/agents/default/certificate"
)

// Audience is the audience of the projected service-account tokens.
const Audience = "sallyport"

const (
	joinLife    = time.Hour
	maxIssuer   = 1024
	requestTime = 20 * time.Second // for the store's part of one request
)

// Config says what a [Server] works with. Authority, Records and Address must
// be set.
type Config struct {
	Authority *Authority
	Records   Records
	// Address is the gateway's host:port as agents reach it; it goes into join
	// tokens.
	Address string
	// Remote tells a request's source address, for Audit. Nil is the address of
	// the connection.
	Remote func(*http.Request) string
	// Namespace, ServeAccount and ReportAccount name the two service accounts
	// in every cluster. Defaults: sallyport-system, sallyport-proxy,
	// sallyport-reconciler.
	Namespace     string
	ServeAccount  string
	ReportAccount string
	// JoinLife is how long a join token may be used; 0 is an hour.
	JoinLife time.Duration
	// CertificateLife is how long an agent's certificate is good; 0 is a day.
	CertificateLife time.Duration
	// Concurrency bounds the requests in work at once; more are told to come
	// back (503). 0 is 32.
	Concurrency int
	// Audit hears of each enrolment and certificate, given or refused. It must
	// not block for long. Nil drops them.
	Audit func(Event)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Event is one enrolment or one certificate, given or refused. It holds no
// secret.
type Event struct {
	At         time.Time
	Cluster    access.ResourceID
	Action     Action
	Remote     string // address of the client, as the server saw it
	Role       Role   // of a certificate
	Issuer     string // recorded by an enrolment
	Generation int64  // 0 when refused
	Serial     string // of a certificate, hexadecimal
	Err        error  // nil when given
}

// Action is what an [Event] is about.
type Action string

// The actions.
const (
	ActionEnrol       Action = "enrol"
	ActionCertificate Action = "certificate"
)

// Server is the gateway's end of enrolment. Safe for concurrent use.
type Server struct {
	cfg   Config
	slots chan struct{}
}

// NewServer fills in the defaults. The error wraps [access.ErrInvalid].
func NewServer(cfg Config) (*Server, error) {
	if cfg.Authority == nil || cfg.Records == nil {
		return nil, fmt.Errorf("enrolment server: Authority and Records must be set: %w", access.ErrInvalid)
	}
	if err := checkAddress(cfg.Address); err != nil {
		return nil, fmt.Errorf("enrolment server: %w", err)
	}
	defaults := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	defaults(&cfg.Namespace, access.AgentNamespace)
	defaults(&cfg.ServeAccount, access.ProxyAccount)
	defaults(&cfg.ReportAccount, access.ReconcilerAccount)
	if cfg.JoinLife <= 0 {
		cfg.JoinLife = joinLife
	}
	if cfg.CertificateLife <= 0 {
		cfg.CertificateLife = agentLife
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 32
	}
	if cfg.Audit == nil {
		cfg.Audit = func(Event) {}
	}
	if cfg.Remote == nil {
		cfg.Remote = func(r *http.Request) string { return r.RemoteAddr }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg: cfg, slots: make(chan struct{}, cfg.Concurrency)}, nil
}

// NewJoinToken makes a one-time token for a cluster and records its hash. That
// the caller may write the cluster is for the control plane to check. With
// reset the enrolment replaces a recorded identity without proof of it, see
// [StoredToken]. Use [JoinToken.Text] for the answer, and say when it ends. The
// error wraps [access.ErrNotFound] for an unknown cluster.
func (s *Server) NewJoinToken(ctx context.Context, id access.ResourceID, reset bool) (JoinToken, time.Time, error) {
	cluster, err := s.cfg.Records.Cluster(ctx, id)
	if err != nil {
		return JoinToken{}, time.Time{}, fmt.Errorf("new join token: %w", err)
	}
	token, err := newJoinToken(s.cfg.Address, s.cfg.Authority.CAHash(), cluster)
	if err != nil {
		return JoinToken{}, time.Time{}, fmt.Errorf("new join token: %w", err)
	}
	expires := s.cfg.Now().Add(s.cfg.JoinLife)
	stored := StoredToken{ID: token.ID, Cluster: cluster.ID, ClusterUID: cluster.UID, SecretHash: token.secretHash(), Expires: expires, Reset: reset}
	if err := s.cfg.Records.AddJoinToken(ctx, stored); err != nil {
		return JoinToken{}, time.Time{}, fmt.Errorf("new join token: %w", err)
	}
	return token, expires, nil
}

// enrolRequest is the body of a POST to [EnrolPath]; the join token is the
// bearer token.
type enrolRequest struct {
	Issuer string          `json:"issuer"`
	JWKS   json.RawMessage `json:"jwks"`
	Proof  string          `json:"proof"` // a projected token of the reconciler
}

type enrolResponse struct {
	ClusterUID string `json:"clusterUid"`
	Generation int64  `json:"generation"`
}

// Enrol answers a POST to [EnrolPath] of cluster id: it records the cluster's
// issuer and keys against a join token, which is then used up. The proof must
// verify under those keys, so that a mistaken key set is refused while the
// join token can still be used. If an issuer and keys are recorded already, it
// must verify under them too, unless the token is a reset.
func (s *Server) Enrol(w http.ResponseWriter, r *http.Request, id access.ResourceID) {
	s.answer(w, r, Event{Cluster: id, Action: ActionEnrol}, func(ctx context.Context, bearer string, body []byte, event *Event) (any, error) {
		token, err := ParseJoinToken(bearer)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", err, access.ErrUnauthenticated)
		}
		var req enrolRequest
		if err := strictjson.Decode(body, jsonRules(), &req); err != nil {
			return nil, fmt.Errorf("body must be a JSON object of issuer, jwks and proof: %s: %w", access.Clip(err.Error(), maxQuoted), access.ErrInvalid)
		}
		if err := checkIssuer(req.Issuer); err != nil {
			return nil, err
		}
		keys, canonical, err := parseKeySet(req.JWKS)
		if err != nil {
			return nil, err
		}
		if err := s.podToken(keys, req.Issuer, RoleReport).verify(req.Proof); err != nil {
			return nil, fmt.Errorf("proof does not match issuer and jwks: %v: %w", err, access.ErrInvalid)
		}
		event.Issuer = req.Issuer
		cluster, err := s.cfg.Records.Enrol(ctx, Enrolment{
			TokenID: token.ID, SecretHash: token.secretHash(),
			Cluster: id, ClusterUID: token.ClusterUID,
			Issuer: req.Issuer, Keys: canonical, At: s.cfg.Now(),
			proves: func(issuer string, recorded []byte) error {
				keys, _, err := parseKeySet(recorded)
				if err != nil {
					return err
				}
				return s.podToken(keys, issuer, RoleReport).verify(req.Proof)
			},
		})
		if errors.Is(err, access.ErrNotFound) {
			return nil, errJoinToken() // not even whether the cluster exists
		}
		if err != nil {
			return nil, err
		}
		event.Generation = cluster.Generation
		return enrolResponse{ClusterUID: cluster.UID, Generation: cluster.Generation}, nil
	})
}

// certificateRequest is the body of a POST to [CertificatePath]; the pod's
// projected service-account token is the bearer token.
type certificateRequest struct {
	Role Role   `json:"role"`
	CSR  []byte `json:"csr"` // PKCS #10 (RFC 2986), DER; base64 in JSON. Only its key is used.
}

type certificateResponse struct {
	Certificate string    `json:"certificate"` // PEM, the leaf alone: the CA signs leaves directly
	NotAfter    time.Time `json:"notAfter"`
	Generation  int64     `json:"generation"`
	CA          string    `json:"caPem"`
}

// Certificate answers a POST to [CertificatePath] of cluster id: a certificate
// for a pod whose service-account token the enrolled cluster signed. The
// token's account decides the role, the request's signature proves the key,
// and generation and keys come from one reading of the cluster, so a
// certificate issued while another enrolment wins is already retired.
func (s *Server) Certificate(w http.ResponseWriter, r *http.Request, id access.ResourceID) {
	by := s.cfg.Authority.trustedBy("")
	if r.TLS != nil {
		by = s.cfg.Authority.trustedBy(r.TLS.ServerName) // the one that showed it who we are
	}
	s.answer(w, r, Event{Cluster: id, Action: ActionCertificate}, func(ctx context.Context, bearer string, body []byte, event *Event) (any, error) {
		var req certificateRequest
		if err := strictjson.Decode(body, jsonRules(), &req); err != nil {
			return nil, fmt.Errorf("body must be a JSON object of role and csr: %s: %w", access.Clip(err.Error(), maxQuoted), access.ErrInvalid)
		}
		role, err := ParseRole(string(req.Role))
		if err != nil {
			return nil, err
		}
		event.Role = role
		cluster, err := s.cfg.Records.Cluster(ctx, id)
		if errors.Is(err, access.ErrNotFound) || err == nil && cluster.Generation == 0 {
			// One answer for both: a stranger learns of no cluster here.
			return nil, fmt.Errorf("no agent is enrolled for this cluster; enrol with a join token first: %w", access.ErrUnauthenticated)
		}
		if err != nil {
			return nil, err
		}
		keys, _, err := parseKeySet(cluster.AgentKeys)
		if err != nil {
			return nil, fmt.Errorf("recorded keys of %s: %v", id, err) // ours to mend, so of no kind: 500
		}
		if err := s.podToken(keys, cluster.AgentIssuer, role).verify(bearer); err != nil {
			return nil, err
		}
		csr, err := x509.ParseCertificateRequest(req.CSR)
		if err != nil {
			return nil, fmt.Errorf("csr is not a PKCS #10 request in DER: %w", access.ErrInvalid)
		}
		if err := csr.CheckSignature(); err != nil {
			return nil, fmt.Errorf("csr is not signed with the key it names: %w", access.ErrInvalid)
		}
		cert, err := s.cfg.Authority.issue(by, Identity{Role: role, ClusterUID: cluster.UID, Generation: cluster.Generation}, csr.PublicKey, s.cfg.CertificateLife)
		if err != nil {
			return nil, fmt.Errorf("csr: %w", err)
		}
		event.Generation, event.Serial = cluster.Generation, cert.SerialNumber.Text(16)
		return certificateResponse{
			Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
			NotAfter:    cert.NotAfter,
			Generation:  cluster.Generation,
			CA:          string(by.pem()),
		}, nil
	})
}

// podToken says what tokens of the role's account must be.
func (s *Server) podToken(keys keySet, issuer string, role Role) podToken {
	account := s.cfg.ServeAccount
	if role == RoleReport {
		account = s.cfg.ReportAccount
	}
	return podToken{
		keys: keys, issuer: issuer, audience: Audience, now: s.cfg.Now,
		subject: "system:serviceaccount:" + s.cfg.Namespace + ":" + account,
	}
}

// checkIssuer accepts what Kubernetes takes as an issuer: text without spaces
// or control characters, usually a URL. It is compared whole and never fetched.
func checkIssuer(issuer string) error {
	ok := issuer != "" && len(issuer) <= maxIssuer
	for i := 0; ok && i < len(issuer); i++ {
		ok = issuer[i] > ' ' && issuer[i] < 0x7f
	}
	if !ok {
		return fmt.Errorf("issuer %q must be 1 to %d printable characters without spaces: %w", access.Clip(issuer, maxQuoted), maxIssuer, access.ErrInvalid)
	}
	return nil
}
