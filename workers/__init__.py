"""The hands of Drover on one host: QMP, images, NBD, RAM. Knows neither the order of steps nor other hosts."""
