# Each target sets up what it needs, in .venv. Nothing is installed globally, but for the proxies that `make bench`
# compares with: where it may, it installs those.
.PHONY: install up run test check simulate chaos bench clean

install:  ## .venv, with all that the other targets use
	@scripts/install dev

up:  ## the demo cluster: http://127.0.0.1:8080
	@scripts/up

run: up

test:  ## all tests
	@scripts/test

check:  ## format, lint, types, import directions
	@scripts/check

simulate:  ## 100,000 simulated schedules: SCHEDULES= and SEED= say otherwise
	@scripts/simulate

bench:  ## this machine's comparison with other proxies
	@scripts/bench

chaos:  ## faults on a real cluster for SECONDS (600), and a check of what its clients saw; SEED repeats a plan
	@scripts/chaos $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf .venv .venv-compiled dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
