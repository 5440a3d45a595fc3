"""The `drover` command: parses what is asked for, calls the package that does it, says what came of it.

One module per group of subcommands; `faults` and `exits` hold what happens when something is not as it should
be, `documents` the JSON, `watching` with `screen` and `plain` the live view.
"""

from drover.cli.root import app, main

__all__ = ["app", "main"]
