// Package tools holds no code. Its go.mod pins the linters, which make tools builds
// into bin; it is a workspace of its own, so that what they need reaches no other
// module.
package tools
