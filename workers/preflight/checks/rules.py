"""What the administrators of the hosts allow, and what their policies name."""

from workers.preflight.checks.kind import Kind

POLICY = Kind(
    name="policy",
    what="what the destination's policy does not allow: paths, programs, options, users, monitors in the network",
    side="destination",
    remedy="allow it in the policy there, if guests may have it, or move the guest elsewhere",
    live=True,
)
NO_HOOKS = Kind(
    name="no-hooks",
    what="a policy's set of hooks that the guest's host does not have",
    remedy="make that folder, with what is to run there, or none",
    live=True,
)
NO_HOOKS_THERE = Kind(
    name="no-hooks-there",
    what="a policy's set of hooks that the destination does not have",
    side="destination",
    remedy="make that folder, with what is to run there, or none",
    live=True,
)
NO_CHECK_THERE = Kind(
    name="no-check-there",
    what="a policy's check of whether a guest is well that is not in the destination's file",
    side="destination",
    remedy="list it below `checks` there",
    live=True,
)
