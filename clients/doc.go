// Package clients holds the real clients of Azure and Kubernetes that this
// project is tried with, in pinned versions, and the tests that run them: az
// and Azure's SDK for Python (requirements.txt), its SDKs for JavaScript (npm/)
// and Go, kubelogin and Helm (go.mod). It is a module of its own, so that the
// server's requires none of them.
//
// `make clients` installs them (install.sh), starts one server, and runs each
// script of testdata/ against it: what a user types who has scripts for Azure,
// with `sallyport run --` in front and nothing else changed. What passed is
// written into README.md, so a row there is a pass of the last run.
//
// In a script, "az ARG..." and "client NAME LABEL COMMAND..." are commands under
// `sallyport run`, each a row when it passes; "as NAME" says who they are; "put
// VARIABLE" keeps what the last command printed. To move a client to another
// version, change its pin and run `make clients` again.
package clients
