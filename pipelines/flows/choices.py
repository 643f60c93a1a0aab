"""What the forms of flows offer to choose from.

A form shows a list where the schema of a parameter has one. Presets and stages are those of this checkout when it was
deployed: the server refuses another one. The flow itself checks them when it starts.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipelines.graph import stage_names
from pipelines.parameters.presets import presets

ROOT = Path(__file__).parents[2]

Preset = Annotated[str, Field(json_schema_extra={"enum": [*presets(ROOT)]})]
StageName = Annotated[str, Field(json_schema_extra={"enum": [*stage_names(ROOT)]})]
CascadeName = Literal["quick", "autoattack", "none"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]
PixelType = Literal["uint8", "float32"]
