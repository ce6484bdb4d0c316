"""A WebSocket of the gateway, as the tests use it."""

import json
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List

from websockets.sync.client import ClientConnection, connect


class Socket:
    """One connection to `/ws/translate`."""

    def __init__(self, connection: ClientConnection):
        self.connection = connection

    def ask(self, id: str, text: str, **translation: Any) -> None:
        """Starts a translation in the JSON mode, into Portuguese unless it says otherwise."""
        self.tell(type="translate", id=id, text=text, **{"tgt_lang": "pt", **translation})

    def tell(self, **message: Any) -> None:
        """Sends a message of either mode."""
        self.connection.send(json.dumps(message))

    def next(self) -> "Dict[str, Any]":
        """The next message of the JSON mode."""
        return json.loads(self.connection.recv(30))

    def next_text(self) -> str:
        """The next message of the text mode."""
        return self.connection.recv(30)

    def until(self, *kinds: str) -> "Dict[str, Any]":
        """The next message of one of these types."""
        while True:
            message = self.next()
            if message["type"] in kinds:
                return message

    def all_of(self, *ids: str) -> "Dict[str, List[Dict[str, Any]]]":
        """The messages of these translations up to the end of each."""
        messages: Dict[str, List[Dict[str, Any]]] = {id: [] for id in ids}
        ended = set()
        while ended < set(ids):
            message = self.next()
            messages[message["id"]].append(message)
            if message["type"] in ("done", "stopped", "error"):
                ended.add(message["id"])
        return messages

    def text_answer(self) -> str:
        """A translation of the text mode."""
        pieces: List[str] = []
        while True:
            frame = self.next_text()
            assert not frame.startswith("[ERROR]"), frame
            if frame == "[END]":
                return "".join(pieces)
            if not frame.startswith("[QUEUED]"):
                pieces.append(frame)


def joined(messages: "List[Dict[str, Any]]") -> str:
    """The translation that these messages of one id make."""
    assert messages[-1]["type"] == "done", messages
    return "".join(message["text"] for message in messages if message["type"] == "delta")


@contextmanager
def open_socket(url: str, **options: Any) -> "Iterator[Socket]":
    """A connection to the gateway at `http…`."""
    # What the gateway sends is taken in whether a test looks at it or not.
    options = {"proxy": None, "compression": None, "open_timeout": 30, "max_queue": None, **options}
    with connect(url.replace("http", "ws", 1) + "/ws/translate", **options) as connection:
        yield Socket(connection)
