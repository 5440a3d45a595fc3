"""The life of a guest before and after its move: who launched it, and who starts it again.

- `found` looks who launched a guest: a unit of systemd, a process that supervises it, a container, or nobody.
- `inhibitor` keeps that launcher at the source from starting the guest again before it may go, and takes that back.
- `keep_out` puts a folder in the place of an image where a launcher stays that nobody can tell anything, or is unknown.
- `systemd` is the only place that calls `systemctl`.
"""
