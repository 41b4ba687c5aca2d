# The two commands of the README are "make run" and "make test". What each target
# needs beyond Go, make and git, "make deps" installs.

SHELL := /bin/sh
# The version is stamped below, so that a clone owned by somebody else builds too.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

# FUZZTIME is how long each fuzz target runs.
FUZZTIME ?= 10s
# VULNDB is a Go vulnerability database, unpacked or as a .tar.gz. One that lies
# beside this folder, or one level below its neighbours, is found.
VULNDB ?= $(firstword $(wildcard vulndb.tar.gz ../vulndb.tar.gz ../*/vulndb.tar.gz))

GIT     := git -c safe.directory='*'
VERSION := $(shell $(GIT) describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  := $(shell $(GIT) rev-parse HEAD 2>/dev/null || echo unknown)
INFO    := countersign/internal/buildinfo
LDFLAGS := -s -w -X $(INFO).version=$(VERSION) -X $(INFO).commit=$(COMMIT)

.PHONY: build run test unit e2e fuzz lint vuln generate deps clean

build:
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...

run: build
	exec bin/trust-admin dev

# The steps, in the order in which they fail fastest. The tests come last, so
# that their ok lines end the output.
test:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory vuln
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory fuzz
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory e2e

unit:
	go test -race -timeout 15m $$(go list ./... | grep -v /e2e$$)
	go test -run TestListStreams ./admin # its 10,000 repositories are too many for the race detector

# The programs of bin/, by real clients. What its tests start, they end. Some of
# them run the daemons with the race detector.
e2e: build
	CGO_ENABLED=1 go build -race -o bin/race/ ./cmd/trust-server ./cmd/trust-signer
	COUNTERSIGN_BIN=$(CURDIR)/bin go test -count=1 -timeout 15m -parallel 4 ./e2e

fuzz:
	scripts/fuzz $(FUZZTIME)

lint:
	scripts/lint

vuln:
	scripts/vuln "$(VULNDB)"

generate:
	go generate ./proto

deps:
	scripts/deps

clean:
	rm -rf bin
