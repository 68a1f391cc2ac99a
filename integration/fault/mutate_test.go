//go:build linux

package main

import (
	"slices"
	"testing"
)

func TestEveryMutantFindsItsGuardAndItsRow(t *testing.T) {
	t.Parallel()
	for _, m := range mutants() {
		if _, err := m.overlay("../..", t.TempDir()); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if !slices.ContainsFunc(rows(), func(r row) bool { return r.name == m.row }) {
			t.Errorf("%s: there is no row %s", m.name, m.row)
		}
		if !slices.ContainsFunc(columns(), func(c column) bool { return c.name == m.broker }) {
			t.Errorf("%s: there is no broker %s", m.name, m.broker)
		}
	}
}
