"""Drives a headless Chromium over its DevTools protocol: what a user sees and does, with real key presses and clicks."""
import base64
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import time
import urllib.request

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def find_browser():
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser:
    def __init__(self, profile):
        self.log = open(pathlib.Path(profile) / "log", "w+")
        self.process = subprocess.Popen(
            [find_browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0",
             "--remote-allow-origins=*", "--no-first-run", "--disable-background-networking", "--disable-component-update",
             f"--user-data-dir={profile}/data", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log, start_new_session=True,
            env={k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")})
        port_file = pathlib.Path(profile) / "data/DevToolsActivePort"
        end = time.monotonic() + 60
        while not port_file.exists() or "\n" not in port_file.read_text():
            assert self.process.poll() is None and time.monotonic() < end, (pathlib.Path(profile) / "log").read_text()
            time.sleep(0.05)
        self.address = "http://127.0.0.1:" + port_file.read_text().split("\n")[0]

    def page(self, url, **options):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(self.address + "/json/new?about:blank", method="PUT")
        target = json.load(opener.open(request, timeout=20))
        return Page(target, url, **options)

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        self.log.close()


KEYS = {"Enter": ("Enter", 13, "\r"), "Escape": ("Escape", 27, ""), "ArrowUp": ("ArrowUp", 38, ""), "ArrowRight": ("ArrowRight", 39, ""),
        "Tab": ("Tab", 9, ""), ",": ("Comma", 188, ""), "o": ("KeyO", 79, "")}
MODIFIERS = {"Alt": 1, "Ctrl": 2, "Shift": 8}


class Page:
    def __init__(self, target, url, width=1280, height=860, dark=False, phone=False):
        import websocket
        self.socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=30, http_no_proxy=["127.0.0.1"])
        self.numbers = itertools.count(1)
        self.requested, self.complaints = [], []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(domain + ".enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        if phone:
            self.call("Emulation.setTouchEmulationEnabled", enabled=True)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.go(url)

    def call(self, method, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.note(message)

    def note(self, message):
        """What the page asked the network for, and what the browser complained of."""
        params = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"])
        elif message.get("method") == "Page.javascriptDialogOpening":
            self.complaints.append("dialog: " + params["message"])
            self.socket.send(json.dumps({"id": next(self.numbers), "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}))

    def go(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def js(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression, seconds=15):
        end = time.monotonic() + seconds
        while not self.js(f"!!({expression})"):
            assert time.monotonic() < end, f"not in {seconds} s: {expression}\n{self.js('document.body.innerText')}"
            time.sleep(0.02)

    def text(self, selector):
        return self.js(f"[...document.querySelectorAll({json.dumps(selector)})].map(n => n.innerText)")

    def count(self, selector):
        return self.js(f"document.querySelectorAll({json.dumps(selector)}).length")

    def click(self, selector, index=0):
        """Where it is on the screen: what covers it gets the click, as it would a user's."""
        find = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
        self.wait(f"!!{find}")
        self.js(f"{find}.scrollIntoView({{block: 'nearest'}})")
        box = self.js(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({find}.getBoundingClientRect())")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="none" if kind == "mouseMoved" else "left",
                      clickCount=0 if kind == "mouseMoved" else 1)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, key, *held):
        code, number, text = KEYS[key]
        flags = sum(MODIFIERS[m] for m in held)
        common = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": flags}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text and flags & ~8 == 0 else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path):
        time.sleep(0.25)
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.socket.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not find_browser():
        pytest.skip(f"no browser ({', '.join(PROGRAMS)}): 'apt-get install chromium' to test the page")
    running = Browser(tmp_path_factory.mktemp("browser"))
    yield running
    running.close()
