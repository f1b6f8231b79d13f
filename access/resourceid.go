package access

import (
	"fmt"
	"strings"
)

// maxResourceID bounds an id before it is looked at; ARM's own limit on a
// request path is far below it.
const maxResourceID = 2048

// ResourceID is the ARM id of a resource, a resource group or a subscription,
// in typed segments. The zero value is no id.
//
// It keeps the text it was parsed from, because real clients expect their own
// casing back (spec/trusted-access.md 2.1), and compares without regard to
// case. Use [ResourceID.Key] as a map or store key, never the text.
type ResourceID struct {
	text          string
	subscription  string
	resourceGroup string
	namespace     string   // "Microsoft.ContainerService"
	types         []string // "managedClusters", "trustedAccessRoleBindings"
	names         []string // one for each type
}

// ParseResourceID parses an absolute ARM id:
//
//	/subscriptions/{guid}
//	/subscriptions/{guid}/resourceGroups/{group}
//	/subscriptions/{guid}[/resourceGroups/{group}]/providers/{namespace}/{type}/{name}[/{type}/{name}...]
//
// Empty segments, dot segments, percent signs, control and non-ASCII
// characters are refused, so two ids that parse are equal exactly when their
// segments are. The error wraps [ErrInvalid] and quotes the offending part.
func ParseResourceID(s string) (ResourceID, error) {
	fail := func(format string, args ...any) (ResourceID, error) {
		return ResourceID{}, fmt.Errorf("resource id %q: "+format+": %w", append(append([]any{Clip(s, maxQuoted)}, args...), ErrInvalid)...)
	}
	if len(s) > maxResourceID {
		return fail("longer than %d characters", maxResourceID)
	}
	rest, ok := strings.CutPrefix(s, "/")
	if !ok {
		return fail("must begin with /subscriptions/")
	}
	seg := strings.Split(rest, "/")
	for _, part := range seg {
		if err := checkSegment(part); err != nil {
			return fail("%v", err)
		}
	}
	if len(seg) < 2 || !strings.EqualFold(seg[0], "subscriptions") {
		return fail("must begin with /subscriptions/{id}")
	}
	id := ResourceID{text: s, subscription: seg[1]}
	if !IsGUID(id.subscription) {
		return fail("subscription %q is not a GUID", id.subscription)
	}
	seg = seg[2:]
	if len(seg) >= 2 && strings.EqualFold(seg[0], "resourceGroups") {
		id.resourceGroup = seg[1]
		seg = seg[2:]
	}
	if len(seg) == 0 {
		return id, nil
	}
	if !strings.EqualFold(seg[0], "providers") || len(seg) < 4 || len(seg)%2 != 0 {
		return fail("after the subscription or resource group there must be /providers/{namespace}/{type}/{name}")
	}
	id.namespace = seg[1]
	for i := 2; i < len(seg); i += 2 {
		// Else the id of somebody else's extension below a resource would have
		// that resource's type as a prefix of its own.
		if strings.EqualFold(seg[i], "providers") {
			return fail("extension resources (a second /providers/) are not accepted")
		}
		id.types = append(id.types, seg[i])
		id.names = append(id.names, seg[i+1])
	}
	return id, nil
}

// checkSegment admits what ARM allows in names and types, and nothing that a
// proxy, a header or a path cleaner could read in two ways.
func checkSegment(part string) error {
	switch part {
	case "":
		return fmt.Errorf("empty segment")
	case ".", "..":
		return fmt.Errorf("segment %q", part)
	}
	for i := range len(part) {
		c := part[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '_', c == '.', c == '(', c == ')':
		default:
			return fmt.Errorf("character %q in segment %q", c, Clip(part, maxQuoted))
		}
	}
	return nil
}

// IsGUID reports whether s has the form 8-4-4-4-12 of hexadecimal digits.
func IsGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
				return false
			}
		}
	}
	return true
}

// String returns the id as it was written.
func (id ResourceID) String() string { return id.text }

// Key returns the id folded to one spelling; equal ids have equal keys.
func (id ResourceID) Key() string { return strings.ToLower(id.text) }

// Equal reports whether both ids name the same resource.
func (id ResourceID) Equal(other ResourceID) bool {
	return id.text != "" && strings.EqualFold(id.text, other.text)
}

// IsZero reports whether id is the zero value.
func (id ResourceID) IsZero() bool { return id.text == "" }

// IsSubscription reports whether id names a subscription, and nothing in it.
func (id ResourceID) IsSubscription() bool {
	return id.text != "" && id.resourceGroup == "" && id.namespace == ""
}

// Subscription returns the subscription's GUID as it was written.
func (id ResourceID) Subscription() string { return id.subscription }

// ResourceGroup returns the group's name, or "" for a subscription-level id.
func (id ResourceID) ResourceGroup() string { return id.resourceGroup }

// Type returns the full type, such as
// "Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings", or
// "" for a subscription or a resource group.
func (id ResourceID) Type() string {
	if id.namespace == "" {
		return ""
	}
	return id.namespace + "/" + strings.Join(id.types, "/")
}

// Name returns the last name segment: of the resource, the group or the
// subscription.
func (id ResourceID) Name() string {
	switch {
	case len(id.names) > 0:
		return id.names[len(id.names)-1]
	case id.resourceGroup != "":
		return id.resourceGroup
	default:
		return id.subscription
	}
}

// IsType reports whether the resource is of exactly this full type, without
// regard to case.
func (id ResourceID) IsType(fullType string) bool {
	return id.namespace != "" && strings.EqualFold(id.Type(), fullType)
}

// Parent returns the id one level up: a child resource's parent resource, a
// resource's group or subscription, a group's subscription. The parent of a
// subscription is the zero value.
func (id ResourceID) Parent() ResourceID {
	var drop int // trailing segments
	switch {
	case len(id.names) > 1:
		drop = 2
	case len(id.names) == 1:
		drop = 4
	case id.resourceGroup != "":
		drop = 2
	default:
		return ResourceID{}
	}
	text := id.text
	for range drop {
		text = text[:strings.LastIndexByte(text, '/')]
	}
	parent := id
	parent.text = text
	switch {
	case len(id.names) > 1:
		parent.types, parent.names = id.types[:len(id.types)-1], id.names[:len(id.names)-1]
	case len(id.names) == 1:
		parent.namespace, parent.types, parent.names = "", nil, nil
	default:
		parent.resourceGroup = ""
	}
	return parent
}

// Within reports whether id is other or lies below it: in a subscription, a
// resource group or a resource. Whole segments count.
func (id ResourceID) Within(other ResourceID) bool {
	return id.Equal(other) || other.text != "" && strings.HasPrefix(id.Key(), other.Key()+"/")
}

// Child returns the id of a child resource. Both parts are checked as
// [ParseResourceID] checks them.
func (id ResourceID) Child(typ, name string) (ResourceID, error) {
	for _, part := range []string{typ, name} {
		if err := checkSegment(part); err != nil {
			return ResourceID{}, fmt.Errorf("child %q of resource id %q: %w: %w", part, id, err, ErrInvalid)
		}
	}
	return ParseResourceID(id.text + "/" + typ + "/" + name)
}

// MarshalText writes the id as it was written.
func (id ResourceID) MarshalText() ([]byte, error) { return []byte(id.text), nil }

// UnmarshalText parses an id; empty text gives the zero value.
func (id *ResourceID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ResourceID{}
		return nil
	}
	parsed, err := ParseResourceID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}
