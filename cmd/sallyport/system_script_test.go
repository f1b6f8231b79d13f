package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestSystemScripts runs scripts that a user could type, against one real
// server and without any agent. Each script has a resource group of its own.
func TestSystemScripts(t *testing.T) {
	s := newSystem(t)
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "system"),
		Setup: func(env *testscript.Env) error {
			env.Setenv("SALLYPORT_OPERATOR", filepath.Join(s.dir, "operator.json"))
			env.Setenv("SERVER", s.url)
			env.Setenv("HTTPS_PROXY", "")
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": codeCommand},
	})
}

// fetchMain is the command "fetch URL [NAME:VALUE]...": a client that knows no
// more of its surroundings than Go's own does. It prints status and body.
func fetchMain() {
	req, err := http.NewRequest(http.MethodGet, os.Args[1], nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, header := range os.Args[2:] {
		name, value, _ := strings.Cut(header, ":")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		fmt.Println(err)
	}
	fmt.Println()
}
