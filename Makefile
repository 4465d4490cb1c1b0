# `make run` serves on this machine, `make test` tests everything; README.md says the rest.

KNOCK := bin/knock
CONFIG ?= data/knock.yaml

.PHONY: build run demo test e2e interop bench fuzz check

build:
	@mkdir -p bin
	CGO_ENABLED=1 go build -o $(KNOCK) ./cmd/knock

run: build
	./$(KNOCK) serve --trial --config $(CONFIG)

demo: build
	./$(KNOCK) demo

# Everything, on SQLite and on a throw-away PostgreSQL, real clients included; then the packages in which goroutines
# share most under the race detector. What cannot run says so.
test:
	@if ! command -v node >/dev/null || ! command -v npm >/dev/null; then \
	  echo "test: the end-to-end tests with matrix-js-sdk are NOT run: node and npm are missing (Debian: apt install nodejs npm)"; fi
	@if ! { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null; then \
	  echo "test: the end-to-end tests in a browser are NOT run: chromium is missing (Debian: apt install chromium)"; fi
	@if ! python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	  echo "test: interop with a real Synapse is NOT tested: python3, 3.10 or newer, with venv is missing (Debian: apt install python3 python3-venv)"; fi
	KNOCK_TEST_INTEROP=1 go run ./test/withpg -- go test -timeout 20m ./...
	go test -race -short $(RACED)

RACED := ./internal/stream ./internal/sqldb/... ./internal/cache ./roomserver/... ./federationapi/send ./clientapi/sync ./mediaapi

e2e:
	go run ./test/withpg -- go test -count=1 -v ./test/e2e

# A real Synapse, installed into a cache directory, federates with Knock. make test does this too.
interop:
	KNOCK_TEST_INTEROP=1 go run ./test/withpg -- go test -count=1 -timeout 20m ./test/interop

bench:
	go test -run '^$$' -bench . -benchmem ./...

# Every fuzz target for FUZZTIME.
FUZZTIME ?= 1m
fuzz:
	@set -e; git grep -n '^func Fuzz' -- '*_test.go' | sed 's/:[0-9]*:func / /; s/(.*//' | while read -r file name; do \
	  echo "$$name in $${file%/*}"; \
	  go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) ./$${file%/*}; \
	done

check:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt these:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...
