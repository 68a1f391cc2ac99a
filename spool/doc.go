// Package spool is the disk log of a publisher: what was appended is synced
// before the append returns, survives the process and the machine, and is read
// back in order until it was marked as done.
//
// It knows nothing of brokers. Its unit is an opaque record with a sequence
// number; who sends records marks each of them with [Log.Done], in any order, or
// puts one that cannot be sent apart with [Log.SetAside], so that it does not
// hold up the others.
//
// # Promises
//
//   - A record whose [Log.Append] returned nil is handed out by [Log.Next] until it
//     was marked, also after a kill or a power loss. Many callers share one sync.
//   - A record whose Append returned an error is not handed out while this process
//     lives. If the machine loses power, or the process is killed, right after the
//     failure, it may be: a disk that fails cannot be told to forget. Errors that
//     are [ErrUnknown] say that the outcome was open when the context ended: the
//     record is handed out if the disk takes it after all.
//   - Marks are written at once and synced every second. A killed process sends
//     again what it had marked within the last instant; a power loss, what was
//     marked within the last seconds. Nothing is forgotten.
//   - A write error takes the file back to its last good byte; the next append
//     tries again, so the log heals without a restart. A file whose sync has failed
//     is never written to again, and what it was to make durable is written to a
//     new one.
//   - A tail that was torn by a crash is cut and told in [Recovery]. Damage before
//     it is copied into the quarantine folder and told; the rest is handed out.
//   - One process at a time writes, by a lock the kernel gives back; [Inspect] reads
//     beside it without one.
//
// Order is that of the sequence numbers: records of one Append, and of Appends of
// which one returned before the other began, are handed out in that order.
// Numbers are never used twice, and they may have gaps.
//
// # FORMAT
//
// Numbers are little-endian. Checksums are CRC32C. Directories are 0700 and
// files 0600.
//
//	lock                           held by the writer; holds its process ID
//	00000000000000000001.seg       a segment, named after its first possible number
//	00000000000000000001.done      its marks
//	aside/                         the same two kinds of files, for what was set aside
//	quarantine/NAME-OFFSET.bad     damaged bytes of a segment, as they were
//
// A segment begins with 40 bytes:
//
//	 0  8  "HFSPOOL\n"
//	 8  4  version of the format, 1
//	12  4  checksum of the other 36 bytes
//	16  8  first possible number, as in the name
//	24  8  the segment that was written before, 0 for none
//	32  8  where that one ends
//
// What lies in the preceding segment behind that end, and a segment between the
// two, are the remains of writes that failed; they count for nothing. A segment
// that another names as its predecessor was complete: what is unreadable in it is
// damage, never a torn tail. A clean Close leaves a segment without records for
// this reason.
//
// Records follow without padding, each with a header of 32 bytes:
//
//	 0  4  "HFr1"
//	 4  4  length of the data
//	 8  8  number, greater than those before
//	16  8  when it was appended, nanoseconds since 1970
//	24  4  checksum of the data
//	28  4  checksum of the 28 bytes before
//	32     data
//
// Both checksums are XORed with a salt that follows from the number of the
// segment, so that a record of another segment, carried as data, is not taken
// for one of this when a damaged part is searched for the next good record.
//
// The file of marks is a row of entries of 16 bytes. An entry that is damaged is
// left out, which only means that its records are sent again:
//
//	 0  8  first number
//	 8  4  how many numbers are done
//	12  4  checksum of the 12 bytes before, with the salt of the segment
//
// A record of aside/ has as data the number (8) and the time (8) that the record
// had, the length of the reason (4), the reason, and the data. Such a record
// counts as done where it was before.
package spool
