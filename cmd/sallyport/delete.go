package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

// deletion is one delete verb's work.
type deletion struct {
	what        string // such as "cluster prod"
	id          access.ResourceID
	yes, noWait bool
	remove      func(*client.Client, context.Context, access.ResourceID) (bool, *client.Poller, error)
}

func addDeleteFlags(cmd *cobra.Command, yes, noWait *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "do not ask for confirmation")
	cmd.Flags().BoolVar(noWait, "no-wait", false, "return when the request is accepted")
}

// delete asks, deletes and waits. What does not exist is deleted already, as
// ARM has it (204).
func (c *cli) delete(ctx context.Context, d deletion) error {
	api, err := c.connect()
	if err != nil {
		return err
	}
	if err := c.confirm(d); err != nil {
		return err
	}
	existed, poller, err := d.remove(api, ctx, d.id)
	if err != nil {
		return err
	}
	if !existed {
		c.notef("%s did not exist", d.what)
		return nil
	}
	if d.noWait {
		return nil
	}
	if err := c.follow(ctx, d.what, poller, nil); err != nil {
		return err
	}
	c.notef("%s deleted", d.what)
	return nil
}

func (c *cli) confirm(d deletion) error {
	if d.yes {
		return nil
	}
	fmt.Fprintf(c.stderr, "Delete %s (%s)? (y/n): ", printable(d.what), printable(d.id.String()))
	line, err := bufio.NewReader(io.LimitReader(c.stdin, 1024)).ReadString('\n')
	answer := strings.ToLower(strings.TrimSpace(line))
	if answer == "y" || answer == "yes" {
		return nil
	}
	if err != nil && answer == "" {
		fmt.Fprintln(c.stderr)
		return withHint(usagef("no confirmation was given"), "add --yes to delete without asking")
	}
	return fmt.Errorf("%s was not deleted: not confirmed", d.what)
}
