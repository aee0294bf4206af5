"""The module's parts as ansible sees them: ``ansible.module_utils.roost_*`` from the directory ``ansible``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ANSIBLE = Path(__file__).resolve().parents[3] / "ansible"


def part(name: str) -> ModuleType:
    """Load ``module_utils/<name>.py`` under the name that its siblings import it by."""
    full = f"ansible.module_utils.{name}"
    if full not in sys.modules:
        utils = importlib.import_module("ansible.module_utils")
        if str(ANSIBLE / "module_utils") not in utils.__path__:
            utils.__path__.append(str(ANSIBLE / "module_utils"))
    return importlib.import_module(full)
