"""How settings are shown: their values and where these come from, without passwords."""

import os

from drover.cli import output
from drover.settings import amount, masked, variables


def show(*, as_json: bool) -> None:
    """Print every setting, also where one of them is invalid."""
    rows = [_row(variable, field.default, field.is_required()) for variable, (_, field) in variables().items()]
    if as_json:
        output.emit({"settings": rows})
        return
    output.table(("VARIABLE", "VALUE", "FROM"), [(row["variable"], row["value"], row["from"]) for row in rows])
    output.note("limits of the whole fleet: `drover fleet show`; what each setting means: docs/reference/settings.md")


def _row(variable: str, default: object, required: bool) -> dict[str, str | None]:
    told = os.environ.get(variable)
    if told:
        return {"variable": variable, "value": masked(variable, told), "from": "environment"}
    if required:
        return {"variable": variable, "value": None, "from": "not set"}
    return {"variable": variable, "value": amount(default), "from": "default"}
