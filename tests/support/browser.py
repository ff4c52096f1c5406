"""Headless Chromium, controlled through the DevTools protocol: JSON messages over two pipes, ended by a zero byte."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
    "--window-size=1300,1000", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One tab. `problems` lists console errors and warnings and uncaught exceptions; `requests` lists loaded URLs."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._rest, self._number, self._session = b"", 0, ""
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result. Events that arrive in between are recorded."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, path: Path) -> None:
        self.events.clear()
        self.send("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()

    def show(self, path: Path, width: int, scheme: str) -> None:
        """Opens a page at a width in CSS pixels, as a phone below 700, in the "light" or "dark" colour scheme."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        self.send("Emulation.setDeviceMetricsOverride", **screen)
        scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", media="", features=[scheme_feature])
        self.open(path)

    def press(self, key: str) -> None:
        """Presses and releases a key, sent to the focused element: a character, "Tab", "ArrowRight" and so on."""
        code = {" ": 32, "Tab": 9, "Enter": 13, "Home": 36, "End": 35, "ArrowLeft": 37, "ArrowRight": 39}
        virtual = code.get(key, ord(key.upper()) if len(key) == 1 else 0)
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        common = {"key": key, "windowsVirtualKeyCode": virtual}
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str, x: float = 0.5) -> None:
        """Clicks with the mouse in the vertical middle of an element. `x` is a fraction of its width."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); "
            "return [r.left, r.top, r.width, r.height]; })()"
        )
        point = {"x": box[0] + x * box[2], "y": box[1] + box[3] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **point)

    def unnamed_controls(self) -> list[str]:
        """Elements for keyboard or pointer that have no accessible name."""
        tree = self.send("Accessibility.getFullAXTree")["nodes"]
        roles = {"button", "checkbox", "radio", "slider", "combobox", "textbox", "link", "img", "region", "progressbar"}
        found = []
        for node in tree:
            role = node.get("role", {}).get("value")
            if not node.get("ignored") and role in roles and not node.get("name", {}).get("value"):
                found.append(str(role))
        return found

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        arguments = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self.send("Runtime.evaluate", expression=expression, **arguments)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> None:
        """Waits until a JavaScript expression is true."""
        until = time.monotonic() + seconds
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < until, f"not within {seconds} s: {expression}"
            time.sleep(0.05)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._back], [], [], 60)
            assert ready, "no answer from Chromium within a minute"
            chunk = os.read(self._back, 1 << 16)
            assert chunk, "Chromium has exited"
            self._rest += chunk
        line, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        self._record(message)
        return message

    def _record(self, message: dict[str, Any]) -> None:
        method, details = message.get("method"), message.get("params", {})
        if method is not None:
            self.events.append(message)
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(details["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.problems.append(str(details["args"]))
        elif method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.problems.append(details["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Starts Chromium with its own profile and ends all its processes at the end."""
    assert CHROMIUM is not None
    read_commands, write_commands = os.pipe()
    read_answers, write_answers = os.pipe()
    # Chromium reads commands from descriptor 3 and writes answers to 4. The descriptors are first copied to numbers
    # above both, so that bash does not overwrite one with the other.
    theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (read_commands, write_answers)]
    for fd in (read_commands, write_answers):
        os.close(fd)
    moved = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
    command = ["bash", "-c", moved, "bash", CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        command, pass_fds=theirs, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    for fd in theirs:
        os.close(fd)
    try:
        yield Browser(write_commands, read_answers)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(write_commands)
        os.close(read_answers)
