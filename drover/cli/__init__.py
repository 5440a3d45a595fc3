"""The `drover` command: parses what is asked for, calls the package that does it, says what came of it.

One module per group of subcommands; `errors` and `exit_codes` hold what happens when something is not as it
should be, `serializers` the JSON, `watching` with `live_view` and `line_view` what is shown while a move goes on.
"""

from drover.cli.root import app, main

__all__ = ["app", "main"]
