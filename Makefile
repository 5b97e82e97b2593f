# Everything a person does here. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := bash
BIN := bin
TOOLS := .cache/bin
PKGS := ./... ./sdk/go/...
export GOFLAGS += -trimpath

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build all binaries into bin/
	@mkdir -p $(BIN)
	go build -o $(BIN)/ ./services/berth ./services/*/cmd/* ./examples/...

run: build ## run all of Berth on 127.0.0.1 until Ctrl-C
	@$(BIN)/berth dev --config examples/berth.dev.yaml

demo: build ## play one complete match and print its timeline
	@$(BIN)/berth dev --config examples/berth.dev.yaml --quiet --any-port -- $(BIN)/matchmaker --build example --players 3 --timeline

test: ## run all tests; those that need a redis-server run where there is one (REQUIRE_REDIS=1: must)
	go test $(TESTFLAGS) $(PKGS)

test-kubernetes: ## play Kubernetes, Agones and whole matches on a real API server, which it builds first: some minutes
	tools/kubernetes.sh

endure: ## the long tests: the same suites again and again, with the race detector, and the storms
	go test -race -count=5 -timeout 60m ./test/e2e/... ./services/... ./sdk/go/...
	$(MAKE) storm

storm: ## hundreds of linked servers while gateways and Redis are stopped, killed, paused and failed over; counts at both ends
	REQUIRE_REDIS=1 BERTH_STORM=long go test -v -count=1 -timeout 60m ./test/storm

bench: build ## print the figures: name, value, unit, target (tab-separated)
	@go run ./test/bench -bin $(BIN)

gen: ## generate code from proto/
	tools/gen.sh

lint: ## buf lint and golangci-lint
	tools/lint.sh

clean: ## remove what was built
	rm -rf $(BIN) .cache .berth

.PHONY: help build run demo test test-kubernetes endure storm bench gen lint clean
