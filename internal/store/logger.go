package store

import (
	"context"
	"log/slog"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapTo returns the logger that etcd asks for, writing warnings and worse to
// log. etcd's own default would write to standard error.
func zapTo(log *slog.Logger) *zap.Logger {
	return zap.New(slogCore{log.With("component", "etcd")})
}

// slogCore is a zap core that hands its entries to slog.
type slogCore struct{ log *slog.Logger }

// Enabled admits warnings and worse: below them etcd narrates.
func (c slogCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

// With adds fields to every later entry.
func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	return slogCore{c.log.With(attributes(fields)...)}
}

// Check adds the core to an entry that it wants.
func (c slogCore) Check(entry zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return to.AddCore(entry, c)
	}
	return to
}

// Write hands one entry over.
func (c slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if entry.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	attrs := attributes(fields)
	if isExpected(entry.Message, attrs) {
		level = slog.LevelDebug
	}
	if entry.Level > zapcore.ErrorLevel { // the process ends with this line
		attrs = append(attrs, "hint", "etcd must not go on unsure of its disk and ends this process; free space on the data folder's disk, or mend it, and start again: nothing acknowledged is lost")
	}
	c.log.Log(context.Background(), level, entry.Message, attrs...)
	return nil
}

// isExpected tells of what etcd warns of at every start, or at the first, of a
// server that is as it should be: it has no port to share, and in a new folder
// there is no version yet. The same words with another cause are not expected.
func isExpected(message string, attrs []any) bool {
	switch message {
	case "Running http and grpc server on single port. This is not recommended for production.":
		return true
	case "Failed to detect schema version", "failed to update storage version":
		for _, a := range attrs {
			if attr, ok := a.(slog.Attr); ok && attr.Key == "error" {
				return strings.HasSuffix(attr.Value.String(), "missing term information")
			}
		}
	}
	return false
}

// Sync has nothing to flush.
func (slogCore) Sync() error { return nil }

// attributes encodes zap's fields as slog's. A slow request is logged by etcd
// with its keys and sizes, not with values.
func attributes(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	attrs := make([]any, 0, len(fields))
	for name, value := range enc.Fields {
		attrs = append(attrs, slog.Any(name, value))
	}
	return attrs
}
