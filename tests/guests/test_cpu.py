"""A guest is never moved to where its CPU would lack something: QEMU itself would not notice."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover.errors import PreconditionFailed
from lab import fleet
from lab.guest.spec import DiskSpec
from models.job import JobState
from models.plan import Cpu
from tests.helpers import MIB, Moves
from workers.qemu import cpu

QEMU = str(shutil.which("qemu-system-x86_64"))
SMALLER_CPU = 'exec qemu-system-x86_64 "${@/#max/qemu64}"'


def offered(*words: str) -> Cpu | None:
    return cpu.offered_here(QEMU, [QEMU, "-machine", "q35,memory-backend=ram", "-accel", "tcg", *words])


def test_what_a_smaller_model_lacks_is_named_and_what_it_has_more_is_no_matter() -> None:
    large, small = offered("-cpu", "max,vendor=AuthenticAMD"), offered("-cpu", "qemu64")
    [sentence] = cpu.missing(large, small)
    assert "CPUID.07H:EBX bits" in sentence
    assert "a CPU model that both hosts have" in sentence
    assert cpu.missing(small, large) == []


def test_one_flag_less_is_told_by_its_bit() -> None:
    [sentence] = cpu.missing(offered("-cpu", "max"), offered("-cpu", "max,-avx2"))
    assert "CPUID.07H:EBX bit 5;" in sentence


def test_another_vendor_is_refused() -> None:
    [sentence] = cpu.missing(offered("-cpu", "max,vendor=GenuineIntel"), offered("-cpu", "max,vendor=AuthenticAMD"))
    assert sentence == "its CPU is GenuineIntel's, there it would be AuthenticAMD's"


def test_how_many_cpus_there_are_is_no_feature_of_theirs() -> None:
    assert cpu.missing(offered("-smp", "4,threads=2"), offered("-smp", "1")) == []


def test_a_machine_that_cannot_tell_refuses_nothing() -> None:
    assert offered("-machine", "no-such-machine") is None
    assert cpu.missing(None, offered()) == []


@pytest.fixture
def guest_of_another_qemu(moves: Moves) -> Iterator[tuple[str, Path]]:
    """A guest with all features, and the path of its QEMU, which is not there any more. The hosts' policy lists it."""
    program = moves.lab.path / "qemu-system-x86_64-other"
    shutil.copy(QEMU, program)
    guest = moves.boot(DiskSpec(size_bytes=64 * MIB), qemu=str(program), more=("-cpu", "max"))
    program.unlink()
    fleet.write_policy(moves.lab, qemu=json.dumps([QEMU, str(program)]))
    yield guest, program
    fleet.write_policy(moves.lab)


def _install(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)


@pytest.mark.guests
def test_a_host_whose_cpu_has_less_is_refused_before_anything_is_copied(
    moves: Moves, guest_of_another_qemu: tuple[str, Path]
) -> None:
    guest, program = guest_of_another_qemu
    _install(program, SMALLER_CPU)
    with pytest.raises(PreconditionFailed, match=r"host-b cannot take .*: its CPU would lose CPUID"):
        moves.submit(guest, "host-b")


@pytest.mark.guests
def test_a_cpu_that_turns_out_to_have_less_leaves_the_guest_where_it_is(
    moves: Moves, guest_of_another_qemu: tuple[str, Path]
) -> None:
    guest, program = guest_of_another_qemu
    _install(program, f'[[ "$*" != *-incoming* ]] || {SMALLER_CPU}\nexec qemu-system-x86_64 "$@"')
    job = moves.move(guest, "host-b")
    assert job.state is JobState.ROLLED_BACK
    assert "its CPU would lose CPUID" in (job.error or "")
    moves.nothing_left(job)
    moves.intact(guest, "host-a")


@pytest.mark.guests
def test_a_host_whose_cpu_has_as_much_takes_the_guest(moves: Moves, guest_of_another_qemu: tuple[str, Path]) -> None:
    guest, program = guest_of_another_qemu
    _install(program, 'exec qemu-system-x86_64 "$@"')
    job = moves.move(guest, "host-b")
    moves.done(job)
    moves.intact(guest, "host-b")
