// Package strictjson refuses JSON that two readers could understand
// differently: what a check has let pass must mean the same to all that read
// it later (checklist, item 14; RFC 8259, section 4; RFC 8725, section 2.4).
//
// [Check] is for text from outside that is read, kept or passed on afterwards:
// bodies of ARM requests, parts of tokens, enrolments. It takes one JSON object
// and nothing after it, in which no object, at any depth, has two members of
// one name. encoding/json alone is not enough: it takes the last of two equal
// names where other readers take the first, and puts "Roles" in the place of
// "roles" where others see two members. [Rules] says which of the two a caller
// reads by, and how deep a text may be nested.
//
// Check walks the tokens of encoding/json and has no syntax of its own. So a
// number that fits no float64 is refused, although its syntax is right: what
// readers make of it differs as well. How large a text may be is the caller's
// to say before it is read.
package strictjson
