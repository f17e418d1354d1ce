"""Standard streams: what they are, how they are written, what happens when they are gone."""

from __future__ import annotations

from tests.corpora.python.case import case

PROGRAMS = (
    case(
        "stream-attributes",
        """
        import sys
        for name in ("stdin", "stdout", "stderr"):
            s = getattr(sys, name)
            print(name, type(s), s.name, s.mode, s.encoding, s.errors, s.newlines, s.closed,
                  s.line_buffering, s.write_through, s.isatty(), s.fileno(), s.readable(),
                  s.writable(), s.seekable(), type(s.buffer), type(s.buffer.raw), s.buffer.raw.mode,
                  s.buffer.raw.closefd, s.buffer.raw, s is getattr(sys, f"__{name}__"))
        """,
    ),
    case(
        "stream-kinds",
        """
        import os, stat
        for fd in range(3):
            s = os.fstat(fd)
            print(fd, stat.filemode(s.st_mode), s.st_uid, s.st_gid, s.st_size, s.st_blksize,
                  os.isatty(fd), os.get_inheritable(fd), os.get_blocking(fd))
            print(os.readlink(f"/proc/self/fd/{fd}").split(":")[0])
        """,
        stdin=b"given",
    ),
    case("stream-fcntl", "import fcntl\nprint([hex(fcntl.fcntl(fd, fcntl.F_GETFL)) for fd in range(3)])\n"),
    case("stdin-input", "print(repr(input()), repr(input('prompt> ')))\nprint(input())\n", stdin=b"one\ntwo"),
    case("stdin-read", "import sys\nprint(repr(sys.stdin.read()), repr(sys.stdin.read()))\n", stdin="a\nüñ\r\nb".encode()),
    case("stdin-lines", "import sys\nfor line in sys.stdin: print(repr(line))\n", stdin=b"a\nb\r\nc\rd"),
    case("stdin-bytes", "import sys\nprint(sys.stdin.buffer.read())\n", stdin=bytes(range(256))),
    case("stdin-invalid", "import sys\nprint(ascii(sys.stdin.read()))\n", stdin=b"a\xffb\xe9"),
    case("stdin-empty", "import sys\nprint(repr(sys.stdin.read()))\nprint(input())\n"),
    case("stdin-large", "import sys, hashlib\nprint(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())\n", stdin=b"0123456789abcdef" * 200_000),
    case(
        "stdin-seek",
        """
        import os, sys
        print(sys.stdin.seekable(), sys.stdin.tell(), sys.stdin.readline(), end="")
        print(sys.stdin.seek(0), sys.stdin.read(3), os.lseek(0, 0, os.SEEK_CUR))
        sys.stdin.buffer.seek(2)
        print(sys.stdin.buffer.read(2), os.pread(0, 4, 1))
        print(sys.stdin.buffer.peek(1)[:4])
        """,
        stdin=b"first\nsecond\n",
    ),
    case("stdin-mixed", "import os, sys\nprint(os.read(0, 3), sys.stdin.readline(), os.read(0, 3))\n", stdin=b"abcdef\nghi\n"),
    case("stdin-fileinput", "import fileinput\nfor line in fileinput.input(): print(fileinput.lineno(), line, end='')\n", stdin=b"x\ny\n"),
    case("stdin-reopen", "print(open(0).read(2), open('/dev/stdin').read(), open('/proc/self/fd/0').read())\n", stdin=b"abcdef"),
    case("stdin-select", "import select, sys\nprint(select.select([0], [], [], 0)[0])\np = select.poll(); p.register(0); print(p.poll(0))\n", stdin=b"x"),
    case("stdin-mmap", "import mmap\nm = mmap.mmap(0, 0, access=mmap.ACCESS_READ); print(m[:])\n", stdin=b"mapped"),
    case("stdin-write", "import os\ntry: os.write(0, b'x')\nexcept OSError as e: print(e)\n", stdin=b"x"),
    case("stdin-closed", "import sys\nsys.stdin.close()\ntry: input()\nexcept Exception as e: print(type(e), e)\n"),
    case("stdin-eof", "input()\n"),
    case("stdin-none", "import sys\nsys.stdin = None\ninput()\n"),
    case("stdin-getpass", "import getpass\nprint(getpass.getpass())\n", stdin=b"secret\n"),
    case("stdin-pdb", "import pdb\nx = 1\npdb.set_trace()\nprint('after')\n", stdin=b"p x\nwhere\nc\n"),
    case("stdin-pdb-eof", "breakpoint()\nprint('after')\n"),
    case("stdin-code", "import code\ncode.interact(banner='hi', exitmsg='bye')\n", stdin=b"1 + 1\nx = 3\nx\n"),
    case("stdout-order", "import sys\nfor i in range(5):\n    print('o', i)\n    print('e', i, file=sys.stderr)\n"),
    case("stdout-no-newline", "print('end', end='')"),
    case("stdout-bytes", "import sys\nsys.stdout.buffer.write(bytes(range(256)))\nsys.stdout.write('after')\n"),
    case("stdout-raw", "import os, sys\nsys.stdout.write('a')\nos.write(1, b'b')\nsys.stdout.buffer.raw.write(b'c')\n"),
    case("stdout-large", "print('x' * 5_000_000)\n"),
    case("stdout-many", "for i in range(100_000): print(i)\n"),
    case("stdout-unicode", "print('é 漢 🙂 \\u202e', ascii('\\udc80'))\n"),
    case("stdout-surrogate", "print('before')\nprint('\\udcff')\nprint('after')\n"),
    case("stderr-surrogate", "import sys\nprint('\\udcff \\ud800', file=sys.stderr)\n"),
    case("stdout-buffered", "import sys\nsys.stdout.reconfigure(write_through=False, line_buffering=False)\nprint('kept to the end')\nprint('err', file=sys.stderr)\n"),
    case("stdout-buffered-del", "import sys\nsys.stdout.reconfigure(write_through=False)\nclass L:\n    def __del__(self): print('gone')\nkeep = L()\n"),
    case("stdout-buffered-closed-fd", "import os, sys\nsys.stdout.reconfigure(write_through=False)\nprint('lost')\nos.close(1)\n"),
    case("stdout-closed-fd", "import os\nos.close(1)\nprint('x')\n"),
    case("stdout-closed-fd-quiet", "import os\nos.close(1)\n"),
    case("stderr-closed-fd", "import os\nos.close(2)\nraise ValueError\n"),
    case("stdout-closed", "import sys\nsys.stdout.close()\n"),
    case("stdout-closed-print", "import sys\nsys.stdout.close()\nprint('x')\n"),
    case("stderr-closed", "import sys\nsys.stderr.close()\nraise ValueError('unseen')\n"),
    case("stdout-none", "import sys\nsys.stdout = None\nprint('nowhere')\n"),
    case("stderr-none", "import sys\nsys.stderr = None\nraise ValueError('unseen')\n"),
    case("stdout-deleted", "import sys\ndel sys.stdout\nprint('x')\n"),
    case("stderr-deleted", "import sys\ndel sys.stderr\n1/0\n"),
    case("stdout-replaced", "import io, sys\nsys.stdout = io.StringIO()\nprint('caught')\nsys.__stdout__.write(sys.stdout.getvalue().upper())\n"),
    case(
        "stdout-replaced-custom",
        """
        import sys
        class Mine:
            def write(self, text): return sys.__stdout__.write(f"<{text}>")
            def flush(self): sys.__stdout__.write("flush\\n")
        sys.stdout = Mine()
        print("x")
        """,
    ),
    case(
        "stdout-replaced-buffered",
        """
        import io, os, sys
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(os.dup(1), "w"), 1 << 20))
        print("written at the end")
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(io.FileIO(os.dup(2), "w"), 1 << 20))
        print("this too", file=sys.stderr)
        """,
    ),
    case(
        "stdout-replaced-fails",
        """
        import sys
        class Mine:
            def write(self, text): sys.__stdout__.write(text)
            def flush(self): raise OSError("cannot flush")
        sys.stdout = Mine()
        print("x")
        """,
    ),
    case("stdout-detached", "import sys\nb = sys.stdout.detach()\nb.write(b'raw\\n')\n"),
    case("stdout-redirect", "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as f: print('in')\nprint(repr(f.getvalue()))\n"),
    case("stdout-dup2", "import os\nfd = os.open('file', os.O_WRONLY | os.O_CREAT)\nos.dup2(fd, 1)\nprint('to the file')\n"),
    case("stdout-dup", "import os\ncopy = os.dup(1)\nos.close(1)\nos.write(copy, b'by the copy\\n')\n"),
    case("stdout-reader-gone", "import os, sys\nr, w = os.pipe()\nos.dup2(w, 1); os.close(w); os.close(r)\nprint('to nobody')\n"),
    case("stdout-reader-gone-buffered", "import os, sys\nsys.stdout.reconfigure(write_through=False)\nr, w = os.pipe()\nos.dup2(w, 1); os.close(w); os.close(r)\nprint('to nobody')\n"),
    case("stdout-full-disk", "import os\nfd = os.open('/dev/full', os.O_WRONLY)\nos.dup2(fd, 1)\nprint('x')\n"),
    case("stdout-encoding", "import sys\nsys.stdout.reconfigure(encoding='latin-1', errors='replace')\nprint('é漢')\n"),
    case("stdout-path", "open('/dev/stdout', 'w').write('by path\\n')\nopen('/dev/stderr', 'w').write('err by path\\n')\n"),
    case("c-stdio", "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.printf(b'from C %d\\n', 5)\nlibc.puts(b'unflushed')\nprint('from Python')\n"),
    case("c-stdio-exit", "import ctypes, sys\nctypes.CDLL(None).printf(b'from C')\nsys.exit(3)\n"),
    case("c-stdio-uncaught", "import ctypes\nctypes.CDLL(None).printf(b'from C')\n1/0\n"),
    case(
        "c-exit-handlers",
        """
        import ctypes
        libc = ctypes.CDLL(None)
        kind = ctypes.CFUNCTYPE(None)
        import atexit
        atexit.register(print, "python's")
        libc.puts(b"text of C")
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, 0, 1 << 16)
        libc.puts(b"more text of C")
        """,
    ),
    case("c-exit", "import ctypes\nprint('before')\nctypes.CDLL(None).exit(5)\n"),
    case("input-with-prompt-to-stderr", "import sys\nsys.stdout = sys.stderr\ninput('prompt')\n", stdin=b"x\n"),
    case("print-flush-end", "print(1, 2, sep='-', end='|', flush=True)\nprint(file=__import__('sys').stderr)\n"),
    case("display-hook", "import sys\nsys.displayhook(42)\nprint(_)\nsys.displayhook(None)\n"),
    case("help", "help(len)\nhelp('json.dumps')\n"),
    case("help-main", "def f(x):\n    'Doc of f.'\nhelp(f)\nhelp('__main__')\n"),
    case("license", "copyright()\ncredits()\n"),
)
