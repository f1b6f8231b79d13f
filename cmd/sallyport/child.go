package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/forwardproxy"
)

// child is all that a command needs to take this server for Azure: a running
// proxy, a CA file, and variables that say so to each family of clients.
type child struct {
	proxy     *forwardproxy.Proxy
	variables [][2]string // in the order shown
	dir       string      // of the CA file; removed with the child
}

func (ch *child) close() {
	_ = ch.proxy.Close() // it has nothing to lose
	removeOnExit(ch.dir)
}

// prepare asks the server for its hosts and CA, over the connection that the
// operator file vouches for, and starts the proxy.
func (c *cli) prepare(ctx context.Context, f childFlags, stop func()) (*child, error) {
	for _, host := range f.allowHosts {
		if err := forwardproxy.CheckAllowed(host); err != nil {
			return nil, asUsage(fmt.Errorf("--allow-host: %w", err))
		}
	}
	op, err := c.operator()
	if err != nil {
		return nil, err
	}
	server, err := url.Parse(op.Server)
	if err != nil || server.Host == "" {
		return nil, fmt.Errorf("operator file: server %q is not an https URL: %w", op.Server, access.ErrInvalid)
	}
	api, err := c.connect()
	if err != nil {
		return nil, err
	}
	defer api.CloseIdleConnections()
	hosts, err := api.AzureHosts(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the server for Azure's hosts: %w", err)
	}
	who, err := c.childIdentity(ctx, api, op, f.as)
	if err != nil {
		return nil, err
	}
	azure, err := azureConfigDir(f.azureConfigDir, hosts.Properties.CACertificate, who.resource)
	if err != nil {
		return nil, err
	}
	dir, bundle, err := writeCABundle(hosts.Properties.CACertificate)
	if err != nil {
		return nil, err
	}
	port := server.Port()
	if port == "" {
		port = "443"
	}
	proxy, err := forwardproxy.Start(forwardproxy.Config{
		Server:   net.JoinHostPort(server.Hostname(), port),
		Relayed:  hosts.Properties.Hosts,
		Allowed:  f.allowHosts,
		Identity: who.identity,
		Refused:  func(host, reason string) { c.notef("sallyport: %s was refused: %s", host, reason) },
		Stop:     stop,
	})
	if err != nil {
		removeOnExit(dir)
		return nil, err
	}
	return &child{proxy: proxy, dir: dir, variables: childVariables(proxy.URL(), bundle, azure, server.Hostname(), who.variables)}, nil
}

// childVariables tell every family of clients the same two things, where the
// proxy is and whom to believe (spec/identity.md 7.4). Values are set in both
// cases, since programs differ in which they read and which they prefer.
func childVariables(proxy, bundle, azure, server string, identity [][2]string) [][2]string {
	var all [][2]string
	set := func(name, value string) { all = append(all, [2]string{name, value}) }
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		set(name, proxy)
		set(strings.ToLower(name), proxy)
	}
	// Not what the user had: an entry for Azure's hosts would lead the command
	// to the real ones. Go never uses a proxy for loopback; others must be told.
	direct := []string{"localhost", "127.0.0.1", "::1"}
	if !slices.Contains(direct, server) {
		direct = append(direct, server)
	}
	set("NO_PROXY", strings.Join(direct, ","))
	set("no_proxy", strings.Join(direct, ","))
	for _, name := range []string{
		"SSL_CERT_FILE",      // Go on Linux, OpenSSL, Python's ssl, .NET on Linux
		"REQUESTS_CA_BUNDLE", // Python's requests, so az and Azure's Python SDKs
		"CURL_CA_BUNDLE",
		"NODE_EXTRA_CA_CERTS",
	} {
		set(name, bundle)
	}
	set("AZURE_CONFIG_DIR", azure)
	set("AZURE_CORE_COLLECT_TELEMETRY", "no")
	return append(all, identity...)
}

// hiddenVariables are those by which a client would find the user's real
// identity, or another way to a token than the one asked for.
func hiddenVariables() []string {
	return []string{
		"AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_USERNAME", "AZURE_PASSWORD", "AZURE_SUBSCRIPTION_ID",
		"AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_CLIENT_CERTIFICATE_PASSWORD", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST",
		"ARM_CLIENT_ID", "ARM_CLIENT_SECRET", "ARM_TENANT_ID", "ARM_SUBSCRIPTION_ID", "ARM_USE_MSI", "ARM_MSI_ENDPOINT",
		"IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT", "MSI_ENDPOINT", "MSI_SECRET",
	}
}

// identityOfChild is who --as names.
type identityOfChild struct {
	variables [][2]string
	identity  *forwardproxy.Identity
	resource  access.ResourceID
}

func (c *cli) childIdentity(ctx context.Context, api *client.Client, op operator, as string) (identityOfChild, error) {
	switch as {
	case "":
		return identityOfChild{}, nil
	case "operator":
		var who identityOfChild
		for _, v := range [][2]string{{"CLIENT_ID", op.ClientID}, {"CLIENT_SECRET", op.ClientSecret}, {"TENANT_ID", op.TenantID}, {"SUBSCRIPTION_ID", op.SubscriptionID}} {
			who.variables = append(who.variables, [2]string{"AZURE_" + v[0], v[1]}, [2]string{"ARM_" + v[0], v[1]})
		}
		return who, nil
	}
	id, err := c.findResource(ctx, api, as)
	if err != nil {
		return identityOfChild{}, err
	}
	cred, err := api.IdentityCredentials(ctx, id)
	if err != nil {
		return identityOfChild{}, fmt.Errorf("--as %s: %w", as, err)
	}
	return identityOfChild{
		identity: &forwardproxy.Identity{Endpoint: cred.Endpoint, Header: cred.Header}, resource: id,
		variables: [][2]string{{"AZURE_SUBSCRIPTION_ID", id.Subscription()}, {"ARM_SUBSCRIPTION_ID", id.Subscription()}, {"ARM_USE_MSI", "true"}},
	}, nil
}

// findResource takes an ARM id, or the name of a resource in the chosen scope.
func (c *cli) findResource(ctx context.Context, api *client.Client, name string) (access.ResourceID, error) {
	if strings.HasPrefix(name, "/") {
		id, err := access.ParseResourceID(name)
		return id, asUsage(err)
	}
	scope, err := c.listScope()
	if err != nil {
		return access.ResourceID{}, err
	}
	all, err := api.Resources(ctx, scope)
	if err != nil {
		return access.ResourceID{}, err
	}
	var found []string
	for _, r := range all {
		if strings.EqualFold(r.Name, name) {
			found = append(found, r.ID.String())
		}
	}
	switch len(found) {
	case 1:
		return access.ParseResourceID(found[0])
	case 0:
		return access.ResourceID{}, withHint(fmt.Errorf("--as %s: there is no resource of that name in %s: %w", name, scope, access.ErrNotFound),
			"'sallyport resource list' shows the names; 'operator' is the operator of the operator file")
	}
	return access.ResourceID{}, usagef("--as %s could be any of these; give its ARM id: %s", name, strings.Join(found, " "))
}

// azureConfigDir is the folder of az's state, made if need be. By default it is
// one for each server, known by its CA, so that no login outlives the server
// that it was at; and one for each resource, whose logins are its own.
func azureConfigDir(given, ca string, resource access.ResourceID) (string, error) {
	dir := given
	if dir == "" {
		home, err := os.UserConfigDir()
		if err != nil {
			return "", withHint(fmt.Errorf("folder for az's state: %w", err), "name one with --azure-config-dir")
		}
		name := "azure"
		if !resource.IsZero() {
			name = "azure-" + shortHash(resource.Key())
		}
		dir = filepath.Join(home, "sallyport", "servers", shortHash(ca), name)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("folder for az's state: %w", err)
	}
	return dir, nil
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// writeCABundle writes the server's CA of Azure's hosts and what this machine
// trusts anyway: most of the variables replace a client's own list, and what
// --allow-host lets through, or goes by no proxy, must still be believed.
func writeCABundle(ca string) (dir, path string, err error) {
	if dir, err = os.MkdirTemp("", "sallyport-run-"); err != nil {
		return "", "", fmt.Errorf("CA file: %w", err)
	}
	bundle := bytes.NewBufferString(strings.TrimRight(ca, "\n") + "\n")
	bundle.Write(systemRoots())
	path = filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(path, bundle.Bytes(), 0o600); err != nil {
		removeOnExit(dir)
		return "", "", fmt.Errorf("CA file: %w", err)
	}
	return dir, path, nil
}

// systemRoots returns the bundle that programs here use, empty if none is found:
// crypto/x509 knows the same places, and does not tell.
func systemRoots() []byte {
	for _, path := range []string{
		os.Getenv("SSL_CERT_FILE"),
		"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora
		"/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/ca-bundle.pem", // SUSE
		"/etc/ssl/cert.pem",      // macOS
	} {
		if data, err := os.ReadFile(path); path != "" && err == nil {
			return data
		}
	}
	return nil
}

// childEnvironment is ours, without what would mislead the child, and with its
// variables.
func childEnvironment(environ []string, variables [][2]string) []string {
	drop := hiddenVariables()
	for _, v := range variables {
		drop = append(drop, v[0])
	}
	out := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(drop, name)
	})
	for _, v := range variables {
		out = append(out, v[0]+"="+v[1])
	}
	return out
}

// runChild is `sallyport run`.
func (c *cli) runChild(ctx context.Context, f childFlags, args []string) error {
	ch, err := c.prepare(ctx, f, nil)
	if err != nil {
		return err
	}
	defer ch.close()
	return startAndWait(c.command(childEnvironment(os.Environ(), ch.variables), args))
}
