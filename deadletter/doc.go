// Package deadletter is what people do with dead letters: list them, show one,
// group them by cause, redrive them to the subscription that failed, discard
// them. It is the one implementation behind the Go API, the command line and
// the console.
//
// A dead letter is a message with its story beside it: the body and the headers
// of the user untouched, and why, when, where and how often it failed. Looking
// at one changes nothing.
//
// Changes copy first and remove after: a redrive is confirmed by the broker
// before its dead letter is removed. A call that was interrupted is made again;
// the broker suppresses the second copy of a redrive while its window for
// duplicates lasts (two minutes on JetStream unless the stream says otherwise).
// After that a letter that was redriven and not removed is delivered once more,
// under the same message ID.
package deadletter
