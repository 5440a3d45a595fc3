"""What qemu-img reports about an image, also about one in use."""

import json
import subprocess
from typing import Any


def info(path: str) -> dict[str, Any]:
    """`qemu-img info` as a dictionary."""
    told = subprocess.run(["qemu-img", "info", "-U", "--output=json", path], capture_output=True, text=True, check=True)
    document: dict[str, Any] = json.loads(told.stdout)
    return document
