from typing import Final

from era.client import *  # noqa: F403 - in a stub this exports what `__all__` names there

__version__: Final[str]
_SDK: Final[frozenset[str]]
