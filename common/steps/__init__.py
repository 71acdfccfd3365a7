"""The registry of the study's steps: `STEPS`, by name, each after those that it needs."""

import importlib
import pkgutil

ORDER = ("fine_tuning", "probing", "attention")
_names = sorted(module.name for module in pkgutil.iter_modules(__path__))
_names.sort(key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
_modules = [importlib.import_module(f"{__name__}.{name}") for name in _names]
STEPS = {module.NAME: module for module in _modules}


def split(name: str) -> tuple[str, str]:
    """The step and the variant of a result folder's name: `probing-linear` -> probing, linear."""
    step = next((step for step in STEPS if name == step or name.startswith(f"{step}-")), "")
    return step, name[len(step) + 1 :] if step else ""
