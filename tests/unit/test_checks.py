"""The checks before a move: one list, without contradictions, whose remedies exist."""

import re

import pytest
from typer.main import get_command

from drover.cli.root import app
from models.preflight import Verdict, refusals, warnings
from workers.preflight import checks
from workers.preflight.checks.kind import Kind
from workers.qemu.refusals import command_line_refusals


def names_of(*words: str) -> list[str]:
    found = command_line_refusals(["qemu", *words], source_root="/hosts/a")
    return [check.name for check in checks.told_once(found)]


def test_each_check_has_a_name_of_its_own() -> None:
    names = [kind.name for kind in checks.KINDS]
    assert len(set(names)) == len(names)


def test_a_check_explains_only_others_that_exist() -> None:
    names = {kind.name for kind in checks.KINDS}
    assert not {name for kind in checks.KINDS for name in kind.explains} - names


@pytest.mark.parametrize("kind", checks.KINDS, ids=lambda kind: kind.name)
def test_a_remedy_names_commands_and_options_that_exist(kind: Kind) -> None:
    for words, option in re.findall(r"`drover ([a-z]+(?: [a-z]+)?)(?:[^`]*?(--[a-z-]+))?", kind.remedy):
        command = get_command(app)
        for word in words.split():
            command = command.commands[word]  # type: ignore[attr-defined]
        assert not option or any(option in one.opts for one in command.params)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["-device", "vfio-pci,host=01:00.0"], "passthrough"),
        (["-object", "sev-guest,id=sev0,cbitpos=47"], "encrypted-memory"),
        (["-object", '{"qom-type":"tdx-guest","id":"tdx0"}'], "encrypted-memory"),
        (["-device", "scsi-block,drive=d"], "passthrough"),
        (["-device", "pci-serial-2x,chardev1=c"], "crashes-qemu"),
        (["-device", "cxl-type3,bus=rp0,volatile-memdev=m"], "cxl-memory"),
        (["-device", "uefi-vars-x64,jsonfile=/hosts/a/vars"], "uefi-variables"),
        (["-device", "virtio-input-host-pci,evdev=/dev/input/event0"], "passthrough"),
        (["-object", "input-linux,id=i,evdev=/dev/input/event0"], "passthrough"),
        (["-object", "secret_keyring,id=s,serial=7"], "keyring"),
        (["-device", "usb-mtp,rootdir=/x"], "shared-folder"),
        (["-drive", "file=rbd:pool/web:id=admin,if=virtio"], "remote-image"),
        (["-drive", "file=iscsi://10.0.0.1/iqn.2001-04.com.example/0,if=virtio"], "remote-image"),
        (["-drive", "file=https://example.org/x.iso,media=cdrom"], "remote-image"),
        (
            ["-blockdev", '{"driver":"ssh","node-name":"a","path":"/x"}'],
            "remote-image",
        ),
        (["-device", "vhost-user-fs-pci,chardev=c,tag=t"], "virtiofs"),
        (["-device", "vhost-user-blk-pci,chardev=c"], "vhost-user"),
        (["-netdev", "vhost-user,id=n,chardev=c"], "vhost-user"),
        (["-virtfs", "local,path=/x,mount_tag=t,security_model=none"], "shared-folder"),
        (["-device", "ivshmem-plain,memdev=m"], "ivshmem"),
        (["-tpmdev", "passthrough,id=t,path=/dev/tpm0"], "tpm-passthrough"),
    ],
)
def test_what_is_tied_to_a_host_is_refused_by_its_name_once(words: list[str], name: str) -> None:
    assert names_of(*words) == [name]


def test_what_follows_from_another_reason_is_no_reason_of_its_own() -> None:
    found = [checks.disks.TEMPORARY_FILES.of("-snapshot"), checks.disks.BACKING_FILE.of("disk virtio0")]
    assert checks.told_once(found) == (checks.disks.TEMPORARY_FILES.of("-snapshot"),)
    assert checks.told_once([checks.disks.BACKING_FILE.of("disk virtio0")] * 2) == (
        checks.disks.BACKING_FILE.of("disk virtio0"),
    )


def test_what_was_not_found_is_on_the_list_as_well() -> None:
    found = [checks.disks.NO_ROOM.found("there is no room"), checks.machine.KNOWN_BUG.found("a bug")]
    told = checks.completed("destination", found)
    assert {check.name for check in told if check.verdict is Verdict.OK} == {
        kind.name for kind in checks.KINDS if kind.side == "destination" and kind is not checks.disks.NO_ROOM
    }
    assert refusals(told) == ("there is no room",)
    assert warnings(told) == ("a bug",)
