package graph

import (
	"fmt"
	"strings"
)

// filter is an OData $filter, of the part that clients send: eq, ne,
// startswith, collection/any(x:x eq ...), and, or, not, parentheses.
type filter func(object) bool

// maxFilter bounds a filter in bytes, and so how deep it can nest.
const maxFilter = 2048

// parseFilter reads a filter; an empty one lets everything pass.
func parseFilter(text string) (filter, *Error) {
	if text == "" {
		return func(object) bool { return true }, nil
	}
	if len(text) > maxFilter {
		return nil, unsupportedQuery("The $filter is longer than %d bytes.", maxFilter)
	}
	p := &filterParser{rest: text}
	f, err := p.or()
	if err == nil && p.skip() != "" {
		err = fmt.Errorf("unexpected %q", p.rest)
	}
	if err != nil {
		return nil, unsupportedQuery("Invalid or unsupported filter clause: %v.", err)
	}
	return f, nil
}

type filterParser struct{ rest string }

func (p *filterParser) skip() string {
	p.rest = strings.TrimLeft(p.rest, " ")
	return p.rest
}

// take reads a word or sign if it is next.
func (p *filterParser) take(word string) bool {
	if len(p.skip()) < len(word) || !strings.EqualFold(p.rest[:len(word)], word) {
		return false
	}
	if isLetter(word[0]) && len(p.rest) > len(word) && isLetter(p.rest[len(word)]) {
		return false
	}
	p.rest = p.rest[len(word):]
	return true
}

func isLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '@' || c == '.'
}

func (p *filterParser) or() (filter, error) {
	left, err := p.and()
	for err == nil && p.take("or") {
		var right filter
		a := left
		if right, err = p.and(); err == nil {
			left = func(o object) bool { return a(o) || right(o) }
		}
	}
	return left, err
}

func (p *filterParser) and() (filter, error) {
	left, err := p.term()
	for err == nil && p.take("and") {
		var right filter
		a := left
		if right, err = p.term(); err == nil {
			left = func(o object) bool { return a(o) && right(o) }
		}
	}
	return left, err
}

func (p *filterParser) term() (filter, error) {
	switch {
	case p.take("not"):
		f, err := p.term()
		return func(o object) bool { return !f(o) }, err
	case p.take("("):
		f, err := p.or()
		if err == nil && !p.take(")") {
			err = fmt.Errorf("a parenthesis is not closed at %q", p.rest)
		}
		return f, err
	case p.take("startswith"):
		return p.startsWith()
	}
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	if p.take("/any") {
		return p.anyOf(name)
	}
	not := p.take("ne")
	if !not && !p.take("eq") {
		return nil, fmt.Errorf("eq, ne or /any is expected at %q", p.rest)
	}
	want, err := p.value()
	return func(o object) bool { return equal(member(o, name), want) != not }, err
}

func (p *filterParser) startsWith() (filter, error) {
	if !p.take("(") {
		return nil, fmt.Errorf("( is expected at %q", p.rest)
	}
	name, err := p.name()
	if err != nil {
		return nil, err
	}
	if !p.take(",") {
		return nil, fmt.Errorf("a comma is expected at %q", p.rest)
	}
	want, err := p.value()
	prefix, ok := want.(string)
	if err == nil && (!ok || !p.take(")")) {
		err = fmt.Errorf("a text and ) are expected at %q", p.rest)
	}
	prefix = strings.ToLower(prefix)
	return func(o object) bool {
		text, ok := member(o, name).(string)
		return ok && strings.HasPrefix(strings.ToLower(text), prefix)
	}, err
}

// anyOf is (x:x eq 'value'), after a collection's name.
func (p *filterParser) anyOf(name string) (filter, error) {
	fail := func() (filter, error) {
		return nil, fmt.Errorf("(x:x eq 'value') is expected after any, at %q", p.rest)
	}
	if !p.take("(") {
		return fail()
	}
	x, err := p.name()
	if err != nil || !p.take(":") {
		return fail()
	}
	again, err := p.name()
	if err != nil || again != x || !p.take("eq") {
		return fail()
	}
	want, err := p.value()
	if err != nil || !p.take(")") {
		return fail()
	}
	return func(o object) bool {
		list, _ := member(o, name).([]string)
		for _, item := range list {
			if equal(item, want) {
				return true
			}
		}
		return false
	}, nil
}

// name reads a member's name, perhaps with slashes between levels.
func (p *filterParser) name() (string, error) {
	n := 0
	for p.skip(); n < len(p.rest) && (isLetter(p.rest[n]) || p.rest[n] == '/' && !strings.HasPrefix(strings.ToLower(p.rest[n:]), "/any")); n++ {
	}
	name := p.rest[:n]
	if name == "" {
		return "", fmt.Errorf("a name is expected at %q", p.rest)
	}
	p.rest = p.rest[n:]
	return name, nil
}

// value reads a text in single quotes, in which two stand for one, or true,
// false or null.
func (p *filterParser) value() (any, error) {
	switch {
	case p.take("true"):
		return true, nil
	case p.take("false"):
		return false, nil
	case p.take("null"):
		return nil, nil
	case !p.take("'"):
		return nil, fmt.Errorf("a value is expected at %q", p.rest)
	}
	var out strings.Builder
	for {
		part, rest, ok := strings.Cut(p.rest, "'")
		if !ok {
			return nil, fmt.Errorf("a text is not closed: %q", p.rest)
		}
		out.WriteString(part)
		p.rest = rest
		if !strings.HasPrefix(rest, "'") {
			return out.String(), nil
		}
		out.WriteByte('\'')
		p.rest = rest[1:]
	}
}

// equal compares texts in any casing, as Graph does.
func equal(a, b any) bool {
	x, xText := a.(string)
	y, yText := b.(string)
	if xText && yText {
		return strings.EqualFold(x, y)
	}
	switch a.(type) {
	case nil, bool:
		return a == b
	}
	return false
}

// member returns a member by its name in any casing, through levels.
func member(o object, name string) any {
	first, rest, deeper := strings.Cut(name, "/")
	for key, value := range o {
		if !strings.EqualFold(key, first) {
			continue
		}
		if !deeper {
			return value
		}
		inner, _ := value.(object)
		return member(inner, rest)
	}
	return nil
}
