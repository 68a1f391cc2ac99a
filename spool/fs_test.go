package spool

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A directory that was made with those above it is found after a power loss: each
// of their names is synced where it stands.
func TestEveryDirectoryThatIsMadeIsMadeDurable(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "there"), 0o700); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string][]string{
		"there":     {root},
		"there/a":   {filepath.Join(root, "there")},
		"a":         {root},
		"a/b/c":     {filepath.Join(root, "a/b"), filepath.Join(root, "a"), root},
		"there/a/b": {filepath.Join(root, "there/a"), filepath.Join(root, "there")},
	} {
		if got := naming(filepath.Join(root, dir)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", dir, got, want)
		}
	}
	if got := naming("spool"); !slices.Equal(got, []string{"."}) {
		t.Errorf("relative: %q", got)
	}
}

// A file that no spool writes is somebody else's, whatever its ending.
func TestOnlyFilesOfASpoolAreKnown(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"lock": true, "aside": true, "quarantine": true, "00000000000000000001.seg": true, "00000000000000000001.done": true,
		"00000000000000000001-40.bad": true, "aside-00000000000000000001-40.bad": true, "00000000000000000001-40.bad.tmp": true,
		"thesis.tmp": false, "chapter.done": false, "1.seg": false, "apple.bad": false, "00000000000000000001.bad": false,
		"00000000000000000001.seg.tmp": false, "lost+found": false, "": false,
	} {
		if got := known(name); got != want {
			t.Errorf("known(%q) = %v", name, got)
		}
	}
}
