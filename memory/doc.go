// Package memory is a message broker inside the process, behind the same seam
// as the real ones: messages are acked, given back with a delay, leased, come
// back when a lease ends, are counted, deduplicated, refused when nothing takes
// them, and buried as dead letters.
//
// It is what programs built on holdfast are tested with, and it serves a
// program that needs no broker. What it stores is gone with the process; that
// is the only promise it denies.
//
// A [Broker] is a transport. A queue takes the messages of the subjects it is
// bound to, from the moment it is provisioned: subscriptions that open one
// queue share its messages, and every queue gets its own copy. Messages may ask
// to be kept back until a time, to be dropped when nobody took them in time, and
// to go before those of a lower priority.
//
// All time is that of package time: inside a testing/synctest bubble a test of
// hours of retries takes no time. Nothing polls, and nothing runs after
// [Broker.Close].
//
// For tests of what happens when a broker misbehaves there are [Broker.Fail],
// [Broker.LoseAnswer], [Broker.Stall], [Broker.Alarm], [Broker.Pause],
// [Broker.Disconnect] and [Broker.BreakPipelines]; for tests that wait for the
// end of the work, [Broker.WaitIdle], [Broker.Len] and [Broker.Stats].
package memory
