module github.com/holdfast-go/holdfast/integration

go 1.26.0

require github.com/holdfast-go/holdfast v0.1.0
