.DEFAULT_GOAL := help
.PHONY: help setup demo test test-guests check check-console docs chaos soak bench compose recording
.NOTPARALLEL:

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## Get this machine ready: system packages (root or sudo), virtual environment
	@sh lab/setup.sh

demo: setup ## Move a live guest between two hosts of a lab on this machine (KEEP=1 leaves the lab running)
	@.venv/bin/drover lab demo $(if $(KEEP),--keep)

recording: setup ## Run the demo and record it for the documents (docs/images/demo.cast, demo.svg)
	.venv/bin/python -m lab.recording

docs: setup ## Write the pages that show the code anew, build the site (build/site) and the manual pages (build/man)
	.venv/bin/python -m lab.pages
	.venv/bin/python -m lab.man build/man
	.venv/bin/python -m lab.site

test: check ## Check, then run the suite, real guests included: a quarter of an hour (ALL=1: the thorough tests as well, 37 minutes; MINUTES=40: those that begin by then)
	.venv/bin/pytest -n auto --durations=10 $(if $(ALL),tests) $(if $(MINUTES),--thorough-for $(MINUTES))

test-guests: setup ## Move a guest of every launch line that we know there and back, and try LVM and vhost-net in a virtual machine (root; most of an hour)
	.venv/bin/pytest -m 'guests or all_lines' tests/guests/test_launch_lines.py tests/guests/test_in_a_vm.py

chaos: setup ## Run the whole crash matrix and write docs/explanation/crash-matrix.md (LANES=2 labs at a time; about two hours)
	PYTHONPATH=. .venv/bin/python -m tests.chaos.matrix --lanes $(or $(LANES),2)

soak: setup ## Move N=100 guests with random faults and write docs/explanation/soak.md
	PYTHONPATH=. .venv/bin/python -m tests.chaos.soak --moves $(or $(N),100) --lanes $(or $(LANES),2) $(if $(SEED),--seed $(SEED))

bench: setup ## Measure Drover against a plain script and write bench/results (QUICK=1: a few minutes, writes nothing; RUNS=10; LIBVIRT=1: against libvirt)
	$(if $(LIBVIRT),@sh lab/setup.sh --libvirt)
	.venv/bin/pip install --quiet --disable-pip-version-check -e '.[bench]'
	.venv/bin/python -m bench $(if $(QUICK),--quick) $(if $(RUNS),--runs $(RUNS)) $(if $(LIBVIRT),--part libvirt)

compose: setup ## Bring up the compose stack for real and restart each service during a move (docker, docker-compose, debootstrap; root)
	.venv/bin/pytest -m compose tests/compose

check-console: setup ## Look at the console's pages in Debian's chromium, and measure those of a large fleet
	@command -v chromium >/dev/null || { echo "install Debian's package chromium" >&2; exit 1; }
	.venv/bin/pytest tests/database/test_console.py tests/database/test_console_actions.py tests/database/test_console_in_a_browser.py
	.venv/bin/python -m bench --quick --part console

check: setup ## Lint, formatting, words, types, layers; insecure code, secrets, known vulnerabilities
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/codespell --dictionary - --dictionary docs/old-words.txt
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python -m lab.site
	.venv/bin/bandit --quiet --configfile pyproject.toml --recursive bench drover examples lab migrations models workers workflows
	git ls-files -z | xargs -0 -r -n 400 -P 2 .venv/bin/detect-secrets-hook --baseline .secrets.baseline
	.venv/bin/python -m lab.advisories
