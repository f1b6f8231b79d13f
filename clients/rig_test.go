package clients_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"gosdk": goSDKMain, "browser": browserMain})
}

// suite starts one server for all scripts, runs them, and writes the table of
// what passed.
type suite struct{ *testing.M }

func (s suite) Run() int {
	stop, err := startServer()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := s.M.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "the server's end:", err)
		code = max(code, 1)
	}
	if readme := os.Getenv("CLIENTS_TABLE"); readme != "" && code == 0 {
		if err := passed.write(readme); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// operatorFile is what the scripts need of the server's operator.json.
type operatorFile struct {
	Server         string `json:"server"`
	TenantID       string `json:"tenantId"`
	ClientID       string `json:"clientId"`
	ClientSecret   string `json:"clientSecret"`
	SubscriptionID string `json:"subscriptionId"`
	path           string
}

// operator is of the one server; startServer sets it before any test runs.
var operator operatorFile

const patience = 2 * time.Minute

// arcTokens is where clients of Azure Arc's look, and nowhere else.
const arcTokens = "/var/opt/azcmagent/tokens"

// hasArc is whether the server uses arcTokens; startServer sets it before any
// test runs.
var hasArc bool

// makeArc makes arcTokens where we may, and the real agent is not. The folders
// that are new go at the end.
func makeArc() (remove func() error, err error) {
	remove = func() error { return nil }
	if _, err := os.Stat("/opt/azcmagent"); os.Geteuid() != 0 || runtime.GOOS != "linux" || err == nil {
		return remove, nil
	}
	top := arcTokens // the highest that is new
	for {
		if _, err := os.Stat(filepath.Dir(top)); err == nil {
			break
		}
		top = filepath.Dir(top)
	}
	if _, err := os.Stat(top); err != nil {
		remove = func() error { return os.RemoveAll(top) }
	}
	hasArc = true
	return remove, os.MkdirAll(arcTokens, 0o700)
}

// startServer runs the sallyport that `make clients` built, on free ports.
func startServer() (stop func() error, err error) {
	dir, err := os.MkdirTemp("", "sallyport-clients-")
	if err != nil {
		return nil, err
	}
	logs, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return nil, err
	}
	binary, err := filepath.Abs("../bin/sallyport")
	if err != nil {
		return nil, err
	}
	removeArc, err := makeArc()
	if err != nil {
		return nil, err
	}
	args := []string{"server", "--data-dir", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0", "--identity-listen", "127.0.0.1:0", "--metrics-listen", ""}
	if hasArc {
		args = append(args, "--arc-tokens", arcTokens)
	}
	server := exec.Command(binary, args...)
	server.Stderr = logs
	out, err := server.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("%w; `make clients` builds it", err)
	}
	hung := time.AfterFunc(patience, func() { _ = server.Process.Kill() })
	ready, err := bufio.NewReader(out).ReadString('\n')
	if !hung.Stop() || err != nil || !strings.HasPrefix(ready, "ready ") {
		text, _ := os.ReadFile(logs.Name())
		return nil, fmt.Errorf("the server did not start (%q, %v):\n%s", ready, err, text)
	}
	operator.path = filepath.Join(dir, "data", "operator.json")
	data, err := os.ReadFile(operator.path)
	if err == nil {
		err = json.Unmarshal(data, &operator)
	}
	if err != nil {
		return nil, err
	}
	return func() error {
		err := server.Process.Signal(os.Interrupt)
		hung := time.AfterFunc(patience, func() { _ = server.Process.Kill() })
		defer hung.Stop()
		err = errors.Join(err, server.Wait(), logs.Close(), removeArc())
		if err == nil && os.Getenv("CLIENTS_KEEP") == "" {
			return os.RemoveAll(dir)
		}
		fmt.Fprintln(os.Stderr, "server's log:", logs.Name())
		return err
	}, nil
}

// TestClients runs the scripts: what somebody types who has scripts for Azure
// and puts `sallyport run --` in front.
func TestClients(t *testing.T) {
	bin, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	tools, err := filepath.Abs("../.clients")
	if err != nil {
		t.Fatal(err)
	}
	testscript.RunT(discreet{t}, testscript.Params{
		Dir:             "testdata",
		ContinueOnError: true,
		Setup: func(env *testscript.Env) error {
			for name, value := range map[string]string{
				"SALLYPORT_OPERATOR": operator.path,
				"CLIENT_ID":          operator.ClientID, "CLIENT_SECRET": operator.ClientSecret,
				"TENANT": operator.TenantID, "SUBSCRIPTION": operator.SubscriptionID,
				"SERVER": operator.Server,
				"HOME":   env.WorkDir, "XDG_CONFIG_HOME": filepath.Join(env.WorkDir, "config"),
				"NODE_PATH": filepath.Join(tools, "npm", "node_modules"),
				"AS":        "",
				"PATH":      strings.Join([]string{bin, filepath.Join(tools, "venv", "bin"), env.Getenv("PATH")}, string(os.PathListSeparator)),
			} {
				env.Setenv(name, value)
			}
			return nil
		},
		Condition: func(name string) (bool, error) {
			if program, ok := strings.CutPrefix(name, "has:"); ok {
				_, err := exec.LookPath(program)
				return err == nil, nil
			}
			if name == "arc" {
				return hasArc, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"as": asCommand, "client": clientCommand, "az": azCommand, "put": putCommand},
	})
}

// discreet is a test whose log, which says what a script's commands printed,
// leaves the server's secret out.
type discreet struct{ *testing.T }

// Run implements [testscript.T].
func (d discreet) Run(name string, script func(testscript.T)) {
	d.T.Run(name, func(t *testing.T) { script(discreet{t}) })
}

// Log implements [testscript.T].
func (d discreet) Log(args ...any) {
	d.T.Log(strings.ReplaceAll(fmt.Sprint(args...), operator.ClientSecret, "[the client secret]"))
}

// Verbose implements [testscript.T].
func (d discreet) Verbose() bool { return testing.Verbose() }

// asCommand is "as [NAME]": who the clients after it are; nobody without a name.
func asCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: as [NAME]")
	}
	ts.Setenv("AS", strings.Join(args, ""))
}

// azCommand is "az ARG...": az by `sallyport run`. What passes is a row of the
// table, by its words.
func azCommand(ts *testscript.TestScript, neg bool, args []string) {
	words, flags := len(args), []string(nil)
	for i, arg := range args {
		if strings.HasPrefix(arg, "-") {
			words, flags = min(words, i), append(flags, arg)
		}
	}
	label := args[:words]
	if label[0] == "login" { // its flags say which sign-in it is
		flags = slices.DeleteFunc(flags, func(f string) bool { return slices.Contains([]string{"-o", "--tenant", "--allow-no-subscriptions"}, f) })
		label = append(slices.Clone(label), flags...)
	}
	runClient(ts, neg, "az", strings.Join(label, " "), append([]string{"az"}, args...))
}

// clientCommand is "client NAME LABEL COMMAND ARG...": any other client.
func clientCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: client NAME LABEL COMMAND [ARG]...")
	}
	runClient(ts, neg, args[0], args[1], args[2:])
}

func runClient(ts *testscript.TestScript, neg bool, name, label string, command []string) {
	flags := []string{"run"}
	if as := ts.Getenv("AS"); as != "" {
		flags = append(flags, "--as", as)
	}
	err := ts.Exec("sallyport", append(append(flags, "--"), command...)...)
	switch {
	case err == nil && neg:
		ts.Fatalf("%s should have failed", strings.Join(command, " "))
	case err != nil && !neg:
		ts.Fatalf("%s: %v", strings.Join(command, " "), err)
	case err == nil:
		passed.add(name, label)
	}
}

// putCommand is "put VARIABLE": what the last command printed, without the
// newline, becomes a variable of the script.
func putCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: put VARIABLE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}
