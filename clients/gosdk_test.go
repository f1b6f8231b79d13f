package clients_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/authorization/armauthorization/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerservice/armcontainerservice/v6"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/msi/armmsi"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources/v3"
)

// goSDKMain is the command "gosdk CREDENTIAL WORK [ARG]...": a program with
// Azure's SDK for Go as its user writes it, with no option that names an
// address. It finds what it needs in the environment of the script.
func goSDKMain() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	credential, err := newCredential(os.Args[1])
	if err == nil {
		err = goSDKWork(ctx, os.Args[2], credential, os.Args[3:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// newCredential makes each kind as its documentation shows.
func newCredential(kind string) (azcore.TokenCredential, error) {
	tenant, client := os.Getenv("TENANT"), os.Getenv("CLIENT_ID")
	switch kind {
	case "ClientSecretCredential":
		return azidentity.NewClientSecretCredential(tenant, client, os.Getenv("CLIENT_SECRET"), nil)
	case "ClientCertificateCredential":
		pem, err := os.ReadFile(os.Getenv("CERTIFICATE"))
		if err != nil {
			return nil, err
		}
		certs, key, err := azidentity.ParseCertificates(pem, nil)
		if err != nil {
			return nil, err
		}
		return azidentity.NewClientCertificateCredential(tenant, os.Getenv("CERTIFICATE_CLIENT_ID"), certs, key, nil)
	case "UsernamePasswordCredential":
		// Deprecated, and still what users have.
		return azidentity.NewUsernamePasswordCredential(tenant, "04b07795-8ddb-461a-bbee-02f9e1bf7b46", os.Getenv("PERSON"), os.Getenv("PERSON_PASSWORD"), nil) //nolint:staticcheck
	case "DeviceCodeCredential":
		return azidentity.NewDeviceCodeCredential(&azidentity.DeviceCodeCredentialOptions{TenantID: tenant, UserPrompt: enterDeviceCode})
	case "InteractiveBrowserCredential":
		return azidentity.NewInteractiveBrowserCredential(&azidentity.InteractiveBrowserCredentialOptions{TenantID: tenant})
	case "ManagedIdentityCredential":
		return azidentity.NewManagedIdentityCredential(nil)
	case "ManagedIdentityCredential (user-assigned)":
		return azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ID: azidentity.ClientID(os.Getenv("IDENTITY_CLIENT_ID"))})
	case "EnvironmentCredential":
		return azidentity.NewEnvironmentCredential(nil)
	case "DefaultAzureCredential":
		return azidentity.NewDefaultAzureCredential(nil)
	case "AzureCLICredential":
		return azidentity.NewAzureCLICredential(nil)
	}
	return nil, fmt.Errorf("no credential %q", kind)
}

// goSDKWork does one thing and prints what came of it.
func goSDKWork(ctx context.Context, work string, credential azcore.TokenCredential, args []string) error {
	subscription := os.Getenv("SUBSCRIPTION")
	switch work {
	case "token":
		scope := "https://management.azure.com/.default"
		if len(args) > 0 {
			scope = args[0]
		}
		token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{scope}})
		if err != nil {
			return err
		}
		fmt.Printf("token for %v\n", time.Until(token.ExpiresOn) > time.Minute)
		return nil
	case "groups":
		client, err := armresources.NewResourceGroupsClient(subscription, credential, nil)
		if err != nil {
			return err
		}
		return printAll(ctx, client.NewListPager(nil), func(page armresources.ResourceGroupsClientListResponse) []string {
			return names(page.Value, func(g *armresources.ResourceGroup) *string { return g.Name })
		})
	case "resources":
		return workResources(ctx, subscription, credential)
	case "bindings":
		return workBindings(ctx, subscription, credential)
	case "identities":
		return workIdentities(ctx, subscription, credential)
	case "roles":
		return workRoles(ctx, subscription, credential, args[0])
	}
	return fmt.Errorf("no work %q", work)
}

func workResources(ctx context.Context, subscription string, credential azcore.TokenCredential) error {
	groups, err := armresources.NewResourceGroupsClient(subscription, credential, nil)
	if err != nil {
		return err
	}
	if _, err := groups.CreateOrUpdate(ctx, "gosdk", armresources.ResourceGroup{Location: to.Ptr("eastus"), Tags: map[string]*string{"by": to.Ptr("gosdk")}}, nil); err != nil {
		return err
	}
	exists, err := groups.CheckExistence(ctx, "gosdk", nil)
	if err != nil || !exists.Success {
		return fmt.Errorf("group exists: %v, %w", exists.Success, err)
	}
	client, err := armresources.NewClient(subscription, credential, nil)
	if err != nil {
		return err
	}
	id := "/subscriptions/" + subscription + "/resourceGroups/gosdk/providers/Microsoft.MachineLearningServices/workspaces/ws"
	creating, err := client.BeginCreateOrUpdateByID(ctx, id, "2024-04-01", armresources.GenericResource{
		Location: to.Ptr("eastus"), Identity: &armresources.Identity{Type: to.Ptr(armresources.ResourceIdentityTypeSystemAssigned)},
	}, nil)
	if err != nil {
		return err
	}
	created, err := creating.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: time.Second})
	if err != nil {
		return err
	}
	fmt.Println("workspace with an identity:", created.Identity != nil && created.Identity.PrincipalID != nil)
	if err := printAll(ctx, client.NewListByResourceGroupPager("gosdk", nil), func(page armresources.ClientListByResourceGroupResponse) []string {
		return names(page.Value, func(r *armresources.GenericResourceExpanded) *string { return r.ID })
	}); err != nil {
		return err
	}
	deleting, err := groups.BeginDelete(ctx, "gosdk", nil)
	if err != nil {
		return err
	}
	_, err = deleting.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: time.Second})
	return err
}

func workBindings(ctx context.Context, subscription string, credential azcore.TokenCredential) error {
	roles, err := armcontainerservice.NewTrustedAccessRolesClient(subscription, credential, nil)
	if err != nil {
		return err
	}
	if err := printAll(ctx, roles.NewListPager("eastus", nil), func(page armcontainerservice.TrustedAccessRolesClientListResponse) []string {
		return names(page.Value, func(r *armcontainerservice.TrustedAccessRole) *string { return r.Name })
	}); err != nil {
		return err
	}
	const group, cluster, name = "bindings", "prod", "ml"
	client, err := armcontainerservice.NewTrustedAccessRoleBindingsClient(subscription, credential, nil)
	if err != nil {
		return err
	}
	put := func(roles ...string) error {
		operation, err := client.BeginCreateOrUpdate(ctx, group, cluster, name, armcontainerservice.TrustedAccessRoleBinding{
			Properties: &armcontainerservice.TrustedAccessRoleBindingProperties{SourceResourceID: to.Ptr(os.Getenv("WORKSPACE")), Roles: to.SliceOfPtrs(roles...)},
		}, nil)
		if err != nil {
			return err
		}
		_, err = operation.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: time.Second})
		return err
	}
	const role = "Microsoft.MachineLearningServices/workspaces/"
	if err := put(role + "mlworkload"); err != nil {
		return err
	}
	if err := put(role+"mlworkload", role+"inference-v1"); err != nil {
		return err
	}
	got, err := client.Get(ctx, group, cluster, name, nil)
	if err != nil {
		return err
	}
	fmt.Println(*got.Name, *got.Properties.ProvisioningState, len(got.Properties.Roles))
	if err := printAll(ctx, client.NewListPager(group, cluster, nil), func(page armcontainerservice.TrustedAccessRoleBindingsClientListResponse) []string {
		return names(page.Value, func(b *armcontainerservice.TrustedAccessRoleBinding) *string { return b.Properties.SourceResourceID })
	}); err != nil {
		return err
	}
	deleting, err := client.BeginDelete(ctx, group, cluster, name, nil)
	if err != nil {
		return err
	}
	_, err = deleting.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: time.Second})
	return err
}

func workIdentities(ctx context.Context, subscription string, credential azcore.TokenCredential) error {
	client, err := armmsi.NewUserAssignedIdentitiesClient(subscription, credential, nil)
	if err != nil {
		return err
	}
	created, err := client.CreateOrUpdate(ctx, "identities", "gosdk", armmsi.Identity{Location: to.Ptr("eastus")}, nil)
	if err != nil {
		return err
	}
	fmt.Println(*created.Name, "has ids:", created.Properties != nil && created.Properties.PrincipalID != nil && created.Properties.ClientID != nil)
	if err := printAll(ctx, client.NewListByResourceGroupPager("identities", nil), func(page armmsi.UserAssignedIdentitiesClientListByResourceGroupResponse) []string {
		return names(page.Value, func(i *armmsi.Identity) *string { return i.Name })
	}); err != nil {
		return err
	}
	_, err = client.Delete(ctx, "identities", "gosdk", nil)
	return err
}

func workRoles(ctx context.Context, subscription string, credential azcore.TokenCredential, principal string) error {
	const reader, name = "acdd72a7-3385-48ef-bd42-f606fba81ae7", "11111111-2222-3333-4444-555555555555"
	scope := "/subscriptions/" + subscription
	definitions, err := armauthorization.NewRoleDefinitionsClient(credential, nil)
	if err != nil {
		return err
	}
	if err := printAll(ctx, definitions.NewListPager(scope, &armauthorization.RoleDefinitionsClientListOptions{Filter: to.Ptr("roleName eq 'Reader'")}),
		func(page armauthorization.RoleDefinitionsClientListResponse) []string {
			return names(page.Value, func(d *armauthorization.RoleDefinition) *string { return d.Name })
		}); err != nil {
		return err
	}
	client, err := armauthorization.NewRoleAssignmentsClient(subscription, credential, nil)
	if err != nil {
		return err
	}
	created, err := client.Create(ctx, scope, name, armauthorization.RoleAssignmentCreateParameters{Properties: &armauthorization.RoleAssignmentProperties{
		RoleDefinitionID: to.Ptr(scope + "/providers/Microsoft.Authorization/roleDefinitions/" + reader), PrincipalID: to.Ptr(principal),
		PrincipalType: to.Ptr(armauthorization.PrincipalTypeServicePrincipal),
	}}, nil)
	if err != nil {
		return err
	}
	fmt.Println("assigned at", *created.Properties.Scope)
	if err := printAll(ctx, client.NewListForSubscriptionPager(&armauthorization.RoleAssignmentsClientListForSubscriptionOptions{Filter: to.Ptr("principalId eq '" + principal + "'")}),
		func(page armauthorization.RoleAssignmentsClientListForSubscriptionResponse) []string {
			return names(page.Value, func(a *armauthorization.RoleAssignment) *string { return a.Name })
		}); err != nil {
		return err
	}
	_, err = client.Delete(ctx, scope, name, nil)
	return err
}

func printAll[T any](ctx context.Context, pager *runtime.Pager[T], of func(T) []string) error {
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, name := range of(page) {
			fmt.Println(name)
		}
	}
	return nil
}

func names[T any](items []*T, name func(*T) *string) []string {
	var all []string
	for _, item := range items {
		if n := name(item); n != nil {
			all = append(all, *n)
		}
	}
	return all
}
