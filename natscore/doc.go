// Package natscore is the transport for NATS core: subjects and queue groups,
// without JetStream.
//
// It delivers at most once, and says so. NATS core stores nothing: a message
// nobody listens to is gone, and so is one that a process had taken and not
// handled when it died, or that arrived faster than it was handled. Nothing
// comes back. A subscription that asks for retries with a delay, for dead
// letters, for the broker's reject or for durability is refused with a finding
// that names the jetstream source to use instead, and so is one on a subject
// that a stream captures, unless that is asked for by name.
//
// What is promised: Publish returns nil only after the server has taken the
// message, never while the connection is down; a permission that the server
// refuses is an error of the call that needed it; messages that were dropped
// are counted, each of them; requests end at once when nobody listens; and a
// message is answered only by a handler that answers requests.
package natscore
