# The whole of the developer's interface. `make run` and `make test` set everything up by themselves.

export OXMGR_HOME ?= $(CURDIR)/.oxmgr
VENV = .venv/bin
BUILT = pyproject.toml setup.py csrc/build.py $(wildcard csrc/*.c csrc/*.h) packaging/bootstrap packaging/launcher.py tests/bench/apps/package.json
FUZZ_FILES = tests/faults/fuzz_format.c csrc/format.c
FUZZ_FLAGS = -std=gnu11 -D_GNU_SOURCE -g -O1 -fno-sanitize-recover=all
C_FLAGS = -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wconversion -Wno-sign-conversion -Werror

NEXT = next@16.4.6 react@19.3.1 react-dom@19.3.1

.PHONY: run stop test lint native-test kernel-test next-test bench bench-peers bench-inits load-campaign campaign death-campaign reexec-campaign fuzz zipapp clean help

help:
	@echo "make run          build, start examples/quickstart, kill an instance, show the downtime"
	@echo "make stop         stop what make run started"
	@echo "make test         lint, then all tests"
	@echo "make lint         the checks without the tests"
	@echo "make kernel-test  the tests that need root and cgroup v2, in a small VM, and oxmgr as that VM's init;"
	@echo "                  ARGS='-k NAME' for some of them, ARGS=init for the latter"
	@echo "make next-test    the test of a Next app, which has to fetch 340 MB first"
	@echo "make bench        the figures of docs/benchmarks.md"
	@echo "make bench-peers  the same lines through other loggers"
	@echo "make bench-inits  the same scenarios as a container's first process: oxmgr, tini, dumb-init; as root"
	@echo "make load-campaign  real servers under load, reloaded and killed, PM2 beside them; ARGS='RELOADS KILLS SERVER…'"
	@echo "make campaign     3,000,000 lines, 200 kills of the daemon, a full disk: each line once, in order"
	@echo "make death-campaign  daemon and guard killed, and their system calls failed, while 20 apps run; ARGS='SECONDS SEED', or '--every all --paths spawn,exit'"
	@echo "make reexec-campaign  the daemon is replaced 1,000 times under load: same pids, each line once, nothing leaked"
	@echo "make fuzz         the formatter of logs with random bytes, under the sanitizers"
	@echo "make zipapp       build/oxmgr.pyz, oxmgr as one file; ARGS='--python PATH TARGET' for another interpreter or place"
	@echo "make clean        remove what was built"

.venv/.run: $(BUILT)
	@packaging/bootstrap
	@touch $@

.venv/.dev: $(BUILT)
	@packaging/bootstrap --dev
	@touch .venv/.run $@

run: .venv/.run
	@$(VENV)/python examples/quickstart/demo.py

stop: .venv/.run
	@$(VENV)/oxmgr daemon stop

test: lint native-test
	@env -u OXMGR_HOME $(VENV)/python -m tests

lint: .venv/.dev
	$(VENV)/ruff check -q .
	$(VENV)/ruff format -q --check .
	$(VENV)/mypy
	$(VENV)/lint-imports --no-logo
	$(VENV)/clang-format --dry-run -Werror csrc/*.c csrc/*.h
	for file in csrc/*.c; do $(CC) $(C_FLAGS) -c $$file -o /dev/null || exit 1; done
	$(CC) $(C_FLAGS) -DOX_LIBC -c csrc/guard.c -o /dev/null
	cppcheck -q --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -D_GNU_SOURCE csrc

# The tests of the extension and of the guard, on those that AddressSanitizer and UndefinedBehaviorSanitizer watch.
native-test: .venv/.dev
	@rm -rf build/asan && mkdir -p build/asan
	@OXMGR_SANITIZE=1 $(VENV)/python setup.py -q build --build-base build/asan/tmp --build-lib build/asan/lib
	@env -u OXMGR_HOME BUILT_PACKAGE=$(CURDIR)/build/asan/lib \
		LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=1 PYTHONMALLOC=malloc \
		$(VENV)/python -m pytest -q -p no:cacheprovider tests/unit/test_native.py tests/unit/test_native_rights.py tests/unit/test_format.py tests/unit/test_rawlog.py tests/unit/test_linelog.py tests/faults/test_guard.py tests/faults/test_guard_edges.py

# The tests that need root and the whole of cgroup v2, in a VM that is emulated in software.
kernel-test: .venv/.dev
	@env -u OXMGR_HOME $(VENV)/python -m tests.kernel $(ARGS)

next-test: .venv/.dev
	@cd build/node-apps && npm install --no-save --no-audit --no-fund --silent $(NEXT)
	@env -u OXMGR_HOME $(VENV)/python -m pytest tests/integration/test_node.py -k next

bench: .venv/.dev
	@env -u OXMGR_HOME $(VENV)/python -m tests.bench
	@env -u OXMGR_HOME $(VENV)/python -m tests.bench.takeover
	@env -u OXMGR_HOME $(VENV)/python -m tests.bench.probes

bench-peers: .venv/.dev
	@env -u OXMGR_HOME $(VENV)/python -m tests.bench.peers

bench-inits: .venv/.dev
	@env -u OXMGR_HOME $(VENV)/python -m tests.bench.inits

load-campaign: .venv/.dev
	@env -u OXMGR_HOME $(VENV)/python -m tests.bench.load $(ARGS)

campaign: .venv/.dev
	@env -u OXMGR_HOME $(VENV)/python -m tests.faults.campaign $(ARGS)

# Deaths and failures at system calls; ARGS='SECONDS SEED'.
death-campaign: .venv/.dev
	@env -u OXMGR_HOME $(VENV)/python -m tests.faults.deaths $(ARGS)

reexec-campaign: .venv/.dev
	@env -u OXMGR_HOME $(VENV)/python -m tests.faults.reexec $(ARGS)

# With libFuzzer where there is a clang, else with bytes of its own making.
fuzz:
	@mkdir -p build
	@if command -v clang >/dev/null; then \
		clang $(FUZZ_FLAGS) -DLIBFUZZER -fsanitize=fuzzer,address,undefined $(FUZZ_FILES) -o build/fuzz && \
		build/fuzz -max_total_time=300; \
	else \
		$(CC) $(FUZZ_FLAGS) -fsanitize=address,undefined $(FUZZ_FILES) -o build/fuzz && \
		build/fuzz 2000000 $$(date +%s); \
	fi

zipapp: .venv/.run
	@$(VENV)/python packaging/zipapp.py $(ARGS)

clean:
	rm -rf .venv build *.egg-info oxmgr/*.so oxmgr/_native.c
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
