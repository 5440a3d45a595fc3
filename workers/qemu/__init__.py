"""What we know of QEMU: its monitor, its command line, its machines, its bugs."""
