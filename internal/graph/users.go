package graph

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/store"
)

const odataUser = "#microsoft.graph.user"

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func showUser(u store.User) object {
	return object{
		"id": u.ObjectID, "userPrincipalName": u.UPN, "displayName": u.DisplayName, "givenName": null(u.GivenName), "surname": null(u.Surname),
		"mail": null(u.Mail), "mailNickname": null(u.MailNickname), "accountEnabled": !u.Disabled, "createdDateTime": stamp(u.Created),
		"businessPhones": []string{}, "jobTitle": nil, "mobilePhone": nil, "officeLocation": nil, "preferredLanguage": nil, "userType": "Member",
	}
}

func (q *request) users() ([]store.User, error) {
	items, _, err := q.store.Users.List(q.ctx, "")
	var mine []store.User
	for _, item := range items {
		if strings.EqualFold(item.Value.TenantID, q.tenant) {
			mine = append(mine, item.Value)
		}
	}
	return mine, err
}

func listUsers(q *request) (reply, error) {
	users, err := q.users()
	if err != nil {
		return reply{}, err
	}
	var all []object
	for _, u := range users {
		all = append(all, showUser(u))
	}
	return q.list(all, "users")
}

// user loads the path's user, by object id or name, as it is stored.
func (q *request) user(name string) (store.Item[store.User], error) {
	u, err := q.cfg.Directory.User(q.ctx, q.tenant, name)
	if errors.Is(err, access.ErrNotFound) {
		return store.Item[store.User]{}, notFound(name)
	}
	if err != nil {
		return store.Item[store.User]{}, err
	}
	return q.store.Users.Get(q.ctx, u.ObjectID)
}

func getUser(q *request) (reply, error) {
	item, err := q.user(q.vars["user"])
	if err != nil {
		return reply{}, err
	}
	return q.one(showUser(item.Value), "users")
}

// getMe is the caller, who must be a person.
func getMe(q *request) (reply, error) {
	item, err := q.user(q.caller.ObjectID)
	var missing *Error
	if errors.As(err, &missing) {
		return reply{}, badRequest("/me request is only valid with delegated authentication flow.")
	}
	if err != nil {
		return reply{}, err
	}
	return q.one(showUser(item.Value), "users")
}

// getUserinfo is OpenID's (OpenID Connect Core 5.3), as Graph serves it. Its
// sub is the token's for Graph, which the verifier does not hand on: the object
// id is as stable.
func getUserinfo(q *request) (reply, error) {
	item, err := q.user(q.caller.ObjectID)
	if err != nil {
		return reply{}, err
	}
	u := item.Value
	answer := object{"sub": u.ObjectID, "name": u.DisplayName, "given_name": u.GivenName, "family_name": u.Surname, "preferred_username": u.UPN, "email": u.Mail}
	for name, value := range answer {
		if value == "" {
			delete(answer, name)
		}
	}
	return reply{http.StatusOK, answer}, nil
}

// readUser takes from the body what there is of a user.
func (q *request) readUser(u *store.User) *Error {
	err := q.texts(map[string]*string{
		"displayName": &u.DisplayName, "givenName": &u.GivenName, "surname": &u.Surname, "mail": &u.Mail, "mailNickname": &u.MailNickname,
	})
	if err != nil {
		return err
	}
	enabled, ok, err := q.flag("accountEnabled")
	if err != nil {
		return err
	}
	if ok && !enabled && !u.Disabled { // what was given out to him ends
		u.Stamp = uuid.NewString()
	}
	if ok {
		u.Disabled = !enabled
	}
	return q.readPassword(u)
}

// readPassword takes a new password, which ends all sign-ins with the old one.
func (q *request) readPassword(u *store.User) *Error {
	profile, err := objectOf(q.body, "passwordProfile")
	if err != nil || profile == nil {
		return err
	}
	v, ok := field(profile, "password")
	if !ok {
		return nil
	}
	password, _ := v.(string)
	if err := directory.CheckPassword(password); err != nil {
		return badRequest("The specified password does not comply with password complexity requirements: %s.", access.Message(err))
	}
	u.PasswordHash, u.Stamp = directory.HashPassword(password), uuid.NewString()
	return nil
}

// checkUPN holds a user's name to name@domain, with a domain of the tenant. It
// is a key of the store, so it is of printable ASCII.
func (q *request) checkUPN(upn string) error {
	name, domain, ok := strings.Cut(upn, "@")
	if !ok || name == "" || len(upn) > 113 || strings.ContainsFunc(upn, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`/\"<>()[]:;,%&*+=?{}|`, r)
	}) {
		return badRequest("Property userPrincipalName is invalid: '%s'. It must be name@domain, of letters, digits and . - _ ! # ^ ~ '.", access.Clip(upn, 200))
	}
	tenant, err := q.cfg.Directory.Tenant(q.ctx, q.tenant)
	if err != nil {
		return err
	}
	domains := directory.Domains(tenant)
	if !slices.ContainsFunc(domains, func(d string) bool { return strings.EqualFold(d, domain) }) {
		return badRequest("The domain portion of the userPrincipalName property is invalid. You must use one of the verified domain names in your organization: %s.", strings.Join(domains, ", "))
	}
	return nil
}

func postUser(q *request) (reply, error) {
	u := store.User{TenantID: q.tenant, ObjectID: uuid.NewString(), Stamp: uuid.NewString(), Created: q.cfg.Now().UTC()}
	if err := q.texts(map[string]*string{"userPrincipalName": &u.UPN}); err != nil {
		return reply{}, err
	}
	if err := q.checkUPN(u.UPN); err != nil {
		return reply{}, err
	}
	if err := q.readUser(&u); err != nil {
		return reply{}, err
	}
	switch {
	case u.DisplayName == "":
		return reply{}, badRequest("A value is required for property 'displayName' of resource 'User'.")
	case u.PasswordHash == "":
		return reply{}, badRequest("A value is required for property 'passwordProfile' of resource 'User': {\"password\": ...}.")
	}
	err := q.commit(object{"id": u.ObjectID, "userPrincipalName": u.UPN},
		q.store.Users.Creating(u), q.store.UserNames.Creating(store.UserName{UPN: u.UPN, ObjectID: u.ObjectID}))
	if errors.Is(err, access.ErrConflict) {
		return reply{}, exists("userPrincipalName", u.UPN)
	}
	if err != nil {
		return reply{}, err
	}
	answer, err := q.one(showUser(u), "users")
	answer.status = http.StatusCreated
	return answer, err
}

func patchUser(q *request) (reply, error) {
	item, err := q.user(q.vars["user"])
	if err != nil {
		return reply{}, err
	}
	u := item.Value
	if err := q.readUser(&u); err != nil {
		return reply{}, err
	}
	upn, ok, refusal := q.text("userPrincipalName")
	if refusal != nil {
		return reply{}, refusal
	}
	changes := []store.Change{}
	if ok && !strings.EqualFold(upn, u.UPN) {
		if err := q.checkUPN(upn); err != nil {
			return reply{}, err
		}
		old, err := q.store.UserNames.Get(q.ctx, u.UPN)
		if err != nil {
			return reply{}, err
		}
		u.UPN = upn
		changes = append(changes, q.store.UserNames.Deleting(old), q.store.UserNames.Creating(store.UserName{UPN: upn, ObjectID: u.ObjectID}))
	}
	err = q.commit(object{"id": u.ObjectID}, append(changes, q.store.Users.Updating(item, u))...)
	if errors.Is(err, access.ErrConflict) && len(changes) > 0 {
		return reply{}, exists("userPrincipalName", upn)
	}
	return reply{}, err
}

func deleteUser(q *request) (reply, error) {
	item, err := q.user(q.vars["user"])
	if err != nil {
		return reply{}, err
	}
	name, err := q.store.UserNames.Get(q.ctx, item.Value.UPN)
	if err != nil {
		return reply{}, err
	}
	return reply{}, q.commit(object{"id": item.Value.ObjectID}, q.store.Users.Deleting(item), q.store.UserNames.Deleting(name))
}

// getOrganization is the caller's tenant.
func getOrganization(q *request) (reply, error) {
	t, err := q.cfg.Directory.Tenant(q.ctx, q.tenant)
	if err != nil {
		return reply{}, err
	}
	var domains []object
	for i, name := range directory.Domains(t) {
		domains = append(domains, object{"name": name, "isDefault": i == 0, "isInitial": i == 0, "type": "Managed", "capabilities": "Email, OfficeCommunicationsOnline"})
	}
	name := t.Name
	if name == "" {
		name = "Sallyport"
	}
	return q.list([]object{{
		"id": t.ID, "displayName": name, "tenantType": "AAD", "createdDateTime": stamp(t.Created), "verifiedDomains": domains,
		"countryLetterCode": nil, "technicalNotificationMails": []string{}, "assignedPlans": []string{},
	}}, "organization")
}

func getDomains(q *request) (reply, error) {
	t, err := q.cfg.Directory.Tenant(q.ctx, q.tenant)
	if err != nil {
		return reply{}, err
	}
	var all []object
	for i, name := range directory.Domains(t) {
		all = append(all, object{"id": name, "authenticationType": "Managed", "isDefault": i == 0, "isInitial": i == 0, "isVerified": true})
	}
	return q.list(all, "domains")
}

// listNone answers a collection that exists and has nothing in it here.
func listNone(q *request) (reply, error) {
	name, key := "application", q.vars["application"]
	if key == "" {
		name, key = "principal", q.vars["principal"]
	}
	if name == "application" {
		if _, err := q.application(key); err != nil {
			return reply{}, err
		}
	} else if _, err := q.principal(key); err != nil {
		return reply{}, err
	}
	return q.list(nil, "directoryObjects")
}
