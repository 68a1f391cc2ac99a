// Package sender is the second room of a publish: it owns the messages that the
// broker has not confirmed yet. They belong to the sender and not to a
// connection: when that is lost they are sent again, first of all, in their
// order and under their IDs, on the next one.
//
// Two locks: turn orders what goes to the broker and is taken first; mu guards
// the window and is never held while something is sent or completed. The keeper
// is the one goroutine of a sender: it opens pipelines, sends again what is left
// of the one before, and pauses when the broker refuses for a moment. While all
// is well it sleeps, and messages go out on the goroutines of their callers.
package sender
