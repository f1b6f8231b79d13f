// Package telemetry is how the parts are watched: what their histograms look
// like, how their spans begin and end, and what /livez and /readyz answer.
//
// It holds no state of the process and registers nothing by itself. Each room
// that counts has a metrics.go with one struct and one constructor, which is
// given a [prometheus.Registerer]; a nil one counts for nobody, so the rooms
// and their tests work without. The wiring makes the registry, the exporter of
// traces and the listeners, and passes them in.
//
// # What may be seen
//
// A label's value is one of a few that we chose: a verb, a route's template, a
// kind of refusal. Never a name, path or header that a caller chose, who could
// fill the memory of us and of every Prometheus that scrapes us. The one
// identifier among them is a cluster's uid, which the server made.
//
// A span names what was done and how it ended. It never holds a token, a query
// or a body, and a path at most [MaxAttribute] bytes of it (checklist, item 39).
//
// A readiness check's reason goes to the log; who asks over the network is told
// the check's name alone, as kube-apiserver does. Checks are run at most once in
// [checkEvery], so that asking often costs nothing.
//
// # What it costs when off
//
// [Start] with a nil tracer returns the context it was given and no span: one
// comparison, no allocation.
package telemetry
