"""One thread per virtqueue: takes requests, has them served, signals the guest."""

import os
import select
import sys
import threading
import time
from collections.abc import Callable

from hostfsd.backend import Aborted
from hostfsd.counters import Counters
from hostfsd.virtqueue import BadChain, Chain, Virtqueue

Serve = Callable[[Chain, Counters], int]


class Worker:
    """Serves one queue until `stop`. The kick descriptor is shared with QEMU: its flags are never touched.

    A `prompt` worker signals after every request; another one when nothing is left to serve (nobody waits for a FORGET).
    """

    def __init__(
        self, name: str, queue: Virtqueue, kick: int, call: int, serve: Serve, counters: Counters, prompt: bool
    ) -> None:
        self._prompt = prompt
        self.queue = queue
        self.call = call
        self._kick = kick
        self._serve = serve
        self._counters = counters
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """End the thread and return the index of the first chain that was not served."""
        self._stopping = True
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)
        return self.queue.next_available

    def _run(self) -> None:
        # Edge-triggered: every kick wakes, none has to be read, so that a request costs one system call less.
        with select.epoll() as poller:
            poller.register(self._kick, select.EPOLLIN | select.EPOLLET)
            poller.register(self._stop, select.EPOLLIN)
            try:
                while not self._stopping:
                    if not self._drain():
                        poller.poll()
            except BadChain as error:
                print(f"hostfsd: {self._thread.name} is broken by the guest: {error}", file=sys.stderr, flush=True)

    def _drain(self) -> bool:
        """Serve what is available; False when a kick must be waited for."""
        queue, counters = self.queue, self._counters
        unsignalled = False
        while queue.pending():
            if self._stopping:
                return True
            head = queue.peek()
            try:
                written = self._serve(queue.chain(head), counters)
            except BadChain:
                counters.bad_chains += 1
                written = 0
            except Aborted:
                time.sleep(0.001)  # the device is being stopped: this request will be served after it goes on
                continue
            queue.complete(head, written)
            if self._prompt:
                self._signal()
            else:
                unsignalled = True
        if unsignalled:
            self._signal()
        return queue.watch()

    def _signal(self) -> None:
        if self.queue.wants_signal() and self.call >= 0:
            self._counters.interrupts += 1
            os.eventfd_write(self.call, 1)
