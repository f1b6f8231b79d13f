// Package access holds the words of Sallyport: what a cluster, a role, a
// binding, a caller and a grant are, how they are written, and which kinds of
// failure there are.
//
// It has values, parsing and validation, and nothing that runs: no I/O, no
// clock, no goroutine, and no import outside the standard library. Every other
// package may import it, and it imports none of ours, so a reader can learn
// the product here before reading any mechanism.
//
// Two rules make the words safe to decide with. A resource id is parsed once
// into typed segments, and equality is equality of those segments without
// regard to case (security checklist, item 15): never a prefix, never a
// substring. And a [Grant] is made in one place, package authorize, so a
// function that takes one says in its signature that somebody was asked.
package access
