"""Facts about QEMU: its monitor, its command line, its machines, its bugs."""
