package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/authenticate"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/strictjson"
)

// maxBody bounds a request's body in bytes.
const maxBody = 1 << 20

// Config is what Graph is made of. All but Now, Remote, Logger and Unserved are required.
type Config struct {
	Store     *store.Store
	Directory *directory.Directory
	// Authenticate verifies a bearer token for Graph. Errors wrap
	// [access.ErrUnauthenticated] or [access.ErrUnavailable].
	Authenticate func(ctx context.Context, token string) (access.Principal, error)
	// Audit records each write before it is done. When it fails, the write is
	// refused.
	Audit  audit.Log
	Remote func(*http.Request) string // a request's source address, for records
	Now    func() time.Time           // nil for time.Now
	Logger *slog.Logger               // one line for each request; nil discards
	// Unserved is told of each request that no route serves; nil tells nobody.
	Unserved func(*http.Request)
}

// Graph serves Microsoft Graph. Safe for concurrent use; it has no goroutines.
type Graph struct {
	cfg    Config
	store  *store.Store
	routes []route
}

// New returns Graph. A faulty configuration is an [access.ErrInvalid].
func New(cfg Config) (*Graph, error) {
	if cfg.Store == nil || cfg.Directory == nil || cfg.Authenticate == nil || cfg.Audit == nil {
		return nil, fmt.Errorf("graph: Store, Directory, Authenticate and Audit are needed: %w", access.ErrInvalid)
	}
	if cfg.Remote == nil {
		cfg.Remote = func(r *http.Request) string { return r.RemoteAddr }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Unserved == nil {
		cfg.Unserved = func(*http.Request) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Graph{cfg: cfg, store: cfg.Store, routes: table()}, nil
}

// object is anything that Graph shows or reads.
type object = map[string]any

// request is what a handler needs of an admitted request.
type request struct {
	*Graph
	http   *http.Request
	ctx    context.Context
	id     string // a GUID, for the log and the audit
	route  string // its template; empty for none
	vars   map[string]string
	tenant string // the caller's
	caller access.Principal
	body   object // of a POST or PATCH
	base   string // https://host/v1.0, as the client sees it
	// recorded says that the audit log has the write.
	recorded bool
}

// reply is a handler's answer. A nil body is 204.
type reply struct {
	status int
	body   object
}

// ServeHTTP answers /v1.0/... and /oidc/userinfo, and the same below /graph.
func (g *Graph) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{Graph: g, http: r, ctx: r.Context(), id: uuid.NewString()}
	h := w.Header()
	h.Set("request-id", q.id)
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	if id := r.Header.Get("client-request-id"); access.IsGUID(id) {
		h.Set("client-request-id", id)
	}
	answer, err := q.handle(w)
	status := answer.status
	switch {
	case err != nil:
		e := asError(q.refused(err))
		status = e.Status
		writeError(w, e, q.id, g.cfg.Now())
	case answer.body == nil:
		status = http.StatusNoContent
		w.WriteHeader(status)
	default:
		writeJSON(w, status, answer.body)
	}
	args := []any{"id", q.id, "method", access.Clip(r.Method, 16), "path", access.Clip(r.URL.EscapedPath(), 512), "status", status,
		"remote", g.cfg.Remote(r), "tenant", q.tenant, "caller", q.caller.ObjectID, "client", access.Clip(r.UserAgent(), 200)}
	if err != nil {
		args = append(args, "error", err.Error())
	}
	g.cfg.Logger.Info("graph", args...)
}

// handle is the order of things: path, token, route, operator, body.
func (q *request) handle(w http.ResponseWriter) (reply, error) {
	path, err := splitPath(q.http.URL)
	if err != nil {
		return reply{}, err
	}
	if err := q.authenticate(); err != nil {
		return reply{}, err
	}
	rt, vars, allowed := match(q.routes, q.http.Method, path)
	if rt == nil {
		q.cfg.Unserved(q.http)
	}
	if rt == nil && len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return reply{}, refuse(http.StatusMethodNotAllowed, "Request_BadRequest", "The method %s is not served here; %s is.", access.Clip(q.http.Method, 16), strings.Join(allowed, ", "))
	}
	if rt == nil {
		return reply{}, refuse(http.StatusNotFound, "Request_ResourceNotFound", "Resource not found for the segment '%s'.", access.Clip(strings.Join(path, "/"), 200))
	}
	q.route, q.vars = rt.pattern, vars
	q.base = "https://" + q.http.Host + "/v1.0"
	if strings.HasPrefix(strings.ToLower(q.http.URL.Path), "/graph/") {
		q.base = "https://" + q.http.Host + "/graph/v1.0"
	}
	if rt.write {
		operator, err := q.cfg.Directory.IsOperator(q.ctx, q.caller)
		if err != nil {
			return reply{}, err
		}
		if !operator {
			return reply{}, refuse(http.StatusForbidden, "Authorization_RequestDenied", "Insufficient privileges to complete the operation: only the operator of this installation writes to the directory.")
		}
	}
	if q.http.Method == http.MethodPost || q.http.Method == http.MethodPatch {
		if err := q.read(); err != nil {
			return reply{}, err
		}
	}
	return rt.serve(q)
}

func (q *request) authenticate() error {
	token, err := authenticate.BearerToken(q.http.Header)
	if err == nil {
		q.caller, err = q.cfg.Authenticate(q.ctx, token)
	}
	if errors.Is(err, access.ErrUnauthenticated) && asError(err).Status != http.StatusUnauthorized {
		return refuse(http.StatusUnauthorized, "InvalidAuthenticationToken", "The access token is invalid.")
	}
	q.tenant = q.caller.TenantID
	return err
}

// read reads a body: one JSON object that all readers understand alike.
func (q *request) read() error {
	raw, err := io.ReadAll(io.LimitReader(q.http.Body, maxBody+1))
	if err != nil {
		return badRequest("The request's body could not be read.")
	}
	if len(raw) > maxBody {
		return refuse(http.StatusRequestEntityTooLarge, "Request_BadRequest", "The request's body is larger than %d bytes.", maxBody)
	}
	q.body = object{}
	if len(raw) == 0 {
		return nil
	}
	if err := strictjson.Check(raw, strictjson.Rules{MaxDepth: 16, FoldCase: true}); err != nil {
		return badRequest("The request's body is not JSON as expected: %v.", err)
	}
	return json.Unmarshal(raw, &q.body)
}

// splitPath returns the segments after the version, unescaped. Nothing is
// cleaned: a dot segment or an empty one is no path of ours.
func splitPath(u *url.URL) ([]string, error) {
	path := strings.TrimPrefix(u.EscapedPath(), "/")
	if first, rest, ok := strings.Cut(path, "/"); ok && strings.EqualFold(first, "graph") {
		path = strings.TrimPrefix(rest, "/") // az joins with a slash too many
	}
	if version, rest, ok := strings.Cut(path, "/"); ok && (strings.EqualFold(version, "v1.0") || strings.EqualFold(version, "beta")) {
		path = rest
	} else if !strings.EqualFold(path, "oidc/userinfo") {
		return nil, badRequest("Invalid version: the path must begin with /v1.0.")
	}
	var segments []string
	for segment := range strings.SplitSeq(path, "/") {
		plain, err := url.PathUnescape(segment)
		if err != nil || plain == "" || plain == "." || plain == ".." || strings.ContainsAny(plain, "/\\\x00") {
			return nil, badRequest("The path is malformed.")
		}
		segments = append(segments, plain)
	}
	return segments, nil
}

// commit records the write and does it. What lost a race against another write
// is told so.
func (q *request) commit(detail object, changes ...store.Change) error {
	if !q.recorded {
		r := q.record(true)
		if detail != nil {
			r.Detail = detail
		}
		if err := q.cfg.Audit(r); err != nil {
			return fmt.Errorf("record the decision: %w: %w", err, access.ErrUnavailable)
		}
		q.recorded = true
	}
	_, err := q.store.Commit(q.ctx, changes...)
	return err
}

// refused records the refusal of a write, and returns err or what kept it from
// being recorded.
func (q *request) refused(err error) error {
	if q.caller.ObjectID == "" || q.http.Method == http.MethodGet || q.recorded || errors.Is(err, access.ErrUnavailable) || q.route == "" || !writes(q.routes, q.http.Method, q.route) {
		return err
	}
	r := q.record(false)
	e := asError(err)
	r.Status, r.Reason = e.Status, e.Message
	if auditErr := q.cfg.Audit(r); auditErr != nil {
		return fmt.Errorf("record the refusal: %w: %w", auditErr, access.ErrUnavailable)
	}
	return err
}

func (q *request) record(allowed bool) audit.Record {
	return audit.Record{
		Time: q.cfg.Now(), Stage: audit.Consent, ID: q.id, TenantID: q.tenant, ObjectID: q.caller.ObjectID, Remote: q.cfg.Remote(q.http),
		Method: q.http.Method, Path: access.Clip(q.http.URL.Path, 512), Action: "Microsoft.Graph/" + q.route, Allowed: &allowed,
	}
}
