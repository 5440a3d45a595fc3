"""The guest's networks, and how the two hosts reach each other."""

from models.preflight import Verdict
from workers.preflight.checks.kind import Kind

TAP = Kind(
    name="tap",
    what="a tap by descriptor that is in another network namespace than its host's worker, or that is none",
    remedy="let it be an untagged port of a bridge, or have QEMU open a tap by name (`ifname=`)",
)
NO_BRIDGE = Kind(
    name="no-bridge",
    what="a tap by descriptor and a destination without its bridge, or where none may be opened",
    remedy="create it there",
    side="destination",
    live=True,
)
NO_TAP_PROGRAM = Kind(
    name="no-tap-program",
    what="a tap by descriptor that is no port of a Linux bridge, a port with VLANs of its own, or a macvtap, and a "
    "destination whose policy names no program that opens such a one (`taps`)",
    remedy="name one that opens the like under `taps` there, let it be an untagged port of a bridge, or have QEMU open "
    "a tap by name (`ifname=`)",
    side="destination",
    live=True,
)
NO_NETWORK = Kind(
    name="no-network",
    what="a tap or bridge by name (`ifname=`, `br=`) that the destination does not have or that is in use there, and "
    "programs that would join the guest to its network (`script=`, `helper=`)",
    remedy="create it there",
    side="destination",
    live=True,
)
NO_VHOST = Kind(
    name="no-vhost",
    what="`vhost=on` and a destination without /dev/vhost-net",
    why="there is no /dev/vhost-net there, so QEMU carries each packet itself, which is slower",
    remedy="load the module vhost_net there",
    side="destination",
    verdict=Verdict.WARN,
    live=True,
)
SMALLER_BRIDGE = Kind(
    name="smaller-bridge",
    what="a tap by descriptor whose MTU is larger than that of its bridge at the destination",
    remedy="give the bridge and its ports the same MTU there",
    side="destination",
    verdict=Verdict.WARN,
    live=True,
)
PORT_TAKEN = Kind(
    name="port-taken",
    what="ports of the host that the guest's QEMU listens at, and that are in use at the destination",
    side="destination",
    remedy="end what listens there, or give the guest another port",
    live=True,
)
NOBODY_LISTENS = Kind(
    name="nobody-listens",
    what="programs of its own host that the guest's QEMU connects to when it starts (`tcp:127.0.0.1:PORT`) and that do "
    "not run at the destination",
    side="destination",
    remedy="start there what is to listen, or give the option `reconnect-ms=`",
    live=True,
)
ADDRESS = Kind(
    name="address",
    what="a destination that listens where the source cannot reach it",
    side="destination",
    remedy="give its worker the right DROVER_ADDRESS",
    live=True,
)
CERTIFICATE = Kind(
    name="certificate",
    what="`DROVER_STREAMS=certificates` and a certificate of the source that has expired, is another host's, or is of "
    "no authority that it trusts itself",
    remedy="make a new one (`drover doctor` on that host says more); the next move uses it",
    live=True,
)
CERTIFICATE_THERE = Kind(
    name="certificate-there",
    what="the same at the destination, and two hosts of which one does not trust the authority of the other",
    side="destination",
    remedy="make a new one, or list the authorities of both hosts in `DROVER_TLS_AUTHORITY` of both",
    live=True,
)
PLAIN_STREAMS = Kind(
    name="plain-streams",
    what="disks and RAM that go over the network in plain text",
    side="destination",
    verdict=Verdict.WARN,
    live=True,
)
