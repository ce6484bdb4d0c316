"""The chat model against a trusted implementation, and against itself in other batches."""

import json

import pytest

from harness import places, program, smollm2

GREEDY = smollm2.REFERENCE["greedy"]


def assert_equals_the_reference(prompts):
    lines = [
        {**prompt, "max_tokens": expected["max_new_tokens"], "temperature": 0.0}
        for prompt, expected in zip(prompts, GREEDY)
    ]
    assert len(lines) == 20
    found = program.answers(places.model("chat", "fp32"), lines)
    for expected, answer in zip(GREEDY, found):
        for key in ("token_ids", "finish_reason"):
            assert answer[key] == expected[key], expected["message"]
        # The reference's text is without the end of the turn, and so is ours.
        assert answer["text_output"] == expected["text"]


def test_greedy_tokens_equal_the_reference():
    assert_equals_the_reference([{"input_ids": expected["prompt_ids"]} for expected in GREEDY])


def test_the_prompts_are_the_reference_s():
    """Through the chat template that the checkpoint brings, and the tokenizer made of it."""
    messages = [[{"role": "user", "content": expected["message"]}] for expected in GREEDY]
    assert_equals_the_reference([{"messages": each} for each in messages])
    assert_equals_the_reference([{"text_input": expected["message"]} for expected in GREEDY])


def test_log_probabilities():
    """fp32 differs by rounding only, int8 by a hundredth at most. What int4 costs, `make quality` says."""
    reference = smollm2.REFERENCE["score"]["mean_logprob"]
    fp32, int8 = smollm2.mean_logprob("fp32"), smollm2.mean_logprob("int8")
    assert abs(fp32 - reference) < 1e-3
    assert abs(int8 - fp32) < 0.01 * abs(fp32)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_no_bit_depends_on_the_batch_or_the_threads(precision):
    """Greedy and sampled, log-probabilities included."""
    lines = []
    for index, expected in enumerate(GREEDY):
        sampled = {"temperature": 0.9, "seed": 100 + index, "num_return_sequences": 2}
        how = sampled if index % 2 else {"temperature": 0.0}
        lines.append({"id": index, "input_ids": expected["prompt_ids"], "max_tokens": 16, **how})

    def printed(sequences, threads):
        arguments = ["--max-sequences", sequences, "--threads", threads, "--max-context-tokens", 1024]
        return program.generate(places.model("chat", precision), lines, *arguments)

    alone = printed(1, 1)
    samples = [json.loads(line)["text_output"] for line in alone.splitlines()]
    assert len(samples) == 30 and len(set(samples)) > 20, "the samples say the same"
    for sequences, threads in [(7, 1), (32, 1), (1, 2), (7, 2), (32, 2)]:
        assert printed(sequences, threads) == alone, f"{sequences} sequences, {threads} threads"
