"""How many CPUs a guest is started with (`-smp`), and how that is said once some of them were unplugged."""

from collections.abc import Iterator, Sequence
from math import prod

from workers.qemu.options import Option, parse_command_line, words_of, write_options

TOPOLOGY = words_of("drawers books sockets dies clusters modules cores threads")


def started_with(argv: Sequence[str]) -> int | None:
    """As QEMU counts them (`machine_parse_smp_config`), without those of `-device`.

    None: it is not understood, or not said. Then the machine has its own number, of which none can come or go.
    """
    said = dict(pair for option in parse_command_line(argv) for pair in _said(option))
    if not said:
        return None
    try:
        numbers = {key: int(value, 0) for key, value in said.items()}
    except ValueError:
        return None
    most = numbers.get("maxcpus") or prod(numbers.get(part) or 1 for part in TOPOLOGY)
    return numbers.get("cpus") or most


def plugged_by(argv: Sequence[str]) -> int:
    """How many `-device` adds."""
    return sum(option.name == "device" and option.driver.endswith("-cpu") for option in parse_command_line(argv))


def with_fewer(argv: Sequence[str], cpus: int, most: int) -> list[str]:
    """The command line that starts with so few CPUs, of as many as there may be: the machine has the same places."""
    words = list(argv[:1])
    pairs: list[tuple[str | None, str]] = []
    for option in parse_command_line(argv):
        if option.name == "smp":
            pairs += [(key, value) for key, value in _said(option) if key in TOPOLOGY]
        else:
            words += option.words()
    counts = (("cpus", str(cpus)), ("maxcpus", str(most)))
    return [*words, "-smp", write_options((*counts, *dict(pairs).items()))]


def _said(option: Option) -> Iterator[tuple[str, str]]:
    if option.name == "smp":
        yield from (("cpus" if key is None else key, value) for key, value in option.pairs())
    if option.name in {"machine", "M"}:
        yield from ((key[4:], value) for key, value in option.pairs() if key is not None and key.startswith("smp."))
