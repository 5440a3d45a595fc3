"""The worker of one host: QMP, images, NBD, RAM. It does not decide the order of steps."""
