"""Chromium, spoken to through a pair of pipes (--remote-debugging-pipe): no package, no port."""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time

import numpy as np
import pytest

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-pipe",
]  # fmt: skip


def found():
    """Return the path of a Chromium, or skip the test."""
    names = [os.environ.get("GPUION_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "chrome"]
    path = next((path for name in names if name and (path := shutil.which(name))), None)
    return path or pytest.skip("no Chromium: install one (apt-get install chromium), or name it in GPUION_CHROMIUM")


class Browser:
    """One page of a Chromium with a fresh profile; `events` holds all that it reported."""

    def __init__(self, profile):
        to, self._write = os.pipe()
        self._read, back = os.pipe()
        # bash, since other shells take file descriptors of one digit only.
        pipes = ["bash", "-c", f'exec "$@" 3<&{to} 4>&{back}', "bash"]
        command = [*pipes, found(), *FLAGS, f"--user-data-dir={profile}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=(to, back), **quiet)
        os.close(to)
        os.close(back)
        self.events, self._number, self._held, self._session = [], 0, b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        os.close(self._write)
        os.close(self._read)

    def call(self, method, **params):
        """Return the result of a command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        number = self._number
        while (answer := self._next()).get("id") != number:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self, patience=120.0):
        """Return the next message, and keep it if it is an event."""
        end = time.monotonic() + patience
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._read, 1 << 20) if ready else b""
            assert part, "Chromium does not answer"
            self._held += part
        line, self._held = self._held.split(b"\0", 1)
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, path, width, height, *, mobile=False):
        """Load a file in a window of so many pixels, and wait until it is there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next()

    def run(self, expression):
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, selector="body"):
        """Return what an element looks like, uint8 [height, width, 3], and the PNG file's bytes."""
        from matplotlib.image import imread

        # Two frames, so that what was drawn last is on the screen.
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        box = self.run(
            "(e => { const r = e.getBoundingClientRect(); return [r.x + scrollX, r.y + scrollY, r.width, r.height]; })"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        clip = dict(zip(("x", "y", "width", "height"), box, strict=True), scale=1)
        answer = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        content = base64.b64decode(answer["data"])
        return np.round(255 * imread(io.BytesIO(content), format="png")[..., :3]).astype(np.uint8), content

    def drag(self, selector, dx, dy):
        """Press the left button in the middle of an element, move it and let go."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        x, y = self.run(
            "(e => { const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        steps = [("mousePressed", 0.0), ("mouseMoved", 0.5), ("mouseMoved", 1.0), ("mouseReleased", 1.0)]
        for kind, part in steps:
            self.call("Input.dispatchMouseEvent", type=kind, x=x + part * dx, y=y + part * dy, button="left", buttons=1,
                      clickCount=1)  # fmt: skip

    def complaints(self):
        """Return errors that the page reported, and what it said on the console as one or as a warning.

        The browser's own log has warnings about the speed of drawing without a GPU, which are no page's fault.
        """
        found = []
        for event in self.events:
            params = event["params"]
            thrown = event["method"] == "Runtime.exceptionThrown"
            said = event["method"] == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning", "assert"}
            logged = event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error"
            found += [params] if thrown or said or logged else []
        return found

    def requests(self):
        """Return the addresses that the page asked for, but for its own parts."""
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("data:", "blob:"))]
