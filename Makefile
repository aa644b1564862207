# The words of this project: demo, test, check, bench, install, package (and deps, fmt, nightly).
# Needs git, make, a C linker and Rust 1.95 by rustup; `deps` installs everything else through apt, rustup and cargo.
CARGO ?= cargo
PREFIX ?= /usr/local
PROFILE_DIR := target/release
# The package's program is static, and so runs on any distribution of this machine's architecture.
STATIC := $(shell uname -m)-unknown-linux-musl
PACKAGES := target/package

.PHONY: demo test check bench install package quick-package pages deps fmt nightly

demo: $(PROFILE_DIR)/svc-agent
	$(PROFILE_DIR)/svc-agent demo $(DEMO_ARGS)

$(PROFILE_DIR)/svc-agent: FORCE
	$(CARGO) build --release --locked -p agent --bin svc-agent
FORCE:

# Everything CI runs: lints, unit and property tests, kernel tests in namespaces of their own, scenarios.
test: deps check
	$(CARGO) build --locked --workspace
	$(MAKE) quick-package
	$(CARGO) test --locked --workspace --no-fail-fast

# Tests too long for CI; tests/rows.toml says what they cover. What is killed everywhere can be gone on with where it was
# broken off, or be divided: NIGHTLY=1 PLACES=300-672 cargo test --release -p tests --test scenarios -- killed_at_any
nightly: deps
	$(CARGO) build --locked --workspace --release
	$(MAKE) quick-package
	NIGHTLY=1 $(CARGO) test --locked --workspace --release
	$(CARGO) test --locked --release -p agent --lib thirty_hosts_keep_up_over_streams -- --ignored
	$(CARGO) test --locked --release -p agent --lib opening_takes -- --ignored --nocapture

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

bench: deps quick-package
	$(CARGO) build --release --locked -p agent -p tests --bins
	$(PROFILE_DIR)/bench

install: $(PROFILE_DIR)/svc-agent
	install -D -m 0755 $(PROFILE_DIR)/svc-agent $(DESTDIR)$(PREFIX)/bin/svc-agent

# A Debian package: target/package/svc-agent_VERSION_ARCH.deb.
package: pages
	./deps.sh package
	$(CARGO) deb --locked -p agent --target $(STATIC) -o $(PACKAGES)/

# The same with a program that is built in a minute, for the tests.
quick-package: pages
	./deps.sh package
	$(CARGO) deb --locked -q --fast -p agent --target $(STATIC) --profile quick -o $(PACKAGES)/quick/

# Manual pages, completions and a sample of the settings, from the command line itself.
pages:
	$(CARGO) run --locked -q -p agent --example pages -- $(PACKAGES)
	gzip -9nf $(PACKAGES)/man/*.8

deps:
	./deps.sh

fmt:
	$(CARGO) fmt --all
