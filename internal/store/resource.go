package store

import "github.com/sallyport/sallyport/access"

// ResourceUID finds a resource by its uid. It is written and deleted in one
// commit with the resource.
type ResourceUID struct {
	UID string            `json:"uid"`
	ID  access.ResourceID `json:"id"`
}

// Resources are found by id; those of a group are the list under the group's
// id's Key() + "/".

func resourceKey(v access.Resource) (string, error) { return v.ID.Key(), nil }

func resourceUIDKey(v ResourceUID) (string, error) { return v.UID, nil }
