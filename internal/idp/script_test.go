package idp_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
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
//	claim a == text                                   a claim of the answer's access_token
//	idclaim a == text                                 a claim of its id_token
//	location contains text                            unescaped
//	body contains text
//	body lacks text
//	save NAME json a.b                                keep a member as $NAME, form-encoded
//	save NAME body REGEXP                             keep what its first group matches; or of location
//	wait 5m                                           the clock goes on
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
			s := &script{world: w, saved: map[string]string{}}
			for i, line := range strings.Split(w.expand(string(raw)), "\n") {
				if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
					continue
				}
				if err := s.line(os.Expand(line, s.variable)); err != nil {
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
	saved    map[string]string
}

// variable returns what was saved, and leaves what was not.
func (s *script) variable(name string) string {
	if v, ok := s.saved[name]; ok {
		return v
	}
	return "$" + name
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
	case "wait":
		d, err := time.ParseDuration(rest)
		s.world.now = s.world.now.Add(d)
		return err
	case "save":
		name, what, _ := strings.Cut(rest, " ")
		return s.save(name, what)
	default:
		return s.check(word, rest)
	}
	return nil
}

func (s *script) save(name, what string) error {
	kind, what, _ := strings.Cut(what, " ")
	if err := s.send(); err != nil {
		return err
	}
	text := html.UnescapeString(s.response.Body.String())
	if kind == "location" {
		text = s.response.Header().Get("Location")
	}
	if kind == "json" {
		value, err := member(s.response.Body.Bytes(), what)
		s.saved[name] = url.QueryEscape(value)
		return err
	}
	found := regexp.MustCompile(what).FindStringSubmatch(text)
	if found == nil {
		return fmt.Errorf("not found; body is %s", s.response.Body)
	}
	s.saved[name] = url.QueryEscape(found[1])
	return nil
}

// send sends the request, once.
func (s *script) send() error {
	if s.response != nil {
		return nil
	}
	if s.request == nil {
		return errors.New("no request")
	}
	s.response = httptest.NewRecorder()
	if s.request.URL.Scheme == "http" {
		s.world.ManagedIdentity().ServeHTTP(s.response, s.request)
	} else {
		s.world.ServeHTTP(s.response, s.request)
	}
	return nil
}

// member prints a member of a JSON object, named by a path of dots.
func member(raw []byte, path string) (string, error) {
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return "", err
	}
	for name := range strings.SplitSeq(path, ".") {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return fmt.Sprint(value), nil
}

// claim prints a claim of a token in the answer.
func (s *script) claim(token, name string) (string, error) {
	text, err := member(s.response.Body.Bytes(), token)
	parts := strings.Split(text, ".")
	if err != nil || len(parts) != 3 {
		return "", fmt.Errorf("no %s; body is %s", token, s.response.Body)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", err
	}
	return member(raw, name)
}

func (s *script) check(word, rest string) error {
	if err := s.send(); err != nil {
		return err
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
	case "json", "claim", "idclaim":
		var err error
		switch word {
		case "json":
			got, err = member([]byte(body), left)
		case "claim":
			got, err = s.claim("access_token", left)
		case "idclaim":
			got, err = s.claim("id_token", left)
		}
		if err != nil {
			return err
		}
	case "location":
		location, err := url.QueryUnescape(s.response.Header().Get("Location"))
		if text := strings.TrimPrefix(rest, "contains "); err != nil || !strings.Contains(location, text) {
			return fmt.Errorf("it is %s, %v", location, err)
		}
		return nil
	case "body":
		verb, text, _ := strings.Cut(rest, " ")
		if strings.Contains(body, text) != (verb == "contains") {
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
