"""Documents in the folder of a job: one that an earlier version wrote is read, one of a later version is refused."""

import json
from pathlib import Path

import pytest

from drover.errors import UnreadableDocument
from models.job_folder import RecordedNodes, SlowedWrites
from models.plain import SlowedDrive
from workers.document_file import DocumentFile
from workers.step import JobDirectory


def test_what_the_version_before_wrote_down_of_a_move_under_way_is_read(tmp_path: Path) -> None:
    (tmp_path / "written.json").write_text('{"0": "#block17", "12": "disk12"}')
    (tmp_path / "slowed.json").write_text('{"per_s": 5, "drives": {"d": {"before": {"bps": 9}, "set": [{"bps": 5}]}}}')
    folder = JobDirectory(tmp_path)
    assert folder.recorded_nodes.read() == RecordedNodes(nodes={0: "#block17", 12: "disk12"})
    drives = {"d": SlowedDrive(before={"bps": 9}, set=[{"bps": 5}])}
    assert folder.slowed.read() == SlowedWrites(per_s=5, drives=drives)


def test_a_document_is_replaced_read_again_and_removed(tmp_path: Path) -> None:
    file = DocumentFile(tmp_path / "nodes.json", RecordedNodes)
    assert file.read() is None
    for nodes in ({0: "a"}, {1: "b"}):
        file.write(RecordedNodes(nodes=nodes))
        assert file.read() == RecordedNodes(nodes=nodes)
    file.remove()
    file.remove()
    assert file.read() is None


def test_one_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    path.write_text(json.dumps({"version": 2, "nodes": {}}))
    with pytest.raises(UnreadableDocument, match="newer Drover"):
        DocumentFile(path, RecordedNodes).read()
