# What a contributor and .ci/run do with this repository. Needs Go, a C compiler
# (for the race detector), git, bash, Node with npm for the tests that let a
# foreign client publish, and nats-server 2.9 for those on an old server;
# .ci/run installs what is missing. Everything else is
# fetched or built here, at the versions written down in go.mod files.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
GO          ?= go
MAKEFLAGS   += --no-print-directory

# The modules of go.work, the library first: what is wrong there is wrong
# everywhere.
MODULES := $(shell sed -n '/^use (/,/^)/s/^[[:space:]]\{1,\}//p' go.work)
LIBRARY := github.com/holdfast-go/holdfast
REDIS   := $(LIBRARY)/redisstore
# The version that nested modules require, which go.work ties to this tree.
VERSION := $(shell sed -n 's|^replace $(LIBRARY) \(v[^ ]*\) .*|\1|p' go.work)
# Room for a machine that is three times slower. The suite runs real servers; it
# gets more time.
TIMEOUT             ?= 15m
TIMEOUT_INTEGRATION ?= 60m
FUZZTIME            ?= 10s

GO_FILES  = $(shell find . -name '*.go' -not -path './.git/*' -not -path '*/node_modules/*')
NPM_LOCKS = $(shell find . -name package-lock.json -not -path '*/node_modules/*')
NPM_DONE  = $(patsubst %/package-lock.json,%/node_modules/.package-lock.json,$(NPM_LOCKS))

.DEFAULT_GOAL := help
.PHONY: help build test lint format vet staticcheck arch demo bench fuzz-short fault-short fault fault-mutate bin/fault tidy clean cc old-nats

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build the program as bin/holdfast
	$(GO) build -o bin/ ./cmd/holdfast

# Tests of the integration module wait for brokers most of their time, so more of
# them run side by side than there are cores.
test: cc old-nats $(NPM_DONE) ## run every module's tests with the race detector
	@failed=; for m in $(MODULES); do \
		timeout=$(TIMEOUT); beside=; \
		case $$m in \
		./integration) timeout=$(TIMEOUT_INTEGRATION); beside="-parallel 4" ;; \
		esac; \
		if [ -z "$$(find $$m -name '*.go' -print -quit)" ]; then echo "== $$m: nothing yet"; continue; fi; \
		echo "== $$m: go test -race"; \
		$(GO) -C $$m test -race -timeout $$timeout $$beside ./... || failed="$$failed $$m"; \
	done; \
	if [ -n "$$failed" ]; then echo "FAILED in:$$failed"; exit 1; fi

lint: format vet staticcheck arch ## check format, vet, staticcheck and the shape of the house

format: bin/.tools
	@echo "== gofumpt"
	@bad=$$(bin/gofumpt -l $(GO_FILES)); \
	if [ -n "$$bad" ]; then echo "not formatted (bin/gofumpt -w FILE):"; echo "$$bad"; exit 1; fi

vet:
	@failed=; for m in $(MODULES); do \
		if [ -z "$$(find $$m -name '*.go' -print -quit)" ]; then continue; fi; \
		echo "== $$m: go vet"; $(GO) -C $$m vet ./... || failed=yes; \
	done; [ -z "$$failed" ]

staticcheck: bin/.tools
	@failed=; for m in $(MODULES); do \
		if [ -z "$$(find $$m -name '*.go' -print -quit)" ]; then continue; fi; \
		echo "== $$m: staticcheck"; (cd $$m && $(CURDIR)/bin/staticcheck ./...) || failed=yes; \
	done; [ -z "$$failed" ]

arch:
	@echo "== imports, requirements and bans"
	@$(GO) test -count=1 ./internal/arch

demo: ## run the demo: an embedded server, a flaky handler, a poison message
	$(GO) run ./cmd/holdfast demo

bench: ## measure against the raw client and the peers (BENCH=flags of bench/main.go)
	$(GO) -C bench run . $(BENCH)

fuzz-short: ## run every fuzz test for FUZZTIME (10s)
	@grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | while IFS=: read -r file decl; do \
		dir=$$(dirname "$$file"); name=$${decl#func }; \
		echo "== $$dir: $$name"; \
		(cd "$$dir" && $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) .); \
	done

# The fault harness is no go test: it ends with its table, and its status says
# whether a guarantee is broken.
bin/fault:
	@$(GO) -C integration build -o ../bin/fault ./fault

fault-short: bin/fault ## break brokers, networks, disks and publishers, and count what is lost
	@bin/fault $(FAULT)

fault: bin/fault ## the long form, whose table is kept in integration/fault/RESULTS.md
	@bin/fault -long $(FAULT)

fault-mutate: bin/fault ## remove one guard after the other; each must be noticed by a row of faults
	@cd integration && ../bin/fault -mutate $(FAULT)

# go mod tidy does not read go.work, so a nested module finds the library by a
# replace that lasts as long as the command.
tidy: ## tidy every go.mod
	@$(GO) mod tidy
	@for m in $(filter-out .,$(MODULES)); do \
		echo "== $$m: go mod tidy"; \
		(cd $$m; \
		trap '$(GO) mod edit -dropreplace $(LIBRARY) -dropreplace $(REDIS)' EXIT; \
		$(GO) mod edit -require $(LIBRARY)@$(VERSION) -replace $(LIBRARY)=$(CURDIR) -replace $(REDIS)=$(CURDIR)/redisstore; \
		$(GO) mod tidy); \
	done
	@cd tools && GOWORK=off $(GO) mod tidy

clean: ## remove what was built here
	rm -rf bin dist

# The tools are built once, and again when their versions change.
bin/.tools: tools/go.mod tools/go.sum
	@echo "== building gofumpt and staticcheck"
	@mkdir -p bin
	@cd tools && GOWORK=off $(GO) build -o ../bin/ tool
	@touch $@

cc:
	@cc=$$($(GO) env CC); command -v $${cc%% *} >/dev/null || { \
		echo "the race detector needs a C compiler, and $$cc is missing: apt-get install gcc libc6-dev, or run .ci/run" >&2; exit 1; }

old-nats:
	@PATH="$$PATH:/usr/sbin" command -v nats-server >/dev/null || { \
		echo "the tests on an old server need nats-server 2.9, as Debian 12 has it: apt-get install nats-server, or run .ci/run" >&2; exit 1; }

%/node_modules/.package-lock.json: %/package-lock.json
	@command -v npm >/dev/null || { \
		echo "the tests with a foreign client need Node and npm: apt-get install nodejs npm, or run .ci/run" >&2; exit 1; }
	@echo "== $*: npm ci"
	@cd $* && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
