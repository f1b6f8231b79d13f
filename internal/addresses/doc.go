// Package addresses decides by where a request comes from: address ranges,
// Azure service tags, and the proxies whose word about an address is taken.
//
// A [Set] is made from what a user writes: CIDR ranges, single addresses and
// names of service tags. IPv4 and IPv6 are both plain: an IPv4 address inside
// IPv6 (::ffff:192.0.2.1) is that IPv4 address wherever it occurs, in rules and
// in connections, so that no rule depends on how a socket was opened. Zones,
// host bits behind a prefix and unknown tags are errors, because each means
// that the rule is not what its author thinks. Whether an address is in a set
// takes one binary search per family of ranges, with no allocation.
//
// [Tags] are the tags of one file in the form that Microsoft publishes
// (ServiceTags_Public_*.json). The file is read again when it changes, and sets
// made before follow it: a set looks its tags up when it is asked. A tag that
// the file no longer has contains nothing. A new file that cannot be read
// changes nothing, so that half a download does not shut everybody out.
//
// The address of a request is that of its connection. Only a connection from
// one of [TrustedProxies] may speak for another: by X-Forwarded-For, read from
// the right up to the first address that is no trusted proxy, or by a PROXY
// protocol header in front of the TLS handshake, for a balancer that does not
// end TLS. What stands further left was written by whoever asked, and is never
// read. What cannot be understood is refused and not guessed.
//
// Not here: what a refusal looks like, and which rule applies to which request.
package addresses
