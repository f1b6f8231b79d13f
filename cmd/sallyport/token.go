package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

func newTokenCommand(c *cli) *cobra.Command {
	return newGroup("token", "Tokens of managed identities", newTokenGetCommand(c))
}

// tokenFlags ask for one token.
type tokenFlags struct {
	resource, identityFile, resourceIdentity string
	execCredential                           bool
}

func newTokenGetCommand(c *cli) *cobra.Command {
	var f tokenFlags
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Get a token of this process's managed identity",
		Long: `Gets a token of the managed identity that IDENTITY_ENDPOINT and IDENTITY_HEADER
give this process, or that an identity file names, and prints it. With
--exec-credential it is a kubectl credential plugin.`,
		Example: `  sallyport token get --identity-file ws.identity
  curl -H "Authorization: Bearer $(sallyport token get)" ...`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.getToken(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.resource, "resource", client.DataPlaneAudience, "audience of the token; the default is for clusters")
	cmd.Flags().StringVar(&f.identityFile, "identity-file", "", "file of the identity, in place of the environment")
	cmd.Flags().StringVar(&f.resourceIdentity, "resource-identity", "", "ARM id of the resource whose token is expected; another's is an error")
	cmd.Flags().BoolVar(&f.execCredential, "exec-credential", false, "print an ExecCredential, as kubectl expects")
	return cmd
}

func (c *cli) getToken(ctx context.Context, f tokenFlags) error {
	var expected access.ResourceID
	if f.resourceIdentity != "" {
		var err error
		if expected, err = access.ParseResourceID(f.resourceIdentity); err != nil {
			return asUsage(fmt.Errorf("--resource-identity: %w", err))
		}
	}
	apiVersion := ""
	if f.execCredential {
		var err error
		if apiVersion, err = execVersion(os.Getenv("KUBERNETES_EXEC_INFO")); err != nil {
			return err
		}
	}
	identity, err := loadIdentity(f.identityFile)
	if err != nil {
		return err
	}
	source, err := client.ManagedIdentity(identity.Endpoint, identity.Header, f.resource)
	if err != nil {
		return err
	}
	token, err := source.Token(ctx)
	if err != nil {
		return fmt.Errorf("managed identity: %w", err)
	}
	if err := checkIdentity(token.Value, expected); err != nil {
		return err
	}
	if f.execCredential {
		return json.NewEncoder(c.stdout).Encode(newExecCredential(apiVersion, token))
	}
	body, err := json.Marshal(map[string]string{
		"accessToken": token.Value, "expiresOn": token.Expires.UTC().Format(time.RFC3339), "tokenType": "Bearer", "resource": f.resource,
	})
	if err != nil {
		return err
	}
	return c.print(body, []string{token.Value})
}

// checkIdentity finds the mistake of using one source's kubeconfig with
// another's identity, which the gateway could only answer with 403. The token
// is not verified: it is not trusted here, only sent.
func checkIdentity(token string, expected access.ResourceID) error {
	if expected.IsZero() {
		return nil
	}
	var claims struct {
		Resource string `json:"xms_mirid"`
	}
	parts := strings.Split(token, ".")
	if len(parts) == 3 {
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil || json.Unmarshal(payload, &claims) != nil {
			return fmt.Errorf("the identity's token is not a JWT: %w", access.ErrInvalid)
		}
	}
	have, err := access.ParseResourceID(claims.Resource)
	if err != nil || !have.Equal(expected) {
		return withHint(fmt.Errorf("the identity's token is for %q, but %q was expected: %w", claims.Resource, expected, access.ErrInvalid),
			"run this with the identity of that resource, or write a kubeconfig for this one")
	}
	return nil
}

// execVersion picks the version of the answer from KUBERNETES_EXEC_INFO
// (spec/identity.md 4.2); without it, v1.
func execVersion(info string) (string, error) {
	const v1, v1beta1 = "client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"
	if info == "" {
		return v1, nil
	}
	var in struct {
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal([]byte(info), &in); err != nil {
		return "", usagef("KUBERNETES_EXEC_INFO is not JSON: %w", err)
	}
	if in.APIVersion != v1 && in.APIVersion != v1beta1 {
		return "", usagef("KUBERNETES_EXEC_INFO asks for apiVersion %q; %s and %s are known", in.APIVersion, v1, v1beta1)
	}
	return in.APIVersion, nil
}

// execCredential is what kubectl reads; the same in v1 and v1beta1.
type execCredential struct {
	Kind       string   `json:"kind"`
	APIVersion string   `json:"apiVersion"`
	Spec       execSpec `json:"spec"`
	Status     struct {
		Expires time.Time `json:"expirationTimestamp"`
		Token   string    `json:"token"`
	} `json:"status"`
}

type execSpec struct {
	Interactive bool `json:"interactive"`
}

func newExecCredential(apiVersion string, token client.Token) execCredential {
	cred := execCredential{Kind: "ExecCredential", APIVersion: apiVersion}
	cred.Status.Token, cred.Status.Expires = token.Value, token.Expires.UTC()
	return cred
}
