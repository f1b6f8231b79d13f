// Package audit keeps one record for each access decision and one for each
// write of consent, as JSON lines in a file only its owner may read.
//
// The rule it serves is "not recorded means refused": [File.Log] returns an
// error when a line could not be written whole, and callers refuse on it for
// every verb (security checklist, item 40). A line is handed to the operating
// system before Log returns, so it survives a kill -9 of the process; it is not
// synced to disk for each request.
//
// Records are structs with named fields. There is no field for a token or a
// query string, so none can be logged by accident (item 39), and every value
// is JSON-encoded, so a line break in a header cannot forge a line.
package audit
