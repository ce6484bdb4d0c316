"""Many clients at once, who ask for anything and leave when they like: nothing is left behind.

Those who leave early speak HTTP: a server of this version can leak a gRPC stream that is cancelled under load, and
its model then cannot be unloaded.
"""

import threading
import time
from random import Random

from harness import grpc_door as grpc_replies
from harness import places
from harness.metrics import outcomes, running, waiting
from harness.server import eventually
from harness.texts import ENGLISH, QUESTION, long_prompt

CLIENTS = 32
SECONDS = 8
MODELS = ["chat", "chat", "chat", "pieces", "lasting"]
SHORT = {"max_tokens": 16, "temperature": 0.0}


def ask(http, grpc_door, draw):
    """One request; some clients leave after a few pieces."""
    text = draw.choice([*places.sentences(), long_prompt(draw.randrange(1, 300), seed=draw.random())])
    options = {"max_tokens": draw.randrange(1, 60)}
    model = draw.choice(MODELS)
    leaves_after = draw.choice([None, 1, 2, 5])
    if leaves_after:
        with http.open_stream(model, text, stream=True, **options) as events:
            for count, event in enumerate(events, start=1):
                assert "error" not in event, event
                if count == leaves_after:
                    break
    elif draw.random() < 0.5:
        http.text(model, text, **options)
    else:
        samples = {"temperature": 1.0, "num_return_sequences": draw.randrange(1, 4)}
        for reply in grpc_door.stream(model, text, **options, **samples):
            assert not reply.error, reply


def test_random_clients_leave_nothing_behind(server, http, grpc_door):
    expected = http.text("chat-apart", QUESTION, **SHORT)
    models = sorted(set(MODELS))
    before = {model: outcomes(server, model) for model in models}
    end = time.monotonic() + SECONDS
    asked, wrong = [], []

    def client(seed):
        draw = Random(seed)
        while time.monotonic() < end and not wrong:
            try:
                ask(http, grpc_door, draw)
                asked.append(seed)
            except Exception as error:  # pylint: disable=broad-except
                wrong.append(error)

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(120)
    assert not any(each.is_alive() for each in clients)
    assert not wrong, wrong[:3]
    assert len(asked) > CLIENTS

    for model in models:
        eventually(lambda model=model: running(server, model) == 0 and waiting(server, model) == 0, 30)
        assert http.ready(model)
    after = {model: outcomes(server, model) for model in models}
    ended = {key: sum(after[model][key] - before[model][key] for model in models) for key in after[models[0]]}
    assert ended["completed"] and ended["cancelled"], ended
    assert sum(ended.values()) == len(asked) and not ended["failed"] and not ended["rejected"], ended
    assert http.text("chat", QUESTION, **SHORT) == expected
    assert grpc_replies.joined(grpc_door.stream("pieces", ENGLISH)) == "O gato dorme no sofá."
