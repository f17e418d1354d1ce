"""Signals: dispositions at the start, handlers, deaths."""

from __future__ import annotations

from tests.corpora.python.case import case

PROGRAMS = (
    case(
        "signal-dispositions",
        """
        import signal
        for number in sorted(signal.valid_signals()):
            print(number, signal.getsignal(number))
        print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.sigpending())
        print(signal.getitimer(signal.ITIMER_REAL), signal.set_wakeup_fd(-1))
        """,
    ),
    case(
        "signal-kernel-view",
        """
        for line in open("/proc/self/status"):
            if line.startswith(("Sig", "Shd", "NoNewPrivs", "Seccomp:", "Cap", "Umask", "Uid", "Gid",
                                "Groups", "Threads", "State", "TracerPid", "CoreDumping")):
                print(line, end="")
        """,
    ),
    case("signal-int-self", "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('after')\n"),
    case("signal-int-raise", "import signal\nsignal.raise_signal(signal.SIGINT)\nprint('after')\n"),
    case("signal-int-caught", "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(1)\nexcept KeyboardInterrupt:\n    print('caught')\n"),
    case("signal-int-in-finally", "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    input()\nfinally:\n    print('cleaned')\n"),
    case("signal-int-default", "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\nos.kill(os.getpid(), signal.SIGINT)\nprint('never')\n"),
    *(
        case(f"signal-death-{name}", f"import os, signal\nprint('before')\nos.kill(os.getpid(), signal.{name})\nprint('after')\n")
        for name in ("SIGTERM", "SIGKILL", "SIGHUP", "SIGQUIT", "SIGSEGV", "SIGABRT", "SIGFPE",
                     "SIGUSR1", "SIGPIPE", "SIGCHLD", "SIGALRM", "SIGXFSZ", "SIGXCPU", "SIGRTMIN")
    ),
    case("signal-handler", "import os, signal\nsignal.signal(signal.SIGUSR1, lambda n, f: print('got', n, f.f_code.co_name))\nos.kill(os.getpid(), signal.SIGUSR1)\nprint('end')\n"),
    case("signal-handler-raises", "import os, signal\ndef h(n, f): raise OSError('from the handler')\nsignal.signal(signal.SIGUSR1, h)\nos.kill(os.getpid(), signal.SIGUSR1)\nprint('never')\n"),
    case("signal-alarm", "import signal, time\nsignal.signal(signal.SIGALRM, lambda *_: print('alarm'))\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\ntime.sleep(0.3)\n"),
    case("signal-alarm-death", "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\ntime.sleep(5)\n"),
    case("signal-virtual-alarm", "import signal\nsignal.setitimer(signal.ITIMER_VIRTUAL, 0.05)\nwhile True: pass\n"),
    case("signal-wakeup", "import os, signal\nr, w = os.pipe(); os.set_blocking(w, False)\nsignal.set_wakeup_fd(w)\nsignal.signal(signal.SIGUSR1, lambda *_: None)\nos.kill(os.getpid(), signal.SIGUSR1)\nprint(os.read(r, 10))\n"),
    case("signal-wait", "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])\nos.kill(os.getpid(), signal.SIGUSR2)\nprint(signal.sigwait([signal.SIGUSR2]), signal.sigpending())\n"),
    case("signal-pipe-child", "import subprocess\nprint(subprocess.run(['/bin/sh', '-c', 'kill -PIPE $$; echo survived']).returncode)\n"),
    case("signal-pipe-child-kept", "import subprocess\nprint(subprocess.run(['/bin/sh', '-c', 'kill -PIPE $$; echo survived'], restore_signals=False).returncode)\n"),
    case("signal-pipe-inherited", "import os\nos.execv('/bin/sh', ['sh', '-c', 'kill -PIPE $$; echo survived'])\n"),
    case("signal-status-of-exec", "import os\nos.execv('/bin/grep', ['grep', '-E', '^(Sig|Shd|Seccomp:|NoNew)', '/proc/self/status'])\n"),
    case("signal-faulthandler", "import faulthandler\nprint(faulthandler.is_enabled())\nfaulthandler.enable()\nfaulthandler._sigsegv()\n"),
    case("signal-faulthandler-dump", "import faulthandler, sys\ndef f(): faulthandler.dump_traceback(all_threads=True)\nf()\n"),
    case("signal-faulthandler-later", "import faulthandler, time\nfaulthandler.dump_traceback_later(0.1, exit=True)\ntime.sleep(5)\n"),
    case("signal-segv-null", "import ctypes\nprint('before')\nctypes.string_at(0)\n"),
    case("signal-stop", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n", timeout=1.5),
    case("signal-term-handler-at-deadline", "import signal, sys, time\ndef end(*_): print('cleaned'); sys.exit(0)\nsignal.signal(signal.SIGTERM, end)\nprint('up')\ntime.sleep(60)\n", timeout=1.5),
    case("signal-thread-only-main", "import signal, threading\ndef f():\n    try: signal.signal(signal.SIGUSR1, print)\n    except ValueError as e: print(e)\nt = threading.Thread(target=f); t.start(); t.join()\n"),
    case("signal-siginfo", "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\nos.kill(os.getpid(), signal.SIGUSR1)\ni = signal.sigtimedwait([signal.SIGUSR1], 1)\nprint(i.si_signo, i.si_code, i.si_pid == os.getpid(), i.si_uid)\n"),
    case("signal-pdeath", "import ctypes\nout = ctypes.c_int(-1)\nctypes.CDLL(None).prctl(2, ctypes.byref(out)); print(out.value)\nprint(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"),
)
