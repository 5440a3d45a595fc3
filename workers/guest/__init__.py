"""A running guest: its QEMU and its monitors, what it does meanwhile, and what it leaves behind."""
