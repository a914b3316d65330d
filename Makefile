# Every target that needs something installs it: Debian packages with apt-get (as root), Go
# tools and npm packages at pinned versions.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

BUILD   := build
BIN     := $(BUILD)/ringfence
ENGINE  := $(BUILD)/libchdb.so
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
TOOL    := go tool -modfile=$(CURDIR)/tools/go.mod
ARGS    ?=

CLANG   := clang-19
APT_GENERATE := clang-19 llvm-19 libbpf-dev linux-libc-dev protobuf-compiler
APT_LINT     := clang-format-19
APT_TEST     := chromium
APT_NETWORK  := nftables iproute2
APT_KEEPER   := libzookeeper-java default-jre-headless

GO_SOURCES := $(shell find . -name '*.go' -not -path './ui/node_modules/*' -not -path './$(BUILD)/*' 2>/dev/null) go.mod go.sum
SQL_SOURCES := $(wildcard migrations/*.sql)
BPF_OBJECTS := $(wildcard bpf/*.o)
UI_SOURCES := $(shell find ui/src ui/public ui/index.html -type f 2>/dev/null) $(wildcard ui/*.json ui/*.ts ui/*.mjs)
C_SOURCES  := $(wildcard bpf/*.c bpf/*.h)

# $(call apt,packages): install those that are missing.
define apt
	missing=; for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
		echo "installing$$missing"; \
		[ "$$(id -u)" = 0 ] || { echo "run as root, or install:$$missing" >&2; exit 1; }; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-zA-Z_-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "  %-16s %s\n", $$1, $$2}'

## ---- build

.PHONY: build
build: $(BIN) $(ENGINE) ## Build build/ringfence with its UI, and fetch the ClickHouse engine

.PHONY: engine
engine: $(ENGINE) ## Fetch the embedded ClickHouse engine to build/libchdb.so

.PHONY: ui
ui: ui/dist/index.html ## Build the web UI into ui/dist

$(BIN): $(GO_SOURCES) $(SQL_SOURCES) $(BPF_OBJECTS) ui/dist/index.html internal/lab/online-boutique.yaml internal/api/openapi.yaml
	@mkdir -p $(@D)
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/ringfence

$(ENGINE): deploy/engine/package-lock.json
	@mkdir -p $(BUILD)/engine
	cp deploy/engine/package.json deploy/engine/package-lock.json $(BUILD)/engine/
	cd $(BUILD)/engine && npm ci --no-audit --no-fund --loglevel=error
	mv $(BUILD)/engine/node_modules/@chdb/lib-linux-*/libchdb.so $@
	rm -rf $(BUILD)/engine
	touch $@

ui/node_modules: ui/package.json ui/package-lock.json
	cd ui && npm ci --no-audit --no-fund --loglevel=error
	touch $@

ui/dist/index.html: $(UI_SOURCES) | ui/node_modules
	cd ui && npm run build --silent
	touch $@

## ---- run

.PHONY: demo
demo: build ## Run the whole circle on a lab of network namespaces (root); ARGS="--until audit"
	./$(BIN) demo $(ARGS)

.PHONY: demo-check
demo-check: build ## Run the demo's script, print the table, write build/demo.json
	./$(BIN) demo --check --output $(BUILD)/demo.json $(ARGS)

## ---- test

.PHONY: test
test: build test-go test-datapath test-conformance test-export test-ui test-browser test-demo ## Run every test (root)

.PHONY: test-go
test-go: build ## Run the Go tests (root: real BPF, namespaces, engine and binary)
	@$(call apt,$(APT_NETWORK) $(APT_KEEPER))
	go test -timeout 15m -skip '$(COUNTED)' $(ARGS) $$(go list ./... | grep -vE '/test/(browser|gapless)')

# Tests whose counts are worth reading: go test shows them for one package at a time.
COUNTED := ^(TestVerifier|TestAgreement)$$

.PHONY: test-datapath
test-datapath: test-gapless ## The verifier's counts, 2 million frames against the model, changes under traffic (root)
	go test -count=1 -v -timeout 15m -run '$(COUNTED)' $(ARGS) ./bpf

.PHONY: test-conformance
test-conformance: ## Judge the Cyclonus cases and our own by evaluator, tables and kernel; print counts (root)
	cd test/conformance && go test -count=1 -timeout 15m $(ARGS)

.PHONY: test-export
test-export: ## Check exported objects against the schemas that Cilium, Calico and sig-network publish
	cd test/export && go test -count=1 $(ARGS)

.PHONY: test-gapless
test-gapless: ## Swap, kill, upgrade, flood and lose readers under traffic, with the counts (root)
	go test -count=1 -v -timeout 10m $(ARGS) ./test/gapless

.PHONY: test-ui
test-ui: ui/node_modules ## Run the UI's unit tests
	cd ui && npm test --silent

.PHONY: test-pages
test-pages: ui/node_modules ## Open every page in chromium, light and dark, wide and narrow; check accessibility and layout
	@$(call apt,$(APT_TEST))
	cd ui && npm run test:pages --silent

.PHONY: test-browser
test-browser: build ui/node_modules ## Click through review, audit, enforce and roll back in a real browser
	@$(call apt,$(APT_TEST))
	go test -count=1 -timeout 15m -v $(ARGS) ./test/browser

.PHONY: test-demo
test-demo: demo-check ## The same as demo-check

.PHONY: fuzz
fuzz: ## Fuzz every parser for FUZZTIME (default 20s) each
	@for pkg in $$(go list ./...); do \
		for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-20s} -fuzzminimizetime 100x $$pkg; \
		done; \
	done

.PHONY: bench-accuracy
bench-accuracy: ## Learn two published applications in ten scenarios, beside a peer, write build/bench/accuracy.json
	@mkdir -p $(BUILD)/bench
	cd test/bench/accuracy && go build -o $(abspath $(BUILD))/bench/accuracy .
	./$(BUILD)/bench/accuracy -output $(BUILD)/bench/accuracy.json $(ARGS)

.PHONY: bench-datapath
bench-datapath: ## Measure the datapath against nftables, write build/bench/datapath.json (root)
	@$(call apt,$(APT_NETWORK))
	@mkdir -p $(BUILD)/bench
	go build -o $(BUILD)/bench/datapath ./test/bench/datapath
	./$(BUILD)/bench/datapath -output $(BUILD)/bench/datapath.json $(ARGS)

.PHONY: bench-store
bench-store: build ## Measure storing and summing up flows, write build/bench/store.json (root, 10 GiB of disk, 20 minutes)
	@mkdir -p $(BUILD)/bench
	go build -o $(BUILD)/bench/store ./test/bench/store
	./$(BUILD)/bench/store -engine-library $(ENGINE) -output $(BUILD)/bench/store.json $(ARGS)

.PHONY: bench-analyzer
bench-analyzer: build ## Measure learning, replay and learning from files, write build/bench/analyzer.json (2 GiB of disk, 3 minutes)
	@mkdir -p $(BUILD)/bench
	go build -o $(BUILD)/bench/analyzer ./test/bench/analyzer
	./$(BUILD)/bench/analyzer -binary $(BIN) -output $(BUILD)/bench/analyzer.json $(ARGS)

.PHONY: fuzz-datapath
fuzz-datapath: ## Send N (default 20 million) frames through the datapath and its model; SEED=… repeats a run (root)
	@N=$${N:-20000000} SEED=$${SEED:-$$(date +%s)} go test -count=1 -timeout 12h -v -run '^TestAgreement$$' ./bpf

.PHONY: screenshots
screenshots: build ui/node_modules ## Take the README's screenshots from a running demo
	@$(call apt,$(APT_TEST))
	RINGFENCE_SCREENSHOTS=$(CURDIR)/docs/images go test -count=1 -timeout 15m -v -run TestCircleInBrowser ./test/browser

## ---- check

.PHONY: lint
lint: ui/node_modules ## Run every linter
	@$(call apt,$(APT_LINT))
	clang-format-19 --dry-run -Werror $(C_SOURCES)
	go vet ./...
	$(TOOL) golangci-lint run ./...
	cd test/conformance && go vet ./... && $(TOOL) golangci-lint run ./...
	cd test/bench/accuracy && go vet ./... && $(TOOL) golangci-lint run ./...
	cd test/export && go vet ./... && $(TOOL) golangci-lint run ./...
	cd ui && npm run lint --silent

.PHONY: format
format: ui/node_modules ## Format Go, C and TypeScript
	@$(call apt,$(APT_LINT))
	gofmt -w $$(git ls-files '*.go')
	clang-format-19 -i $(C_SOURCES)
	cd ui && npm run format --silent

.PHONY: generate
generate: ui/node_modules ## Regenerate BPF objects, Go bindings, API and protobuf code, UI types
	@$(call apt,$(APT_GENERATE))
	go generate ./...
	cd ui && npm run types --silent

.PHONY: generate-check
generate-check: generate ## Fail when what is committed differs from what is generated
	git diff --exit-code --stat -- . || { echo "generated files differ: run 'make generate' and commit" >&2; exit 1; }

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf $(BUILD) ui/node_modules
	find ui/dist -mindepth 1 -not -name .gitkeep -delete
