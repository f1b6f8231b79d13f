package arm

import (
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/access"
)

// Filter is the $filter of a list of resources or groups: comparisons joined by
// "and", and such rows joined by "or". The zero value matches all.
type Filter struct {
	any [][]comparison
}

// comparison is one word of a filter: field eq 'value', or a function of both.
type comparison struct {
	field, operator, value string
}

// Filterable is what a filter asks of one item.
type Filterable struct {
	Name, Type, Group, Location, PrincipalID string
	Tags                                     map[string]string
}

// filterFields are the fields that lists can be filtered by, in lower case.
const filterFields = " resourcetype resourcegroup name location identity/principalid tagname tagvalue "

// ParseFilter reads the $filter of r, in the part of OData that ARM's lists
// take: eq and ne, startswith(field, 'x') and substringof('x', field). What it
// cannot read it refuses, rather than answer with more than was asked for; the
// error is an [*Error].
func ParseFilter(r *http.Request) (Filter, error) {
	text := r.URL.Query().Get("$filter")
	p := filterParser{rest: strings.TrimSpace(text)}
	if p.rest == "" {
		return Filter{}, nil
	}
	var f Filter
	row := []comparison{}
	for {
		c, ok := p.comparison()
		if !ok {
			break
		}
		row = append(row, c)
		switch word := p.word(); {
		case strings.EqualFold(word, "and"):
		case strings.EqualFold(word, "or"):
			f.any, row = append(f.any, row), nil
		case word == "" && p.rest == "":
			f.any = append(f.any, row)
			return f, nil
		default:
			p.rest = "?" // nothing a comparison begins with
		}
	}
	return Filter{}, &Error{Status: http.StatusBadRequest, Code: "InvalidFilterInQueryString",
		Message: "Invalid $filter '" + access.Clip(text, maxQuoted) + "' specified in the query string: comparisons such as resourceType eq 'Microsoft.Web/sites' or tagName eq 'a' and tagValue eq 'b' are understood, of" + strings.TrimRight(filterFields, " ") + "."}
}

type filterParser struct{ rest string }

// word takes letters, digits and '/' from the front.
func (p *filterParser) word() string {
	p.rest = strings.TrimLeft(p.rest, " ")
	end := 0
	for end < len(p.rest) && (isSegmentByte(p.rest[end]) && p.rest[end] != '(' && p.rest[end] != ')' || p.rest[end] == '/') {
		end++
	}
	word := p.rest[:end]
	p.rest = p.rest[end:]
	return word
}

// take removes a token from the front, if it is there.
func (p *filterParser) take(token string) bool {
	rest, ok := strings.CutPrefix(strings.TrimLeft(p.rest, " "), token)
	if ok {
		p.rest = rest
	}
	return ok
}

// quoted takes a text between single quotes, two of which stand for one in it.
func (p *filterParser) quoted() (string, bool) {
	if !p.take("'") {
		return "", false
	}
	for i := 0; i < len(p.rest); i++ {
		if p.rest[i] != '\'' {
			continue
		}
		if i+1 < len(p.rest) && p.rest[i+1] == '\'' {
			i++
			continue
		}
		text := strings.ReplaceAll(p.rest[:i], "''", "'")
		p.rest = p.rest[i+1:]
		return text, true
	}
	return "", false
}

func (p *filterParser) comparison() (comparison, bool) {
	var c comparison
	ok := true
	switch first := p.word(); strings.ToLower(first) {
	case "startswith":
		ok = p.take("(")
		c.field, c.operator = p.word(), "startswith"
		ok = ok && p.take(",")
		c.value, ok = p.quotedIf(ok)
		ok = ok && p.take(")")
	case "substringof":
		ok = p.take("(")
		c.value, ok = p.quotedIf(ok)
		ok = ok && p.take(",")
		c.field, c.operator = p.word(), "substringof"
		ok = ok && p.take(")")
	default:
		c.field, c.operator = first, strings.ToLower(p.word())
		c.value, ok = p.quotedIf(c.operator == "eq" || c.operator == "ne")
	}
	c.field = strings.ToLower(c.field)
	return c, ok && strings.Contains(filterFields, " "+c.field+" ")
}

func (p *filterParser) quotedIf(ok bool) (string, bool) {
	if !ok {
		return "", false
	}
	return p.quoted()
}

// Matches reports whether an item is what the filter asks for. A tag's name and
// value are held against one and the same tag.
func (f Filter) Matches(item Filterable) bool {
	if f.any == nil {
		return true
	}
	for _, row := range f.any {
		if matchesRow(row, item) {
			return true
		}
	}
	return false
}

func matchesRow(row []comparison, item Filterable) bool {
	var ofTags []comparison
	for _, c := range row {
		have := ""
		switch c.field {
		case "resourcetype":
			have = item.Type
		case "resourcegroup":
			have = item.Group
		case "name":
			have = item.Name
		case "location":
			have, c.value = item.Location, strings.ReplaceAll(c.value, " ", "")
		case "identity/principalid":
			have = item.PrincipalID
		default:
			ofTags = append(ofTags, c)
			continue
		}
		if !c.holds(have) {
			return false
		}
	}
	return len(ofTags) == 0 || hasTag(ofTags, item.Tags)
}

func hasTag(row []comparison, tags map[string]string) bool {
	for name, value := range tags {
		all := true
		for _, c := range row {
			if c.field == "tagname" {
				all = all && c.holds(name)
			} else {
				all = all && c.holds(value)
			}
		}
		if all {
			return true
		}
	}
	return false
}

// holds compares without regard to case, as ARM does.
func (c comparison) holds(have string) bool {
	have, want := strings.ToLower(have), strings.ToLower(c.value)
	switch c.operator {
	case "ne":
		return have != want
	case "startswith":
		return strings.HasPrefix(have, want)
	case "substringof":
		return strings.Contains(have, want)
	}
	return have == want
}
