package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/access"
)

// AuditRecord is one record of the audit log: of a request's decision or its
// completion, of a write of consent, or of a revocation that cut requests off.
type AuditRecord struct {
	Body
	Time  time.Time `json:"time"`
	Stage string    `json:"stage"` // decision, complete, consent or revoked
	ID    string    `json:"id"`    // of the request; the cluster's own audit log has it too

	TenantID string `json:"tenantId"`
	ObjectID string `json:"objectId"`
	Source   string `json:"source"`
	Remote   string `json:"remote"`

	Cluster     string   `json:"cluster"`
	Binding     string   `json:"binding"`
	BindingUID  string   `json:"bindingUid"`
	Roles       []string `json:"roles"`
	Method      string   `json:"method"`
	Path        string   `json:"path"`
	Verb        string   `json:"verb"`
	APIGroup    string   `json:"apiGroup"`
	Resource    string   `json:"resource"`
	Subresource string   `json:"subresource"`
	Namespace   string   `json:"namespace"`
	Name        string   `json:"name"`
	Action      string   `json:"action"`

	Allowed  *bool         `json:"allowed"` // nil where nothing was decided
	Reason   string        `json:"reason"`
	Status   int           `json:"status"`
	Bytes    int64         `json:"bytes"`
	Duration time.Duration `json:"durationNs"`
	Cut      int           `json:"cut"`
	Skipped  int           `json:"skipped"`
}

// AuditQuery says which records to read.
type AuditQuery struct {
	Cluster access.ResourceID // zero for every cluster of the subscription
	Binding string            // "" for every binding
	Refused bool              // only what was refused, here or by the cluster, or cut off
	Since   time.Time         // zero for any time
	Last    int               // how many of the newest requests to begin with, at most 10000
	Follow  bool              // go on with the records that come
}

// recordSilence is how long a server that is followed may say nothing; it says
// something each 10 s.
const recordSilence = 30 * time.Second

// auditRecordsPath is our extension resource of a subscription.
func auditRecordsPath(subscription access.ResourceID) string {
	return subscription.String() + "/providers/Sallyport.Gateway/auditRecords"
}

// AuditRecords reads the newest records of a subscription, oldest first, and
// with Follow those that come. An error ends it: the context's, an [*Error] of a
// refusal, or one that wraps access.ErrUnavailable, also when a server that is followed
// ends the stream, as it does with the token.
func (c *Client) AuditRecords(ctx context.Context, subscription access.ResourceID, q AuditQuery) iter.Seq2[AuditRecord, error] {
	return func(yield func(AuditRecord, error) bool) {
		if err := c.auditRecords(ctx, subscription, q, func(r AuditRecord) bool { return yield(r, nil) }); err != nil {
			yield(AuditRecord{}, fmt.Errorf("audit records: %w", err))
		}
	}
}

func (c *Client) auditRecords(ctx context.Context, subscription access.ResourceID, q AuditQuery, give func(AuditRecord) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(recordSilence, func() {
		cancel(fmt.Errorf("nothing heard from the server for %s: %w", recordSilence, access.ErrUnavailable))
	})
	defer silence.Stop()
	token, err := c.token(ctx)
	if err != nil {
		return fmt.Errorf("token for %s: %w", c.base, err)
	}
	u := c.resolve(auditRecordsPath(subscription), genericVersion)
	u.RawQuery += "&" + q.values().Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "application/x-ndjson, application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return transportError(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody)) // a broken body leaves the status
		return newError(resp.StatusCode, resp.Header, body)
	}
	lines := bufio.NewScanner(alive{resp.Body, silence, recordSilence})
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var r AuditRecord
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("a line that is no record: %w: %w", err, access.ErrUnavailable)
		}
		r.keep(bytes.Clone(line))
		if !give(r) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return transportError(ctx, err)
	}
	if q.Follow && ctx.Err() == nil {
		return fmt.Errorf("the server ended the stream: %w", access.ErrUnavailable)
	}
	return nil
}

func (q AuditQuery) values() url.Values {
	v := url.Values{"last": {strconv.Itoa(q.Last)}}
	if !q.Cluster.IsZero() {
		v.Set("cluster", q.Cluster.String())
	}
	if q.Binding != "" {
		v.Set("binding", q.Binding)
	}
	if q.Refused {
		v.Set("refused", "true")
	}
	if q.Follow {
		v.Set("follow", "true")
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339))
	}
	return v
}

// RequestRecords is what the audit log has of one request.
type RequestRecords struct {
	Body
	Records []AuditRecord
}

// UnmarshalJSON reads the properties, wrapped or not.
func (r *RequestRecords) UnmarshalJSON(b []byte) error {
	var properties struct {
		Records []AuditRecord `json:"records"`
	}
	err := decodeProperties(b, &properties)
	r.Records = properties.Records
	return err
}

// AuditRecord reads the records of one request, oldest first, by its id, a
// GUID. Without any the error wraps access.ErrNotFound.
func (c *Client) AuditRecord(ctx context.Context, subscription access.ResourceID, id string) (RequestRecords, error) {
	if !access.IsGUID(id) {
		return RequestRecords{}, fmt.Errorf("request id %q must be a GUID: %w", access.Clip(id, 100), access.ErrInvalid)
	}
	var r RequestRecords
	return r, c.get(ctx, auditRecordsPath(subscription)+"/"+id, genericVersion, &r)
}
