"""Images of a guest that have each other's names, however many, are told from those that the guest writes to."""

from pathlib import Path

import pytest

from tests.documents import inspection
from workers.preflight.open_images import swapped

PAGE = 4096


@pytest.mark.parametrize(
    ("told", "there", "found"),
    [
        ((3, 5), (3, 5), []),
        ((3, 5), (5, 3), [1, 0]),
        ((3, 5, 7), (7, 3, 5), [1, 2, 0]),
        ((3, 5, 7, 9, 2), (5, 3, 9, 7, 4), [1, 0, 3, 2]),
        ((5, 3), (6, 5), []),
        ((2, 3, 5), (3, 5, 6), []),
        ((3, 3), (3, 3), []),
    ],
    ids=["as they were", "two", "a circle of three", "two pairs", "one grew to another's", "all grew", "alike"],
)
def test_only_images_at_each_others_places_are_told_from_those_that_grew(
    tmp_path: Path, told: tuple[int, ...], there: tuple[int, ...], found: list[int]
) -> None:
    disks = []
    for index, (pages_told, pages_there) in enumerate(zip(told, there, strict=True)):
        path = tmp_path / f"disk{index}"
        path.write_bytes(b"x" * (PAGE * pages_there))
        seen = {"index": index, "path": str(path), "allocated_bytes": PAGE * pages_told}
        disks.append(inspection().disks[0].model_copy(update=seen))
    said = [check.seen for check in swapped(disks)]
    assert [int(one.partition(" is at ")[2].partition(" by now")[0][-1]) for one in said] == found
