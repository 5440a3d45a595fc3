"""A document in a file of the worker's own."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from models.contracts import Versioned
from workers.files import write_durably

Document = TypeVar("Document", bound=Versioned)


@dataclass(frozen=True)
class DocumentFile(Generic[Document]):
    """It is replaced as a whole: after a crash either the old or the new document is there."""

    path: Path
    kind: type[Document]

    def read(self) -> Document | None:
        """What it holds; None: it is not there.

        Raises:
            UnreadableDocument: a later version wrote it, or it does not match its type.
        """
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return None
        return self.kind.read(json.loads(text))

    def write(self, document: Document) -> None:
        """Replace what it holds."""
        write_durably(self.path, json.dumps(document.json_object()))

    def remove(self) -> None:
        """If it is there."""
        self.path.unlink(missing_ok=True)
