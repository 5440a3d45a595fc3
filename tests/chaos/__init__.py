"""The crash matrix and the soak: real guests are moved while something is killed, frozen or cut, at chosen points.

`points` says when, `faults` says who, `trial` runs one move with its fault and checks all that must hold, `stage`
is the lab in which that happens, `witness` listens to the QEMUs, `matrix` and `soak` are the two programs.
"""
