package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
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
	var child childExit
	if errors.As(err, &child) {
		return int(child)
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
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: start 'sallyport server', or name another server's operator file with --operator"
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return "the server is not the one that wrote the operator file: its certificate is of another CA, or for another name"
	case errors.Is(err, access.ErrNotFound):
		return notFoundHint(err)
	case errors.Is(err, access.ErrUnauthenticated):
		return "the operator file (--operator) may belong to another server, or be older than the server's data"
	case errors.Is(err, access.ErrForbidden):
		return "a role assignment must allow it at that scope ('az role assignment list' shows who has which), and a source may never consent for itself"
	}
	return ""
}

// notFoundHint says where to look for the right name.
func notFoundHint(err error) string {
	var e *client.Error
	switch {
	case !errors.As(err, &e):
		return ""
	case e.Code == "SubscriptionNotFound":
		return "the operator file names the subscription unless --subscription does; 'sallyport cluster register' creates one that is missing"
	case e.Code == "ResourceGroupNotFound":
		return "-g names the resource group; 'sallyport cluster list' shows the clusters of all"
	case e.Subcode == "GetTrustedAccessRoleBinding_NotFound":
		return "'sallyport rolebinding list --cluster-name CLUSTER' shows what there is"
	case strings.Contains(e.Message, access.ClusterType):
		return "'sallyport cluster list' shows what there is, and 'sallyport cluster register' adds one"
	case e.Code == "ResourceNotFound" && strings.Contains(e.Message, "in the audit log"):
		return "the id of a request is in its refusal and in 'sallyport audit tail'; records older than the server's --audit-keep are gone"
	case e.Code == "ResourceNotFound" && strings.HasPrefix(e.Message, "The Resource '"):
		return "'sallyport resource list' shows the sources there are; -g names the resource group"
	}
	return ""
}

func exitCode(err error) int {
	var usage usageError
	var child childError
	switch {
	case errors.As(err, &child):
		return child.code
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
