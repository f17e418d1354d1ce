"""A Python that stands ready: started once, forked for each box, unseen by the programs it runs.

The launcher starts it like any program, with `hook/` on its path: Python imports `sitecustomize` from
there at the end of its own start and before it looks at the program it was given.  What follows:

1. `ahead.py` imports what programs often import, and notes what each import brings.
2. A loop serves the launcher: in C where there is a compiler (`native/stand.c`, `resident/standing.py`),
   else `forks.py`.  A fork enters a box, is locked up there, and goes on here as the process of a program.
3. There everything of this package is forgotten but `resident`, which waits at the gate, gives the
   program its environment, and returns; the hook then says that there is no `sitecustomize`, and the
   interpreter goes on to run the program exactly as if it had been started for it.

The modules imported ahead are out of sight until the program imports them (`resident`).  The
standing process never runs anything of a client and holds no secret.  What forks share (hash seed,
addresses) is not shared for long: it is replaced after a number of them (`pool.py`).
"""

import os

CONTROL_FD = 3
HOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hook")
AHEAD = "ERA_AHEAD"
"""The variable that names the modules to import ahead."""
PAD = "ERA_PAD"
"""A variable that only makes room: a program's environment is written over it, so that
/proc/self/environ shows the program's own."""
PAD_BYTES = 8192
