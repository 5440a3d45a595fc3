"""Step 1: empty images on the destination, exactly like the source's."""

from pathlib import Path

from models.job import Side
from workers import images, preflight
from workers.step import Context, Step


class PrepareDestImage(Step):
    """The destination has an empty image for every disk, with the source's exact size, format and layout."""

    name, side = "prepare_dest_image", Side.DESTINATION

    async def verify(self, ctx: Context) -> bool:
        return all(
            ctx.directory.manifest.owns(Path(disk["destination_path"]))
            and images.virtual_size(Path(disk["destination_path"]), disk["format"]) == disk["virtual_size_bytes"]
            for disk in ctx.job.plan["disks"]
        )

    async def do(self, ctx: Context) -> None:
        preflight.check_room(ctx.job.plan["disks"])
        for disk in ctx.job.plan["disks"]:
            path = Path(disk["destination_path"])
            ctx.guard()
            ctx.directory.manifest.claim(path)
            images.create(path, disk["format"], disk["virtual_size_bytes"], disk["create_options"])

    async def undo(self, ctx: Context) -> None:
        ctx.guard()
        ctx.directory.manifest.delete_all()
        ctx.directory.remove()
