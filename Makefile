# Thin: each target names the command it runs. Everything that is made goes below target/ and out/.
.PHONY: demo test measured check attacks crashtest bench deps kernels target installer workbench images docs clean fmt

# Reproducible times in images: the last commit's.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# Tests run sfdisk, veritysetup and fsck.fat, which are not in an ordinary user's PATH on Debian.
export PATH := $(PATH):/usr/sbin:/sbin

CARGO := cargo
# What the scenarios and the booted power cuts are behind.
MACHINES := --features metalstrap-tests/machines
# What `make images` builds of the commands beside the installer.
SCOPE := -p metalstrap -p metalstrap-tiny
SCENARIOS := $(CARGO) test --locked --workspace $(MACHINES) --test scenarios --
# The scenarios that `make measured` is about; the last has boots that are timed.
SHOWN := a_boot_opens_a_volume keys_are_enrolled a_kexec_that_hangs a_hung_installer a_setting_or_secret
TIMED := a_healthy_system
BUILT := $(or $(CARGO_TARGET_DIR),target)/x86_64-unknown-linux-gnu

# Installs what the project needs on a Debian 12 or 13 machine, and builds the static TPM library.
deps:
	scripts/deps
	scripts/build-tss

# Format, lints with warnings as errors, every fuzz target for a moment (scripts/fuzz runs them longer), unit and property tests;
# the netboot image's tests take the real kernel packages, and those of keys on tokens the program that is linked dynamically.
check: deps kernels
	scripts/build-token
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked $(MACHINES) --features metalstrap-token/program -- -D warnings
	scripts/fuzz --briefly
	scripts/attacks $(CARGO) test --workspace --locked

# Installations that must be refused, onto a recording disk; part of `make check`. Writes out/attacks/result.json.
attacks: deps
	scripts/attacks $(CARGO) test --locked -p metalstrap-installer --lib refusals::

kernels: deps
	scripts/fetch-kernels

# The Debian target image.
target: deps
	scripts/build-target

installer: deps
	$(CARGO) build --release --locked -p metalstrap-installer -p metalstrap-tiny

workbench: deps
	scripts/fetch-workbench

# What the demo and the scenarios boot: kernels, the Debian target image, the installer, the operator's command.
images: kernels target installer
	$(CARGO) build --locked $(SCOPE)
	$(BUILT)/debug/build-tiny --kernel out/kernels/cloud --init $(BUILT)/release/metalstrap-tiny-init --out out/tiny

# A blank machine boots over the network, installs an OS and kexecs into it; then it boots from its own disk.
demo: images
	$(CARGO) run --locked -p metalstrap-tests --bin demo

# All that CI runs: check, then the scenarios in virtual machines, and what they have shown of measuring (as in `make measured`).
# Fetching, mkosi and the installer's link-time optimization leave a processor idle, so they go beside check. All of it asks cargo for
# the whole workspace: for a part of it dependencies have other features, and are built again.
test: deps
	$(MAKE) --jobs=3 SCOPE="--workspace --all-targets" check workbench images
	rm -f out/measured/result.json
	$(SCENARIOS) --test-threads=3
	$(BUILT)/debug/measured --busy

# The scenarios that show what is measured, attested and handed over: out/measured/result.json, which must be whole and right
# (docs/testing.md). Boots are timed with nothing beside them.
measured: images
	rm -f out/measured/result.json
	$(SCENARIOS) --test-threads=3 $(SHOWN)
	$(SCENARIOS) $(TIMED)
	$(BUILT)/debug/measured

# Power cuts at thousands of points of whole installations, judged in process, with a second run wherever nothing starts, and some
# of them booted by machines (about an hour on two cores): out/crash/result.json (docs/testing.md). With CRASHTEST_POINT=… as a
# failure names it, that point alone; with CRASHTEST_SCENARIO=fresh that scenario alone, without machines; with CRASHTEST_SEED=2 other
# points; with CRASHTEST_RERUNS=some fewer second runs, in minutes.
crashtest: images
	$(CARGO) test --locked -p metalstrap-installer --lib -- --ignored --nocapture many_points_of_every_scenario
ifeq ($(CRASHTEST_POINT)$(CRASHTEST_SCENARIO),)
	for seed in 1 2 3; do $(BUILT)/debug/build-tiny --kernel out/kernels/cloud --init $(BUILT)/release/metalstrap-tiny-init --mebibytes 4 --seed $$seed --out out/crash/tiny-$$seed || exit; done
	$(CARGO) test --locked -p metalstrap-installer --lib -- --ignored some_points_are_left_for_machines
	$(CARGO) test --locked --workspace $(MACHINES) --test crash -- --nocapture
endif

# Measures metalstrap against its peers (two to three hours, as root) and writes out/bench/result.json; then the tables and the
# plot of docs/performance.md. BENCH="--cases fresh --runs 1 --size 256M" measures less.
bench: images
	scripts/bench-peers
	[ -e out/bench/served/releases/packages ] || scripts/bench-releases out/bench/served/releases
	$(CARGO) build --release --locked -p metalstrap-installer -p metalstrap -p metalstrap-bench
	$(BUILT)/release/bench $(BENCH)
	$(BUILT)/release/bench --docs

# Makes docs/configuration.md and docs/schemas/ from the types.
docs:
	UPDATE_DOCS=1 $(CARGO) test --locked -p metalstrap-release --features schema schema

fmt:
	$(CARGO) fmt --all

clean:
	rm -rf out target
