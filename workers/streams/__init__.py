"""The streams of one job between its two hosts: disks (NBD), RAM and switchover, over one port, encrypted.

Two small processes, one on each host, that need neither broker nor database nor worker. They carry Unix sockets: who
connects to a socket of the source's process is connected to the socket of that name at the destination.

    source                                              destination
    guest's QEMU, switchover process                    NBD server, switchover process
      -> Unix socket -> client ===== TLS 1.3 =====> server -> Unix socket

Only the peer of the very same job is let in: both hold certificates made for one start of the destination's process
and trust no others, and a secret that is read before anything is passed on. Whoever else connects is one of a bounded
number for a moment, and TLS is not even begun with them. QEMU itself listens to no network, so a stranger never reaches
it.

QEMU's own TLS was tried and is not used (10.0.2): a handshake with a silent peer freezes the guest, an idle stranger
fills the NBD server's `max-connections`, a stranger's connection to the RAM's port ends the incoming QEMU, and the
guest's QEMU would have to read a private key from a file as whatever user it runs.
"""
