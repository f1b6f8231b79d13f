package graph

import (
	"strings"

	"github.com/sallyport/sallyport/access"
)

// maxText is Graph's limit for most texts, in characters.
const maxText = 256

// text reads a member of a body that must be a text; ok says that it is there,
// and null is an empty one.
func (q *request) text(name string) (value string, ok bool, err *Error) {
	v, ok := field(q.body, name)
	if !ok || v == nil {
		return "", ok, nil
	}
	s, isText := v.(string)
	if !isText || len([]rune(s)) > maxText || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", true, invalidValue(name)
	}
	return s, true, nil
}

// texts reads several; those that are there go to where they belong.
func (q *request) texts(to map[string]*string) *Error {
	for name, target := range to {
		value, ok, err := q.text(name)
		if err != nil {
			return err
		}
		if ok {
			*target = value
		}
	}
	return nil
}

// flag reads a member that must be true or false.
func (q *request) flag(name string) (value, ok bool, err *Error) {
	v, ok := field(q.body, name)
	if !ok || v == nil {
		return false, false, nil
	}
	value, isFlag := v.(bool)
	if !isFlag {
		return false, true, invalidValue(name)
	}
	return value, true, nil
}

// field finds a member in any casing.
func field(o object, name string) (any, bool) {
	for key, value := range o {
		if strings.EqualFold(key, name) {
			return value, true
		}
	}
	return nil, false
}

// strings reads a list of texts out of a decoded object.
func stringsOf(o object, name string) ([]string, *Error) {
	v, _ := field(o, name)
	if v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok || len(list) > 1000 {
		return nil, invalidValue(name)
	}
	out := make([]string, len(list))
	for i, item := range list {
		s, ok := item.(string)
		if !ok || s == "" || len(s) > 2048 {
			return nil, invalidValue(name)
		}
		out[i] = s
	}
	return out, nil
}

// objectOf reads an object out of a decoded one; nil if it is not there.
func objectOf(o object, name string) (object, *Error) {
	v, _ := field(o, name)
	if v == nil {
		return nil, nil
	}
	inner, ok := v.(object)
	if !ok {
		return nil, invalidValue(name)
	}
	return inner, nil
}

func invalidValue(name string) *Error {
	return badRequest("Invalid value specified for property '%s' of resource.", access.Clip(name, 100))
}

// null shows an empty text as Graph does.
func null(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
