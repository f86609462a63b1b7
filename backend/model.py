"""What the application stores."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field


def _writable(text: str) -> str:
    # JSON can spell half a surrogate pair ("\ud800"); no UTF-8 answer can. Such an item would be stored and never read.
    text.encode()  # UnicodeEncodeError is a ValueError, so the client gets a 422
    return text


Text = Annotated[str, AfterValidator(_writable)]
# Python's JSON reader takes NaN, Infinity and 1e999; JSON itself has no such numbers to answer with.
Amount = Annotated[float, Field(allow_inf_nan=False)]


class Item(BaseModel):
    """Describe one thing for sale. Its id is not part of it: the id is the store's key."""

    name: Text
    description: Text | None = None
    price: Amount
    tax: Amount | None = None
