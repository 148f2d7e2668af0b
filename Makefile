# Towline. `make` lists the targets; each works on a fresh checkout.

# Tool versions, pinned here and nowhere else.
GOFUMPT     := mvdan.cc/gofumpt@v0.12.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0

BIN      := bin/towline
GO       ?= go
FUZZTIME ?= 20s
TRY_HOME ?= .towline
# The binary is static: no libc to match on the hosts it is copied to.
BUILD    := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto -ldflags '-s -w' -o $(BIN) ./cmd/towline

.DEFAULT_GOAL := help
.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: need-go
need-go:
	@command -v $(GO) >/dev/null || { echo "error: Go is not installed"; echo "hint: install Go 1.26 or newer from https://go.dev/dl"; exit 1; }

.PHONY: build
build: need-go ## build the static binary, bin/towline
	$(BUILD)

# The systems people have hosts on; `towline HOST` puts the fitting one there.
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 freebsd/amd64
.PHONY: builds
builds: need-go ## build bin/towline-OS-ARCH for the hosts of PLATFORMS
	@for p in $(PLATFORMS); do \
	  echo "bin/towline-$${p%/*}-$${p#*/}"; \
	  GOOS=$${p%/*} GOARCH=$${p#*/} CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto -ldflags '-s -w' \
	    -o "bin/towline-$${p%/*}-$${p#*/}" ./cmd/towline || exit 1; \
	done

.PHONY: run
run: build ## start a host of its own, offline, and ssh into its UI
	@$(BIN) try --home $(TRY_HOME)

# The race detector needs a C compiler; without one the tests run all the same.
RACE := $(if $(shell command -v gcc cc clang 2>/dev/null),-race)

# TESTFLAGS narrows a run: make test TESTFLAGS='-run TestResume ./appserver/...'
TESTFLAGS ?=
GOTEST    := $(GO) test $(RACE) -shuffle=on -timeout 20m
.PHONY: test
test: need-go ## run the tests; says what a skipped one lacks
	@test -n "$(RACE)" || echo "note: no C compiler, so the tests run without the race detector"
	@for p in ssh tmux git chromium gnome-keyring-daemon node; do command -v $$p >/dev/null || echo "note: $$p is not installed, so the journeys that need it are skipped"; done
	@test -d integration/testdata/oidc/node_modules || echo "note: no OpenID provider, so the journeys that need it are skipped; get it with npm ci --prefix integration/testdata/oidc"
	@test -n "$$TOWLINE_TEST_CODEX" || echo "note: TOWLINE_TEST_CODEX names no codex program, so what needs the real Codex is skipped"
ifneq ($(TESTFLAGS),)
	$(GOTEST) $(TESTFLAGS)
else
	$(GOTEST) -p 3 $$($(GO) list ./... | grep -v /integration)
	@# Most tests wait more than they work, so more of them run than there are cores. The journeys
	@# start whole programs and wait for their screens: alone, one package at a time.
	$(GOTEST) -p 1 -parallel 4 ./integration/...
endif

.PHONY: check
check: need-go ## what every commit of weight passes: format, vet, staticcheck, tests, vulnerabilities
	@files=$$($(GO) run $(GOFUMPT) -l $$(git ls-files '*.go')) && test -z "$$files" || { echo "error: gofumpt would change:"; echo "$$files"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	for os in darwin freebsd windows; do GOOS=$$os CGO_ENABLED=0 $(GO) vet ./cmd/... || exit 1; done
	$(MAKE) test
	$(GO) run $(GOVULNCHECK) ./... || { echo "note: the vulnerability scan did not pass, or could not reach its database"; test -z "$(VULN_REQUIRED)"; }

.PHONY: bench
bench: build ## compare with OpenSSH and Codex in the same run; prints ratios
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 30m ./integration/bench
	$(GO) test -run '^$$' -bench . ./appserver/... ./sshd/...

.PHONY: fuzz
fuzz: need-go ## run every fuzz target for FUZZTIME each
	@for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; done

.PHONY: golden
golden: need-go ## rewrite the golden files (screens, list of imports); review the diff
	$(GO) test ./appserver/tui/... -update
	$(GO) test ./integration -run GoldenFile -update
