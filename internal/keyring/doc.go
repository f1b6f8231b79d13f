// Package keyring seals data at rest: records of the store, which may lie on
// disks, in an etcd and in backups that others look after.
//
// A [Ring] is one file of mode 0600 with one or more keys of 256 random bits.
// The newest seals; all of them open, so that a key can be replaced while
// records of the old one are still being read ([Ring.Add], then, when all has
// been sealed again, [Ring.Retire]).
//
// A sealed value is
//
//	0x00 "sp1" | id of the key, 16 hexadecimal digits | nonce, 24 bytes | XChaCha20-Poly1305 ciphertext
//
// Nonces are random and of 192 bits, so however many values a key seals, none
// comes twice. What is authenticated besides the value is the name that the
// caller gives it and the envelope's own head: a value put in the place of
// another, or altered by one bit, does not open. JSON never begins with a zero
// byte, so what is sealed and what is not cannot be confused.
//
// What it does not do: it does not notice that a whole older value of the same
// name was put back, nor that one is missing. It protects no names, lengths or
// times. Who may read the key file may read everything, so it is as secret as
// all that it seals; a copy belongs apart from the data, for without it the
// data is lost (checklist item 39).
package keyring
