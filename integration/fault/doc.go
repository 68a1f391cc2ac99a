// Command fault breaks brokers, networks, disks and publishers on purpose while a
// publisher of holdfast is at work, and counts what came of its promises.
//
// The publisher is a process of its own (this program, run again), which writes a
// line for each outcome right after it has it, with one write each: its ledger is
// in the pipe even when the process is killed. What the broker has stored in the
// end is read with the plain client libraries, so that nothing of holdfast is its
// own witness. A row is one fault on one broker. The program ends with a table and
// a line of totals, and with status 1 when a guarantee is broken, 2 when it could
// not do its work.
//
// It needs Linux. As root it mounts small file systems for the rows that fill a
// disk or cut its power.
package main
