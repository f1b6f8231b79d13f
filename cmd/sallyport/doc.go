// Sallyport gives named cloud resources least-privilege access to Kubernetes
// clusters, without credentials and without an inbound port.
//
// The binary is one table of subcommands (main.go). server and agent are the
// two processes; every other verb is a client of the control plane and lives in
// a file of its name. All of them run inside [run], which tests call as the
// shell would: flags, environment and exit codes are touched nowhere else.
//
// Exit codes, for scripts:
//
//	0  done
//	1  failed, for a reason none of the others names
//	2  the command line was wrong; nothing was sent
//	3  the thing does not exist
//	4  refused: not authenticated, or not allowed
//	5  conflict: it exists already, or a later write took over
//	6  unavailable, or not finished in time
//
// Results go to stdout and nothing else does; progress, notes, errors ("error:
// ...") and what to do about them ("hint: ...") go to stderr. With -o json or
// yaml a result is the server's own body. Text that comes from a server or a
// cluster is printed without control characters.
//
// Secrets never stand on a command line. They are in files with mode 0600
// (operator file, identity files, kubeconfigs), in the environment of the
// process that uses them, or on stdout of the verb that was asked for them.
package main
