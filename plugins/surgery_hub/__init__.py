"""The Hugging Face Hub: models read from it by range or through the cache, results uploaded while they are made."""

from __future__ import annotations

from surgery import hookimpl
from surgery.checkpoint.base import Scheme
from surgery.checkpoint.base_publisher import Destination


@hookimpl
def surgery_register_sources() -> list[Scheme]:
    """Return `hub:` and `hf:`; `org/name` without a scheme is the Hub's too when nothing lies at that path."""
    from surgery_hub.address import is_bare
    from surgery_hub.open import open_hub

    return [Scheme("hub", open_hub, claims=is_bare), Scheme("hf", open_hub)]


@hookimpl
def surgery_register_destinations() -> list[Destination]:
    """Return `to: hub:org/name[@branch]`."""
    from surgery_hub.address import is_bare, place_folder, place_problem
    from surgery_hub.publisher import open_publisher

    return [Destination("hub", place_problem, open_publisher, place_folder, claims=is_bare)]
