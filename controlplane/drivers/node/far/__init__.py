"""What runs on nodes, over a line: each module is standard library only, one file, for Python 3.9 or later.

``source`` gives its text for ``Line.ask``, or for ``streams.listen`` if it stays (``sockets``); nothing else of a node
is asked or changed that way but an edge's table.
"""

from __future__ import annotations

import functools
from importlib import resources


@functools.cache
def source(name: str) -> str:
    """The text of a module of this package, such as ``facts``."""
    return resources.files(__name__).joinpath(f"{name}.py").read_text()
