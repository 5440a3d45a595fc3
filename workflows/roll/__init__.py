"""Rolling maintenance: hosts are taken out in their turn, and brought back.

`commands` has the requests of operators, `reconciler` is what the controller runs, `health` says whether a host may be
used again, `hooks` asks for the program that works on an empty host and reads what became of it.
"""
