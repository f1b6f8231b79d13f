package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/durable"
	"github.com/sallyport/sallyport/internal/store"
)

// firstStart makes sure that there are a tenant, a subscription and an
// operator, and that operator.json says how to use them. Only the hash of the
// operator's secret is kept, so a lost file means a new secret.
func (s *server) firstStart(ctx context.Context) (operator, error) {
	if err := s.assignOwners(ctx); err != nil {
		return operator{}, err
	}
	apps, _, err := s.store.Applications.List(ctx, "")
	if err != nil {
		return operator{}, err
	}
	for _, app := range apps {
		if app.Value.Operator {
			return s.laterStart(ctx, app)
		}
	}
	now := time.Now().UTC()
	secret := directory.NewSecret()
	app := store.Application{
		TenantID: uuid.NewString(), ClientID: uuid.NewString(), ObjectID: uuid.NewString(),
		Name: "operator", SecretHash: []byte(directory.HashSecret(secret)), Operator: true, Created: now,
	}
	subscription := uuid.NewString()
	id, err := access.ParseResourceID("/subscriptions/" + subscription)
	if err != nil {
		return operator{}, err
	}
	_, err = s.store.Commit(ctx,
		s.store.Tenants.Creating(store.Tenant{ID: app.TenantID, Created: now}),
		s.store.Applications.Creating(app),
		s.store.Subscriptions.Creating(access.Subscription{ID: id, DisplayName: "Sallyport", TenantID: app.TenantID, Created: now}),
		s.store.RoleAssignments.Creating(access.NewOwner(uuid.NewString(), id, access.Owner{TenantID: app.TenantID, ObjectID: app.ObjectID}, app.ObjectID, now)),
	)
	if err != nil {
		return operator{}, fmt.Errorf("create the first operator: %w", err)
	}
	op := operator{TenantID: app.TenantID, ClientID: app.ClientID, ClientSecret: secret, SubscriptionID: subscription}
	return op, s.writeOperator(op)
}

// laterStart brings operator.json up to date: the server's address may have
// changed, and a file that is gone or unwanted gets a new secret.
func (s *server) laterStart(ctx context.Context, app store.Item[store.Application]) (operator, error) {
	op := operator{TenantID: app.Value.TenantID, ClientID: app.Value.ClientID}
	data, err := os.ReadFile(s.operatorFile())
	switch {
	case err == nil && !s.cfg.NewOperator:
		var found operator
		if err := json.Unmarshal(data, &found); err != nil {
			return op, fmt.Errorf("%s cannot be read (%w); start with --new-operator to write it again", s.operatorFile(), err)
		}
		if !strings.EqualFold(found.ClientID, op.ClientID) {
			return op, fmt.Errorf("%s is of another server (client id %s, this server's operator is %s); start with --new-operator to write it again: %w", s.operatorFile(), found.ClientID, op.ClientID, access.ErrConflict)
		}
		return found, s.writeOperator(found)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return op, err
	}
	op.ClientSecret = directory.NewSecret()
	next := app.Value
	next.SecretHash = []byte(directory.HashSecret(op.ClientSecret))
	if _, err := s.store.Applications.Put(ctx, next, app.Version); err != nil {
		return op, fmt.Errorf("give the operator a new secret: %w", err)
	}
	s.log.Info("the operator has a new secret", "file", s.operatorFile())
	assignments, err := s.store.RoleAssignmentsWithin(ctx, access.ResourceID{})
	if err != nil {
		return op, err
	}
	for _, a := range assignments {
		if a.Role == access.OwnerRole && a.AppliesTo(access.Principal{TenantID: app.Value.TenantID, ObjectID: app.Value.ObjectID}) {
			op.SubscriptionID = a.Scope.Subscription()
			break
		}
	}
	return op, s.writeOperator(op)
}

// assignOwners makes role assignments of the owners that older versions kept in
// the subscriptions themselves.
func (s *server) assignOwners(ctx context.Context) error {
	subscriptions, _, err := s.store.Subscriptions.List(ctx, "")
	if err != nil {
		return err
	}
	for _, item := range subscriptions {
		sub := item.Value
		if len(sub.Owners) == 0 {
			continue
		}
		var changes []store.Change
		for i, o := range sub.Owners {
			if slices.ContainsFunc(sub.Owners[:i], o.Equal) {
				continue // a role is given once
			}
			changes = append(changes, s.store.RoleAssignments.Creating(access.NewOwner(uuid.NewString(), sub.ID, o, o.ObjectID, time.Now().UTC())))
		}
		count := len(changes)
		sub.Owners = nil
		if _, err := s.store.Commit(ctx, append(changes, s.store.Subscriptions.Updating(item, sub))...); err != nil {
			return fmt.Errorf("make role assignments of the owners of subscription %s: %w", sub.ID, err)
		}
		s.log.Info("owners are role assignments now", "subscription", sub.ID.String(), "owners", count)
	}
	return nil
}

func (s *server) operatorFile() string { return filepath.Join(s.cfg.DataDir, "operator.json") }

func (s *server) writeOperator(op operator) error {
	dir, err := filepath.Abs(s.cfg.DataDir)
	if err != nil {
		return err
	}
	op.Server, op.CAFile = "https://"+s.advertise, filepath.Join(dir, "ca.crt")
	data, err := json.MarshalIndent(op, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(s.operatorFile(), append(data, '\n'))
}

// nameTenant keeps the tenant's domains, if the server was told some. Users of
// a domain that is left out keep their names, and do not sign in at /common.
func (s *server) nameTenant(ctx context.Context, tenantID string) error {
	item, err := s.store.Tenants.Get(ctx, tenantID)
	if err != nil || len(s.cfg.TenantDomains) == 0 || slices.Equal(item.Value.Domains, s.cfg.TenantDomains) {
		return err
	}
	next := item.Value
	next.Domains = s.cfg.TenantDomains
	_, err = s.store.Tenants.Put(ctx, next, item.Version)
	return err
}
