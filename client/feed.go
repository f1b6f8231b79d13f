package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/access"
)

// FeedServer is the name by which an agent calls the gateway over the
// connection it dialled. It is never looked up: the connection is the address.
const FeedServer = "https://gateway.sallyport.internal"

// Limits of the feed.
const (
	maxLine       = 8 << 20
	feedSilence   = 5 * time.Second // the server writes each second
	reportTimeout = 10 * time.Second
)

// errSilent is why a feed without news ends.
var errSilent = fmt.Errorf("nothing heard from the gateway for %s: %w", feedSilence, access.ErrUnavailable)

// Feed is the agent's side of the control plane: what to make true, and what
// has become of it.
type Feed struct {
	http http.Client
}

// NewFeed uses a transport that presents the agent's certificate.
func NewFeed(rt http.RoundTripper) *Feed {
	return &Feed{http: *httpClient(&http.Client{Transport: rt}, nil)}
}

// Desired reads GET /v1/desired, one whole access.Desired on each line, and
// calls f with each in this goroutine. It returns only with an error: the
// context's, an [*Error] of a refusal, or one that wraps access.ErrUnavailable when the
// stream ends, is silent for 5 s or cannot be read. Time spent in f does not
// count as silence. The caller connects again.
func (c *Feed) Desired(ctx context.Context, f func(access.Desired)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(feedSilence, func() { cancel(errSilent) })
	defer silence.Stop()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, FeedServer+"/v1/desired", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/x-ndjson")
	resp, err := c.http.Do(req)
	if err != nil {
		return transportError(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxMessage)) // a broken body leaves the status
		return newError(resp.StatusCode, resp.Header, body)
	}
	lines := bufio.NewScanner(alive{resp.Body, silence, feedSilence})
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		var d access.Desired
		if err := json.Unmarshal(line, &d); err != nil {
			return fmt.Errorf("desired state: %w: %w", err, access.ErrUnavailable)
		}
		if !silence.Stop() { // it fired while the line arrived
			break
		}
		f(d)
		if ctx.Err() != nil {
			break
		}
		silence.Reset(feedSilence)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("desired state: %w", context.Cause(ctx))
	}
	err = lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("desired state: line of more than %d bytes: %w", maxLine, access.ErrUnavailable)
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("desired state: stream ended: %w: %w", err, access.ErrUnavailable)
}

// alive puts off the end by silence with each read that brings bytes.
type alive struct {
	io.Reader
	silence *time.Timer
	limit   time.Duration
}

func (a alive) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if n > 0 && a.silence.Stop() {
		a.silence.Reset(a.limit)
	}
	return n, err
}

// Report sends POST /v1/report. The latest report holds, so a lost one is
// simply sent again by the caller.
func (c *Feed) Report(ctx context.Context, report access.Report) error {
	payload, err := json.Marshal(report)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	_, err = roundTrip(ctx, &c.http, reportTimeout, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, FeedServer+"/v1/report", bytes.NewReader(payload))
		if err == nil {
			req.Header.Set("Content-Type", "application/json")
		}
		return req, err
	})
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
