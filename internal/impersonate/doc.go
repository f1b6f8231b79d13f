// Package impersonate turns a request that came through the tunnel into a
// request to the cluster's API server under the binding's user.
//
// Impersonation fails open: a request that loses its Impersonate headers runs
// as the proxy itself. So:
//
//   - The identity is built from nothing in the last RoundTripper, after
//     everything that deletes headers (checklist, items 3 and 4). Without a
//     binding in the context there is an error and no upstream call.
//   - Whatever headers arrived are cut down to an allow-list first, so a
//     gateway that was taken over cannot smuggle an identity either.
//   - The grant is not believed: [Config.Known] asks what this agent learned
//     on its own watch whether there is a binding of that name with that uid
//     and that source (item 23).
//   - What a request is, and so which headers it may have and whether it may be
//     upgraded, is read here anew, by package requestinfo from the bytes that go
//     on (items 9 to 11); the gateway's reading does not travel.
//   - The upstream is one fixed address; nothing in the request can name
//     another (item 12), and no redirect is followed.
//   - The account whose token is used holds no right but to impersonate, and
//     that only for its bindings' users, by exact names.
package impersonate
