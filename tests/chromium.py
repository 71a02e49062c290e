"""A headless Chromium driven over its debugging pipe: nothing to install but the browser itself."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe", "about:blank")
RENUMBER = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(text), fcntl.F_DUPFD, 10) for text in sys.argv[1:3]]
for number, pipe in enumerate(pipes, start=3):  # where it looks for them
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 120
"""Seconds; a busy machine is slow."""
CODES = {"ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, "Backspace": 8}


class Chromium:
    """One browser with one page; skips the test where there is no Chromium.

    Attributes:
        said: What the page's scripts complained of.
    """

    def __init__(self, profile: Path) -> None:
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        if not program:
            pytest.skip("no Chromium on this machine: install `chromium` to test the page in a browser")
        self.said: list[str] = []
        self._number, self._buffer, self._loaded = 0, b"", False
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        command = (sys.executable, "-ISc", RENUMBER, str(theirs_in), str(theirs_out))
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self._process = subprocess.Popen(
            (*command, program, f"--user-data-dir={profile}", *FLAGS), pass_fds=(theirs_in, theirs_out), **quiet
        )
        os.close(theirs_in)
        os.close(theirs_out)
        targets = self._send("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self._send("Browser.close")
        self._process.wait(20)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol to the page."""
        return self._send(method, self._session, **parameters)

    def size(self, width: int, height: int, *, touch: bool = False) -> None:
        """The window in CSS pixels; one with `touch` is a phone's."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if touch else 1, "mobile": touch}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is there."""
        self.said.clear()
        self._load("Page.navigate", url=url)

    def reload(self) -> None:
        """The same page anew."""
        self._load("Page.reload")

    def offline(self, cut: bool) -> None:
        """Cut the page off, or let it back."""
        self.call(
            "Network.emulateNetworkConditions", offline=cut, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    def read(self, script: str) -> Any:
        """Value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.read(script):
            assert time.monotonic() < end, f"never came: {script}; {self.read('document.body.innerText')}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """A key, down and up."""
        known = {"key": key, "windowsVirtualKeyCode": CODES.get(key, 0)} | ({} if key in CODES else {"text": key})
        self.call("Input.dispatchKeyEvent", type="keyDown", **known)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def tap(self, selector: str) -> None:
        """A finger on the middle of an element."""
        self.read("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        x, y, width, height = self.read(
            f"(b => [b.x, b.y, b.width, b.height])(document.querySelector('{selector}').getBoundingClientRect())"
        )
        middle = {"x": x + width / 2, "y": y + height / 2}
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[middle])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def _send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _load(self, method: str, **parameters: Any) -> None:
        self._loaded = False
        self.call(method, **parameters)
        while not self._loaded:
            self._receive()

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._from, 1 << 16)
            assert part, "the browser is gone"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        self._loaded |= answer.get("method") == "Page.loadEventFired"
        if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.said.append(json.dumps(answer["params"]))
        return answer
