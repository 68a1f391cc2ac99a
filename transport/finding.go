package transport

import "fmt"

// Level says how serious a finding is.
type Level string

// The levels of a finding.
const (
	LevelError   Level = "error"   // a promise cannot be kept: the app does not start
	LevelWarning Level = "warning" // allowed, and likely not what was meant
	LevelInfo    Level = "info"    // worth knowing, such as what Provision will create
)

// Finding is one result of a contract check.
type Finding struct {
	// Code is stable and explained by Explain and by `holdfast explain`.
	Code Code `json:"code"`
	// Level says how serious it is.
	Level Level `json:"level"`
	// Subscription is the one whose contract is concerned.
	Subscription string `json:"subscription,omitempty"`
	// Fact is what was found, with the names and numbers of the server.
	Fact string `json:"fact"`
	// Fix is a sentence a person can act on.
	Fix string `json:"fix,omitempty"`
	// Diff lists drift, one line per setting: "max_deliver: want -1, have 5".
	Diff []string `json:"diff,omitempty"`
}

// String returns the finding in one line.
func (f Finding) String() string {
	s := fmt.Sprintf("%s %s", f.Code, f.Level)
	if f.Subscription != "" {
		s += " [" + f.Subscription + "]"
	}
	s += ": " + f.Fact
	if f.Fix != "" {
		s += "; fix: " + f.Fix
	}
	return s
}
