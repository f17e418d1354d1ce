"""What stays in a program's interpreter.

Nothing here is imported: `ahead.py` compiles the parts one after the other, behind `gate.py`, into one
namespace, without docs and under the name of Python's own import system, so that nothing a program can
look at (frames, tracebacks, modules, classes) tells that its interpreter was not started for it.
Therefore no class here, and every module these parts import is one of those kept out of sight.
"""
