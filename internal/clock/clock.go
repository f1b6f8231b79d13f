package clock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/durable"
)

// keepEvery is how often the time is written to the file. A kill loses as much.
const keepEvery = time.Minute

// Clock is the time for ends of access. It is safe for concurrent use.
type Clock struct {
	now   func() time.Time
	begun time.Time // by now, with its monotonic part
	floor time.Time // from the file
	path  string
}

// New returns a clock that knows of no process before this one. The times of now
// must have a monotonic part, as those of [time.Now] do.
func New(now func() time.Time) *Clock { return &Clock{now: now, begun: now()} }

// Open is New with a file, in which [Clock.Run] keeps the time for the next
// process. A file of a time that is still to come is told to log.
func Open(path string, now func() time.Time, log *slog.Logger) (*Clock, error) {
	c := New(now)
	c.path = path
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		c.floor, err = time.Parse(time.RFC3339Nano, strings.TrimSpace(string(text)))
	}
	if err != nil {
		return nil, fmt.Errorf("the time that an earlier server saw: %w; delete %s to trust this machine's clock", err, path)
	}
	if behind := c.floor.Sub(wall(c.begun)); behind > 0 {
		log.Warn("the clock is behind what an earlier server saw; access that had ended by then stays ended", "by", behind, "seen", c.floor,
			"hint", "set this machine's clock; if it is right, stop the server, delete "+path+" and start again")
	}
	return c, nil
}

// Now is the time that ends of access are held against, in UTC and without a
// monotonic part.
func (c *Clock) Now() time.Time {
	now := c.now()
	return latest(wall(now), c.passed(now))
}

// passed is the time by what has passed, whatever the wall clock says.
func (c *Clock) passed(now time.Time) time.Time {
	return latest(wall(c.begun.Add(now.Sub(c.begun))), c.floor)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func wall(t time.Time) time.Time { return t.Round(0).UTC() }

// Run keeps the file until ctx ends, and then returns nil. A disk that takes no
// more is told of by those who must write there; meanwhile the clock goes on.
func (c *Clock) Run(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for failing := false; ; {
		err := durable.Replace(c.path, []byte(c.passed(c.now()).Format(time.RFC3339Nano)+"\n"))
		if err != nil && !failing {
			failed(fmt.Errorf("the time is not kept for the next start: %w", err))
		}
		failing = err != nil
		if ctx.Err() != nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done(): // once more, and then it ends
		}
	}
}
