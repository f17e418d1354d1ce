"""`era version`."""

from __future__ import annotations

import json
import platform
import sys

from era import __version__
from era.cli.common import Common


def run(common: Common) -> int:
    """Print version, interpreter and platform."""
    about = {
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
    }
    if common.json:
        print(json.dumps(about, separators=(",", ":")))
    else:
        print(f"era {about['version']} (Python {about['python']}, {about['platform']})")
    return 0
