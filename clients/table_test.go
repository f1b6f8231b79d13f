package clients_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// passed is what this run has seen pass.
var passed table

// table is the clients' commands that passed, by client. Safe for concurrent
// use: scripts run side by side.
type table struct {
	mu   sync.Mutex
	rows map[string][]string
}

func (t *table) add(client, command string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows == nil {
		t.rows = map[string][]string{}
	}
	if !slices.Contains(t.rows[client], command) {
		t.rows[client] = append(t.rows[client], command)
	}
}

const (
	tableBegin = "<!-- written by `make clients`: what passed in its last run -->\n"
	tableEnd   = "<!-- end of what `make clients` writes -->\n"
)

// write puts the table between the marks in a file.
func (t *table) write(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(data), tableBegin)
	_, after, ended := strings.Cut(rest, tableEnd)
	if !ok || !ended {
		return fmt.Errorf("%s has no marks for the table of clients", path)
	}
	text, err := t.markdown()
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(before+tableBegin+text+tableEnd+after), 0o644)
}

func (t *table) markdown() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var clients []string
	for client := range t.rows {
		clients = append(clients, client)
	}
	slices.Sort(clients)
	var b strings.Builder
	b.WriteString("| Client | Version | What passes |\n| --- | --- | --- |\n")
	for _, client := range clients {
		version, err := versionOf(client)
		if err != nil {
			return "", fmt.Errorf("version of %s: %w", client, err)
		}
		commands := slices.Sorted(slices.Values(t.rows[client]))
		fmt.Fprintf(&b, "| %s | %s | `%s` |\n", client, version, strings.Join(commands, "`, `"))
	}
	return b.String(), nil
}

// versionOf asks the client, or who pinned it.
func versionOf(client string) (string, error) {
	module, isModule := strings.CutPrefix(client, "Go ")
	python, isPython := strings.CutPrefix(client, "Python ")
	npm, isNPM := strings.CutPrefix(client, "npm ")
	switch {
	case client == "az":
		return firstMatch(`"azure-cli": "([^"]+)"`, "../.clients/venv/bin/az", "version")
	case client == "kubelogin":
		return firstMatch(`(.+)`, "go", "list", "-m", "-f", "{{.Version}}", "github.com/Azure/kubelogin")
	case isModule:
		return firstMatch(`azure-sdk-for-go/sdk/(?:[^ ]+/)?`+module+`(?:/v\d+)? (\S+)`, "cat", "go.mod")
	case isPython:
		return firstMatch(`Version: (\S+)`, "../.clients/venv/bin/python", "-m", "pip", "show", python)
	case isNPM:
		return firstMatch(`"version": "([^"]+)"`, "cat", "../.clients/npm/node_modules/"+npm+"/package.json")
	}
	return "", fmt.Errorf("nobody knows")
}

func firstMatch(pattern, name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	found := regexp.MustCompile(pattern).FindSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("%s says %q", name, out)
	}
	return string(found[1]), nil
}
