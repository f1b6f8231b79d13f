// Package sallyport is the module's root: it holds the documents and the test
// that keeps them true. Start with README.md and ARCHITECTURE.md.
package sallyport
