package strictjson_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/strictjson"
)

func nested(open, end string, n int) string { return strings.Repeat(open, n) + strings.Repeat(end, n) }

func TestCheck(t *testing.T) {
	exact, folded := strictjson.Rules{MaxDepth: 4}, strictjson.Rules{MaxDepth: 4, FoldCase: true}
	for _, c := range []struct {
		in    string
		rules strictjson.Rules
		want  string // in the error; empty: none
	}{
		{`{}`, exact, ""},
		{" {\"a\":[{\"b\":1},{\"b\":2}],\"c\":{\"a\":null}}\r\n", folded, ""},
		{`{"a":{"a":{"a":{}}}}`, exact, ""},
		{`{"a":` + nested("[", "]", 3) + `}`, exact, ""},
		{`{"a":` + nested("[", "]", 4) + `}`, exact, "nested deeper than 4 levels"},
		{`{"a":` + strings.Repeat(`[`, 1<<20), exact, "nested deeper than 4 levels"},
		{`{"a":1,"b":2,"a":3}`, exact, `"a" occurs twice`},
		{`{"a":1,"\u0061":2}`, exact, `"a" occurs twice`},
		{`{"x":[{"y":{"b":1,"b":1}}]}`, exact, `"b" occurs twice`},
		{`{"":1,"":2}`, exact, `"" occurs twice`},
		{`{"` + strings.Repeat("k", 300) + `":1,"` + strings.Repeat("k", 300) + `":1}`, exact, `k…" occurs twice`},
		{`{"a":1,"A":2}`, exact, ""},
		{`{"a":1,"A":2}`, folded, `"A" occurs twice`},
		{`{"x":[{"roles":1,"roleſ":2}]}`, exact, ""},
		{`{"x":[{"roles":1,"roleſ":2}]}`, folded, `"roleſ" occurs twice`},
		{``, exact, "not a JSON object"},
		{`[]`, exact, "not a JSON object"},
		{`null`, exact, "not a JSON object"},
		{`"{}"`, exact, "not a JSON object"},
		{`}`, exact, "not a JSON object"},
		{`{"a":1`, exact, "not a JSON object"},
		{`{"a":}`, exact, "not a JSON object"},
		{`{"a"}`, exact, "not a JSON object"},
		{`{"a":1,}`, exact, "not a JSON object"},
		{`{"a":[1,]}`, exact, "not a JSON object"},
		{`{"a":[}`, exact, "not a JSON object"},
		{`{1:1}`, exact, "not a JSON object"},
		{`{"a":1e999}`, exact, "not a JSON object"},
		{`{} {}`, exact, "more than one"},
		{`{}x`, exact, "more than one"},
		{`{}}`, exact, "more than one"},
	} {
		err := strictjson.Check([]byte(c.in), c.rules)
		if c.want == "" {
			if err != nil {
				t.Errorf("%.60s: %v", c.in, err)
			}
			continue
		}
		var fault *strictjson.Error
		if !errors.As(err, &fault) || !errors.Is(err, access.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60s: %v, want %s", c.in, err, c.want)
		}
	}
}

func TestDecode(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":1}`:         "",
		`{"a":1,"b":2}`:   "unknown field",
		`{"a":"x"}`:       "cannot unmarshal string",
		`{"a":1,"A":2}`:   "occurs twice",
		`{"a":1} {"a":1}`: "more than one",
	} {
		var v struct{ A int }
		err := strictjson.Decode([]byte(in), strictjson.Rules{MaxDepth: 2, FoldCase: true}, &v)
		switch {
		case want == "" && (err != nil || v.A != 1):
			t.Errorf("%s: %+v, %v", in, v, err)
		case want != "" && (!errors.Is(err, access.ErrInvalid) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
}

// FuzzCheck: what passes is JSON that a reader who takes the first of two equal
// names and one who takes the last read alike, and what is folded is stricter.
func FuzzCheck(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":{"b":[1,"x",null,{}]}} `, `{"a":1,"a":2}`, `{"a":1,"A":1}`, `{"ſ":1,"s":1}`,
		`{"a":1e999}`, "{\"\xff\":1,\"\xfe\":1}", `{"a":[1,]}`, `{}{}`, `{"a":[[[[[[]]]]]]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		err := strictjson.Check(text, strictjson.Rules{MaxDepth: 5})
		if strictjson.Check(text, strictjson.Rules{MaxDepth: 5, FoldCase: true}) == nil && err != nil {
			t.Fatalf("%q passes folded only: %v", text, err)
		}
		if err != nil {
			return
		}
		if !json.Valid(text) {
			t.Fatalf("%q passed and is not JSON", text)
		}
		if strictjson.Check(text, strictjson.Rules{MaxDepth: 6}) != nil {
			t.Fatalf("%q passes when less deep only", text)
		}
		var doc map[string]any
		if err := json.Unmarshal(text, &doc); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if got, want := members(t, text), count(doc); got != want {
			t.Fatalf("%q has %d members, of which a reader keeps %d", text, got, want)
		}
	})
}

// members counts the colons outside of strings: one for each member.
func members(t *testing.T, text []byte) (n int) {
	t.Helper()
	for quoted, i := false, 0; i < len(text); i++ {
		switch {
		case quoted && text[i] == '\\':
			i++
		case text[i] == '"':
			quoted = !quoted
		case !quoted && text[i] == ':':
			n++
		}
	}
	return n
}

func count(v any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		for _, member := range v {
			n += 1 + count(member)
		}
	case []any:
		for _, item := range v {
			n += count(item)
		}
	}
	return n
}
