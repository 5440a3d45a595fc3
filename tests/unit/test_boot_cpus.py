"""How many CPUs a command line starts with, as QEMU counts them."""

import pytest

from workers.qemu import boot_cpus


@pytest.mark.parametrize(
    ("words", "cpus"),
    [
        ("-M raspi3b", None),
        ("-smp 4", 4),
        ("-smp cpus=2,maxcpus=8", 2),
        ("-smp maxcpus=8", 8),
        ("-smp sockets=2,cores=3,threads=2", 12),
        ("-smp 2,sockets=4,cores=1,threads=1,maxcpus=4", 2),
        ("-smp 2 -smp cpus=3,maxcpus=6", 3),
        ("-M q35,smp.cpus=5", 5),
        ("-smp many", None),
    ],
)
def test_cpus_are_counted_as_qemu_does(words: str, cpus: int | None) -> None:
    assert boot_cpus.started_with(["qemu", *words.split()]) == cpus


def test_those_that_are_plugged_in_by_the_command_line_count_beside_them() -> None:
    argv = ["qemu", "-device", "qemu64-x86_64-cpu,id=a,socket-id=1", "-device", "virtio-rng-pci"]
    assert boot_cpus.plugged_by(argv) == 1


def test_fewer_of_them_leave_the_machine_its_places() -> None:
    argv = ["qemu", "-smp", "2", "-m", "64", "-smp", "4,sockets=2,cores=2"]
    assert boot_cpus.with_fewer(argv, 3, 4) == ["qemu", "-m", "64", "-smp", "cpus=3,maxcpus=4,sockets=2,cores=2"]
