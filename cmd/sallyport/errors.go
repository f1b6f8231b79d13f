package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
)

// Exit codes; doc.go and the root command's help explain them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitConflict    = 5
	exitUnavailable = 6
)

// usageError is a wrong command line: nothing was sent.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// asUsage marks an error about a flag's value.
func asUsage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// hintedError is an error that the user can do something about.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

func withHint(err error, format string, args ...any) error {
	return hintedError{err, fmt.Sprintf(format, args...)}
}

// report prints an error with its hint and returns the exit code.
func (c *cli) report(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(c.stderr, "error: %s\n", printable(access.Message(err)))
	if hint := hintOf(cmd, err); hint != "" {
		fmt.Fprintf(c.stderr, "hint: %s\n", printable(hint))
	}
	return exitCode(err)
}

func hintOf(cmd *cobra.Command, err error) string {
	var hinted hintedError
	var usage usageError
	switch {
	case errors.As(err, &hinted):
		return hinted.hint
	case errors.As(err, &usage) && cmd != nil:
		return fmt.Sprintf("see '%s --help'", cmd.CommandPath())
	case errors.Is(err, access.ErrUnauthenticated):
		return "the operator file (--operator) may belong to another server, or be older than the server's data"
	case errors.Is(err, access.ErrForbidden):
		return "only owners of the subscription may do this, and a resource's own identity never"
	}
	return ""
}

func exitCode(err error) int {
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, access.ErrNotFound):
		return exitNotFound
	case errors.Is(err, access.ErrUnauthenticated), errors.Is(err, access.ErrForbidden):
		return exitRefused
	case errors.Is(err, access.ErrConflict):
		return exitConflict
	case errors.Is(err, access.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return exitUnavailable
	}
	return exitFailed
}

// printable keeps a server's or a cluster's text from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
