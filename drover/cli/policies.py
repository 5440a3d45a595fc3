"""`drover policy`: how guests with certain labels are moved."""

from typing import Annotated, Any, Literal

import typer

from drover.cli.options import (
    AsJson,
    Bandwidth,
    Ladder,
    MaxDowntime,
    MostDowntime,
    Retention,
    Selected,
    SlowestWrites,
    Verify,
    VerifyRate,
    duration,
    examples,
    given,
)

app = typer.Typer(no_args_is_help=True, help="Policies: how guests with certain labels are moved.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The policy's name.", show_default=False)]
Priority = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Of two policies that decide the same about a guest the one of higher priority counts; no two have the "
        "same.",
        show_default=False,
    ),
]
Watch = Annotated[
    Any,
    typer.Option(
        metavar="TIME",
        parser=duration,
        help="For how long a guest is looked at after its switchover, like 30s.",
        show_default="DROVER_WATCH_S",
    ),
]
Hooks = Annotated[
    str | None,
    typer.Option(
        metavar="SET",
        help="Hooks in `sets/SET` of the folder of hooks of both hosts run besides the others.",
        show_default="none",
    ),
]
Check = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The check in the destination's policy file for guests that have none of their own.",
        show_default="that of `*`",
    ),
]
NoticeBy = Annotated[
    str | None,
    typer.Option(
        "--notice",
        metavar="URL|PROGRAM",
        help="Before a drain, return or roll moves a guest, ask there whether it may: an address that gets a signed "
        "POST, or a program in DROVER_HOOKS of every control node, with arguments.",
        show_default="nobody is asked",
    ),
]
NoticeDeadline = Annotated[
    Any,
    typer.Option(
        metavar="TIME", parser=duration, help="For how long an answer is awaited, up to 10m.", show_default="10s"
    ),
]
NoticeSilence = Annotated[
    Literal["wait", "go-on"] | None,
    typer.Option(
        help="Without an answer by then: wait and ask again, or go on and move the guest.", show_default="wait"
    ),
]


@app.callback()
def group() -> None:
    """Policies: how guests with certain labels are moved.

    Of each value counts the first of these: what the job was asked for, what its drain was asked for, the policy of
    highest priority that names the guest and decides this value, the limit of the host or the fleet, the default.
    """


@app.command(
    "set",
    epilog=examples(
        "drover policy set db --selector tier=db --priority 20 --max-downtime-ms 50 --verify --retention 7d",
        "drover policy set all --priority 0 --bandwidth 200M/s --watch 30s",
        "drover policy set ask --selector owner=dba --priority 30 --notice https://dba.example.org/may-move",
        "drover policy set backup --selector backup --priority 40 --notice 'no-backup-runs --strict'",
    ),
)
def define(
    name: Name,
    priority: Priority,
    selector: Selected = None,
    max_downtime_ms: MaxDowntime = None,
    most_downtime_ms: MostDowntime = None,
    bandwidth: Bandwidth = None,
    verify: Verify = None,
    verify_rate: VerifyRate = None,
    retention: Retention = None,
    watch: Watch = None,
    hooks: Hooks = None,
    check: Check = None,
    ladder: Ladder = None,
    slowest_writes: SlowestWrites = None,
    notice: NoticeBy = None,
    notice_deadline: NoticeDeadline = None,
    notice_silence: NoticeSilence = None,
    as_json: AsJson = False,
) -> None:
    """Set a policy: what is given here is all that it decides. Moves that are submitted from now on follow it."""
    from drover.cli import policy_view

    values = given(
        {
            "max_downtime_ms": max_downtime_ms,
            "most_downtime_ms": most_downtime_ms,
            "bandwidth": bandwidth,
            "verify": verify,
            "verify_rate": verify_rate,
            "retention": retention,
            "watch": watch,
            "hooks": hooks,
            "check": check,
            "ladder": ladder,
            "slowest_writes": slowest_writes,
            "notice": policy_view.notice(notice, notice_deadline, notice_silence),
        }
    )
    policy_view.define(name, selector, priority, values, as_json=as_json)


@app.command("list", epilog=examples("drover policy list", "drover policy list --json"))
def list_policies(as_json: AsJson = False) -> None:
    """List the policies, those of higher priority first."""
    from drover.cli import policy_view

    policy_view.listed(as_json=as_json)


@app.command(epilog=examples("drover policy show db"))
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a policy, the guests that it names, and what other policies decide about those instead."""
    from drover.cli import policy_view

    policy_view.show(name, as_json=as_json)


@app.command(epilog=examples("drover policy remove db"))
def remove(name: Name, as_json: AsJson = False) -> None:
    """Remove a policy. Moves under way keep what they have."""
    from drover.cli import output
    from workflows import policy_commands

    policy_commands.remove(name)
    if as_json:
        output.emit({"removed": name})
    else:
        output.say(f"the policy {name} is removed")
