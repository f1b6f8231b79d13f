package graph

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Pages are as Graph's.
const (
	pageSize    = 100
	maxPageSize = 999
)

// one answers a single object.
func (q *request) one(o object, context string) (reply, error) {
	selected, err := q.selected()
	if err != nil {
		return reply{}, err
	}
	shown := project(o, selected)
	shown["@odata.context"] = q.base + "/$metadata#" + context + "/$entity"
	return reply{http.StatusOK, shown}, nil
}

// list answers those objects that the query wants, a page at a time.
func (q *request) list(all []object, context string) (reply, error) {
	query := q.http.URL.Query()
	keep, err := parseFilter(query.Get("$filter"))
	if err != nil {
		return reply{}, err
	}
	selected, err := q.selected()
	if err != nil {
		return reply{}, err
	}
	top, err := pageOf(query)
	if err != nil {
		return reply{}, err
	}
	slices.SortFunc(all, func(a, b object) int { return cmp.Compare(idOf(a), idOf(b)) })
	after := query.Get("$skiptoken")
	shown := []object{}
	answer := object{"@odata.context": q.base + "/$metadata#" + context}
	count := 0
	for _, o := range all {
		if !keep(o) {
			continue
		}
		count++
		if idOf(o) <= after {
			continue
		}
		if len(shown) == top {
			query.Set("$skiptoken", idOf(shown[top-1]))
			answer["@odata.nextLink"] = q.base + "/" + strings.Join(q.segments(), "/") + "?" + query.Encode()
			if query.Get("$count") != "true" {
				break
			}
			continue
		}
		shown = append(shown, project(o, append(selected, idIfAny(selected)...)))
	}
	if query.Get("$count") == "true" {
		answer["@odata.count"] = count
	}
	answer["value"] = shown
	return reply{http.StatusOK, answer}, nil
}

// idIfAny keeps the id in a page's objects: the next page is found by it.
func idIfAny(selected []string) []string {
	if len(selected) == 0 {
		return nil
	}
	return []string{"id"}
}

func (q *request) segments() []string {
	segments, err := splitPath(q.http.URL)
	if err != nil { // it was split before
		return nil
	}
	for i := range segments {
		segments[i] = url.PathEscape(segments[i])
	}
	return segments
}

func idOf(o object) string {
	id, _ := o["id"].(string)
	return id
}

func pageOf(query url.Values) (int, *Error) {
	text := query.Get("$top")
	if text == "" {
		return pageSize, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPageSize {
		return 0, badRequest("Invalid page size specified: '%s'. Must be between 1 and %d inclusive.", text[:min(len(text), 20)], maxPageSize)
	}
	return n, nil
}

// selected reads $select; nil is everything.
func (q *request) selected() ([]string, *Error) {
	text := q.http.URL.Query().Get("$select")
	if text == "" {
		return nil, nil
	}
	names := strings.Split(text, ",")
	if len(names) > 100 {
		return nil, badRequest("$select names more than 100 properties.")
	}
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	return names, nil
}

// project copies an object, with the members that are wanted.
func project(o object, selected []string) object {
	out := object{}
	for name, value := range o {
		if len(selected) == 0 || strings.HasPrefix(name, "@") || slices.ContainsFunc(selected, func(s string) bool { return strings.EqualFold(s, name) }) {
			out[name] = value
		}
	}
	return out
}
