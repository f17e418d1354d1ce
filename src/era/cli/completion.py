"""`era completion`: what a shell completes, for both names of the program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from cyclopts import App

Shell = Literal["bash", "zsh", "fish"]

_BOTH: Final[Mapping[Shell, str]] = {
    "bash": "complete -F _era agent",
    # In a file of $fpath the script is the function; sourced it has to say what it is for.
    "zsh": """if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _cyclopts_era "$@"
else
  compdef _cyclopts_era era agent
fi""",
    "fish": "complete -c agent -w era",
}


def script(app: App, shell: Shell) -> str:
    """The whole script of a shell."""
    own = app.generate_completion(prog_name="era", shell=shell).rstrip()
    return f"{own.replace('#compdef era', '#compdef era agent', 1)}\n\n{_BOTH[shell]}"
