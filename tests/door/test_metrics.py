"""Metrics are there, carry model and version, and count what happened."""

from harness.metrics import PREFIX, outcomes
from harness.server import eventually
from harness.texts import ENGLISH

COUNTERS = [
    "requests_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "spec_decode_num_draft_tokens_total",
    "spec_decode_num_accepted_tokens_total",
]
GAUGES = ["sequences_running", "sequences_waiting", "sequence_slots"]
HISTOGRAMS = [
    "time_to_first_token_seconds",
    "time_per_output_token_seconds",
    "request_queue_time_seconds",
    "e2e_request_latency_seconds",
    "step_duration_seconds",
    "step_rows",
]


def test_every_metric_is_there_with_its_labels(server, http):
    http.text("pieces", ENGLISH)
    samples = server.metrics()
    for name in COUNTERS + GAUGES + [histogram + "_count" for histogram in HISTOGRAMS]:
        labels = [dict(each) for each in samples.get(PREFIX + name, {})]
        assert any(each.get("model") == "pieces" and each.get("version") == "1" for each in labels), name


def test_memory_is_told_by_its_use(server, http):
    http.text("whole", ENGLISH)
    held = {use: server.metric(PREFIX + "memory_bytes", model="whole", use=use) for use in ["weights", "caches"]}
    weights = server.repository / "whole" / "1" / "weights.bin"
    assert held["weights"] == weights.stat().st_size
    assert held["caches"] > 0


def test_a_request_is_counted(server, http):
    model = "whole"

    def read():
        return {
            "completed": outcomes(server, model)["completed"],
            "input": server.metric(PREFIX + "prompt_tokens_total", model=model),
            "output": server.metric(PREFIX + "generation_tokens_total", model=model),
            "first": server.metric(PREFIX + "time_to_first_token_seconds_count", model=model),
            "whole": server.metric(PREFIX + "e2e_request_latency_seconds_count", model=model),
        }

    before = read()
    out = http.infer_text(model, ENGLISH, return_num_input_tokens=True, return_num_output_tokens=True)
    eventually(lambda: read()["completed"] == before["completed"] + 1)
    after = read()
    assert after["input"] - before["input"] == out["num_input_tokens"][0]
    assert after["output"] - before["output"] == out["num_output_tokens"][0]
    assert after["first"] == before["first"] + 1
    assert after["whole"] == before["whole"] + 1


def test_a_refused_request_is_counted_as_failed(server, http):
    before = sum(outcomes(server, "whole").values())
    assert http.generate("whole", ENGLISH, temperature=-1.0).status == 400
    eventually(lambda: sum(outcomes(server, "whole").values()) == before + 1)


def test_triton_counts_them_too(server, http):
    before = server.metric("nv_inference_request_success", model="whole")
    http.text("whole", ENGLISH)
    eventually(lambda: server.metric("nv_inference_request_success", model="whole") == before + 1)
