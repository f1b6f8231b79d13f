package audit

// Backward and Forward are the two ways to read lines.
var Backward, Forward = backward, forward
