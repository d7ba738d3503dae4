"""The sample catalogue: about 1,000 product pictures, and some that are kept out to ask with."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

ARCHIVE = Path(__file__).with_name("sample.zip")
ATTRIBUTION = Path(__file__).with_name("SAMPLE-LICENSE.txt")
CATALOGUE, QUERIES = "catalogue", "queries"


@dataclass(frozen=True)
class Sample:
    """Two folders; in both, a sub-folder is a category and a file's stem is a product id."""

    catalogue: Path
    """Pictures to be added."""
    queries: Path
    """Pictures of other products, never added."""


def unpack(folder: Path) -> Sample:
    """Unpack the sample into `folder`, made when absent. Writes only there; the same every time."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return Sample(folder / CATALOGUE, folder / QUERIES)
