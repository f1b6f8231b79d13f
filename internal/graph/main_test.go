package graph_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/directory"
	"github.com/sallyport/sallyport/internal/graph"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const (
	tenant      = "11111111-1111-1111-1111-111111111111"
	otherTenant = "22222222-2222-2222-2222-222222222222"
	operatorApp = "33333333-3333-3333-3333-333333333333"
	operatorOID = "44444444-4444-4444-4444-444444444444"
	aliceOID    = "55555555-5555-5555-5555-555555555555"
	sourceOID   = "66666666-6666-6666-6666-666666666666"
	sourceApp   = "77777777-7777-7777-7777-777777777777"
	workspace   = "/subscriptions/88888888-8888-8888-8888-888888888888/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/w"
)

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// world is Graph over a real store, with callers that need no token of the
// identity provider: the real ones are tried in cmd/sallyport.
type world struct {
	*graph.Graph
	store   *store.Store
	log     *bytes.Buffer
	records []audit.Record
	auditor error
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{store: storetest.New(t), log: &bytes.Buffer{}}
	must := func(_ int64, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	id, err := access.ParseResourceID(workspace)
	must(0, err)
	must(w.store.Tenants.Put(ctx, store.Tenant{ID: tenant, Domains: []string{"contoso.example"}}, 0))
	must(w.store.Tenants.Put(ctx, store.Tenant{ID: otherTenant, Domains: []string{"fabrikam.example"}}, 0))
	must(w.store.Applications.Put(ctx, store.Application{TenantID: tenant, ClientID: operatorApp, ObjectID: operatorOID, Name: "operator", Operator: true}, 0))
	must(w.store.Resources.Put(ctx, access.Resource{ID: id, TenantID: tenant, Identity: &access.Identity{ObjectID: sourceOID, AppID: sourceApp}}, 0))
	must(w.store.Users.Put(ctx, store.User{TenantID: tenant, ObjectID: aliceOID, UPN: "alice@contoso.example", DisplayName: "Alice", PasswordHash: "canary-hash", Created: start}, 0))
	must(w.store.UserNames.Put(ctx, store.UserName{UPN: "alice@contoso.example", ObjectID: aliceOID}, 0))
	must(w.store.Users.Put(ctx, store.User{TenantID: otherTenant, ObjectID: "stranger", UPN: "eve@fabrikam.example"}, 0))
	w.Graph, err = graph.New(graph.Config{
		Store: w.store, Directory: directory.New(w.store), Authenticate: authenticateTest,
		Audit: func(r audit.Record) error {
			w.records = append(w.records, r)
			return w.auditor
		},
		Now: func() time.Time { return start }, Logger: slog.New(slog.NewTextHandler(w.log, nil)),
	})
	must(0, err)
	return w
}

func authenticateTest(_ context.Context, token string) (access.Principal, error) {
	p := access.Principal{TenantID: tenant}
	switch token {
	case "operator":
		p.ObjectID, p.AppID = operatorOID, operatorApp
	case "alice": // by a client of her own that has the operator's id, too
		p.ObjectID, p.AppID = aliceOID, operatorApp
	case "stranger":
		p.ObjectID, p.AppID, p.TenantID = operatorOID, operatorApp, otherTenant
	default:
		return p, fmt.Errorf("token: %w", access.ErrUnauthenticated)
	}
	return p, nil
}

// TestScripts runs testdata/*.txt, each on a directory of its own.
//
//	as CALLER                 operator, alice, stranger or nobody
//	METHOD URL                a request; lines that begin with > are its body
//	code N                    checks, on the last answer
//	json PATH VALUE           PATH is a.0.c; VALUE is JSON, or the bare text of a string
//	count PATH N              of a list
//	text REGEXP               anywhere in the body
//	not text REGEXP
//	save NAME PATH            keep a member as $NAME
//	audited ACTION            the last record is an allowed one, of this action
//	refused ACTION            it is a refusal
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{world: newWorld(t), caller: "operator", vars: map[string]string{
				"TENANT": tenant, "ALICE": aliceOID, "OPERATOR": operatorApp, "OPERATOROID": operatorOID, "SOURCE": sourceOID, "SOURCEAPP": sourceApp,
				"WORKSPACE": workspace, "AZ": directory.AzureCLI,
			}}
			lines := strings.Split(string(raw), "\n")
			for i := 0; i < len(lines); i++ {
				line, at := os.Expand(strings.TrimSpace(lines[i]), s.variable), i+1
				if line == "" || line[0] == '#' {
					continue
				}
				var body strings.Builder
				for i+1 < len(lines) && strings.HasPrefix(lines[i+1], ">") {
					i++
					body.WriteString(os.Expand(lines[i][1:], s.variable))
				}
				if err := s.line(line, body.String()); err != nil {
					t.Errorf("%s:%d: %s: %v", file, at, line, err)
				}
			}
			if all := fmt.Sprint(s.log.String(), s.records); strings.Contains(all, "canary") {
				t.Errorf("a secret was logged or recorded: %s", all)
			}
		})
	}
}

type script struct {
	*world
	caller string
	vars   map[string]string
	answer *httptest.ResponseRecorder
}

func (s *script) variable(name string) string {
	if v, ok := s.vars[name]; ok {
		return v
	}
	return "$" + name
}

func (s *script) line(line, body string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "as":
		s.caller = rest
	case "GET", "POST", "PATCH", "DELETE", "PUT":
		r := httptest.NewRequest(word, strings.ReplaceAll(rest, " ", "%20"), strings.NewReader(body))
		if s.caller != "nobody" {
			r.Header.Set("Authorization", "Bearer "+s.caller)
		}
		s.answer = httptest.NewRecorder()
		s.ServeHTTP(s.answer, r)
	case "code":
		if rest != fmt.Sprint(s.answer.Code) {
			return s.wrong(fmt.Sprint(s.answer.Code))
		}
	case "json", "count":
		path, want, _ := strings.Cut(rest, " ")
		got := s.member(path)
		if list, ok := got.([]any); word == "count" && ok {
			got = len(list)
		}
		text, err := json.Marshal(got)
		if err != nil {
			return err
		}
		if got != want && string(text) != want {
			return s.wrong(string(text))
		}
	case "text":
		if !regexp.MustCompile(rest).MatchString(s.answer.Body.String()) {
			return s.wrong("nothing like it")
		}
	case "not":
		if regexp.MustCompile(strings.TrimPrefix(rest, "text ")).MatchString(s.answer.Body.String()) {
			return s.wrong("just that")
		}
	case "save":
		name, path, _ := strings.Cut(rest, " ")
		value, ok := s.member(path).(string)
		if !ok {
			return s.wrong("no text")
		}
		s.vars[name] = value
	case "audited", "refused":
		if len(s.records) == 0 {
			return errors.New("nothing was recorded")
		}
		last := s.records[len(s.records)-1]
		if last.Action != rest || *last.Allowed != (word == "audited") || last.ObjectID == "" {
			return fmt.Errorf("recorded was %+v", last)
		}
	default:
		return errors.New("no such line")
	}
	return nil
}

func (s *script) wrong(got string) error {
	return fmt.Errorf("got %s; answer is %d %s", got, s.answer.Code, s.answer.Body)
}

func (s *script) member(path string) any {
	var value any
	if err := json.Unmarshal(s.answer.Body.Bytes(), &value); err != nil {
		return err.Error()
	}
	for name := range strings.SplitSeq(strings.ReplaceAll(path, "@odata.", "@odata:"), ".") {
		name = strings.ReplaceAll(name, "@odata:", "@odata.")
		switch v := value.(type) {
		case map[string]any:
			value = v[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(v) {
				return nil
			}
			value = v[i]
		default:
			return nil
		}
	}
	return value
}

// TestNotRecordedMeansRefused: without its record a write is not done.
func TestNotRecordedMeansRefused(t *testing.T) {
	w := newWorld(t)
	w.auditor = errors.New("disk full at host-17")
	for _, write := range [][2]string{
		{http.MethodPost + " /v1.0/groups", `{"displayName":"g"}`},
		{http.MethodPost + " /v1.0/users", `{"displayName":"u","userPrincipalName":"u@contoso.example","passwordProfile":{"password":"canary-password"}}`},
		{http.MethodPost + " /v1.0/applications", `{"displayName":"a"}`},
		{http.MethodDelete + " /v1.0/users/" + aliceOID, ""},
	} {
		method, path, _ := strings.Cut(write[0], " ")
		r := httptest.NewRequest(method, path, strings.NewReader(write[1]))
		r.Header.Set("Authorization", "Bearer operator")
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		if rec.Code != http.StatusServiceUnavailable || strings.Contains(rec.Body.String(), "host-17") {
			t.Errorf("%s: %d %s", write[0], rec.Code, rec.Body)
		}
	}
	groups, _, err := w.store.UserGroups.List(t.Context(), "")
	users, _, err2 := w.store.Users.List(t.Context(), "")
	if err != nil || err2 != nil || len(groups) != 0 || len(users) != 2 {
		t.Errorf("there are %d groups and %d users: %v %v", len(groups), len(users), err, err2)
	}
}

// FuzzRequest: no path, query or body makes Graph panic, answer anything but
// JSON, or show what another tenant has or a hash.
func FuzzRequest(f *testing.F) {
	w := newWorld(f)
	f.Add("GET", "/v1.0/users?$filter=startswith(displayName,'A') and (accountEnabled eq true or not mail eq null)&$top=1", "")
	f.Add("GET", "/graph//v1.0/servicePrincipals?$filter=servicePrincipalNames/any(c:c eq 'x')&$select=id,appId", "")
	f.Add("POST", "/v1.0/users", `{"displayName":"u","userPrincipalName":"u@contoso.example","passwordProfile":{"password":"x"}}`)
	f.Add("PATCH", "/v1.0/applications(appId='x')", `{"api":{"oauth2PermissionScopes":[{"value":"a"}]},"keyCredentials":[{"key":"AAAA"}]}`)
	f.Add("POST", "/v1.0/directoryObjects/getByIds", `{"ids":["`+aliceOID+`"],"types":["user"]}`)
	f.Fuzz(func(t *testing.T, method, target, body string) {
		if method != http.MethodGet && method != http.MethodPost && method != http.MethodPatch {
			return
		}
		r := httptest.NewRequest(method, "/", strings.NewReader(body))
		u, err := r.URL.Parse(target)
		if err != nil {
			return
		}
		r.URL = u
		r.Header.Set("Authorization", "Bearer operator")
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		w.log.Reset()
		w.records = nil
		answer := rec.Body.String()
		if rec.Code == 0 || rec.Code >= 500 || answer != "" && !json.Valid(rec.Body.Bytes()) || strings.Contains(answer, "canary-hash") || strings.Contains(answer, "fabrikam") && !strings.Contains(target+body, "fabrikam") {
			t.Errorf("%d %s", rec.Code, answer)
		}
	})
}
