package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
)

// tiny rotates at each second or third record.
func tiny(t *testing.T, now *clock) *audit.File {
	return openWith(t, audit.Config{Path: filepath.Join(t.TempDir(), "audit.log"), MaxSize: 200, Now: now.Now})
}

func ids(t *testing.T, records iter.Seq2[audit.Record, error]) string {
	t.Helper()
	var all []string
	for r, err := range records {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r.ID)
	}
	return strings.Join(all, " ")
}

func TestTail(t *testing.T) {
	now := newClock()
	start := now.Now()
	f := tiny(t, now)
	// Request r's decision and completion, with a minute in between.
	for i, id := range []string{"a", "r", "b", "c", "d", "r", "e"} {
		if err := f.Log(audit.Record{Time: now.Now(), ID: id, Source: []string{"even", "odd"}[i%2]}); err != nil {
			t.Fatal(err)
		}
		now.add(5 * time.Minute)
	}
	for name, c := range map[string]struct {
		q    audit.Query
		want string
	}{
		"all":                {audit.Query{Last: 100}, "a r b c d r e"},
		"none":               {audit.Query{}, ""},
		"the last":           {audit.Query{Last: 1}, "e"},
		"two of one request": {audit.Query{Last: 5}, "r b c d r e"},
		"since":              {audit.Query{Last: 100, Since: start.Add(20 * time.Minute)}, "d r e"},
		"since, few":         {audit.Query{Last: 2, Since: start.Add(20 * time.Minute)}, "r e"},
		"since later":        {audit.Query{Last: 9, Since: start.Add(31 * time.Minute)}, ""},
		"matching":           {audit.Query{Last: 100, Match: func(r audit.Record) bool { return r.Source == "odd" }}, "r c r"},
		"matching, few":      {audit.Query{Last: 1, Match: func(r audit.Record) bool { return r.Source == "odd" }}, "r"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ids(t, f.Tail(t.Context(), c.q)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for r, err := range f.Tail(canceled, audit.Query{Last: 100}) {
		if !errors.Is(err, access.ErrUnavailable) {
			t.Errorf("%v, %v", r, err)
		}
	}
}

// A reader that follows gets every record once and in order, over rotations
// and beside writers, and ends with its context.
func TestFollow(t *testing.T) {
	const records = 500
	f := tiny(t, newClock())
	log(t, f, "before-1", "before-2")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	started := make(chan struct{})
	go func() {
		<-started
		for i := range records {
			if err := f.Log(audit.Record{ID: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		}
	}()
	var got []string
	for r, err := range f.Tail(ctx, audit.Query{Last: 1, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.ID == "before-2" {
			close(started)
			continue
		}
		if got = append(got, r.ID); len(got) == records {
			cancel()
		}
	}
	for i := range records {
		if i >= len(got) || got[i] != fmt.Sprint(i) {
			t.Fatalf("%d records, and number %d is another: %v", len(got), i, got[:min(i+1, len(got))])
		}
	}
}

// Following waits for no time and no writer, so it is only seen to wait.
func TestFollowEndsWithTheFile(t *testing.T) {
	f := tiny(t, newClock())
	log(t, f, "a")
	for range f.Tail(t.Context(), audit.Query{Last: 1, Follow: true}) {
		f.Close()
	}
	for _, err := range f.Tail(t.Context(), audit.Query{Follow: true}) {
		if !errors.Is(err, access.ErrUnavailable) {
			t.Errorf("error %v", err)
		}
	}
}

func TestReadersHaveALimit(t *testing.T) {
	f := tiny(t, newClock())
	log(t, f, "a")
	var nest func(depth int) error
	nest = func(depth int) error {
		for _, err := range f.Tail(t.Context(), audit.Query{Last: 1, Follow: true}) {
			if err != nil || depth == 0 {
				return err
			}
			return nest(depth - 1)
		}
		return nil
	}
	if err := nest(60); err != nil {
		t.Errorf("60 readers: %v", err)
	}
	if err := nest(100); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("100 readers: %v", err)
	}
	if err := nest(60); err != nil {
		t.Errorf("60 readers, when the others are gone: %v", err)
	}
}

func TestFind(t *testing.T) {
	now := newClock()
	f := tiny(t, now)
	long, short, both, lone := uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString()
	for _, r := range []audit.Record{
		{ID: long, Stage: audit.Decision},
		{ID: uuid.NewString(), Reason: "of " + short},
		{ID: short, Stage: audit.Decision}, {ID: short, Stage: audit.Complete},
		{ID: uuid.NewString()}, {ID: uuid.NewString()},
		{ID: both, Stage: audit.Consent}, {ID: lone, Stage: audit.Revoked},
		{ID: long, Stage: audit.Complete},
	} {
		if err := f.Log(r); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		id     string
		stages string
		err    error
	}{
		"over several files": {long, "[decision complete]", nil},
		"together":           {short, "[decision complete]", nil},
		"in capitals":        {strings.ToUpper(both), "[consent]", nil},
		"a revocation":       {lone, "[revoked]", nil},
		"unknown":            {uuid.NewString(), "[]", access.ErrNotFound},
		"no id":              {"' or 1", "[]", access.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := f.Find(t.Context(), c.id)
			stages := []audit.Stage{}
			for _, r := range found {
				stages = append(stages, r.Stage)
			}
			if fmt.Sprint(stages) != c.stages || !errors.Is(err, c.err) {
				t.Errorf("%v, %v", stages, err)
			}
		})
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Find(canceled, long); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("with no time left: %v", err)
	}
}

// A line that is no record is told of, and hides none.
func TestUnreadableLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	id := uuid.NewString()
	if err := os.WriteFile(path, []byte(`{"id":"a"}`+"\nnonsense\n"+`{"id":"`+id+`"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	var stages []audit.Stage
	for r, err := range f.Tail(t.Context(), audit.Query{Last: 9}) {
		if err != nil {
			t.Fatal(err)
		}
		stages = append(stages, r.Stage)
	}
	if !slices.Equal(stages, []audit.Stage{"", audit.Unreadable, ""}) {
		t.Errorf("stages %q", stages)
	}
	if _, err := f.Find(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// FuzzBackward holds the two ways to read lines against each other.
func FuzzBackward(f *testing.F) {
	for _, s := range []string{"", "\n", "a\n", "a\n\nb\n", strings.Repeat("x", 64<<10) + "\n", strings.Repeat("x", 64<<10-1) + "\ny\n", strings.Repeat("ab\n", 50000), strings.Repeat("x", 200<<10) + "\nz\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.ReplaceAll(data, []byte("\r"), nil) // which the scanner drops at ends
		if len(data) > 0 && data[len(data)-1] != '\n' {
			data = append(data, '\n')
		}
		read := func(lines iter.Seq2[[]byte, error]) (all []string) {
			for line, err := range lines {
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, string(line))
			}
			return all
		}
		want := read(audit.Forward(bytes.NewReader(data), 0, int64(len(data))))
		got := read(audit.Backward(bytes.NewReader(data), int64(len(data))))
		slices.Reverse(got)
		if !slices.Equal(got, want) {
			t.Errorf("backward %d lines, forward %d", len(got), len(want))
		}
	})
}
