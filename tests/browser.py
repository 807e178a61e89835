"""A page in headless Chromium, as a person has it: real clicks and keys, colours, paper, and every error it reports.

Chromium speaks its DevTools protocol over two pipes: one message of JSON after the other, each ended by a zero byte.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless_shell")
PATIENCE = 120
"""Seconds that an answer may take, on a machine that does much else."""
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "Home": 36, "End": 35, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
        "ArrowDown": 40}  # fmt: skip
PIPED = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads from 3 and writes to 4; a fork in this process would be one of its many threads."""


def found():
    """Chromium's path; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab. Use as a context; `errors` are the texts of all errors and warnings that the page reported."""

    def __enter__(self):
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        read, self.to = os.pipe()
        self.back, write = os.pipe()
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--remote-debugging-pipe", "--hide-scrollbars", f"--user-data-dir={self.home.name}")  # fmt: skip

        command = [sys.executable, "-c", PIPED, str(read), str(write), found(), *options, "about:blank"]
        silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self.process = subprocess.Popen(command, pass_fds=(read, write), **silent)
        os.close(read), os.close(write)
        self.count, self.rest, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self.session = None
        self.send("Browser.close")
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
        os.close(self.to), os.close(self.back)
        self.home.cleanup()

    # --- the protocol ---

    def send(self, method, **options):
        self.count += 1
        message = {"id": self.count, "method": method, "params": options}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        return self.count

    def call(self, method, **options):
        number = self.send(method, **options)
        while True:
            message = self.message()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def message(self):
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], max(0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            self.rest += os.read(self.back, 1 << 20)
        one, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(one)
        if "id" not in message:
            self.events.append(message)
        return message

    def happened(self, method):
        return [event["params"] for event in self.events if event["method"] == method]

    @property
    def errors(self):
        """Uncaught exceptions, and whatever stands in the console as a warning or an error."""
        self.run("0")  # whatever was said before has come by then
        bad = ("warning", "error")
        thrown = [event["exceptionDetails"] for event in self.happened("Runtime.exceptionThrown")]
        thrown = [one.get("exception", {}).get("description", one["text"]) for one in thrown]
        entries = [event["entry"] for event in self.happened("Log.entryAdded")]
        said = [entry["text"] for entry in entries if entry["level"] in bad]
        written = [str(event["args"]) for event in self.happened("Runtime.consoleAPICalled") if event["type"] in bad]
        return thrown + said + written

    @property
    def requests(self):
        """Addresses that the page asked for, but for pictures that are in it."""
        self.run("0")
        urls = [e["request"]["url"] for e in self.happened("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith("data:")]

    # --- what a person does ---

    def open(self, path, ready="true"):
        """Wait until the page is there and this expression holds."""
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.until(f"document.readyState === 'complete' && ({ready})")

    def until(self, expression):
        end = time.monotonic() + PATIENCE
        while not self.run(expression):
            assert time.monotonic() < end, f"never came true: {expression}; {self.errors}"
            time.sleep(0.05)

    def run(self, expression):
        """The value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def size(self, width, height, scale=1, mobile=False):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    def colours(self, scheme, medium=""):
        self.call(
            "Emulation.setEmulatedMedia", media=medium, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def click(self, selector):
        """With the mouse, in the middle of the element."""
        x, y = self.middle(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def hover(self, selector):
        self.mouse("mouseMoved", *self.middle(selector))

    def middle(self, selector):
        where = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{where}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        return self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({where}.getBoundingClientRect())")

    def mouse(self, kind, x, y):
        pressed = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    def press(self, key, times=1):
        text = {"text": "\r"} if key == "Enter" else {}
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                own = text if kind == "keyDown" else {}
                self.call(
                    "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key], **own
                )

    # --- what a person sees ---

    def picture(self, path, whole=False):
        content = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(content["data"]))

    def paper(self, path):
        content = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        Path(path).write_bytes(base64.b64decode(content["data"]))
