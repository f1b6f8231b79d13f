package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

// identityFile lets a process get tokens of one resource's identity. It holds a
// secret.
type identityFile struct {
	Resource access.ResourceID `json:"resource"`
	Endpoint string            `json:"identityEndpoint"`
	Header   string            `json:"identityHeader"`
}

func writeIdentity(f identityFlags, id access.ResourceID, cred client.IdentityCredentials) error {
	data, err := json.MarshalIndent(identityFile{Resource: id, Endpoint: cred.Endpoint, Header: cred.Header}, "", "  ")
	if err != nil {
		return err
	}
	return writePrivate(f.file, append(data, '\n'), f.overwrite)
}

// loadIdentity reads an identity file, or with no path the variables by which
// App Service tells a process of its identity (spec/identity.md 2.2).
func loadIdentity(path string) (identityFile, error) {
	if path == "" {
		id := identityFile{Endpoint: os.Getenv("IDENTITY_ENDPOINT"), Header: os.Getenv("IDENTITY_HEADER")}
		if id.Endpoint == "" || id.Header == "" {
			return id, withHint(usagef("no managed identity: IDENTITY_ENDPOINT and IDENTITY_HEADER are not both set"),
				"set them, or name an identity file with --identity-file ('sallyport resource identity' writes one)")
		}
		return id, nil
	}
	data, err := readPrivate(path)
	if err != nil {
		return identityFile{}, fmt.Errorf("identity file: %w", err)
	}
	var id identityFile
	if json.Unmarshal(data, &id) != nil || id.Endpoint == "" || id.Header == "" {
		// The cause could quote the secret.
		return id, withHint(fmt.Errorf("identity file %s does not hold identityEndpoint and identityHeader: %w", path, access.ErrInvalid),
			"'sallyport resource identity --identity-file' writes one")
	}
	return id, nil
}

func newResourceIdentityCommand(c *cli) *cobra.Command {
	var f resourceFlags
	var identity identityFlags
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Get what a process needs to use a resource's identity",
		Long: `Gets the endpoint and the secret with which a process gets tokens of a resource's
identity, as IDENTITY_ENDPOINT and IDENTITY_HEADER: Azure's SDKs know both. They go to
a file, or else to stdout as shell commands.`,
		Example: `  sallyport resource identity -n ws --type Microsoft.MachineLearningServices/workspaces --identity-file ws.identity
  eval "$(sallyport resource identity -n ws --type Microsoft.MachineLearningServices/workspaces)"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := c.resourceID(f)
			if err != nil {
				return err
			}
			api, err := c.connect()
			if err != nil {
				return err
			}
			cred, err := api.IdentityCredentials(cmd.Context(), id)
			switch {
			case err != nil:
				return err
			case identity.file != "":
				return writeIdentity(identity, id, cred)
			case c.format != formatTable:
				return c.print(cred.Raw)
			}
			_, err = fmt.Fprintf(c.stdout, "export IDENTITY_ENDPOINT=%s\nexport IDENTITY_HEADER=%s\n", shellQuote(cred.Endpoint), shellQuote(cred.Header))
			return err
		},
	}
	f.add(cmd)
	identity.add(cmd)
	return cmd
}
