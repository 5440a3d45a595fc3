"""The worker of one host: QMP, images, NBD, RAM. Knows neither the order of steps nor other hosts."""
