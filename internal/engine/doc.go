// Package engine is the delivery loop: the only place that owns handler
// goroutines. It takes messages from a transport.Receiver, runs a task for each,
// asks package recovery what to do with the outcome, and performs it.
//
// The path of one message, each step in a file of its name:
//
//	run.go      supervise: open a receiver, run the workers, reopen after a failure
//	worker.go   receive, admit, attempt, judge; leave behind what hangs
//	alone.go    let a message that is suspected have no neighbours
//	count.go    count attempts in a store before they start
//	lanes.go    the same for subscriptions that keep order per key
//	turn.go     let nobody overtake a message of a lane whose lease was lost
//	settle.go   perform a verdict: successor first, settlement second
//	bury.go     store dead letters, and let nobody pay for a store that is down
//	manual.go   settle by hand
//	lease.go    keep up the leases of everything in hand
//	ledger.go   what this process remembers of messages that come back
//	stop.go     bring everything to its end within one grace
//
// Lock order: pool.mu, Subscription.mu, lanes.mu, worker.mu, Context.mu; grace.mu,
// ledger.mu and Manual.mu are leaves. No lock is held across a call into a
// transport, into a task, into a logger, or into an observer.
package engine
