"""The steps, one file each. `workflows.migration.links` has their order."""

from models.job import Side
from workers.step import StepHandler
from workers.steps.after_switchover import AfterSwitchoverDestination, AfterSwitchoverSource
from workers.steps.await_sync import AwaitSync
from workers.steps.check_guest import CheckGuest
from workers.steps.cleanup import CleanupDestination, CleanupSource
from workers.steps.compare_images import CompareImagesDestination, CompareImagesSource
from workers.steps.copy_files import CopyFilesDestination, CopyFilesSource
from workers.steps.cutover import CutoverDestination, CutoverSource
from workers.steps.migrate_ram import MigrateRamDestination, MigrateRamSource
from workers.steps.mirror_disks import MirrorDisks
from workers.steps.prepare_dest_image import PrepareDestImage
from workers.steps.start_nbd import StartNbd

STEPS: dict[tuple[str, Side], StepHandler] = {
    (step.name, step.side): step
    for step in (
        PrepareDestImage(),
        CopyFilesDestination(),
        CopyFilesSource(),
        StartNbd(),
        MirrorDisks(),
        AwaitSync(),
        MigrateRamDestination(),
        MigrateRamSource(),
        CutoverSource(),
        CutoverDestination(),
        AfterSwitchoverDestination(),
        AfterSwitchoverSource(),
        CheckGuest(),
        CompareImagesDestination(),
        CompareImagesSource(),
        CleanupSource(),
        CleanupDestination(),
    )
}
