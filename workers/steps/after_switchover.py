"""After step 6: the hooks of both hosts, see `workers.hooks`. The destination's first: the guest runs there."""

from models.job import Side
from workers import hooks
from workers.hooks import Point
from workers.step import Context, StepHandler


class AfterSwitchoverDestination(StepHandler):
    """The hooks there have ended well."""

    name, side, attempts = "after_switchover", Side.DESTINATION, 10

    async def verify(self, ctx: Context) -> bool:
        return hooks.finished(ctx, Point.AFTER_SWITCHOVER)

    async def do(self, ctx: Context) -> None:
        await hooks.run(ctx, Point.AFTER_SWITCHOVER)


class AfterSwitchoverSource(AfterSwitchoverDestination):
    """Likewise at the source."""

    side = Side.SOURCE
