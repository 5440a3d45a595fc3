"""Where images lie on this host: what room they take and will take, and what is left.

`places` names the storages of this host, `watch` reports them and what its guests take, `room` says whether more fits.
"""
