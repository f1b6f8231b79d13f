package idp_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

// TestScripts runs testdata/*.txt. A script is a list of requests, each with
// what is sent and then what must come back:
//
//	POST https://login.test/$TENANT/oauth2/token      https: the login host; http: the managed-identity port
//	with Name: value                                  a request header
//	form a=b&c=d                                      the body, and its Content-Type
//	code == 200                                       from here on, checks of the answer
//	header Name == value
//	json a.b == text                                  a member, printed plainly
//	body contains text
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, name := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t)
			s := &script{world: w}
			for i, line := range strings.Split(w.expand(string(raw)), "\n") {
				if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
					continue
				}
				if err := s.line(line); err != nil {
					t.Errorf("%s:%d: %s: %v", name, i+1, line, err)
				}
			}
			// No script's secret, header or token is ever logged (checklist item 39).
			for _, canary := range []string{"canary", "eyJ", strings.Split(w.keys.IdentityHeader(uid), ".")[1]} {
				if strings.Contains(w.log.String(), canary) {
					t.Errorf("log holds %q:\n%s", canary, w.log)
				}
			}
		})
	}
}

type script struct {
	world    *world
	request  *http.Request
	response *httptest.ResponseRecorder // nil before the first check
}

func (s *script) line(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "GET", "POST", "PUT", "HEAD", "OPTIONS":
		s.request, s.response = httptest.NewRequest(word, rest, nil), nil
	case "with":
		name, value, _ := strings.Cut(rest, ": ")
		s.request.Header.Add(name, value)
	case "form":
		header := s.request.Header
		s.request = httptest.NewRequest(s.request.Method, s.request.URL.String(), strings.NewReader(rest))
		s.request.Header = header
		s.request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	default:
		return s.check(word, rest)
	}
	return nil
}

func (s *script) check(word, rest string) error {
	if s.response == nil {
		s.response = httptest.NewRecorder()
		if s.request.URL.Scheme == "http" {
			s.world.ManagedIdentity().ServeHTTP(s.response, s.request)
		} else {
			s.world.ServeHTTP(s.response, s.request)
		}
	}
	body := s.response.Body.String()
	left, want, _ := strings.Cut(rest, "== ")
	left = strings.TrimSpace(left)
	var got string
	switch word {
	case "code":
		got = fmt.Sprint(s.response.Code)
	case "header":
		got = s.response.Header().Get(left)
	case "json":
		var value any
		if err := json.Unmarshal([]byte(body), &value); err != nil {
			return err
		}
		for name := range strings.SplitSeq(left, ".") {
			object, _ := value.(map[string]any)
			value = object[name]
		}
		got = fmt.Sprint(value)
	case "body":
		if text := strings.TrimPrefix(rest, "contains "); !strings.Contains(body, text) {
			return fmt.Errorf("body is %s", body)
		}
		return nil
	default:
		return fmt.Errorf("no such check")
	}
	if got != strings.TrimSpace(want) {
		return fmt.Errorf("got %q; body is %s", got, body)
	}
	return nil
}
