"""The copy of the disks: the mirrors at the source, the NBD server at the destination."""
