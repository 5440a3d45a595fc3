"""Whether a guest is well after its switchover: what QEMU says of it, its agent, and a check of its owner's.

Whatever is found, the move goes on: the guest lives where it lives. What fails is in the record, raises an alarm, and
keeps the images at the source for the way back.
"""
