// Package audit keeps one record for each access decision and one for each
// write of consent, as JSON lines in files only their owner may read, and reads
// them back.
//
// The rule it serves is "not recorded means refused": [File.Log] returns an
// error when a line could not be written whole, and callers refuse on it for
// every verb (security checklist, item 40).
//
// What survives: a line is handed to the operating system before Log returns,
// so it survives a kill -9 of the process. The record of a consent is also on
// disk by then, since the consent will be. The records of requests are synced
// each second, without making any of them wait: a power cut may take the last
// second. A sync that fails refuses the next record.
//
// Rotation: a file that is full or old is synced and renamed to NAME-TIME.EXT,
// and the next one begun, between two lines. A kill at any place leaves every
// record in one file, whole; a disk on which the next file cannot be made
// refuses records until it can. Files set aside are removed by age alone. Not
// by number or size: whoever makes noise must not push out the record of what
// he did, and a full disk shuts the door instead. They never change again, so
// they can be compressed or moved away at any time, and are then not found here
// any more. gopkg.in/natefinch/lumberjack does much of this, but appends to a
// torn line, never syncs, and leaves a goroutine that nobody can stop.
//
// Reading takes from the writers' lock only a copy of the list of files, and
// reads up to the last whole line there was then.
//
// Records are structs with named fields. There is no field for a token or a
// query string, so none can be logged by accident (item 39), and every value
// is JSON-encoded, so a line break in a header cannot forge a line.
package audit
