"""The `drover` command: parses arguments, calls the package that does the work, prints the result.

`root` has the table of the subcommands, one module per group has their options. These import at their top only what
options need; what does the work (`*_view`, `*_submission`, `drover.views`, `workflows`) is imported in the command that
runs, so that help and completion are instant. `errors` and `exit_codes` map exceptions to messages and exit codes,
`watching` with `live_view` and `line_view` the live view.
"""

from drover.cli.root import app, main

__all__ = ["app", "main"]
