package arm

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"sort"

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
// page's nextLink carried. Items come in the order of key, which must tell
// them apart; a token names the last item seen, so a page stays right while
// items come and go. The error is an [*Error].
func Paginate[T any](r *http.Request, items []T, size int, key func(T) string) (List[T], error) {
	items = append([]T{}, items...) // never nil: an empty list is [], not null
	sort.SliceStable(items, func(i, j int) bool { return key(items[i]) < key(items[j]) })
	query := r.URL.Query()
	if token := query.Get("$skipToken"); token != "" {
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
	next := url.Values{"api-version": query["api-version"]}
	next.Set("$skipToken", base64.RawURLEncoding.EncodeToString([]byte(key(items[size-1]))))
	return List[T]{Value: items[:size], NextLink: "https://" + r.Host + r.URL.EscapedPath() + "?" + next.Encode()}, nil
}

// RoleList is the whole catalogue, one page, in its own order.
type RoleList struct {
	Value []access.Role `json:"value"`
}
