"""Threads, tasks, children: what begins beside the program and how it ends."""

from __future__ import annotations

from tests.corpora.python.case import case

PROGRAMS = (
    case(
        "thread-at-exit",
        """
        import threading, time
        def work():
            time.sleep(0.2)
            print("the thread ends after the main one")
        threading.Thread(target=work).start()
        print("main ends")
        """,
    ),
    case(
        "thread-at-exit-with-code",
        """
        import sys, threading, time
        def work():
            time.sleep(0.1)
            print("thread")
        threading.Thread(target=work).start()
        sys.exit(4)
        """,
    ),
    case(
        "thread-at-exit-uncaught",
        """
        import threading, time
        def work():
            time.sleep(0.1)
            print("thread")
        threading.Thread(target=work).start()
        raise ValueError("main")
        """,
    ),
    case("thread-daemon", "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\nprint('main ends')\n"),
    case("thread-daemon-busy", "import threading\ndef spin():\n    while True: sum(range(100))\nfor _ in range(3): threading.Thread(target=spin, daemon=True).start()\nprint('main ends')\n"),
    case(
        "thread-started-at-exit",
        """
        import atexit, threading
        def late():
            try:
                t = threading.Thread(target=print, args=("late",)); t.start(); t.join()
            except RuntimeError as error:
                print(error)
        atexit.register(late)
        """,
    ),
    case(
        "thread-facts",
        """
        import _thread, threading
        main = threading.main_thread()
        print(main, main.name, main.daemon, main is threading.current_thread(), main.is_alive())
        print(main.ident == threading.get_ident() == _thread.get_ident())
        print(main.native_id == threading.get_native_id(), threading.active_count())
        print([str(t).split()[0] for t in threading.enumerate()], threading.stack_size(), _thread._count())
        t = threading.Thread(); print(t.name); u = threading.Thread(); print(u.name)
        print(sorted(t.name for t in threading._dangling))
        """.replace("main, main.name", "main.name"),
    ),
    case("thread-ids", "import os, threading\nprint(threading.get_native_id() == os.getpid(), os.listdir('/proc/self/task') == [str(os.getpid())])\n"),
    case(
        "thread-local",
        """
        import threading
        local = threading.local(); local.x = 1
        def f():
            print(hasattr(local, "x"))
        t = threading.Thread(target=f); t.start(); t.join()
        lock = threading.RLock()
        with lock, lock:
            print("twice")
        """,
    ),
    case(
        "thread-stack",
        """
        import threading, sys
        sys.setrecursionlimit(100_000)
        def f(n): return n if n == 0 else f(n - 1)
        out = []
        t = threading.Thread(target=lambda: out.append(f(10_000))); t.start(); t.join(); print(out)
        import ctypes
        """,
    ),
    case(
        "thread-stack-size",
        """
        import threading
        def size():
            for line in open("/proc/thread-self/smaps"):
                pass
            import ctypes
            libc = ctypes.CDLL(None)
            attr = ctypes.create_string_buffer(64)
            libc.pthread_getattr_np.argtypes = [ctypes.c_ulong, ctypes.c_char_p]
            libc.pthread_getattr_np(threading.get_ident(), attr)
            size = ctypes.c_size_t()
            libc.pthread_attr_getstacksize(attr, ctypes.byref(size))
            print(size.value)
        t = threading.Thread(target=size); t.start(); t.join()
        """,
    ),
    case("thread-timer", "import threading\nthreading.Timer(0.05, print, ['tick']).start()\n"),
    case("pool-threads", "from concurrent.futures import ThreadPoolExecutor\np = ThreadPoolExecutor(1, 'w')\nprint(list(p.map(lambda n: n * n, range(10))), p.submit(__import__('threading').current_thread).result().name)\n"),
    case("pool-threads-left", "from concurrent.futures import ThreadPoolExecutor\nimport time\np = ThreadPoolExecutor(1)\np.submit(time.sleep, 0.1)\np.submit(print, 'done before the end')\n"),
    case("pool-processes", "from concurrent.futures import ProcessPoolExecutor\ndef f(n): return n * n\nif __name__ == '__main__':\n    with ProcessPoolExecutor(2) as p: print(list(p.map(f, range(10))))\n"),
    case("pool-processes-spawn", "import multiprocessing as mp\nfrom concurrent.futures import ProcessPoolExecutor\nprint('module level', __name__)\ndef f(n): return n * n\nif __name__ == '__main__':\n    with ProcessPoolExecutor(1, mp_context=mp.get_context('spawn')) as p: print(list(p.map(f, range(3))))\n"),
    case("asyncio-run", "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    return 5\nprint(asyncio.run(main()))\n"),
    case("asyncio-gather", "import asyncio\nasync def f(n):\n    await asyncio.sleep(0.01 * n); print(n); return n\nasync def main(): print(await asyncio.gather(*map(f, range(3))))\nasyncio.run(main())\n"),
    case("asyncio-subprocess", "import asyncio\nasync def main():\n    p = await asyncio.create_subprocess_exec('/bin/echo', 'x', stdout=-1)\n    print(await p.communicate(), p.returncode)\n    p = await asyncio.create_subprocess_shell('cat; exit 3', stdin=-1, stdout=-1)\n    print(await p.communicate(b'in'), p.returncode)\nasyncio.run(main())\n"),
    case("asyncio-signal", "import asyncio, os, signal\nasync def main():\n    loop = asyncio.get_running_loop(); got = loop.create_future()\n    loop.add_signal_handler(signal.SIGUSR1, got.set_result, 'got')\n    os.kill(os.getpid(), signal.SIGUSR1)\n    print(await got)\nasyncio.run(main())\n"),
    case("asyncio-interrupt", "import asyncio, os, signal\nasync def main():\n    try:\n        os.kill(os.getpid(), signal.SIGINT); await asyncio.sleep(5)\n    finally: print('cleaned')\nasyncio.run(main())\n"),
    case("asyncio-debug", "import asyncio\nasync def main(): print(asyncio.get_running_loop().get_debug(), asyncio.current_task().get_name(), type(asyncio.get_running_loop()))\nasyncio.run(main())\nprint(type(asyncio.get_event_loop_policy()))\n"),
    case("asyncio-pending", "import asyncio\nasync def forever():\n    try: await asyncio.sleep(600)\n    finally: print('cancelled')\nasync def main(): asyncio.create_task(forever()); await asyncio.sleep(0)\nasyncio.run(main())\n"),
    case("asyncio-thread", "import asyncio, threading\nasync def main(): print(await asyncio.to_thread(lambda: threading.current_thread().name))\nasyncio.run(main())\n"),
    case("asyncio-network", "import asyncio\nasync def main():\n    async def serve(r, w):\n        w.write((await r.readline()).upper()); await w.drain(); w.close()\n    s = await asyncio.start_server(serve, '127.0.0.1', 0)\n    r, w = await asyncio.open_connection(*s.sockets[0].getsockname())\n    w.write(b'hello\\n'); print(await r.read()); w.close(); s.close()\nasyncio.run(main())\n"),
    case("asyncio-loop-left", "import asyncio\nloop = asyncio.new_event_loop()\nasync def f(): await asyncio.sleep(9)\nt = loop.create_task(f())\nloop.run_until_complete(asyncio.sleep(0, loop=None) if False else asyncio.sleep(0))\nprint('left open')\n"),
    case("asyncio-debug-env", "import asyncio\nasync def main(): print(asyncio.get_running_loop().get_debug())\nasyncio.run(main())\n", env={"PYTHONASYNCIODEBUG": "1"}, warm=False),
    case("child-env", "import subprocess\nprint(subprocess.run(['/usr/bin/env'], capture_output=True, text=True).stdout)\n", env={"EXTRA": "1"}),
    case("child-env-changed", "import os, subprocess\nos.environ['NEW'] = 'n'; del os.environ['LANG']; os.putenv('PUT', 'p')\nprint(subprocess.run(['/usr/bin/env'], capture_output=True, text=True).stdout)\n"),
    case("child-fds", "import subprocess\nprint(subprocess.run(['/bin/ls', '/proc/self/fd'], capture_output=True, close_fds=False).stdout)\n"),
    case("child-stdin", "import subprocess\nprint(subprocess.run(['/bin/cat'], capture_output=True).stdout)\n", stdin=b"passed on"),
    case("child-streams", "import subprocess\nprint('a'); subprocess.run(['/bin/echo', 'b']); print('c')\nsubprocess.run('echo d >&2', shell=True)\n"),
    case("child-python", "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'import sys; print(sys.argv, sys.flags, sys.path)', 'x'], capture_output=True))\n"),
    case("child-python-flags", "import subprocess, sys\nprint(subprocess._args_from_interpreter_flags())\nprint(subprocess.run([sys.executable, '-I', '-c', 'print(len(__import__(\"sys\").modules) > 10)'], capture_output=True).stdout)\n"),
    case("child-self", "import subprocess, sys, os\nif len(sys.argv) == 1:\n    print('parent'); sys.stdout.flush()\n    print(subprocess.run([sys.executable, __file__, 'child'], capture_output=True))\nelse: print('child', sys.argv, os.getppid() > 1)\n"),
    case("child-left", "import subprocess\nsubprocess.Popen(['/bin/sleep', '600'])\nprint('end')\n"),
    case("child-zombie", "import os\nif os.fork() == 0: os._exit(3)\nprint(os.wait()[1])\n"),
    case("child-orphan", "import os, time\nif os.fork() == 0:\n    time.sleep(0.1); print('orphan', os.getppid()); os._exit(0)\nos.wait()\n"),
    case("child-timeout", "import subprocess\ntry: subprocess.run(['/bin/sleep', '5'], timeout=0.1)\nexcept subprocess.TimeoutExpired as e: print(e.cmd)\n"),
    case("child-missing", "import subprocess\nsubprocess.run(['/no/such'])\n"),
    case("child-preexec", "import os, subprocess\nprint(subprocess.run(['/bin/pwd'], cwd='/tmp', preexec_fn=lambda: os.umask(0o77), capture_output=True).stdout)\n"),
    case("child-popen-read", "import os\nprint(os.popen('echo $0 $PPID | cut -c1-2').read(), os.system('exit 3'))\n"),
    case("child-pty", "import os, pty\nprint(os.path.exists('/dev/ptmx'))\n"),
    case("fork-exit", "import os, sys\nprint('before')\npid = os.fork()\nif pid == 0:\n    print('child'); sys.exit(7)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"),
    case("fork-end", "import atexit, os\natexit.register(print, 'at exit')\nclass L:\n    def __del__(self): print('gone', flush=True)\nkeep = L()\npid = os.fork()\nif pid: os.waitpid(pid, 0); print('parent')\n"),
    case("fork-uncaught", "import os\npid = os.fork()\nif pid == 0: raise ValueError('child')\nprint(os.waitpid(pid, 0)[1])\n"),
    case("fork-hooks", "import os\nos.register_at_fork(before=lambda: print('before'), after_in_parent=lambda: os.wait() and print('parent'), after_in_child=lambda: print('child'))\nif os.fork() == 0: os._exit(0)\n"),
    case("exec-self", "import os, sys\nif len(sys.argv) < 2: os.execv(sys.executable, [sys.executable, *sys.argv, 'again'])\nprint(sys.argv)\n"),
    *(
        case(
            f"multiprocessing-{method}",
            f"""
            import multiprocessing as mp
            print("module level", __name__)
            def work(queue, n):
                queue.put((mp.current_process().name, n * 2, __name__))
            if __name__ == "__main__":
                mp.set_start_method("{method}")
                queue = mp.Queue()
                p = mp.Process(target=work, args=(queue, 21)); p.start()
                print(queue.get()); p.join(); print(p.exitcode)
            """,
        )
        for method in ("fork", "spawn", "forkserver")
    ),
    case("multiprocessing-pool", "from multiprocessing import Pool\ndef f(n): return n + 1\nif __name__ == '__main__':\n    with Pool(2) as p: print(p.map(f, range(20)))\n"),
    case("multiprocessing-memory", "from multiprocessing import shared_memory as s\na = s.SharedMemory(create=True, size=10, name='mine')\na.buf[0] = 7\nb = s.SharedMemory('mine'); print(b.buf[0]); b.close(); a.close(); a.unlink()\n"),
    case("multiprocessing-manager", "import multiprocessing as mp\nif __name__ == '__main__':\n    with mp.Manager() as m:\n        d = m.dict(); d['x'] = 1; print(dict(d))\n"),
    case("multiprocessing-value", "import multiprocessing as mp\ndef f(v):\n    with v.get_lock(): v.value += 1\nif __name__ == '__main__':\n    v = mp.Value('i', 0); ps = [mp.Process(target=f, args=(v,)) for _ in range(4)]\n    [p.start() for p in ps]; [p.join() for p in ps]; print(v.value)\n"),
    case("multiprocessing-daemon", "import multiprocessing as mp, time\nif __name__ == '__main__':\n    mp.Process(target=time.sleep, args=(600,), daemon=True).start(); print('end')\n"),
    case("multiprocessing-error", "import multiprocessing as mp\ndef f(): raise ValueError('in a child')\nif __name__ == '__main__':\n    p = mp.Process(target=f); p.start(); p.join(); print(p.exitcode)\n"),
    case("multiprocessing-facts", "import multiprocessing as mp\np = mp.current_process(); print(p.name, p.daemon, mp.get_start_method(), mp.parent_process(), mp.cpu_count() > 0, p._config)\nfrom multiprocessing import process; print(process.ORIGINAL_DIR)\n".replace(", p._config", "")),
    case("multiprocessing-main-unguarded", "import multiprocessing as mp\nmp.set_start_method('spawn')\np = mp.Process(target=print, args=('x',)); p.start(); p.join(); print(p.exitcode)\n"),
)
