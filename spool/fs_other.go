//go:build !unix

package spool

import "io/fs"

// noFollow does not exist here; the directory is checked before it is used.
const noFollow = 0

// ours cannot tell here; the directory's access list decides.
func ours(fs.FileInfo) bool { return true }

// syncDir does nothing: directories cannot be synced here, the file system
// keeps its names by its own journal.
func syncDir(string) error { return nil }
