# Signet. `make help` lists what there is; the README's two commands are `make demo` and `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo build test soak lint fmt bench bench-build bench-policy bench-report bench-replay fuzz policy-differential web web-test setup-build setup-run setup-test setup-bench clean bench-audit faults

# Which arguments the demo gets: make demo ARGS="--rate 50 --seconds 60"
ARGS ?=
PROGRAMS := -p signet -p signet-identity -p signet-proxy -p signet-gateway -p signet-control -p signet-audit -p signet-ui -p signet-bank
WEB := ui/web
# Node.js: the system's when it is new enough, else one of our own below .tools.
NODE = PATH="$$($(CURDIR)/scripts/node.sh):$$PATH"

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build setup-run ## Install what is missing, build, and run two federated clusters on this machine (ARGS="--seconds 60").
	target/release/signet demo $(ARGS)

build: setup-build web ## Build the release programs into target/release, and all that running them needs.
	cargo build --release --locked $(PROGRAMS)

test: setup-test web web-test ## Set up, then run every test, those over a running demo included.
	cargo build --locked --workspace --bins
	cargo test --locked --workspace --no-fail-fast

soak: build setup-run ## Half of the most load for 15 minutes while SVIDs, policies and endpoints change (ARGS="--seconds 300").
	cargo build --release --locked -p signet-tests --bin soak
	target/release/soak $(ARGS)

lint: setup-build web ## Check formatting, lints, dependencies and the house rules.
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo run --locked --quiet -p xtask -- tidy
	scripts/deny.sh
	cd $(WEB) && $(NODE) npm run lint

fmt: ## Format the Rust code.
	cargo fmt --all

bench: setup-bench bench-build ## Measure Signet beside nginx and HAProxy in one interleaved run (root; ARGS="--rounds 3").
	target/release/bench $(ARGS)

# The sidecar as it is shipped, its counterpart that enforces nothing, and what stands around both.
bench-build: setup-build
	cargo build --release --locked --bins -p signet-identity -p signet-control -p signet-audit -p signet-tests
	cargo build --profile dist --locked -p signet-proxy --bin signet-proxy
	cargo build --profile dist --locked -p signet-proxy --bin signet-proxy-unenforced --features bench-unenforced

bench-audit: setup-build ## Measure ingestion beside raw COPY, verification, first pages, and what a record costs (ARGS="200000 3 10000000": records, rounds, records paged).
	@scripts/setup.sh run
	cargo run --release --locked -p signet-audit --example ingestion -- $(ARGS)
	cargo run --release --locked -p signet-spool --example append

SEEDS ?= 200
FIRST ?= 0
faults: setup-build ## Run the fault campaign of recording: SEEDS runs from seed FIRST (root, for full disks).
	@scripts/setup.sh run
	cargo test --locked -p signet-audit --test campaign -- --seeds $(SEEDS) --first $(FIRST)

fuzz: setup-build ## Feed the readers of untrusted bytes for a minute each (ARGS="--seconds 600 http1-heads").
	cargo run --release --locked -p signet-fuzz -- $(ARGS)

bench-policy: setup-build ## Measure the policy engine beside Cedar's own authorizer in one run.
	cargo run --release --locked -p signet-policy --example bench

bench-report: setup-build ## Measure the policy report of a change of 10 policies among 1,000; fails past 60 s.
	@scripts/setup.sh run
	cargo run --release --locked -p signet-policy-analysis --example report

bench-replay: setup-build ## Measure how fast recorded decisions are made again; fails below 200,000 a second.
	cargo run --release --locked -p signet-policy-analysis --example replay

CASES ?= 1000000
policy-differential: setup-build ## Compare the policy engine with Cedar's own authorizer on CASES random decisions.
	SIGNET_DIFFERENTIAL_CASES=$$(( ($(CASES) + 199) / 200 )) cargo test --release --locked -p signet-policy --test differential

web: $(WEB)/dist/index.html ## Build the dashboard's assets.

$(WEB)/node_modules/.package-lock.json: $(WEB)/package.json $(WEB)/package-lock.json scripts/node.sh | setup-build
	cd $(WEB) && $(NODE) npm ci --no-audit --no-fund
	touch $@

$(WEB)/dist/index.html: $(WEB)/node_modules/.package-lock.json $(shell find $(WEB)/app $(WEB)/index.html $(WEB)/vite.config.ts -type f 2>/dev/null)
	cd $(WEB) && $(NODE) npm run build
	touch $@

web-test: web
	cd $(WEB) && $(NODE) npm test

setup-build:
	@scripts/setup.sh build

setup-run:
	@scripts/setup.sh run

setup-test: setup-build
	@scripts/setup.sh run test
	@scripts/h2spec.sh
	@scripts/readers.sh
	@scripts/second-verifier.sh

setup-bench: setup-build
	@scripts/setup.sh run bench

clean: ## Remove what was built.
	cargo clean
	rm -rf $(WEB)/dist $(WEB)/node_modules .tools
