"""What a command line may have QEMU do on a host, by that host's policy."""

from pathlib import Path

import pytest

from drover.settings import Settings
from tests import factories
from workers.qemu.options import parse_command_line
from workers.qemu.permissions import violations, written
from workers.trust import policy

BASE = ("/usr/bin/qemu-system-x86_64", "-nodefaults", "-qmp", "unix:/srv/guests/web/qmp,server=on,wait=off")
OTHERS = "/srv/guests/other/disk.raw"


def found(*more: str, images: tuple[str, ...] = (), ours: Settings | None = None) -> list[str]:
    ours = ours or factories.offline(host="two", guest_root=Path("/srv/guests"), policy=Path("/nonexistent"))
    return violations([*BASE, *more], policy.of(ours), images)


@pytest.mark.parametrize(
    "words",
    [
        "-netdev tap,id=n,ifname=t0",
        "-netdev tap,id=n,script=no,downscript=no",
        "-netdev user,id=n,hostfwd=tcp::2222-:22,hostfwd=tcp::8080-:80,bootfile=/pxelinux.0",
        "-netdev bridge,id=n,br=br0",
        "-serial mon:unix:/srv/guests/web/serial,server=on",
        "-chardev socket,id=c,path=agent,abstract=on,server=on",
        "-chardev socket,id=m,path=/srv/guests/web/m,server=on -mon chardev=m,mode=control",
        "-chardev file,id=c,path=/srv/guests/web/console.log,append=on -serial chardev:c",
        "-chardev socket,id=s,host=0.0.0.0,port=4000,server=on -serial chardev:s",
        "-vnc :1 -monitor none",
        "-vnc :1",
        "-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd",
        "-drive if=pflash,format=raw,readonly,file=/usr/share/OVMF/OVMF_CODE.fd",
        f"-drive if=none,backing.driver=raw,backing.file.filename={OTHERS}",
        f'-blockdev {{"driver":"qcow2","file":"f","backing":{{"driver":"file","filename":"{OTHERS}"}}}}',
        "-blockdev driver=qcow2,node-name=a,file=f0",
        "-bios bios-256k.bin -device virtio-net-pci,romfile= -device virtio-net-pci,romfile=efi-virtio.rom",
        "-smbios type=1,serial=/1/2 -append root=/dev/vda -uuid 1 -name guest=/x",
        "-object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r -device pvpanic,events=1",
        '-object {"qom-type":"memory-backend-file","id":"m","mem-path":"/dev/hugepages"}',
        "-object memory-backend-file,id=m,size=1G,mem-path=/dev/shm/web,share=on",
        "-monitor telnet:127.0.0.1:5555,server=on -qmp websocket:[::1]:80,server=on -gdb tcp:127.0.0.1:1234",
        "-id 105 -usbdevice tablet -audio none,model=ac97 -debugcon stdio -only-migratable -echr 20 -seed 1",
        "-runas qemu -spice port=5900 -display gtk -rtc base=utc -boot order=c -cpu host -m 1G,slots=2 -smp 2",
    ],
)
def test_usual_command_lines_are_allowed(words: str) -> None:
    assert found(*words.split(" ")) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("-netdev user,id=n,guestfwd=tcp:10.0.2.9:7-file:/etc/x", "/etc/x is outside"),
        ("-netdev user,id=n,guestfwd=tcp:10.0.2.9:7-cmd:/x", "it would start a program"),
        ('-netdev {"type":"user","id":"n","guestfwd":[{"str":"tcp:10.0.2.9:7-cmd:/x"}]}', "it would start a program"),
        ("-netdev user,id=n,guestfwd=tcp:10.0.2.9:7-unix:/srv/guests/other/qmp", "it would connect to"),
        ("-netdev user,id=n,smb=/srv/guests", "a file server"),
        ("-chardev socket,id=c,path=/dev/shm/web,server=on", "/dev/shm/web is outside"),
        ("-netdev user,id=n,tftp=/srv/guests", "share a folder"),
        ('-netdev {"type":"tap","id":"n","script":"/x"}', "it would start /x"),
        ("-netdev vde,id=n,sock=/srv/guests/web/vde", "this kind of network"),
        ("-nic tap,helper=/x", "it would start /x"),
        ("-readconfig /srv/guests/web/conf", "not among the options"),
        ("-s", "the network may reach this debugger"),
        ("-gdb tcp::1234", "the network may reach this debugger"),
        ("-plugin /srv/guests/web/x.so", "not among the options"),
        ("-semihosting", "not among the options"),
        ("/srv/guests/web/disk", "not among the options"),
        ("-incoming exec:/x", "only a move brings a guest in"),
        ("-object x-remote-object,id=o", "is not allowed"),
        ('-object {"qom-type":"qtest","id":"q","chardev":"c"}', "is not allowed"),
        ("-monitor telnet::5555,server=on", "the network may reach this monitor"),
        ("-serial mon:tcp:1:2", "the network may reach this monitor"),
        ("-mon chardev=nowhere", "the network may reach this monitor"),
        ("-spice port=5900 -chardev vc,id=v -mon v", "the network may reach this monitor"),
        ("-chardev file,id=c,path=/srv/guests/../../etc/x", "is outside"),
        ("-chardev file,id=c,path=/srv/guestsX/x", "is outside"),
        ("-serial file:console.log", "no absolute path"),
        ("-pidfile web.pid", "no absolute path"),
        ("-object secret,id=s,file=/etc/shadow", "is outside"),
        ("-kernel /etc/shadow", "is outside"),
        ("-device loader,file=/etc/shadow", "is outside"),
        ("-device usb-mtp,rootdir=/srv/guests", "share a folder"),
        ("-machine q35,dumpdtb=/srv/guests/web/x", "it would write a file"),
        (f"-drive if=none,id=x,format=raw,file={OTHERS}", "none of the images"),
        (f"-drive if=none,id=x,format=raw,readonly=on,readonly=off,file={OTHERS}", "none of the images"),
        (f'-blockdev {{"driver":"raw","node-name":"x","file":{{"driver":"file","filename":"{OTHERS}"}}}}', "none of"),
        (f"-drive file={OTHERS},backing.file.filename={OTHERS}", "none of the images"),
        (f"-drive if=none,backing.read-only=off,backing.file.filename={OTHERS}", "none of the images"),
        ("-run-with user=postgres", "that user"),
        ("-runas postgres", "that user"),
        ("-netdev tap,id=n,script=no,downscript=/x", "it would start /x"),
        ("-chardev file,id=c,path=/srv/guests/web/c,input-path=/srv/guests/web/x", "read a file of the host"),
        ("-chardev file,id=c,path=/usr/share/x", "/usr/share/x is outside"),
        ("-drive if=pflash,format=raw,file=/usr/share/OVMF/OVMF_VARS.fd", "OVMF_VARS.fd is outside"),
        ("-object memory-backend-file,id=m,size=1M,mem-path=/usr/share/x", "/usr/share/x is outside"),
        ("-object memory-backend-file,id=m,size=1M,mem-path=/dev/shm/../../etc/x", "is outside"),
        (f"-drive if=none,id=x,readonly=on,file.read-only=off,file.filename={OTHERS}", "none of the images"),
        (f"-drive if=none,id=x,media=cdrom,readonly=off,file={OTHERS}", "none of the images"),
        (f"-drive if=none,backing.readonly=off,backing.file.filename={OTHERS}", "none of the images"),
        ("-object pr-manager-helper,id=p,path=/srv/guests/web/p", "is not allowed"),
        ("-object vhost-user-backend,id=v,chardev=c", "is not allowed"),
        ("-device vhost-user-blk-pci,chardev=c", "is not allowed"),
        ("-chardev socket,id=m,host=0.0.0.0,port=1,server=on -mon chardev=m", "the network may reach this monitor"),
        ("-chardev null,id=m,backend=socket,host=0.0.0.0,port=1,server=on -mon chardev=m", "the network may reach"),
        ("-monitor tcp:127.0.0.1:1,host=0.0.0.0,server=on", "the network may reach this monitor"),
        ("-serial mon:unix:/srv/guests/web/m,server=on,backend=socket,host=::", "the network may reach this monitor"),
        ("-chardev null,id=m,id=n -mon chardev=m", "`id` is there twice"),
        ("-chardev null,id=m,backend=null", "`backend` is there twice"),
        ("-drive id=x,file=json:{'driver':'raw','size':1}", "its JSON is not understood"),
        ("-blockdev {", "its JSON is not understood"),
        ("-monitor udp:127.0.0.1:1", "the network may reach this monitor"),
        ("-monitor unix:/srv/guests/web/m,server=on,backend=udp", "the network may reach this monitor"),
        ("-chardev file,id=c,path=/dev/nullified", "is outside"),
        (f"-drive if=none,file.driver=blkdebug,file.x-image={OTHERS}", "it would open an image"),
        (f"-drive if=none,file.driver=blkverify,file.x-raw={OTHERS}", "it would open an image"),
    ],
)
def test_what_reaches_beyond_the_guest_is_not(words: str, why: str) -> None:
    assert any(why in sentence for sentence in found(*words.split(" ")))


@pytest.mark.parametrize(
    "words",
    [
        "-machine q35,kernel=x",
        "-chardev file,id=c,path=x.log",
        "-chardev null,id=c,logfile=x.log",
        "-chardev pty,id=c,path=x",
        "-chardev udp,id=c,localpath=x",
        "-blockdev driver=file,node-name=n,filename=x.raw",
        "-object memory-backend-file,id=m,size=1M,mem-path=x",
        "-object memory-backend-file,id=m,size=1M,mem_path=x",
        "-object tls-creds-x509,id=t,endpoint=server,dir=x",
        "-object input-linux,id=i,evdev=x",
        "-device virtio-net-pci,romfile=../x",
        "-device vhost-vdpa-device-pci,vhostdev=x",
        "-machine q35,firmware=../x",
        "-machine q35,initrd=x",
        "-machine q35,shim=x",
        "-machine q35,dtb=x",
        "-device ccid-card-emulated,backend=certificates,db=x",
        "-run-with chroot=x",
        "-display egl-headless,rendernode=x",
        "-boot splash=x.jpg",
        "-trace events=x",
        "-spice port=1,x509-dir=x",
        "-spice port=1,x509-cert-file=x",
        "-spice port=1,x509-key-file=x",
        "-spice port=1,x509-cacert-file=x",
        "-spice port=1,x509-dh-key-file=x",
    ],
)
def test_a_path_that_depends_on_where_qemu_is_started_is_refused(words: str) -> None:
    assert any("is no absolute path" in sentence for sentence in found(*words.split(" ")))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (f"-drive if=none,id=x,readonly=on,file={OTHERS} -set drive.x.readonly=off", "none of the images"),
        (f"-drive if=none,id=x,file=/srv/guests/web/d -set drive.x.file={OTHERS}", f"{OTHERS} is none of the images"),
        ("-chardev null,id=m -mon chardev=m -set chardev.m.backend=socket -set chardev.m.host=::", "the network may"),
        ("-chardev socket,id=m,host=::1,port=1,server=on -mon m -set chardev.m.host=0.0.0.0", "the network may reach"),
        ("-chardev socket,id=c,path=/srv/guests/web/c,server=on -set chardev.c.server=off", "it would connect to"),
        ("-netdev tap,id=n -set netdev.n.script=/x", "it would start /x"),
        ("-qmp tcp:127.0.0.1:1,server=on -set chardev.compat_monitor0.host=::", "nothing on its command line has"),
    ],
)
def test_what_is_set_afterwards_counts(words: str, why: str) -> None:
    assert any(why in sentence for sentence in found(*words.split(" ")))


def test_what_qemu_writes_is_where_it_was_set_to_afterwards() -> None:
    words = "-chardev file,id=c,path=/a/log -set chardev.c.path=/b/log"
    assert [made.path for made in written(["qemu", *words.split(" ")])] == ["/b/log"]


def test_a_file_whose_name_is_in_braces_is_no_json() -> None:
    [option] = parse_command_line(["qemu", "-cdrom", "{a}.iso"])
    assert list(option.leaves()) == [("", "{a}.iso")]


def test_a_device_may_be_set_afterwards() -> None:
    words = "-set device.vd.bus=b -device virtio-blk-pci,id=vd -set device.vd.serial=a,b -set device.vd.bootindex=1"
    assert found(*words.split(" ")) == []


@pytest.mark.parametrize(
    ("words", "starts"),
    [
        ("-netdev tap,id=n", ["/etc/qemu-ifup", "/etc/qemu-ifdown"]),
        ("-netdev tap,id=n,script=no", ["/etc/qemu-ifdown"]),
        ("-nic tap,downscript=no", ["/etc/qemu-ifup"]),
        ("-netdev bridge,id=n,br=br0", ["/usr/lib/qemu/qemu-bridge-helper"]),
        ("-netdev tap,id=n,script=no,downscript=no", []),
        ("-netdev tap,id=n,fd=3", []),
        ("-netdev tap,id=n,fds=3:4", []),
        ("-netdev tap,id=n,helper=/x", ["/x"]),
        ("-netdev bridge,id=n,helper=/x", ["/x"]),
    ],
)
def test_what_qemu_starts_for_a_network_by_itself_has_to_be_allowed_too(
    tmp_path: Path, words: str, starts: list[str]
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("programs = []\n")
    ours = factories.offline(host="two", guest_root=Path("/srv/guests"), policy=file)
    sentences = found(*words.split(" "), ours=ours)
    assert [sentence.split("it would start ")[1].split(" or ")[0].split(",")[0] for sentence in sentences] == starts


@pytest.mark.parametrize(
    ("words", "shows"),
    [
        ("-vnc :1", True),
        ("-vnc unix:/srv/guests/web/vnc", False),
        ("-vnc unix:/srv/guests/web/vnc,vnc=:1", True),
        ("-vnc none", False),
        ("-display vnc=:1", True),
        ("-display spice-app", True),
        ("-display dbus", True),
        ("-display type=dbus", True),
        ("-display gtk", False),
        ("-spice port=1", True),
    ],
)
def test_a_display_without_a_monitor_of_its_own_shows_qemus(words: str, shows: bool) -> None:
    ours = factories.offline(host="two", guest_root=Path("/srv/guests"), policy=Path("/nonexistent"))
    sentences = violations(["/usr/bin/qemu-system-x86_64", *words.split(" ")], policy.of(ours), ())
    assert any("its display shows QEMU's own monitor" in sentence for sentence in sentences) is shows


def test_an_image_that_is_made_for_the_guest_may_be_written() -> None:
    assert found("-drive", f"if=none,id=x,format=raw,file={OTHERS}", images=(OTHERS,)) == []


def test_the_policy_adds_what_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    lists = 'folders = ["/vm"]\nread = ["/kernels"]\nprograms = ["/x"]\nusers = ["vm"]\noptions = ["gdb", "plugin"]\n'
    file.write_text(lists)
    ours = factories.offline(host="two", guest_root=Path("/srv/guests"), policy=file)
    words = "-kernel /kernels/a -netdev tap,script=/x,downscript=/x -runas vm -gdb tcp::1 -plugin /x.so "
    words += "-chardev file,id=c,path=/vm/a"
    assert [one for one in found(*words.split(" "), ours=ours) if "/srv/guests" not in one] == []


@pytest.mark.parametrize(
    "words",
    [
        "-chardev socket,id=c,path=/srv/guests/other/qmp",
        "-chardev socket,id=c,path=/srv/guests/other/qmp,server=on,server=off",
        "-chardev socket,id=c,path=/srv/guests/other/qmp,server,noserver",
        "-serial unix:/srv/guests/other/qmp",
        "-netdev stream,id=n,addr.type=unix,addr.path=/srv/guests/other/qmp",
        "-nic stream,addr.type=unix,addr.path=/srv/guests/other/qmp",
        "-netdev dgram,id=n,local.type=inet,remote.type=unix,remote.path=/srv/guests/other/qmp",
        "-chardev backend=socket,id=c,path=/srv/guests/other/qmp",
        "-serial unix:/srv/guests/mine,path=/srv/guests/other/qmp",
        "-audiodev pa,id=a,server=unix:/srv/guests/other/qmp",
        "-display dbus,addr=unix:path=/srv/guests/other/qmp",
        "-object dbus-vmstate,id=d,addr=unix:path=/srv/guests/other/qmp",
        '-object {"qom-type":"dbus-vmstate","id":"d","addr":"unix:path=/srv/guests/other/qmp"}',
        "-blockdev driver=virtio-blk-vhost-user,node-name=n,path=/srv/guests/other/qmp",
        "-drive if=none,readonly=on,file.driver=nbd,file.server.type=unix,file.server.path=/srv/guests/other/qmp",
        "-serial mon:unix:/srv/guests/other/qmp",
    ],
)
def test_a_guest_is_not_connected_to_sockets_of_others(words: str) -> None:
    sentences = found(*words.split(" "))
    assert any("/srv/guests/other/qmp, which its policy does not list" in sentence for sentence in sentences)


def test_the_policy_names_sockets_of_others(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('sockets = ["/srv/guests/other"]\n')
    ours = factories.offline(host="two", guest_root=Path("/srv/guests"), policy=file)
    assert found("-serial", "unix:/srv/guests/other/qmp", ours=ours) == []
    assert found("-object", "dbus-vmstate,id=d,addr=unix:path=/srv/guests/other/bus", ours=ours) == []


def test_readonly_that_is_taken_back_is_none() -> None:
    drive = f"if=none,id=x,format=raw,readonly=on,noreadonly,file={OTHERS}"
    assert any("none of the images" in sentence for sentence in found("-drive", drive))
