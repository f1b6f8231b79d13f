//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/rbac"
)

// killConsents knows when a role of a binding must not serve: from the
// acknowledgement of the DELETE, or of the narrower PUT's operation, until
// the next PUT with that role is sent.
type killConsents struct {
	mu      sync.Mutex
	windows map[killRole][]killWindow
	deletes map[string][]time.Time // acknowledgements, by binding
}

type killRole struct{ binding, role string }

// killWindow is a span of time; with no end it lasts.
type killWindow struct{ from, to time.Time }

// spans reports whether all of start to end is in the window.
func (w killWindow) spans(start, end time.Time) bool {
	return !start.Before(w.from) && (w.to.IsZero() || end.Before(w.to))
}

func newKillConsents() *killConsents {
	return &killConsents{windows: map[killRole][]killWindow{}, deletes: map[string][]time.Time{}}
}

// given is called before a PUT is sent.
func (c *killConsents) given(b *killBinding, roles []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, role := range roles {
		windows := c.windows[killRole{b.name, role}]
		if last := len(windows) - 1; last >= 0 && windows[last].to.IsZero() {
			windows[last].to = time.Now()
		}
	}
}

// withdrawn is called when it is known that only the kept roles are in force.
func (c *killConsents) withdrawn(b *killBinding, kept []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, role := range b.source.roles {
		key := killRole{b.name, role}
		windows := c.windows[key]
		if slices.Contains(kept, role) || len(windows) > 0 && windows[len(windows)-1].to.IsZero() {
			continue
		}
		c.windows[key] = append(windows, killWindow{from: time.Now()})
	}
}

// ended is called when a DELETE was acknowledged.
func (c *killConsents) ended(b *killBinding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deletes[b.name] = append(c.deletes[b.name], time.Now())
}

// stale returns the window that all of start to end is in.
func (c *killConsents) stale(binding, role string, start, end time.Time) (killWindow, bool) {
	for _, w := range c.windows[killRole{binding, role}] {
		if w.spans(start, end) {
			return w, true
		}
	}
	return killWindow{}, false
}

// life counts the binding's acknowledged deletes up to then.
func (c *killConsents) life(binding string, then time.Time) int {
	n := 0
	for _, at := range c.deletes[binding] {
		if at.Before(then) {
			n++
		}
	}
	return n
}

// checkEnd waits until all has come to rest, and holds it against the model.
func (l *killLoad) checkEnd() {
	for _, b := range l.bindings {
		l.check(b)
	}
	l.checkOperations()
	killPoll(l.t, "the cluster holds exactly the bindings there are", l.inForce)
	// And it works: who has a binding is served, who has none is refused.
	for _, s := range l.sources {
		for _, role := range s.roles {
			// Of a source's bindings the gateway takes the oldest, so with
			// two it cannot be told from here which roles there are.
			if len(s.bindings) > 1 {
				continue
			}
			want := http.StatusForbidden
			if slices.Contains(strings.Fields(s.bindings[0].seen), role) {
				want = http.StatusOK
			}
			killPoll(l.t, fmt.Sprintf("%s with %s", s.id.Name(), role), func(ctx context.Context) error {
				if status := l.get(ctx, s, role); status != want {
					return fmt.Errorf("status %d, want %d", status, want)
				}
				return nil
			})
		}
	}
}

// checkOperations polls every operation: those that replies named, and those
// that the audit log has of writes whose reply was lost.
func (l *killLoad) checkOperations() {
	urls := l.r.operations.all()
	named := map[string]bool{}
	for _, u := range urls {
		named[killOperationID(u)] = true
	}
	for _, rec := range l.auditLog() {
		if rec.Stage == audit.Consent && rec.Binding != "" && *rec.Allowed && !named[rec.ID] {
			urls = append(urls, l.r.base+l.r.subscription.String()+"/providers/Microsoft.ContainerService/locations/eastus/operations/"+rec.ID+"?api-version=2025-10-01")
		}
	}
	count := map[access.OperationStatus]int{}
	for _, u := range urls {
		op, found := l.r.ended(l.t, u)
		if id := killOperationID(u); !found && named[id] {
			l.t.Errorf("operation %s was named in a reply and is not there", id)
		}
		count[op.Status]++
	}
	unstarted := count[""] // the write never happened, or was a DELETE of nothing
	delete(count, "")
	l.t.Logf("operations: %v, and %d writes that began none", count, unstarted)
}

func killOperationID(operation string) string {
	u, err := url.Parse(operation)
	if err != nil {
		return ""
	}
	return u.Path[strings.LastIndexByte(u.Path, '/')+1:]
}

// inForce compares the cluster's objects with the bindings there are.
func (l *killLoad) inForce(ctx context.Context) error {
	want, have := map[string]string{}, map[string]string{} // uid by object
	bindings, err := l.r.api.RoleBindings(ctx, l.r.cluster)
	if err != nil {
		return err
	}
	for _, b := range bindings {
		if b.Properties.ProvisioningState != access.Succeeded {
			return fmt.Errorf("binding %s is %s", b.Name, b.Properties.ProvisioningState)
		}
		status, err := l.r.api.BindingStatus(ctx, b.ID)
		if err != nil {
			return err
		}
		var body struct{ Properties struct{ UID string } }
		if err := json.Unmarshal(status.Raw, &body); err != nil {
			return err
		}
		uid := body.Properties.UID
		want["user "+access.User(access.DefaultPrefix, b.Name)] = ""
		want["uid "+uid] = ""
		for _, role := range b.Properties.Roles {
			short := role[strings.LastIndexByte(role, '/')+1:]
			want["role "+rbac.RoleObject(access.DefaultPrefix, b.Name, short)] = uid
			want["binding "+rbac.RoleBindingObject(access.DefaultPrefix, b.Name, short)] = uid
		}
	}
	if err := l.objects(ctx, have); err != nil {
		return err
	}
	for name, uid := range want {
		if got, ok := have[name]; !ok || got != uid {
			return fmt.Errorf("%s of uid %q: found %v, with uid %q", name, uid, ok, got)
		}
		delete(have, name)
	}
	if len(have) > 0 {
		return fmt.Errorf("the cluster also holds %v", have)
	}
	if len(bindings) != l.surviving() {
		return fmt.Errorf("there are %d bindings, want %d", len(bindings), l.surviving())
	}
	return nil
}

// surviving counts the bindings that the model knows of.
func (l *killLoad) surviving() (n int) {
	for _, b := range l.bindings {
		if b.seen != "" {
			n++
		}
	}
	return n
}

// objects reads what the agent wrote: roles, bindings, and the names and uids
// that its proxy may take.
func (l *killLoad) objects(ctx context.Context, have map[string]string) error {
	const uid = "sallyport.dev/binding-uid"
	api := l.r.kube.RbacV1()
	roles, err := api.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, o := range roles.Items {
		if strings.HasPrefix(o.Name, access.DefaultPrefix) {
			have["role "+o.Name] = o.Annotations[uid]
		}
		if o.Name != rbac.ProxyRole {
			continue
		}
		for _, rule := range o.Rules {
			kind := map[string]string{"users": "user ", "userextras/" + access.ExtraBindingUID: "uid "}[rule.Resources[0]]
			for _, name := range rule.ResourceNames {
				if kind != "" {
					have[kind+name] = ""
				}
			}
		}
	}
	bindings, err := api.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, o := range bindings.Items {
		if strings.HasPrefix(o.Name, access.DefaultPrefix) {
			have["binding "+o.Name] = o.Annotations[uid]
		}
	}
	return nil
}

// killEvent is an event of the cluster's audit log.
type killEvent struct {
	AuditID          string    `json:"auditID"`
	RequestURI       string    `json:"requestURI"`
	Received         time.Time `json:"requestReceivedTimestamp"`
	ImpersonatedUser struct {
		Username string
		Extra    map[string][]string
	}
	ResponseStatus struct{ Code int }
}

// checkGrants looks for service without consent: in what the sources got, and
// in what the cluster itself recorded.
func (l *killLoad) checkGrants() {
	for _, read := range l.served {
		stale := 0
		for _, b := range read.source.bindings {
			if _, ok := l.consents.stale(b.name, read.role, read.start, read.end); ok {
				stale++
			}
		}
		if stale == len(read.source.bindings) {
			l.t.Errorf("%s was served %s at %s, though no binding gave it that", read.source.id.Name(), read.role, read.start)
		}
	}
	if len(l.served) == 0 {
		l.t.Error("no request was ever served")
	}
	decided := map[string]bool{}
	for _, rec := range l.auditLog() {
		decided[rec.ID] = decided[rec.ID] || rec.Stage == audit.Decision && *rec.Allowed
	}
	lives := map[string][2]int{} // first and last life that a uid may be of
	late, latest := 0, time.Duration(0)
	events := l.clusterLog()
	for _, e := range events {
		if !decided[e.AuditID] {
			l.t.Errorf("the cluster served request %s, which is not in the server's audit log", e.AuditID)
		}
		name, role, start, ok := l.origin(e)
		if !ok {
			continue
		}
		if w, stale := l.consents.stale(name, role, e.Received, e.Received); stale {
			if !start.Before(w.from) {
				l.t.Errorf("the cluster served %s under %s at %s, withdrawn at %s", e.RequestURI, name, e.Received, w.from)
			}
			late++ // it was on its way already
			latest = max(latest, e.Received.Sub(w.from))
		}
		for _, uid := range e.ImpersonatedUser.Extra[access.ExtraBindingUID] {
			life := [2]int{l.consents.life(name, start), l.consents.life(name, e.Received)}
			if have, ok := lives[uid]; ok {
				life = [2]int{max(life[0], have[0]), min(life[1], have[1])}
			}
			if lives[uid] = life; life[0] > life[1] {
				l.t.Errorf("uid %s of %s served before and after a DELETE", uid, name)
			}
		}
	}
	l.t.Logf("%d requests served by the cluster under %d uids; %d reached it after the acknowledgement that withdrew them, at most %s",
		len(events), len(lives), late, latest)
}

// origin is the binding, the role and the start of the read behind an event.
func (l *killLoad) origin(e killEvent) (binding, role string, start time.Time, ok bool) {
	binding = strings.TrimPrefix(e.ImpersonatedUser.Username, access.DefaultPrefix+":")
	u, err := url.Parse(e.RequestURI)
	if err != nil {
		return "", "", start, false
	}
	n, err := strconv.Atoi(strings.TrimPrefix(u.Query().Get("labelSelector"), "n="))
	if err != nil || n >= len(l.sent) {
		return "", "", start, false
	}
	for role, path := range killProbes() {
		if path == u.Path {
			return binding, role, l.sent[n], true
		}
	}
	return "", "", start, false
}

// clusterLog is what the API server served under impersonation.
func (l *killLoad) clusterLog() (events []killEvent) {
	l.lines(filepath.Join(l.r.dir, "cluster", "audit.log"), func(line []byte) error {
		var e killEvent
		err := json.Unmarshal(line, &e)
		if err == nil && e.ImpersonatedUser.Username != "" && e.ResponseStatus.Code/100 == 2 {
			events = append(events, e)
		}
		return err
	})
	return events
}

// auditLog is the server's own, over all its lives.
func (l *killLoad) auditLog() (records []audit.Record) {
	l.lines(filepath.Join(l.r.dir, "server", "audit.log"), func(line []byte) error {
		var rec audit.Record
		err := json.Unmarshal(line, &rec)
		if err == nil && rec.Allowed == nil {
			rec.Allowed = new(bool)
		}
		records = append(records, rec)
		return err
	})
	return records
}

func (l *killLoad) lines(path string, f func([]byte) error) {
	data, err := os.ReadFile(path)
	if err != nil {
		l.t.Error(err)
	}
	scan := bufio.NewScanner(bytes.NewReader(data))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		if err := f(scan.Bytes()); err != nil {
			l.t.Errorf("%s: line %q: %v", filepath.Base(path), scan.Text(), err)
		}
	}
}
