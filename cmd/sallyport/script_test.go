package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(mainWithCluster{m}, map[string]func(){"sallyport": main, "fetch": fetchMain})
}

// TestScripts runs the scripts that need no server.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: setUpScript,
		Cmds:  map[string]func(*testscript.TestScript, bool, []string){"code": codeCommand},
	})
}

// codeCommand is "code N command args...": the command must end with that code.
func codeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command [args...]")
	}
	got := "0"
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = strconv.Itoa(exit.ExitCode())
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// setUpScript puts a join token and a private operator file into the script's
// folder; txtar can hold neither a mode nor a computed value.
func setUpScript(env *testscript.Env) error {
	token, err := testJoinToken()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(env.WorkDir, "join-token"), []byte(token+"\n"), 0o600); err != nil {
		return err
	}
	op, err := json.Marshal(operator{
		Server: "https://127.0.0.1:1", TenantID: testSubscription, ClientID: "app", ClientSecret: "canary", SubscriptionID: testSubscription,
	})
	if err != nil {
		return err
	}
	env.Setenv("SALLYPORT_OPERATOR", "")
	env.Setenv("HTTPS_PROXY", "")
	return os.WriteFile(filepath.Join(env.WorkDir, "operator.json"), op, 0o600)
}

// testJoinToken is one for testCluster.
func testJoinToken() (string, error) {
	token, err := json.Marshal(struct {
		Address    string `json:"address"`
		ClusterID  string `json:"clusterId"`
		ClusterUID string `json:"clusterUid"`
		CAHash     string `json:"caHash"`
		ID         string `json:"id"`
		Secret     []byte `json:"secret"`
	}{"gateway.test:8443", testCluster, testSubscription, "sha256:" + strings.Repeat("ab", 32), testSubscription, make([]byte, 32)})
	return "sallyport-join-v1." + base64.RawURLEncoding.EncodeToString(token), err
}

const (
	testSubscription = "11111111-2222-3333-4444-555555555555"
	testCluster      = "/subscriptions/" + testSubscription + "/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/prod"
	testSource       = "/subscriptions/" + testSubscription + "/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
	testRole         = "Microsoft.MachineLearningServices/workspaces/mlworkload"
)
