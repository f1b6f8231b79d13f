// Package arm is how the words of package access look to clients of Azure
// Resource Manager: paths, api-versions, bodies, errors, headers, pages and
// operation URLs, close enough to the real thing that az, Terraform and the
// SDKs work unmodified (spec/trusted-access.md 1-3, spec/identity.md 6).
//
// It is material: it decides nothing, stores nothing and knows no caller. The
// control plane asks it to read a request (ParsePath, Pattern.Match,
// CheckAPIVersion, DecodeBody) and to write an answer (Stamp, Write,
// WriteError), and fills in what stands between.
//
// Three choices are worth a reviewer's time.
//
// A path is split once, from its undecoded bytes, and refused when two readers
// could see two paths in it: empty and dot segments, a percent sign, or any
// character that access does not admit in a resource id (checklist item 10).
// One trailing slash is dropped, as ARM does. Literal segments match in any
// casing, and a name is handed on as it was written. Nothing is cleaned or
// decoded, so what was matched is what was sent; http.ServeMux would redirect
// and unescape first.
//
// A body is refused when one object has two members whose names differ only in
// case: encoding/json, and the clients, would disagree on which one holds
// (the class of checklist item 15). Write-only fields are removed by Redact
// before a document is kept, so no later echo can leak one.
//
// An error has one of two envelopes: bare for the resource provider's own
// words, wrapped in "error" for ARM's (spec/trusted-access.md 2.2). Which
// one, and the status, is decided once, in FromError; an error of no known
// kind is answered with a fixed text.
package arm
