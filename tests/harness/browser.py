"""Chromium, as the tests of the gateway's page run it."""

import os
from pathlib import Path

CHROMIUM = Path(os.environ.get("BROWSER", "/usr/bin/chromium"))
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

DESKTOP = {"viewport": {"width": 1200, "height": 800}}
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
#: What the browser's console says when an answer is no 2xx, or none comes.
REFUSED = "Failed to load resource"
BROKEN_SOCKET = "WebSocket connection to"
#: Both panels are loaded and know what the gateway offers.
USABLE = """performance.getEntriesByName("usable").length > 0
    && ["augment-count", "source-count"].every((id) => document.getElementById(id).textContent)
    && ["augment", "translate"].every((panel) => !document.getElementById(`${panel}-notice`).hidden
        || document.getElementById(panel).querySelector(".count").textContent.includes("/"))"""


class Watched:
    """What a page's console said, and whom it asked."""

    def __init__(self):
        self.errors = []
        self.hosts = set()
        self.allowed = []

    def watch(self, page):
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(f"thrown: {error}"))
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        page.on("websocket", lambda socket: self.hosts.add(socket.url.split("/")[2]))

    def unexpected(self):
        return [error for error in self.errors if not any(allowed in error for allowed in self.allowed)]
