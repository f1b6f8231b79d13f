// Package requestinfo says what an API server takes a request to be: which
// verb on which resource, subresource, namespace and name.
//
// The answer is that of k8s.io/apiserver's own RequestInfoFactory, with the
// prefixes kube-apiserver gives it, so that audit and explain name what
// Kubernetes RBAC decides on: exec is "get" or "create" of pods/exec by
// whichever method it came (checklist, item 11), and a legacy path below
// /api/v1/watch/ is a watch.
//
// That alone is one reading. [Parse] refuses what another reader on the way, or
// an API server of another make, could read in a second one (item 10):
//
//   - paths that are not exactly what net/url would write, with empty or dot
//     segments, or with encoded dots, slashes, backslashes and NUL;
//   - API paths with an escape that needs none ("%65xec"), which a reader that
//     compares bytes and one that decodes see differently, with an encoded
//     percent sign, which a reader that decodes twice does, with control
//     characters or with what is not UTF-8. Names with other escapes pass: some
//     clients write system%3Anode;
//   - groups, versions, resources and subresources that are not lower-case,
//     and /APIs: a reader that folds case would find a resource there;
//   - methods that have no verb, and "_method" in a query, which some
//     frameworks take for one;
//   - list options that decide the verb or the scope, twice or in another
//     casing, and a "watch" that is neither true nor false;
//   - /api/v1/proxy/, which Kubernetes no longer serves, and /api/v1/watch/
//     with another method than GET or with a subresource.
//
// Behind pods/proxy and services/proxy the path and the query are an
// application's ([Info.Application]). There only the first rule holds.
//
// It decides nothing about who may do what. It holds no state.
package requestinfo
