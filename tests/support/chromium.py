"""A headless Chromium for tests, driven by its debugging protocol over a pipe."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_WAIT_SECONDS = 60


def chromium_path() -> str | None:
    """Return the browser's path; None where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Page:
    """A page of the browser.

    ``complaints`` are errors and warnings of the console, uncaught errors, and requests to the
    network.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self.resize(1440, 900)

    def resize(self, width: int, height: int) -> None:
        """Set the window's size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, colour_scheme: str = "light", media: str = "") -> None:
        """Set the user's colour scheme, and the medium for which the page is drawn."""
        features = [{"name": "prefers-color-scheme", "value": colour_scheme}]
        self._call("Emulation.setEmulatedMedia", media=media, features=features)

    def open(self, address: str) -> None:
        """Open a page, and wait until it has drawn everything."""
        self._call("Page.navigate", url=address)
        self.wait_until("document.documentElement.hasAttribute('data-ready')")

    def visit(self, address: str, *words: str) -> None:
        """Open any page, and wait until it shows all of these words."""
        self._call("Page.navigate", url=address)
        for word in words:
            self.wait_until(f"(document.body?.innerText ?? '').includes({json.dumps(word)})")

    def click(self, words: str) -> None:
        """Wait for an element with exactly this text, and click it."""
        self.wait_until(
            "(() => { const found = [...document.querySelectorAll('*')].filter(one => "
            f"one.childElementCount === 0 && one.textContent.trim() === {json.dumps(words)}); "
            "if (!found.length) return false; "
            "found[0].scrollIntoView({block: 'center'}); found[0].click(); return true; })()"
        )

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(json.dumps(answer["exceptionDetails"])[:1000])
        return answer["result"].get("value")

    def wait_until(self, condition: str) -> None:
        """Wait for a JavaScript condition; if it does not come true, show the complaints."""
        for _ in range(_WAIT_SECONDS * 20):
            if self.ask(f"document.documentElement !== null && ({condition})"):
                return
            time.sleep(0.05)
        raise AssertionError(f"{condition} did not become true; {self.complaints}")

    def choose(self, selector: str, value: str) -> None:
        """Set the value of an input, and send the events of a person's choice."""
        self.ask(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); "
            f"one.value = {json.dumps(value)}; "
            "for (const kind of ['input', 'change']) "
            "one.dispatchEvent(new Event(kind, {bubbles: true})); })()"
        )

    def photograph(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page."""
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            read = os.read(self._read, 1 << 20)
            assert read, "Chromium ended"
            self._buffer += read
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        details = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(details["exceptionDetails"])[:500])
            case "Runtime.consoleAPICalled" if details["type"] in {"error", "warning", "assert"}:
                self.complaints.append(json.dumps(details["args"])[:500])
            case "Log.entryAdded" if details["entry"]["level"] in {"error", "warning"}:
                self.complaints.append(details["entry"]["text"])
            case "Network.requestWillBeSent":
                address = details["request"]["url"]
                if not address.startswith(("file:", "data:", "about:")):
                    self.complaints.append(f"asked the network for {address}")


@contextmanager
def opened_chromium() -> Iterator[Page]:
    """Start a browser with an empty profile, and end it."""
    path = chromium_path()
    assert path, "there is no Chromium"
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()

    with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        # The browser reads from descriptor 3 and writes to descriptor 4: the shell puts them there.
        # /dev/shm is small in containers, and a container's root may not make a sandbox.
        command = (
            f'exec "$0" --headless --no-sandbox --disable-dev-shm-usage --disable-gpu'
            f' --no-first-run --remote-debugging-pipe --user-data-dir="$1" about:blank '
            f"3<&{theirs_in} 4>&{theirs_out}"
        )
        browser = subprocess.Popen(
            ["bash", "-c", command, path, profile],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Page(ours_out, ours_in)
        finally:
            browser.terminate()
            browser.wait(timeout=30)
            os.close(ours_out)
            os.close(ours_in)
