"""The ways in which a node of Sampan goes out, for as long as a block runs: killed, standing still, slow,
behind a cut network. Each takes the cluster and the node's client address."""

import contextlib
import os
import signal
import threading
import time


@contextlib.contextmanager
def silent(sampan, address):
    """It stands still, its connections open."""
    pid = sampan.pid_of(address)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def slow(sampan, address):
    """It stands still for 20 ms of each 40."""
    pid = sampan.pid_of(address)
    ends = threading.Event()

    def stutter():
        while not ends.is_set():
            for number in [signal.SIGSTOP, signal.SIGCONT]:
                os.kill(pid, number)
                time.sleep(0.02)

    thread = threading.Thread(target=stutter)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


@contextlib.contextmanager
def dead(sampan, address):
    """It stays dead: who would start it again is stopped."""
    pid = sampan.pid_of(address)
    with sampan.unsupervised():
        os.kill(pid, signal.SIGKILL)
        yield


@contextlib.contextmanager
def killed(sampan, address):
    """It dies, and is started again at once."""
    os.kill(sampan.pid_of(address), signal.SIGKILL)
    yield


def killed_after(seconds):
    """It dies in the middle of the block, and is started again at once."""
    @contextlib.contextmanager
    def way(sampan, address):
        timer = threading.Timer(seconds, os.kill, [sampan.pid_of(address), signal.SIGKILL])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
    return way


@contextlib.contextmanager
def cut_off(wired, address):
    """It runs, and nothing passes between it and the others, in either direction. No connection closes,
    and its own clients still reach it."""
    wires = wired.wires_of(address)
    for wire in wires:
        wire.cut()
    try:
        yield
    finally:
        for wire in wires:
            wire.mend()
