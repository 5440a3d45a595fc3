"""What goes along with a guest, and needs no check: for docs/reference/support.md."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Supported:
    """What goes along with the guest."""

    what: str
    how: str


MOVED = (
    Supported(
        what="raw and qcow2 images on virtio-blk, virtio-scsi, SATA, IDE and USB, and floppies",
        how="mirrored while the guest runs; size, cluster size and further options of the format are kept",
    ),
    Supported(
        what="LUKS, raw and within qcow2",
        how="the new image is encrypted likewise, with a key of its own and the same passphrase; that goes along as a "
        "secret, also one that stands on the command line (`-object secret,data=`): it is a file of mode 0600 there",
    ),
    Supported(
        what="read-only media, firmware, kernel, initrd (all that a multiboot kernel has), `-fw_cfg`, SMBIOS and ACPI "
        "tables, option ROMs, secrets",
        how="what is there and equal is used, what is missing is copied first; what is in a drive now counts",
    ),
    Supported(
        what="backing chains of raw and qcow2, snapshots taken live included",
        how="kept, with a base that is copied once for all guests on it; or `--chain flatten`",
    ),
    Supported(
        what="block devices: LVM volumes, loop devices, partitions, zvols, and links to one",
        how="mirrored to an image, or to a device that a storage of the destination makes or that an operator names",
    ),
    Supported(
        what="images, media and block devices that were handed over open (`add-fd`, `/dev/fdset/N`), as Incus does",
        how="by their paths. There QEMU opens them itself; an image becomes its user's where that could not open it",
    ),
    Supported(
        what="machine types q35, pc, microvm and virt; UEFI with and without Secure Boot",
        how="by the same machine type; the variables of UEFI are a disk like others",
    ),
    Supported(
        what="user, groups, limits, nice, CPU affinity (of vCPUs as well), NUMA policy; `-sandbox`, `-run-with`; "
        "limits of a unit or of a cgroup of the guest's own",
        how="by name, and as far as the destination has these CPUs and nodes; cgroup limits by the guest's unit there. "
        "vCPUs are not pinned again when systemd starts the guest at boot",
    ),
    Supported(
        what="taps by descriptor (`fd=`, `fds=`, `vhostfd=`, or plugged in) on a Linux bridge",
        how="opened anew on the bridge of that name, with the same queues, MTU, MAC and port flags; under the same "
        "name, or if that is taken under the next free one",
    ),
    Supported(
        what="other taps by descriptor (Open vSwitch, VLANs, routed), macvtap",
        how="handed over by a program that the destination's policy names (`taps`), under the same numbers",
    ),
    Supported(
        what="user networks, taps by name, bridges by helper",
        how="made anew by the same options, with the ports (`hostfwd`) of now; a tap or bridge of that name must "
        "be there",
    ),
    Supported(
        what="VNC, SPICE, serial consoles, guest agents",
        how="their sockets are made below the guest root, also those that were handed over (`-chardev socket,fd=`, as "
        "libvirt does); none waits for its first client (`server` without `wait=off`)",
    ),
)
"""With the guest's RAM or disks, or made anew by its command line."""
CARRIED = (
    Supported(
        what="I/O limits of drives and throttle groups, copy-on-read",
        how="as they are when the RAM is sent; the copy of a disk is not slowed by them",
    ),
    Supported(
        what="an emulated TPM (swtpm)",
        how="with the RAM, into a new swtpm that runs with the same options, as the same user",
    ),
    Supported(
        what="dirty bitmaps, persistent and transient",
        how="with the RAM: the next incremental backup is one",
    ),
    Supported(
        what="balloon target, virtio-mem's sizes, a link that is down, state of all devices",
        how="with the RAM",
    ),
    Supported(what="how often a balloon asks its guest for statistics", how="as it is when the RAM is sent"),
    Supported(what="`-name`, UUID, MAC addresses, serial numbers", how="by the command line, to the letter"),
)
"""What lives in the QEMU process alone."""
