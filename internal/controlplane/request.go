package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/authenticate"
	"github.com/sallyport/sallyport/internal/authorize"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/telemetry"
)

// request is what a handler needs of an admitted request.
type request struct {
	c    *ControlPlane
	http *http.Request
	w    http.ResponseWriter // for limits on the body, and for open routes

	id    string // a GUID; the operation it starts has the same
	route string // its template; empty for none
	path  arm.Path
	vars  arm.Vars
	// version is the api-version asked for; "" for open routes.
	version string
	caller  access.Principal
	// subscription is the path's; its zero value for routes without one.
	subscription store.Item[access.Subscription]
	// rights are the caller's at the path's scope; for a listing, below it too.
	rights authorize.Rights
	// allowed says that the audit log has the request, with this detail.
	allowed bool
	detail  any
}

// reply is a handler's answer.
type reply struct {
	status int
	body   any // nil for none
	header map[string]string
	served bool // by the handler itself
}

// ServeHTTP answers owners. The order of its steps is in [ControlPlane.admit].
func (c *ControlPlane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := c.cfg.Now()
	q := &request{c: c, http: r, w: w, id: uuid.NewString()}
	arm.Stamp(w, r, q.id, start)
	arm.LimitBody(w, r)
	ctx, span := telemetry.Start(r.Context(), c.cfg.Tracer, "controlplane", trace.WithSpanKind(trace.SpanKindServer), telemetry.Linked(r.Header))
	answer, err := c.handle(ctx, q)
	if q.caller.ObjectID != "" {
		w.Header().Set("x-ms-operation-identifier", fmt.Sprintf("tenantId=%s,objectId=%s/sallyport/%s", q.caller.TenantID, q.caller.ObjectID, q.id))
	}
	status := answer.status
	switch {
	case err != nil:
		e := arm.FromError(err)
		status = e.Status
		arm.WriteError(w, e)
	case !answer.served:
		for name, value := range answer.header {
			w.Header().Set(name, value)
		}
		err = arm.Write(w, answer.status, answer.body)
	}
	took := c.cfg.Now().Sub(start)
	c.logRequest(q, status, took, err)
	c.metrics.answered(q, status, took)
	span.Name(q.spanName())
	span.Set(telemetry.Attribute("http.request.method", r.Method), attribute.String("http.route", q.route),
		attribute.Int("http.response.status_code", status), attribute.String("sallyport.request.id", q.id))
	if status < http.StatusInternalServerError {
		err = nil // a client's mistake is no error of ours (OpenTelemetry, HTTP server spans)
	}
	span.End(err)
}

// logRequest writes the one line of a request: never a query, header value or
// body (checklist item 39), but for the client's name.
func (c *ControlPlane) logRequest(q *request, status int, took time.Duration, err error) {
	args := []any{"id", q.id, "method", access.Clip(q.http.Method, arm.MaxMethod), "path", access.Clip(q.http.URL.EscapedPath(), 512), "status", status,
		"took", took, "remote", q.c.cfg.Remote(q.http), "tenant", q.caller.TenantID, "caller", q.caller.ObjectID, "client", access.Clip(q.http.UserAgent(), 200)}
	if err != nil {
		args = append(args, "error", err.Error())
	}
	switch {
	case status >= 500:
		c.log.Error("arm", args...)
	default:
		c.log.Info("arm", args...)
	}
}

// handle admits a request and has its route serve it. The refusal of a write
// is recorded here; its acceptance in [request.commit], before it is done.
func (c *ControlPlane) handle(ctx context.Context, q *request) (reply, error) {
	rt, err := c.admit(ctx, q)
	if err != nil {
		return reply{}, q.refused(err)
	}
	answer, err := rt.serve(ctx, q)
	if err != nil {
		return reply{}, q.refused(err)
	}
	return answer, nil
}

// admit is the one place that says who may do what, and in which order it is
// asked: path, route, api-version, token, subscription, role assignments.
func (c *ControlPlane) admit(ctx context.Context, q *request) (*route, error) {
	path, err := arm.ParsePath(q.http.URL)
	if err != nil {
		return nil, err
	}
	rt, vars, allowed := c.match(q.http.Method, path)
	q.path = path
	if rt != nil {
		q.route, q.path, q.vars = rt.pattern.String(), rt.pattern.Fill(vars), vars
		if rt.who == open {
			return rt, nil
		}
	}
	if err := q.checkVersion(); err != nil {
		return nil, err
	}
	if err := q.authenticate(ctx); err != nil {
		return nil, err
	}
	switch {
	case rt == nil && len(allowed) > 0:
		c.cfg.Unserved(q.http)
		q.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return nil, arm.MethodNotAllowed(q.http.Method)
	case rt == nil:
		c.cfg.Unserved(q.http)
		return nil, arm.NoRouteIn(path, q.version)
	case vars["subscription"] == "":
		return rt, nil
	case !access.IsGUID(vars["subscription"]):
		return nil, arm.InvalidSubscriptionID(vars["subscription"])
	}
	q.subscription, err = c.store.Subscriptions.Get(ctx, "/subscriptions/"+vars["subscription"])
	if errors.Is(err, access.ErrNotFound) && rt.who == signedIn {
		return rt, nil
	}
	if errors.Is(err, access.ErrNotFound) {
		return nil, arm.SubscriptionNotFound(vars["subscription"])
	}
	if err != nil {
		return nil, err
	}
	return rt, q.authorize(ctx, rt.who)
}

// authorize asks the caller's role assignments whether the route is for him.
func (q *request) authorize(ctx context.Context, who who) (err error) {
	scope := q.path.Resource()
	switch who {
	case owner:
		q.rights, err = q.c.roles.At(ctx, q.caller, scope)
		if err == nil && !q.rights.May(q.action(), scope) {
			err = q.forbidden()
		}
	case listed:
		q.rights, err = q.c.roles.Within(ctx, q.caller, scope)
		if err == nil && q.rights.None() {
			err = q.forbidden()
		}
	}
	return err
}

// require asks for an action beside the path's own, at any scope.
func (q *request) require(ctx context.Context, action string, scope access.ResourceID) error {
	rights, err := q.c.roles.At(ctx, q.caller, scope)
	if err == nil && !rights.May(action, scope) {
		err = arm.AuthorizationFailed(q.caller, action, scope.String())
	}
	return err
}

// requireLinked asks for what the path's action takes of another resource.
func (q *request) requireLinked(ctx context.Context, action string, linked access.ResourceID) error {
	rights, err := q.c.roles.At(ctx, q.caller, linked)
	if err == nil && !rights.May(action, linked) {
		err = arm.LinkedAuthorizationFailed(q.caller, q.action(), q.path.Scope(), action, linked.String())
	}
	return err
}

// mayRead reports whether a listing shows the caller a resource, a group or a
// subscription.
func (q *request) mayRead(id access.ResourceID) bool { return q.rights.May(readAction(id), id) }

// readAction is the action of a GET of id.
func readAction(id access.ResourceID) string {
	switch {
	case id.Type() != "":
		return id.Type() + "/read"
	case id.ResourceGroup() != "":
		return "Microsoft.Resources/subscriptions/resourceGroups/read"
	}
	return "Microsoft.Resources/subscriptions/read"
}

func (q *request) forbidden() error {
	return arm.AuthorizationFailed(q.caller, q.action(), q.path.Scope())
}

func (q *request) action() string { return q.path.Action(q.http.Method) }

// checkVersion holds the request to the api-versions that its namespace has.
// Operations and provider registrations are older than all of them, and are
// had with any version.
func (q *request) checkVersion() error {
	since := ""
	if strings.EqualFold(q.path.Namespace(), "Microsoft.ContainerService") && q.vars["operation"] == "" && q.vars["namespace"] == "" {
		since = arm.FirstVersion
	}
	_, resourceType, _ := strings.Cut(q.path.Type(), "/")
	var err error
	q.version, err = arm.CheckAPIVersion(q.http.URL.Query(), since, resourceType, q.vars["location"])
	return err
}

// authenticate takes the token from the one Authorization header; there are
// no cookies and no tokens in queries (checklist item 29).
func (q *request) authenticate(ctx context.Context) error {
	token, err := authenticate.BearerToken(q.http.Header)
	if err != nil {
		return q.unauthenticated(ctx, err)
	}
	caller, err := q.c.cfg.Authenticate(ctx, token)
	if errors.Is(err, access.ErrUnauthenticated) {
		return q.unauthenticated(ctx, err)
	}
	if err != nil {
		return err
	}
	q.caller = caller
	return nil
}

// unauthenticated is the one place where a refusal of a token becomes ARM's
// 401. The caller is told what a [authenticate.Refusal] says; the text of any
// other error is for the log alone.
func (q *request) unauthenticated(ctx context.Context, err error) error {
	code, message := authenticate.Invalid, "The access token is invalid."
	var refusal *authenticate.Refusal
	if errors.As(err, &refusal) {
		code, message = refusal.Code, refusal.Message
	} else {
		q.c.log.Info("arm: token refused", "id", q.id, "reason", err.Error())
	}
	return arm.Unauthenticated(string(code), message, q.c.cfg.LoginEndpoint, q.tenant(ctx))
}

// tenant is the one a challenge names: of the subscription in the path, so
// that tools can learn it, as they do from the real service.
func (q *request) tenant(ctx context.Context) string {
	if s := q.vars["subscription"]; access.IsGUID(s) {
		if item, err := q.c.store.Subscriptions.Get(ctx, "/subscriptions/"+s); err == nil {
			return item.Value.TenantID
		}
	}
	return "common"
}

// commit records that the caller's write is allowed and then does it, all or
// nothing. Conditions that do not hold give errRaced: read again and retry.
func (q *request) commit(ctx context.Context, changes ...store.Change) (int64, error) {
	if err := q.allow(nil); err != nil {
		return 0, err
	}
	revision, err := q.c.store.Commit(ctx, changes...)
	return revision, raced(err)
}

// allow records that the request is allowed: once, and again if a retry made
// something else of it. Detail, which may be nil, must hold nothing secret.
// The error wraps [access.ErrUnavailable].
func (q *request) allow(detail any) error {
	if q.allowed && (detail == nil || reflect.DeepEqual(detail, q.detail)) {
		return nil
	}
	r := q.record(true)
	r.Detail = detail
	if err := q.c.cfg.Audit(r); err != nil {
		return fmt.Errorf("record the decision: %w: %w", err, access.ErrUnavailable)
	}
	q.allowed, q.detail = true, detail
	return nil
}

// refused records the refusal of a caller's write and returns err, or what
// kept it from being recorded.
func (q *request) refused(err error) error {
	if q.caller.ObjectID == "" || !isWrite(q.http.Method) || errors.Is(err, access.ErrUnavailable) {
		return err
	}
	r := q.record(false)
	e := arm.FromError(err)
	r.Status, r.Reason = e.Status, e.Error()
	if auditErr := q.c.cfg.Audit(r); auditErr != nil {
		return fmt.Errorf("record the refusal: %w: %w", auditErr, access.ErrUnavailable)
	}
	return err
}

func (q *request) record(allowed bool) audit.Record {
	r := audit.Record{
		Time: q.c.cfg.Now(), Stage: audit.Consent, ID: q.id,
		TenantID: q.caller.TenantID, ObjectID: q.caller.ObjectID, Remote: q.c.cfg.Remote(q.http),
		Method: access.Clip(q.http.Method, arm.MaxMethod), Path: q.path.String(), Action: q.action(), Allowed: &allowed,
		Binding: q.vars["binding"],
	}
	if !q.caller.Resource.IsZero() {
		r.Source = q.caller.Resource.String()
	}
	if id, err := q.clusterID(); err == nil && q.vars["cluster"] != "" {
		r.Cluster = id.String()
	}
	return r
}

func isWrite(method string) bool {
	return !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, method)
}

// The ids of what a path names: literals in their usual casing, names as the
// client wrote them. They fail only where there is no such id in the path.

func (q *request) groupID() (access.ResourceID, error) {
	return access.ParseResourceID("/subscriptions/" + q.vars["subscription"] + "/resourceGroups/" + q.vars["group"])
}

func (q *request) clusterID() (access.ResourceID, error) {
	return access.ParseResourceID("/subscriptions/" + q.vars["subscription"] + "/resourceGroups/" + q.vars["group"] + "/providers/" + access.ClusterType + "/" + q.vars["cluster"])
}

func (q *request) bindingID() (access.ResourceID, error) {
	cluster, err := q.clusterID()
	if err != nil {
		return access.ResourceID{}, err
	}
	return cluster.Child("trustedAccessRoleBindings", q.vars["binding"])
}

// resourceID refuses what is not a generic resource, so that no route for
// those reads or writes it.
func (q *request) resourceID() (access.ResourceID, error) {
	if isReserved(q.vars["resource"]) {
		return access.ResourceID{}, arm.NoRoute(q.path)
	}
	scope := "/subscriptions/" + q.vars["subscription"]
	if q.vars["group"] != "" {
		scope += "/resourceGroups/" + q.vars["group"]
	}
	return access.ParseResourceID(scope + "/providers/" + q.vars["resource"])
}

// newID makes uids and object ids.
func newID() string { return uuid.NewString() }
