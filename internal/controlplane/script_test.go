package controlplane_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/controlplane"
)

// TestScripts runs testdata/*.txt, each on a control plane of its own; those
// named preview*.txt with the preview API on.
//
//	as CALLER                 owner, stranger, operator, source, twin or nobody
//	METHOD URL                a request; lines that begin with > are its body
//	code N                    checks, on the last answer
//	header NAME REGEXP
//	no header NAME
//	json PATH VALUE           PATH is a.b.0.c; VALUE is JSON, or the bare text of a string
//	text REGEXP               anywhere in the body
//	not text REGEXP
//	body                      the whole body, in the lines that begin with |
//	save NAME REGEXP          keep the first group found in headers and body
//
// $NAME stands for what was saved; $SUB, $CLUSTER, $BINDING, $VAULT and $V (the
// api-version) are set.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("no scripts")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			must(t, err)
			preview := strings.HasPrefix(filepath.Base(file), "preview")
			s := &script{fixture: newFixture(t, func(cfg *controlplane.Config) { cfg.PreviewRoleBindings = preview }), caller: "owner", vars: map[string]string{
				"SUB": sub, "CLUSTER": cluster, "BINDING": binding, "VAULT": vault, "V": "api-version=2025-10-01", "OTHER": otherSub,
			}}
			s.run(strings.Split(string(text), "\n"), file)
		})
	}
}

type script struct {
	*fixture
	caller  string
	vars    map[string]string
	status  int
	headers http.Header
	body    string
}

var variable = regexp.MustCompile(`\$[A-Z]+`)

func (s *script) expand(text string) string {
	return variable.ReplaceAllStringFunc(text, func(name string) string {
		if value, ok := s.vars[name[1:]]; ok {
			return value
		}
		return name
	})
}

func (s *script) run(lines []string, file string) {
	for i := 0; i < len(lines); i++ {
		line, at := strings.TrimSpace(lines[i]), fmt.Sprintf("%s:%d", file, i+1)
		if line == "" || line[0] == '#' {
			continue
		}
		prefixed := func(prefix string) string {
			var out []string
			for i+1 < len(lines) && strings.HasPrefix(lines[i+1], prefix) {
				i++
				out = append(out, strings.TrimPrefix(lines[i][1:], " "))
			}
			return s.expand(strings.Join(out, "\n"))
		}
		word, rest, _ := strings.Cut(line, " ")
		rest = s.expand(rest)
		switch word {
		case "as":
			s.caller = strings.TrimSuffix(rest, "nobody")
		case "GET", "PUT", "DELETE", "POST", "PATCH", "HEAD":
			resp := s.do(s.caller, word, rest, prefixed(">"))
			body, _ := io.ReadAll(resp.Body)
			s.status, s.headers, s.body = resp.StatusCode, resp.Header, string(body)
		case "body":
			if want := prefixed("|"); s.body != want {
				s.t.Errorf("%s: body is\n%s\nwant\n%s", at, s.body, want)
			}
		default:
			if err := s.check(word, rest); err != nil {
				s.t.Errorf("%s: %s: %v\nanswer: %d %s", at, line, err, s.status, s.body)
			}
		}
	}
}

func (s *script) check(word, rest string) error {
	first, more, _ := strings.Cut(rest, " ")
	switch word {
	case "code":
		if fmt.Sprint(s.status) != rest {
			return fmt.Errorf("status is %d", s.status)
		}
	case "header":
		if got := s.headers.Get(first); !regexp.MustCompile(more).MatchString(got) {
			return fmt.Errorf("header is %q", got)
		}
	case "no":
		if got := s.headers.Get(more); got != "" {
			return fmt.Errorf("header is %q", got)
		}
	case "text":
		if !regexp.MustCompile(rest).MatchString(s.body) {
			return fmt.Errorf("not found")
		}
	case "not":
		if regexp.MustCompile(more).MatchString(s.body) {
			return fmt.Errorf("found")
		}
	case "json":
		var v, want any
		if err := json.Unmarshal([]byte(s.body), &v); err != nil {
			return err
		}
		if json.Unmarshal([]byte(more), &want) != nil {
			want = more
		}
		if got := at(v, first); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("is %v", got)
		}
	case "save":
		var headers strings.Builder
		_ = s.headers.Write(&headers)
		found := regexp.MustCompile(more).FindStringSubmatch(headers.String() + "\n" + s.body)
		if len(found) < 2 {
			return fmt.Errorf("not found")
		}
		s.vars[first] = found[1]
	default:
		return fmt.Errorf("no such check")
	}
	return nil
}
