"""A slow cable, for kernels without netem: passes frames between two TAP devices, late.

Run as a program of its own: ``slow_cable.py ONE OTHER DELAY_MS``. The devices exist while it runs.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FRAME_MAX = 65536


def open_tap(name: str) -> int:
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return handle


def main(one: str, other: str, delay_ms: float) -> None:
    handles = [open_tap(one), open_tap(other)]
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, to, frame = heapq.heappop(waiting)
            try:
                os.write(to, frame)
            except OSError:  # the device is down, or its queue is full: then the frame is lost, as on any cable
                continue
        timeout_s = max(0.0, waiting[0][0] - now) if waiting else None
        for handle in select.select(handles, [], [], timeout_s)[0]:
            try:
                frame = os.read(handle, FRAME_MAX)
            except OSError:
                continue
            count += 1
            to = handles[1] if handle == handles[0] else handles[0]
            heapq.heappush(waiting, (time.monotonic() + delay_ms / 1000, count, to, frame))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
