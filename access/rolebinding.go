package access

import (
	"fmt"
	"strings"
	"time"
)

// BindingType is the full ARM type of a trusted access role binding.
const BindingType = ClusterType + "/trustedAccessRoleBindings"

// State is a binding's provisioning state, in ARM's words; there is no
// "Creating" (spec/trusted-access.md 1.2).
type State string

// The states of a binding.
const (
	Updating  State = "Updating"
	Succeeded State = "Succeeded"
	Failed    State = "Failed"
	Deleting  State = "Deleting"
	Canceled  State = "Canceled"
)

// RoleBinding is the consent of a cluster's owner that one source may act in
// one cluster with the listed roles.
type RoleBinding struct {
	ID         ResourceID `json:"id"`  // casing of the first PUT; it names the objects in the cluster
	UID        string     `json:"uid"` // new with each creation, so a re-created name never inherits
	Generation int64      `json:"generation"`
	// Source is the resource that may act, or the subscription: see [RoleBinding.Wide].
	Source ResourceID `json:"source"`
	// SourceOID is the object id of the source's identity when consent was
	// given, if the directory knew it: a re-created resource does not inherit.
	SourceOID string   `json:"sourceOid,omitempty"`
	Roles     []string `json:"roles"` // qualified, order as written
	State     State    `json:"state"`
	// Operation is the id of the newest operation on the binding.
	Operation string    `json:"operation,omitempty"`
	Consented Consent   `json:"consented"` // who wrote it last
	Created   time.Time `json:"created"`
	Applied   Applied   `json:"applied"`
	// Policy bounds the access of this binding, within the cluster's.
	Policy Policy `json:"policy,omitzero"`
}

// Consent names who gave it.
type Consent struct {
	TenantID string    `json:"tenantId"`
	ObjectID string    `json:"objectId"`
	At       time.Time `json:"at"`
}

// Applied is what the cluster's agent last reported of a binding.
type Applied struct {
	Generation int64     `json:"generation,omitempty"` // in force in the cluster; 0 for none
	Retired    int64     `json:"retired,omitempty"`    // as in [BindingReport]; never goes back
	At         time.Time `json:"at,omitzero"`
	// Took is the time from the accepted write to the report that it is in force.
	Took    time.Duration `json:"took,omitempty"`
	Message string        `json:"message,omitempty"` // why the newest generation is not in force
}

// Tombstone is a deleted binding whose objects the cluster may still hold.
type Tombstone struct {
	Cluster ResourceID `json:"cluster"`
	Name    string     `json:"name"`
	UID     string     `json:"uid"`
	Deleted time.Time  `json:"deleted"`
}

// Name is the binding's own name.
func (b RoleBinding) Name() string { return b.ID.Name() }

// Cluster is the id of the cluster it belongs to.
func (b RoleBinding) Cluster() ResourceID { return b.ID.Parent() }

// Wide reports whether the consent is to every resource of the type of its one
// role in the subscription, which is then its source
// (spec/trusted-access.md 8).
func (b RoleBinding) Wide() bool { return b.Source.IsSubscription() }

// ConsentsTo reports whether the consent names a resource: by its id or, if it
// is wide, by its subscription and exactly the type of its role.
func (b RoleBinding) ConsentsTo(source ResourceID) bool {
	if !b.Wide() {
		return b.Source.Equal(source)
	}
	if len(b.Roles) != 1 || !strings.EqualFold(source.Subscription(), b.Source.Subscription()) {
		return false
	}
	end := strings.LastIndexByte(b.Roles[0], '/')
	return end > 0 && source.IsType(b.Roles[0][:end])
}

// CheckBindingName applies the naming rule of bindings, 1 to 24 letters,
// digits and dashes. The error wraps [ErrInvalid].
func CheckBindingName(name string) error {
	ok := len(name) >= 1 && len(name) <= 24
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-'
	}
	if !ok {
		return fmt.Errorf("binding name %q (%d characters) must be 1 to 24 letters, digits or '-': %w", Clip(name, maxQuoted), len(name), ErrInvalid)
	}
	return nil
}

// CheckRoles checks a binding's roles against a catalogue and its source: at
// least one, each known, each fitting the source's type, no duplicates and no
// two with one short name, since the short name is what names their objects in
// the cluster. The error wraps [ErrInvalid] and names the role at fault.
func CheckRoles(catalogue []Role, source ResourceID, roles []string) error {
	if len(roles) == 0 {
		return fmt.Errorf("properties.roles must name at least one role, such as %q: %w", catalogueExample(catalogue, source), ErrInvalid)
	}
	byShort := map[string]string{}
	for _, name := range roles {
		role, ok := FindRole(catalogue, name)
		if !ok {
			return UnknownRoleError{Role: name}
		}
		if !role.Fits(source) {
			return fmt.Errorf("properties.roles: role %q is offered to sources of type %q, but properties.sourceResourceId is of type %q, which may have: %s: %w",
				name, role.SourceResourceType, source.Type(), fitting(catalogue, source), ErrInvalid)
		}
		short := strings.ToLower(role.Name)
		if earlier, ok := byShort[short]; ok {
			if strings.EqualFold(earlier, name) {
				return fmt.Errorf("properties.roles names %q twice: %w", name, ErrInvalid)
			}
			return fmt.Errorf("properties.roles: %q and %q have the same short name %q, which names their objects in the cluster: %w", earlier, name, role.Name, ErrInvalid)
		}
		byShort[short] = name
	}
	return nil
}

// UnknownRoleError says that a role is not in the catalogue. It is a type of
// its own because ARM has a fixed sentence for it.
type UnknownRoleError struct{ Role string }

// Error names the role.
func (e UnknownRoleError) Error() string { return "non-exist role: " + Clip(e.Role, maxQuoted) }

// Unwrap makes it an [ErrInvalid].
func (UnknownRoleError) Unwrap() error { return ErrInvalid }

func catalogueExample(catalogue []Role, source ResourceID) string {
	for _, r := range catalogue {
		if r.Fits(source) {
			return r.QualifiedName()
		}
	}
	return "{sourceResourceType}/{roleName}"
}

func fitting(catalogue []Role, source ResourceID) string {
	var names []string
	for _, r := range catalogue {
		if r.Fits(source) {
			names = append(names, r.QualifiedName())
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}
