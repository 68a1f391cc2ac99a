// Package check holds the few assertions that the tests of this module share.
// It is for tests only.
package check

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"
)

// Equal fails t when got and want differ, by reflect.DeepEqual. It does not end
// the test. what names the thing compared and may be left out.
func Equal[T any](t testing.TB, got, want T, what ...any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%sgot %#v, want %#v", label(what), got, want)
	}
}

// NoError ends the test when err is not nil.
func NoError(t testing.TB, err error, what ...any) {
	t.Helper()
	if err != nil {
		t.Fatalf("%sunexpected error: %v", label(what), err)
	}
}

// ErrorIs fails t when target is not in err's chain. It does not end the test.
func ErrorIs(t testing.TB, err, target error, what ...any) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%sgot error %v, want one that is %q", label(what), err, target)
	}
}

// True fails t when ok is false. It does not end the test.
func True(t testing.TB, ok bool, what ...any) {
	t.Helper()
	if !ok {
		t.Errorf("%sgot false, want true", label(what))
	}
}

// Eventually waits until cond is true and ends the test when it is not so
// within deadline. It polls every millisecond, which is virtual time inside a
// synctest bubble.
func Eventually(t testing.TB, cond func() bool, deadline time.Duration, what ...any) {
	t.Helper()
	if cond() {
		return
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(deadline); time.Now().Before(end); {
		<-tick.C
		if cond() {
			return
		}
	}
	t.Fatalf("%snot so within %v", label(what), deadline)
}

// label turns "what" into the start of a failure message.
func label(what []any) string {
	if len(what) == 0 {
		return ""
	}
	if format, ok := what[0].(string); ok && len(what) > 1 {
		return fmt.Sprintf(format, what[1:]...) + ": "
	}
	return fmt.Sprint(what...) + ": "
}
