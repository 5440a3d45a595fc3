"""What keeps a guest on its host, by its command line alone."""

import json

import pytest

from workers.qemu.refusals import command_line_refusals


def refused(*words: str, root: str = "/hosts/a") -> list[str]:
    return [check.sentence for check in command_line_refusals(["qemu", *words], source_root=root)]


IVSHMEM = ("-device", "ivshmem-plain,memdev=m,master=on")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-netdev", "tap,id=n,fd=3"], "open file"),
        (["-netdev", "tap,id=n,vhostfds=3:4"], "open file"),
        (["-netdev", '{"type":"stream","id":"n","addr":{"type":"fd","str":"3"}}'], "open file"),
        (["-add-fd", "fd=3,set=1"], "open file"),
        (["-object", "memory-backend-file,id=m,mem-path=/g/m,size=1M,readonly=on"], "QEMU would write"),
        (["-drive", "file=/dev/fdset/1"], "open file"),
        (["-object", "secret,id=s,file=/dev/fd/63"], "open file"),
        (["-hda", "/proc/self/fd/9"], "open file"),
        (["-netdev", "vhost-user,chardev=c"], "outside QEMU"),
        (["-netdev", '{"type":"vhost-vdpa","id":"n"}'], "outside QEMU"),
        (["-device", "vhost-user-fs-pci,chardev=c"], "outside QEMU"),
        (["-fsdev", "local,id=f,path=/hosts/a/f"], "shared host directory"),
        (["-device", "vfio-pci,host=01:00.0"], "hardware"),
        (["-device", '{"driver":"usb-host"}'], "hardware"),
        (["-device", "ivshmem-plain,memdev=m"], "memory shared"),
        (["-object", "memory-backend-ram,id=m,size=1M,share=on", *IVSHMEM], "memory shared"),
        (["-object", "memory-backend-memfd,id=m,size=1M", *IVSHMEM], "memory shared"),
        (["-object", "memory-backend-shm,id=m,size=1M", *IVSHMEM], "memory shared"),
        (["-object", "memory-backend-ram,id=m,size=1M", "-device", "ivshmem-doorbell,chardev=c"], "memory shared"),
        (["-tpmdev", "passthrough,id=t"], "TPM"),
        (["-snapshot"], "temporary"),
        (["-drive", "file=/hosts/a/i,snapshot=on"], "temporary"),
        (["-drive", "file=/hosts/a/i,snapshot"], "temporary"),
        (["-loadvm", "x"], "internal snapshot"),
        (["-icount", "shift=7,rr=record,rrfile=/hosts/a/r"], "the guest with it"),
        (["-drive", "file=/dev/vg/lv,format=raw"], "outside /hosts/a"),
        (["-blockdev", "driver=host_device,node-name=n,filename=/dev/sdb"], "outside /hosts/a"),
        (["-hda", "/dev/sdb"], "outside /hosts/a"),
        (["-drive", "file=rbd:pool/image"], "not a file of this host"),
        (["-drive", "file=http://x/y.iso,media=cdrom"], "not a file of this host"),
        (["-blockdev", '{"driver":"raw","node-name":"n","file":{"driver":"nfs","path":"/x"}}'], "not a file"),
        (["-drive", "file=i.raw,format=raw"], "relative"),
        (["-qmp", "unix:q.sock,server=on"], "relative"),
        (["-pidfile", "pid"], "relative"),
        (["disk.img"], "relative"),
        (["-drive", "file=/elsewhere/i.raw"], "outside /hosts/a"),
        (["-serial", "file:/tmp/log"], "outside /hosts/a"),
        (["-chardev", "socket,id=c,path=/run/c,server=on"], "outside /hosts/a"),
        (["-pidfile", "/hosts/ab/p"], "outside /hosts/a"),
        (["-device", "virtio-pmem-pci,memdev=m"], "QEMU sends nothing of its file"),
        (["-serial", "/dev/ttyS0"], "port of this host"),
        (["-run-with", "user=vm,chroot=/hosts/a/empty"], "does not find the socket by which its disks are copied"),
    ],
)
def test_what_cannot_be_rebuilt_is_named_with_its_option(words: list[str], says: str) -> None:
    sentences = refused(*words)
    assert any(says in sentence and words[-1] in sentence for sentence in sentences), sentences


@pytest.mark.parametrize(
    "kind", ["ram,id=m", "memfd,id=m,share=off", "file,id=m,mem-path=/hosts/a/m", "shm,share=off,id=m"]
)
def test_memory_that_nobody_else_can_map_is_no_shared_memory(kind: str) -> None:
    assert refused("-object", f"memory-backend-{kind},size=1M", *IVSHMEM) == []


def test_an_ordinary_guest_is_not_refused() -> None:
    words = [
        "-S",
        "-m",
        "64",
        "-nodefaults",
        "-cpu",
        "qemu64,+aes",
        "-name",
        "fd=1",
        "-daemonize",
        "-incoming",
        "defer",
        "-runas",
        "x",
    ]
    words += ["-drive", "file=/hosts/a/i.qcow2,if=virtio", "-drive", "if=ide,media=cdrom", "-vnc", ":1"]
    words += ["-cdrom", "/srv/iso/x.iso", "-bios", "bios.bin", "-kernel", "/boot/vmlinuz", "-serial", "null"]
    words += [
        "-qmp",
        "tcp:127.0.0.1:4444,server=on,wait=off",
        "-monitor",
        "stdio",
        "-serial",
        "pty",
        "-chardev",
        "stdio,id=c",
    ]
    words += ["-netdev", "tap,id=n,ifname=tap0", "-object", "rng-random,id=r,filename=/dev/urandom"]
    words += ["-blockdev", json.dumps({"driver": "file", "node-name": "f", "filename": "/hosts/a/f"})]
    words += ["-device", "vhost-vsock-pci,guest-cid=3", "-object", "memory-backend-file,id=m,mem-path=/dev/hugepages"]
    words += ["-drive", "if=pflash,file=/usr/share/OVMF/OVMF_CODE.fd,readonly=on"]
    words += ["-object", "memory-backend-file,id=n,mem-path=/dev/shm/web,share=on", "-mem-path", "/dev/shm"]
    assert refused(*words) == []


def test_memory_alone_may_be_where_the_hosts_memory_is() -> None:
    assert "lies outside" in refused("-chardev", "socket,id=c,path=/dev/shm/web,server=on")[0]


def test_a_block_device_whose_place_is_decided_elsewhere_is_no_matter() -> None:
    line = ["qemu", "-drive", "file=/dev/vg/lv,format=raw"]
    assert command_line_refusals(line, source_root="/hosts/a", images={"/dev/vg/lv"}) == []


def test_outside_the_root_is_no_matter_when_the_root_is_everything() -> None:
    assert refused("-drive", "file=/anywhere/i.raw", "-pidfile", "/run/p", root="/") == []
