package main

import (
	"path/filepath"
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
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": codeCommand},
	})
}
