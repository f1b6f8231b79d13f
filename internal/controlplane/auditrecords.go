package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/arm"
	"github.com/sallyport/sallyport/internal/audit"
)

// AuditReader reads the audit log, as [audit.File] does.
type AuditReader interface {
	Find(ctx context.Context, id string) ([]audit.Record, error)
	Tail(ctx context.Context, q audit.Query) iter.Seq2[audit.Record, error]
}

const (
	// defaultLast and mostLast are how many requests a reader gets who does not
	// say, and at most.
	defaultLast = 20
	mostLast    = 10000
	// recordBeat is how often a reader who follows hears something.
	recordBeat = 10 * time.Second
)

// tailAuditRecords streams audit records, one JSON object a line, and empty
// lines as heartbeats to who follows. Following ends with the caller's token.
func (c *ControlPlane) tailAuditRecords(ctx context.Context, q *request) (reply, error) {
	if c.cfg.Records == nil {
		return reply{}, arm.NoRoute(q.path)
	}
	ask, err := readQuery(q.http.URL.Query())
	if err != nil {
		return reply{}, err
	}
	visible, err := q.visible(ctx)
	if err != nil {
		return reply{}, err
	}
	ask.Query.Match = func(r audit.Record) bool { return visible(r) && ask.matches(r) }
	return c.streamRecords(ctx, q, ask)
}

// streamRecords answers with the records. Once a line is out an error can be
// told by a broken connection only.
func (c *ControlPlane) streamRecords(ctx context.Context, q *request, ask auditQuery) (reply, error) {
	ctx, cancel := context.WithCancel(ctx)
	if ask.Follow {
		ctx, cancel = context.WithTimeout(ctx, q.caller.Expires.Sub(c.cfg.Now()))
	}
	out := &recordWriter{w: q.w, out: http.NewResponseController(q.w)}
	var beats sync.WaitGroup
	defer beats.Wait()
	defer cancel()
	if ask.Follow {
		beats.Go(func() { c.beat(ctx, cancel, out) })
	}
	for r, err := range c.cfg.Records.Tail(ctx, ask.Query) {
		if err != nil && !out.begun() {
			return reply{}, err
		}
		if err == nil {
			err = out.record(r)
		}
		if err != nil {
			c.log.Info("audit records cut off", "id", q.id, "error", err.Error())
			panic(http.ErrAbortHandler) // so that what was sent does not look whole
		}
	}
	_ = out.line(nil) // an error means that the reader is gone
	return reply{status: http.StatusOK, served: true}, nil
}

// beat writes empty lines until ctx ends, and ends it with the control plane or
// a reader that is gone.
func (c *ControlPlane) beat(ctx context.Context, cancel context.CancelFunc, out *recordWriter) {
	defer cancel()
	beat := time.NewTicker(recordBeat)
	defer beat.Stop()
	for {
		select {
		case <-beat.C:
		case <-ctx.Done():
			return
		case <-c.stopped:
			return
		}
		if out.line([]byte("\n")) != nil {
			return
		}
	}
}

// recordWriter writes lines, of records and heartbeats, from two goroutines.
type recordWriter struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	out   *http.ResponseController
	wrote bool
}

func (w *recordWriter) begun() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wrote
}

func (w *recordWriter) record(r audit.Record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return w.line(append(text, '\n'))
}

// line writes a line, or with none only sees to it that the answer has begun.
func (w *recordWriter) line(text []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.wrote {
		w.w.Header().Set("Content-Type", "application/x-ndjson")
		w.wrote = true
	}
	return writeLine(w.w, w.out, text)
}

// getAuditRecord shows the records of one request.
func (c *ControlPlane) getAuditRecord(ctx context.Context, q *request) (reply, error) {
	if c.cfg.Records == nil {
		return reply{}, arm.NoRoute(q.path)
	}
	visible, err := q.visible(ctx)
	if err != nil {
		return reply{}, err
	}
	found, err := c.cfg.Records.Find(ctx, q.vars["record"])
	if err != nil {
		return reply{}, err
	}
	// Somebody else's is not there.
	if found = slices.DeleteFunc(found, func(r audit.Record) bool { return !visible(r) }); len(found) == 0 {
		return reply{}, fmt.Errorf("no request %s in the audit log: %w", q.vars["record"], access.ErrNotFound)
	}
	return reply{status: http.StatusOK, body: q.extension(map[string]any{"records": found})}, nil
}

// visible says which records the caller may see through the path's
// subscription, which he owns: those of what is in it. A record that belongs
// to no subscription, such as of a request whose path could not be read, is for
// an operator of this installation.
func (q *request) visible(ctx context.Context) (func(audit.Record) bool, error) {
	operator := q.checkOperator(ctx)
	if operator != nil && arm.FromError(operator).Status != http.StatusForbidden {
		return nil, operator
	}
	own := q.vars["subscription"]
	return func(r audit.Record) bool {
		of := subscriptionOf(r)
		return strings.EqualFold(of, own) || of == "" && operator == nil
	}, nil
}

// subscriptionOf is the subscription that a record belongs to, "" for none. A
// path counts only where we have parsed it.
func subscriptionOf(r audit.Record) string {
	text := r.Cluster
	if text == "" && r.Stage == audit.Consent {
		text = r.Path
	}
	segments := strings.SplitN(text, "/", 4) // "", subscriptions, GUID, the rest
	if len(segments) < 3 || !strings.EqualFold(segments[1], "subscriptions") {
		return ""
	}
	return segments[2]
}

// auditQuery is what a reader asks for.
type auditQuery struct {
	audit.Query
	cluster, binding string // "" for any
	refused          bool   // only what was refused, here or by the cluster, or cut off
}

// readQuery reads a query. What it does not know it refuses: a filter that is
// ignored shows what was not asked for.
func readQuery(values url.Values) (auditQuery, error) {
	ask := auditQuery{Query: audit.Query{Last: defaultLast}}
	for name, all := range values {
		value, err := all[len(all)-1], error(nil)
		switch name {
		case "api-version":
		case "cluster":
			var id access.ResourceID
			id, err = access.ParseResourceID(value)
			ask.cluster = id.String()
		case "binding":
			ask.binding = value
		case "refused":
			ask.refused, err = strconv.ParseBool(value)
		case "follow":
			ask.Follow, err = strconv.ParseBool(value)
		case "since":
			ask.Since, err = time.Parse(time.RFC3339, value)
		case "last":
			ask.Last, err = strconv.Atoi(value)
			if err == nil && (ask.Last < 0 || ask.Last > mostLast) {
				err = fmt.Errorf("it must be 0 to %d", mostLast)
			}
		default:
			return ask, arm.InvalidParameter(access.Clip(name, 100), "There is no such parameter; there are cluster, binding, refused, since, last and follow.")
		}
		if err != nil {
			return ask, arm.InvalidParameter(name, "'%s' cannot be read: %v.", access.Clip(value, 100), access.Message(err))
		}
	}
	return ask, nil
}

func (ask auditQuery) matches(r audit.Record) bool {
	if ask.cluster != "" && !strings.EqualFold(ask.cluster, r.Cluster) || ask.binding != "" && !strings.EqualFold(ask.binding, r.Binding) {
		return false
	}
	return !ask.refused || isRefusal(r)
}

// isRefusal is also true of what the cluster refused, and of what was cut off.
func isRefusal(r audit.Record) bool {
	switch r.Stage {
	case audit.Complete:
		return r.Status == http.StatusForbidden || r.Status == http.StatusUnauthorized || r.Reason != "" && r.Reason != context.Canceled.Error()
	case audit.Revoked:
		return true
	}
	return r.Allowed != nil && !*r.Allowed
}
