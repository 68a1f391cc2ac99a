//go:build !unix && !windows

package spool

func diskFull(error) bool { return false }

func readOnlyDisk(error) bool { return false }
