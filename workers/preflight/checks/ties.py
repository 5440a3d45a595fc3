"""What ties a guest to its host: folders, hardware, programs beside its QEMU."""

from workers.preflight.checks.kind import Kind

DESCRIPTOR = Kind(
    name="open-file",
    what="open files handed to QEMU (`-add-fd`, `fd=`), besides images, taps and macvtaps",
    why="an open file of this host cannot be handed over",
    remedy="give QEMU a path instead",
    explains=frozenset({"image-astray", "image-lost", "image-not-named", "needed-file"}),
)
SHARED_FOLDER = Kind(
    name="shared-folder",
    what="a folder of the host that is shared with the guest (`-virtfs`, `-fsdev`, virtio-9p, `usb-mtp`)",
    why="a shared host directory cannot be moved",
    remedy="unmount it in the guest and restart the guest without the option; share it over the network instead",
    explains=frozenset({"hot-plugged", "blocked-by-qemu"}),
)
VIRTIOFS = Kind(
    name="virtiofs",
    what="virtiofs (`vhost-user-fs`)",
    why="it is tied to a back end outside QEMU (virtiofsd) and to a folder of this host",
    remedy="unmount it in the guest and restart the guest without it; share the folder over the network instead",
    explains=frozenset({"blocked-by-qemu"}),
)
VHOST_USER = Kind(
    name="vhost-user",
    what="vhost-user and vhost-vdpa devices and networks",
    why="it is tied to a back end outside QEMU",
    remedy="restart the guest with what QEMU itself emulates: a tap or bridge for a network, an image for a disk",
    explains=frozenset({"blocked-by-qemu"}),
)
PASSTHROUGH = Kind(
    name="passthrough",
    what="devices of the host that are passed through (`vfio-*`, `usb-host`, `scsi-block`, `input-linux`, ...)",
    why="it is tied to hardware of this host",
    remedy="restart the guest without it, with an emulated or virtio device instead",
    explains=frozenset({"blocked-by-qemu"}),
)
CHROOT = Kind(
    name="chroot",
    what="a QEMU that has taken a folder as its root (`-run-with chroot=`)",
    why="in that folder it does not find the socket by which its disks are copied",
    remedy="restart the guest without it",
    explains=frozenset({"image-lost"}),
)
KEYRING = Kind(
    name="keyring",
    what="secrets in the keyring of the host's kernel (`secret_keyring`)",
    why="its secret is in the keyring of this host's kernel",
    remedy="restart the guest with the secret in a file (`-object secret,file=`)",
)
HOST_PORT = Kind(
    name="host-port",
    what="serial and parallel ports of the host",
    why="a port of this host cannot be moved",
    remedy="restart the guest without it",
)
