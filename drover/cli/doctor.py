"""`drover doctor`: all that a job will need of this machine."""

import typer

from drover.cli.options import AsJson, examples

app = typer.Typer(add_completion=False)


@app.command(
    epilog=examples("drover doctor", "drover doctor --json | jq --raw-output '.checks[] | select(.fix) | .message'")
)
def doctor(as_json: AsJson = False) -> None:
    """Check this machine for all that a job needs; each fault with its fix. Exit code 1 if something is wrong.

    On a hypervisor: settings, database, broker, clock, folders, room, address, ports, policy, QEMU and its known bugs,
    keys, certificates, units. On a control node: what controllers need, and all hosts. Run it like the service: as the
    same user, with the same environment. Nothing is changed.
    """
    from drover.cli import checks

    checks.run(checks.everything(), as_json=as_json)
