package jetstream

import "github.com/holdfast-go/holdfast/transport"

// Subject is the address of a subject, for publishers and requests.
func Subject(subject string) transport.Address { return transport.Address{Name: subject} }
