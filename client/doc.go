// Package client is the Go client of Sallyport's control plane, and of the feed
// from which an agent learns what it has to make true.
//
// [Client] speaks ARM as spec/trusted-access.md records it: resource ids, an
// api-version on every call, errors in two envelopes, and long-running writes
// that are followed by their Azure-AsyncOperation header. Every typed value
// keeps the body that the server wrote in its field Raw, because tools must
// print exactly that and a Go struct would drop what it does not know.
//
// A write that takes time returns a [Poller] beside the value; whoever does not
// want to wait throws it away:
//
//	binding, poller, err := c.PutRoleBinding(ctx, id, client.RoleBindingProperties{...})
//	if err == nil {
//		err = poller.Wait(ctx, nil)
//	}
//
// Why it is safe to hand it a token. The server must be https, redirects are
// never followed, and of every URL that a reply names (nextLink,
// Azure-AsyncOperation, Location) only path and query are used, against the
// configured server: no reply can send the token elsewhere. Replies, pages and
// waits are bounded. Only GET, PUT and DELETE are ever repeated, and only after
// a 429 or a 503, because a repeated POST could issue a second secret. Errors
// carry what the server said, never what was sent.
//
// What it does not do: it holds no cache but that of [TokenSource], starts no
// goroutine that outlives a call, and decides nothing about access.
package client
