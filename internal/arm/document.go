package arm

import "encoding/json"

// PatchDocument merges a PATCH into a kept document, and returns what to keep
// (RFC 7396: null removes). Tags are replaced as a whole, as ARM does, or nobody
// could take one away. What is write-only is in neither.
func PatchDocument(kept []byte, patch map[string]any) ([]byte, error) {
	doc, err := ParseDocument(kept)
	if err != nil {
		return nil, err
	}
	for name := range doc {
		for given := range patch {
			if equalFold(name, "tags") && equalFold(given, "tags") {
				delete(doc, name)
			}
		}
	}
	return EncodeDocument(merge(doc, patch))
}

// merge writes patch over doc. Names are compared as clients do, without regard
// to case: an object has one member of a name, in whatever casing.
func merge(doc, patch map[string]any) map[string]any {
	for name, value := range patch {
		at := name
		for have := range doc {
			if equalFold(have, name) {
				at = have
			}
		}
		inner, isObject := value.(map[string]any)
		switch {
		case value == nil:
			delete(doc, at)
		case isObject:
			below, ok := doc[at].(map[string]any)
			if !ok {
				below = map[string]any{}
			}
			doc[at] = merge(below, inner)
		default:
			doc[at] = value
		}
	}
	return doc
}

// EncodeDocument writes a document for keeping, without write-only members.
func EncodeDocument(doc map[string]any) ([]byte, error) { return json.Marshal(Redact(doc)) }
