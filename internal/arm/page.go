package arm

import (
	"encoding/base64"
	"net/http"
	"sort"
	"strconv"

	"github.com/sallyport/sallyport/access"
)

// PageSize is how many items a page holds.
const PageSize = 200

// List is a page of items; nextLink is left out on the last one.
type List[T any] struct {
	Value    []T    `json:"value"`
	NextLink string `json:"nextLink,omitempty"`
}

// Paginate returns the page of r, whose $skipToken is one that an earlier
// page's nextLink carried; the link keeps the rest of the query, a filter among
// it, and $top makes pages smaller. Items come in the order of key, which must tell
// them apart; a token names the last item seen, so a page stays right while
// items come and go. The error is an [*Error].
func Paginate[T any](r *http.Request, items []T, size int, key func(T) string) (List[T], error) {
	items = append([]T{}, items...) // never nil: an empty list is [], not null
	sort.SliceStable(items, func(i, j int) bool { return key(items[i]) < key(items[j]) })
	query := r.URL.Query()
	token := ""
	for name := range query {
		if equalFold(name, "$skipToken") {
			token = query.Get(name)
			query.Del(name)
		}
	}
	if top, err := strconv.Atoi(query.Get("$top")); err == nil && top > 0 {
		size = min(size, top)
	}
	if token != "" {
		last, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			return List[T]{}, &Error{Status: http.StatusBadRequest, Code: "InvalidSkipToken",
				Message: "The $skipToken '" + access.Clip(token, maxQuoted) + "' is not one that a nextLink of this list carried."}
		}
		items = items[sort.Search(len(items), func(i int) bool { return key(items[i]) > string(last) }):]
	}
	if len(items) <= size {
		return List[T]{Value: items}, nil
	}
	query.Set("$skipToken", base64.RawURLEncoding.EncodeToString([]byte(key(items[size-1]))))
	return List[T]{Value: items[:size], NextLink: "https://" + r.Host + r.URL.EscapedPath() + "?" + query.Encode()}, nil
}

// RoleList is the whole catalogue, one page, in its own order.
type RoleList struct {
	Value []access.Role `json:"value"`
}
