"""ERA: a self-hosted service that runs untrusted code in boxes and keeps its state."""

from typing import Final

__version__: Final = "0.1.0"
