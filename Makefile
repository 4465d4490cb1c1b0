# `make run` serves on this machine, `make test` tests everything; README.md says the rest.

KNOCK := bin/knock
CONFIG ?= data/knock.yaml

.PHONY: build run demo test e2e bench check

build:
	@mkdir -p bin
	CGO_ENABLED=1 go build -o $(KNOCK) ./cmd/knock

run: build
	./$(KNOCK) serve --trial --config $(CONFIG)

demo: build
	./$(KNOCK) demo

# Real clients first, then the Go tests on SQLite and on a throw-away PostgreSQL. What cannot run says so.
test:
	@status=0; \
	$(MAKE) --no-print-directory e2e || status=1; \
	go run ./test/withpg -- go test ./... || status=1; \
	exit $$status

e2e:
	@if [ ! -x test/e2e/run ]; then echo "test: no end-to-end tests in this tree"; \
	elif ! command -v node >/dev/null || ! command -v npm >/dev/null; then \
	  echo "test: the end-to-end tests with matrix-js-sdk were NOT run: node and npm are missing (Debian: apt install nodejs npm)"; \
	else test/e2e/run; fi

bench:
	go test -run '^$$' -bench . -benchmem ./...

check:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt these:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...
