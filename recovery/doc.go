// Package recovery decides what happens to a message that failed.
//
// It is pure: no I/O, no clock, no goroutine and no randomness. Elapsed time and
// jitter are inputs; the answer is a [Verdict] for somebody else to perform.
// The same failure always gets the same verdict, so a policy can be tested as a
// table and read as a transcript (see testdata).
//
// A handler speaks by the error it returns: [Permanent], [RetryAfter] and
// [Discard] wrap an error with an intention; any other error is transient.
package recovery
