package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
)

// defaultGroup is the resource group when neither flag nor operator file names
// one.
const defaultGroup = "sallyport"

// cli is what every verb shares: the streams and the global flags.
type cli struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	operatorFile string
	format       format
	subscription string
	group        string
	timeout      time.Duration
	tenant       string // of a subscription created on the way; "" means the operator's
}

func (c *cli) addFlags(root *cobra.Command) {
	c.format = formatTable
	f := root.PersistentFlags()
	f.StringVar(&c.operatorFile, "operator", "", "operator file, written by 'sallyport server' (default $SALLYPORT_OPERATOR, then ./sallyport-data/operator.json)")
	f.VarP(&c.format, "output", "o", "table, json, yaml or id; json and yaml are the server's own body, id is its id alone")
	f.StringVar(&c.subscription, "subscription", "", "subscription, a GUID (default: the operator file's)")
	f.StringVarP(&c.group, "resource-group", "g", "", "resource group (default: the operator file's, then "+defaultGroup+")")
	f.DurationVar(&c.timeout, "timeout", 15*time.Minute, "how long to wait for an operation to end")
}

// operator is who we are and where the server is.
type operator struct {
	Server         string `json:"server"` // https URL
	CAFile         string `json:"caFile"` // PEM; "" means the system's roots
	TenantID       string `json:"tenantId"`
	ClientID       string `json:"clientId"`
	ClientSecret   string `json:"clientSecret"`
	SubscriptionID string `json:"subscriptionId"`
	ResourceGroup  string `json:"resourceGroup"` // optional default of -g

	ca []byte // content of CAFile
}

// operator reads the operator file.
func (c *cli) operator() (operator, error) {
	path := cmp.Or(c.operatorFile, os.Getenv("SALLYPORT_OPERATOR"), filepath.Join("sallyport-data", "operator.json"))
	var op operator
	data, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return op, withHint(fmt.Errorf("operator file: %w", err), "'sallyport server' writes it into its data folder; name it with --operator or SALLYPORT_OPERATOR")
	}
	if err != nil {
		return op, fmt.Errorf("operator file: %w", err)
	}
	if err := json.Unmarshal(data, &op); err != nil {
		return op, fmt.Errorf("operator file %s: %w: %w", path, err, access.ErrInvalid)
	}
	if op.CAFile != "" {
		if !filepath.IsAbs(op.CAFile) {
			op.CAFile = filepath.Join(filepath.Dir(path), op.CAFile)
		}
		if op.ca, err = os.ReadFile(op.CAFile); err != nil {
			return op, fmt.Errorf("operator file %s: caFile: %w", path, err)
		}
	}
	return op, nil
}

// connect makes the client of the control plane. It makes no request.
func (c *cli) connect() (*client.Client, error) {
	op, err := c.operator()
	if err != nil {
		return nil, err
	}
	var roots *x509.CertPool
	if op.ca != nil {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(op.ca) {
			return nil, fmt.Errorf("operator file: %s holds no PEM certificate: %w", op.CAFile, access.ErrInvalid)
		}
	}
	tokens, err := client.ClientCredentials(client.CredentialsConfig{
		Authority: op.Server, TenantID: op.TenantID, ClientID: op.ClientID, ClientSecret: op.ClientSecret, RootCAs: roots,
	})
	if err != nil {
		return nil, fmt.Errorf("operator file: %w", err)
	}
	return client.New(client.Config{Server: op.Server, RootCAs: roots, Token: tokens.Bearer, WaitTimeout: c.timeout})
}

// scope names subscription and group. The operator file is read only when a
// flag leaves something open, so that some verbs work without one.
func (c *cli) scope() (subscription, group string, err error) {
	subscription, group = c.subscription, c.group
	if subscription == "" || group == "" {
		op, err := c.operator()
		if err != nil && (subscription == "" || !errors.Is(err, fs.ErrNotExist)) {
			return "", "", err
		}
		subscription, group = cmp.Or(subscription, op.SubscriptionID), cmp.Or(group, op.ResourceGroup, defaultGroup)
	}
	if !access.IsGUID(subscription) {
		return "", "", usagef("subscription %q must be a GUID", subscription)
	}
	return subscription, group, nil
}

func (c *cli) subscriptionID() (access.ResourceID, error) {
	subscription, _, err := c.scope()
	if err != nil {
		return access.ResourceID{}, err
	}
	return client.SubscriptionID(subscription)
}

// clusterID is the id of a cluster in the chosen group.
func (c *cli) clusterID(name string) (access.ResourceID, error) {
	subscription, group, err := c.scope()
	if err != nil {
		return access.ResourceID{}, err
	}
	id, err := client.ClusterID(subscription, group, name)
	return id, asUsage(err)
}

// listScope is the chosen group, or with no -g the whole subscription.
func (c *cli) listScope() (access.ResourceID, error) {
	if c.group == "" {
		return c.subscriptionID()
	}
	subscription, group, err := c.scope()
	if err != nil {
		return access.ResourceID{}, err
	}
	id, err := client.GroupID(subscription, group)
	return id, asUsage(err)
}

// ensureGroup creates the id's subscription and resource group where they are
// missing. It returns the location to use: loc, or else the group's.
func (c *cli) ensureGroup(ctx context.Context, api *client.Client, id access.ResourceID, loc string) (string, error) {
	if id.ResourceGroup() == "" {
		return loc, nil
	}
	groupID, err := client.GroupID(id.Subscription(), id.ResourceGroup())
	if err != nil {
		return "", err
	}
	group, err := api.Group(ctx, groupID)
	if err == nil {
		return cmp.Or(loc, group.Location), nil
	}
	if !errors.Is(err, access.ErrNotFound) {
		return "", err
	}
	if loc == "" {
		return "", withHint(usagef("resource group %q does not exist, and no location was given", id.ResourceGroup()), "name one with -l, such as -l eastus, and the group is created")
	}
	if _, err := api.Subscription(ctx, groupID.Parent()); errors.Is(err, access.ErrNotFound) {
		if _, err := api.PutSubscription(ctx, groupID.Parent(), "sallyport", c.tenant); err != nil {
			return "", fmt.Errorf("create subscription %s: %w", groupID.Subscription(), err)
		}
		c.notef("created subscription %s", groupID.Subscription())
	} else if err != nil {
		return "", err
	}
	if _, err := api.PutGroup(ctx, groupID, loc, nil); err != nil {
		return "", fmt.Errorf("create resource group %s: %w", groupID.Name(), err)
	}
	c.notef("created resource group %s in %s", groupID.Name(), loc)
	return loc, nil
}

// notef tells something on stderr.
func (c *cli) notef(format string, args ...any) {
	fmt.Fprintln(c.stderr, printable(fmt.Sprintf(format, args...)))
}

// follow waits for an operation's end and says every few seconds how it stands.
// detail, if not nil, adds what is known of the cause of the delay.
func (c *cli) follow(ctx context.Context, what string, p *client.Poller, detail func(context.Context) string) error {
	const every = 5 * time.Second
	start, told := time.Now(), time.Time{}
	return p.Wait(ctx, func(op client.Operation) {
		if op.Status != access.OperationInProgress || time.Since(told) < every {
			return
		}
		told = time.Now()
		text := ""
		if detail != nil {
			text = detail(ctx)
		}
		c.notef("%s: %s, %s%s", what, op.Status, time.Since(start).Round(time.Second), text)
	})
}
