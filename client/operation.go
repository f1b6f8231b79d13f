package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Polling, when the server does not say how long to wait: 10 s, as Terraform's
// SDK does (spec/trusted-access.md 4.2).
const (
	defaultPoll = 10 * time.Second
	minPoll     = 100 * time.Millisecond
	maxPoll     = time.Minute
	// maxOutage is how long polls may fail to reach the server: operations
	// survive its restart, so a short outage is no answer.
	maxOutage = time.Minute
)

// Operation is the state of a long-running write.
type Operation struct {
	Name   string                 `json:"name"` // a GUID
	Status access.OperationStatus `json:"status"`
	Start  time.Time              `json:"startTime"`
	End    time.Time              `json:"endTime"`
}

// Poller follows one accepted write to its end.
type Poller struct {
	client *Client
	// exactly one of these is set, none when the write is already done
	status   *url.URL // Azure-AsyncOperation: answers an Operation
	location *url.URL // Location: 202 until done
	resource *url.URL // the resource itself, until its provisioningState is final

	next time.Duration // wait before the next poll
	last error         // a final state seen in the reply to the write
}

// newPoller picks what to poll from the reply to a PUT or DELETE, preferring
// Azure-AsyncOperation as ARM's clients do (spec/identity.md 6.7).
func (c *Client) newPoller(r reply, resource *url.URL) (*Poller, error) {
	p := &Poller{client: c, next: pollInterval(r.header)}
	var err error
	switch {
	case r.header.Get("Azure-AsyncOperation") != "":
		p.status, err = c.follow(r.header.Get("Azure-AsyncOperation"))
	case r.status == http.StatusAccepted && r.header.Get("Location") != "":
		p.location, err = c.follow(r.header.Get("Location"))
	case r.status == http.StatusAccepted:
		err = fmt.Errorf("accepted, but without an operation to follow: %w", access.ErrUnavailable)
	case len(r.body) > 0:
		var done bool
		if done, p.last = provisioned(r); !done {
			p.resource = resource
		}
	}
	return p, err
}

// Done reports whether the write was over with its reply.
func (p *Poller) Done() bool { return p.status == nil && p.location == nil && p.resource == nil }

// Wait polls until the operation ends, and calls progress, if not nil, after
// each poll, in this goroutine. It ends at the latest after the client's
// WaitTimeout. The error is an [*Error] with Operation set when the operation
// failed, and wraps access.ErrUnavailable when the end could not be learnt.
func (p *Poller) Wait(ctx context.Context, progress func(Operation)) error {
	if p.Done() {
		return p.last
	}
	limit, cancel := context.WithTimeoutCause(ctx, p.client.waitTimeout,
		fmt.Errorf("operation still running after %s: %w", p.client.waitTimeout, access.ErrUnavailable))
	defer cancel()
	var outage time.Time // since when polls fail
	// Most writes are in force within a fraction of a second, so the first
	// polls come sooner than the server's advice, which is meant for minutes.
	for eager := firstPoll; ; eager = min(2*eager, maxPoll) {
		if sleep(limit, min(p.next, eager)) != nil {
			return fmt.Errorf("wait for operation: %w", context.Cause(limit))
		}
		op, done, err := p.poll(limit)
		switch {
		case err == nil:
			outage = time.Time{}
		case done || !errors.Is(err, access.ErrUnavailable) || limit.Err() != nil:
			return err
		case outage.IsZero():
			outage = time.Now()
		case time.Since(outage) > maxOutage:
			return err
		}
		if progress != nil && err == nil {
			progress(op)
		}
		if done {
			return nil
		}
	}
}

// poll asks once. An error with done is the operation's own end.
func (p *Poller) poll(ctx context.Context) (op Operation, done bool, err error) {
	u := p.status
	if u == nil {
		u = p.location
	}
	if u == nil {
		u = p.resource
	}
	r, err := p.client.send(ctx, http.MethodGet, u, nil)
	if err != nil {
		return op, false, err
	}
	p.next = pollInterval(r.header)
	op.Status = access.OperationInProgress
	switch {
	case p.location != nil:
		done = r.status != http.StatusAccepted
	case p.resource != nil:
		done, err = provisioned(r)
	default:
		return statusOf(r)
	}
	if done {
		op.Status = access.OperationSucceeded
	}
	return op, done, err
}

// statusOf reads the answer of an operation's URL. Only three words end it;
// anything else means running.
func statusOf(r reply) (op Operation, done bool, err error) {
	var body struct {
		Operation
		errorBody
	}
	if err := json.Unmarshal(r.body, &body); err != nil {
		return op, true, fmt.Errorf("operation's reply with status %d: %w", r.status, err)
	}
	op = body.Operation
	switch op.Status {
	case access.OperationSucceeded:
		return op, true, nil
	case access.OperationFailed, access.OperationCanceled:
		e := &Error{Status: r.status, Operation: op.Status, RequestID: op.Name}
		e.fill(body.errorBody)
		return op, true, e
	}
	return op, false, nil
}

// provisioned reads provisioningState from a resource's body; a resource that
// has none is done.
func provisioned(r reply) (done bool, err error) {
	var body struct {
		Properties struct {
			State access.State `json:"provisioningState"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(r.body, &body); err != nil {
		return true, fmt.Errorf("reply with status %d: %w", r.status, err)
	}
	switch body.Properties.State {
	case "", access.Succeeded:
		return true, nil
	case access.Failed, access.Canceled:
		return true, &Error{
			Status: r.status, Operation: access.OperationStatus(body.Properties.State),
			Message: "the resource's provisioningState is " + string(body.Properties.State), RequestID: r.header.Get("X-Ms-Request-Id"),
		}
	}
	return false, nil
}

// firstPoll is the wait before the first poll; it doubles up to what the
// server advises.
const firstPoll = 50 * time.Millisecond

func pollInterval(h http.Header) time.Duration {
	if wait, ok := retryAfter(h, time.Now()); ok {
		return min(max(wait, minPoll), maxPoll)
	}
	return defaultPoll
}

// put writes a resource and returns what follows the write.
func (c *Client) put(ctx context.Context, path, version string, body any, v keeper) (*Poller, error) {
	u := c.resolve(path, version)
	r, err := c.send(ctx, http.MethodPut, u, body)
	if err != nil {
		return nil, err
	}
	if err := r.into(v); err != nil {
		return nil, err
	}
	return c.newPoller(r, u)
}

// remove deletes a resource. existed is false when there was none (204).
func (c *Client) remove(ctx context.Context, path, version string) (existed bool, p *Poller, err error) {
	u := c.resolve(path, version)
	r, err := c.send(ctx, http.MethodDelete, u, nil)
	if err != nil {
		return false, nil, err
	}
	r.body = nil // of a deleted resource; nothing to follow in it
	p, err = c.newPoller(r, u)
	return r.status != http.StatusNoContent, p, err
}
