package arm

import (
	"strings"
	"time"

	"github.com/sallyport/sallyport/access"
)

// Summary is a resource as the list of all types shows it.
type Summary struct {
	id       access.ResourceID
	location string
	tenantID string
	identity *access.Identity // system-assigned
	uses     []access.UsedIdentity
	document []byte
	created  time.Time
	expand   string
}

// SummaryOfResource makes a summary of r. Expand is the request's $expand:
// createdTime and provisioningState of it; when a resource was changed is not
// kept.
func SummaryOfResource(r access.Resource, expand string) Summary {
	if r.ID.IsType(access.UserAssignedType) { // its identity is among its properties
		r.Identity = nil
	}
	return Summary{r.ID, r.Location, r.TenantID, r.Identity, r.Uses, r.Document, r.Created, expand}
}

// SummaryOfCluster makes a summary of c.
func SummaryOfCluster(c access.Cluster, expand string) Summary {
	return Summary{c.ID, c.Location, c.TenantID, nil, c.Uses, c.Document, c.Created, expand}
}

// Key is what summaries are sorted and told apart by.
func (s Summary) Key() string { return s.id.Key() }

// Filterable is what a filter asks of it.
func (s Summary) Filterable() Filterable {
	f := Filterable{Name: s.id.Name(), Type: s.id.Type(), Group: s.id.ResourceGroup(), Location: s.location}
	if s.identity != nil {
		f.PrincipalID = s.identity.ObjectID
	}
	doc, err := document(s.document)
	if err != nil {
		return f // what cannot be read has no tags, and Show says so
	}
	tags, _ := doc["tags"].(map[string]any)
	f.Tags = make(map[string]string, len(tags))
	for name, value := range tags {
		f.Tags[name], _ = value.(string)
	}
	return f
}

// Show makes the body: no properties, as in ARM's own list.
func (s Summary) Show() (Document, error) {
	doc, err := document(s.document)
	if err != nil {
		return Document{}, err
	}
	rest := map[string]any{}
	for name, value := range doc {
		for _, listed := range []string{"identity", "kind", "managedBy", "plan", "sku", "tags", "zones"} {
			if equalFold(name, listed) {
				rest[listed] = value
			}
		}
	}
	own := []member{{"id", s.id.String()}, {"name", s.id.Name()}, {"type", s.id.Type()}}
	if s.location != "" {
		own = append(own, member{"location", s.location})
	}
	for wanted := range strings.SplitSeq(s.expand, ",") {
		switch strings.ToLower(strings.TrimSpace(wanted)) {
		case "createdtime":
			own = append(own, member{"createdTime", FormatTime(s.created)})
		case "provisioningstate":
			own = append(own, member{"provisioningState", "Succeeded"})
		}
	}
	return Document{own: own, rest: withIdentity(rest, s.tenantID, s.identity, s.uses)}, nil
}
