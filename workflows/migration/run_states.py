"""QEMU's run states of a guest that has run, by what they mean for a move (`RunState` of its QMP schema)."""

OVER = {
    "shutdown": "powered off",
    "guest-panicked": "panicked",
    "internal-error": "was stopped by an internal error of QEMU",
}
"""What happened to a guest in these run states, which only a reset leads out of."""
STANDING = {
    "io-error": "is stopped by an I/O error",
    "watchdog": "is stopped by its watchdog",
    "suspended": "sleeps",
}
"""What keeps others from running; all else is its owner's `stop`."""
WENT_ON = frozenset({"running", *OVER, *STANDING})
"""Run states of a guest that runs, or ran, on a host by itself."""
