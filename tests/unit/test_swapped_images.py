"""Images that have each other's names are told from those that a guest writes to while it is looked at."""

from pathlib import Path

import pytest

from tests.documents import inspection
from workers.preflight.open_images import swapped

PAGE = 4096


@pytest.mark.parametrize(
    ("told", "there", "found"),
    [((3, 5), (3, 5), 0), ((3, 5), (5, 3), 2), ((5, 3), (6, 5), 0), ((3, 3), (3, 3), 0)],
    ids=["as they were", "swapped", "one has grown to what the other was", "alike"],
)
def test_only_what_each_of_two_images_takes_at_the_place_of_the_other_shows_that_they_were_swapped(
    tmp_path: Path, told: tuple[int, int], there: tuple[int, int], found: int
) -> None:
    disks = []
    for index, (pages_told, pages_there) in enumerate(zip(told, there, strict=True)):
        path = tmp_path / f"disk{index}"
        path.write_bytes(b"x" * (PAGE * pages_there))
        seen = {"index": index, "path": str(path), "allocated_bytes": PAGE * pages_told}
        disks.append(inspection().disks[0].model_copy(update=seen))
    assert len(list(swapped(disks))) == found
