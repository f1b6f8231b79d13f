package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

// newListCommand lists one kind in the subscription, or with -g in a group.
// The caller gives it its Short and Example.
func newListCommand[T any](
	c *cli, list func(*client.Client, context.Context, access.ResourceID) ([]T, error),
	heading []string, row func(T) []string, raw func(T) json.RawMessage,
) *cobra.Command {
	return &cobra.Command{
		Use:  "list",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			scope, err := c.listScope()
			if err != nil {
				return err
			}
			api, err := c.connect()
			if err != nil {
				return err
			}
			items, err := list(api, cmd.Context(), scope)
			if err != nil {
				return err
			}
			rows := [][]string{heading}
			for _, item := range items {
				rows = append(rows, row(item))
			}
			return c.print(listBody(items, raw), rows...)
		},
	}
}
