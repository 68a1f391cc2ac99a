module example.com/other

go 1.26.0

toolchain go1.26.8

require (
	github.com/holdfast-go/holdfast v0.0.0-00010101000000-000000000000
	github.com/nats-io/nats.go v1.55.0
	github.com/stretchr/testify v1.12.1
)

replace github.com/holdfast-go/holdfast => ../holdfast

tool honnef.co/go/tools/cmd/staticcheck
