"""The proof of a copy (`--verify`): before the source's images are let go, both sides are compared end to end.

Each host reads its own image and computes digests; only those go over the wire, by the stream `proof`. The source's
images are final since the switchover. The destination's are read through the guest's own QEMU, for the guest writes to
them. What it wrote is known by a bitmap (`workers.qemu.written`) that is looked at after the digests: a block that was
read while it was written is in it by then. So a difference that is in the bitmap is the guest's own, and is left out;
any other one is a fault of the copy.

    source                                              destination
    storage daemon (read only)                          the guest's QEMU
      -> `comparing`, in the worker  == stream `proof` ==> `answering`, a process of its own
"""
