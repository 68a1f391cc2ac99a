// Package tools holds no code. Its go.mod pins the linters, which make tools builds
// into bin; it stands outside of go.work, so that what they need reaches no other
// module. In this directory run the go command with GOWORK=off.
package tools
