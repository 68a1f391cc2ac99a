// Package engine is the delivery loop: the only place that owns handler
// goroutines. It takes messages from a transport.Receiver, runs a task for each,
// asks package recovery what to do with the outcome, and performs it.
//
// The path of one message, each step in a file of its name:
//
//	run.go      supervise: open a receiver, run the workers, reopen after a failure, stop
//	worker.go   receive, admit, attempt, judge
//	lanes.go    the same for subscriptions that keep order per key
//	settle.go   perform a verdict: successor first, settlement second
//	lease.go    keep up the leases of everything in hand; end what hangs
//	ledger.go   what this process remembers of messages that come back
//
// Lock order: Subscription.mu, then worker.mu, then Context.mu. No lock is held
// across a call into a transport other than ExtendLease, into a task, or into an
// observer.
package engine
