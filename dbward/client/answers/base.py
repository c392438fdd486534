"""What every answer has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Time = AwareDatetime
"""RFC 3339, in UTC with `Z`."""

Count = Annotated[int, Field(ge=0)]


class Answer(BaseModel):
    """An object with these keys and no others. A key that may be absent has a default, which is never sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(Answer):
    """An answer that says only that it was done."""
