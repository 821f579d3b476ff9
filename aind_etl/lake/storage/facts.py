"""What a store tells of a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What a store tells of a file without giving it.

    Attributes
    ----------
    size
        Its size in bytes.
    etag
        A text that differs whenever the content does.
    metadata
        The metadata that its writer attached.
    writer
        Which writing of a file it came of; empty where that is not known.
    """

    size: int
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    writer: str = ""
