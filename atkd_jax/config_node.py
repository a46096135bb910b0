"""What every part of the config tree is: frozen, validated, and closed to keys that it does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

Dtype = Literal["float32", "bfloat16"]
# A path that a user writes may begin with ~.
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]


class Node(BaseModel):
    """A part of the tree."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
