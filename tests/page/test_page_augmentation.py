"""One text: options, tasks, limits, results."""

import pytest
from playwright.sync_api import expect

#: Long enough that a model has many ways to say it.
TEXT = (
    "The train was late because of the snow, and nobody at the station knew when the next one would leave. "
    "We drank tea and talked about the old days until it came."
)


def test_variants_appear(page):
    page.fill("#augment-text", TEXT)
    page.click("#augment-start")
    expect(page.locator("#variants li")).to_have_count(3)
    assert all(text.strip() for text in page.locator(".variant").all_inner_texts())
    expect(page.locator("#augment-state")).to_contain_text("Done")


def test_sliders_and_numbers_move_together_and_are_sent(page):
    page.fill("#num_return_sequences", "5")
    page.locator("[aria-labelledby=temperature-label]").fill("1.5")
    assert page.input_value("[aria-labelledby=num_return_sequences-label]") == "5"
    assert page.input_value("#temperature") == "1.5"
    page.click("summary")
    page.fill("#top_k", "70")
    page.fill("#top_p", "0.9")
    page.fill("#max_length", "40")
    page.fill("#seed", "12345")
    page.fill("#augment-text", TEXT)
    with page.expect_request("**/augment") as sent:
        page.click("#augment-start")
    assert sent.value.post_data_json == {
        "text": TEXT,
        "num_return_sequences": 5,
        "temperature": 1.5,
        "max_length": 40,
        "top_p": 0.9,
        "top_k": 70,
        "seed": 12345,
    }
    expect(page.locator("#variants li")).to_have_count(5)
    page.click("#defaults")
    assert page.input_value("#num_return_sequences") == "3" and page.input_value("#seed") == ""


def test_ctrl_enter_sends(desktop):
    desktop.fill("#augment-text", TEXT)
    desktop.press("#augment-text", "Control+Enter")
    expect(desktop.locator("#variants li")).to_have_count(3)


@pytest.mark.parametrize(
    "field, value, why",
    [
        ("num_return_sequences", "21", "1 to 20"),
        ("temperature", "2.5", "0 to 2"),
        ("top_p", "0", "0.01 to 1"),
        ("top_k", "1.5", "whole"),
        ("max_length", "", "1 to 1,024"),
    ],
)
def test_a_number_out_of_range_is_refused_in_place(desktop, field, value, why):
    desktop.click("summary")
    desktop.fill("#augment-text", TEXT)
    desktop.fill(f"#{field}", value)
    expect(desktop.locator(f"#{field}-error")).to_contain_text(why)
    asked = []
    desktop.on("request", lambda request: asked.append(request.url))
    desktop.click("#augment-start")
    assert desktop.evaluate("document.activeElement.id") == field
    assert desktop.input_value(f"#{field}") == value and not asked


def test_a_bad_seed_is_refused_in_place(desktop):
    desktop.click("summary")
    desktop.fill("#seed", "-1")
    expect(desktop.locator("#seed-error")).to_be_visible()


def test_counter_counts_characters_and_refuses_at_once(page):
    page.fill("#augment-text", "猫😀👩‍👩‍👧‍👦")
    expect(page.locator("#augment-count")).to_have_text("9 / 5,000")
    page.fill("#augment-text", "😀" * 5000)
    expect(page.locator("#augment-error")).to_be_hidden()
    page.fill("#augment-text", "😀" * 5001)
    expect(page.locator("#augment-error")).to_contain_text("5,001")
    page.click("#augment-start")
    expect(page.locator("#augment-state")).to_be_empty()
    assert page.input_value("#augment-text") == "😀" * 5001


def test_an_empty_text_is_refused(page):
    page.fill("#augment-text", "  \n ")
    page.click("#augment-start")
    expect(page.locator("#augment-error")).to_have_text("Enter a text first.")


def test_what_is_cut_is_marked(page):
    page.fill("#augment-text", TEXT)
    page.fill("#max_length", "3")
    page.fill("#num_return_sequences", "1")
    page.fill("#temperature", "0")
    page.click("#augment-start")
    expect(page.locator("#variants .mark")).to_have_text("Cut at the length limit")
    page.fill("#max_length", "100")
    page.click("#augment-start")
    expect(page.locator("#variants .mark")).to_have_count(0)
    expect(page.locator("#variants li")).to_have_count(1)


def test_fewer_than_wanted_are_told(desktop):
    desktop.fill("#augment-text", "12:30")
    desktop.click("#augment-start")
    expect(desktop.locator("#augment-state")).to_contain_text("Results: 0 of 3")
    expect(desktop.locator("#augment-state")).to_contain_text("no more different variants")
    desktop.fill("#augment-text", TEXT)
    desktop.click("#augment-start")
    expect(desktop.locator("#variants li")).to_have_count(3)
    expect(desktop.locator("#augment-state")).to_contain_text("Results: 3, in")


def test_what_the_model_cannot_read_is_told_before_it_is_sent(page):
    warning = page.locator("#augment-warning")
    expect(warning).to_be_hidden()
    page.fill("#augment-text", "今天天气很好。")
    expect(warning).to_contain_text("The model reads English")
    for text in ("今天 is today", "12:30 🎉", TEXT):
        page.fill("#augment-text", text)
        expect(warning).to_be_hidden()
    page.fill("#augment-text", "Привет, мир!")
    expect(warning).to_be_visible()
    page.click("#language")
    expect(warning).to_contain_text("模型只读英语")
    # The languages are those of the service's model, not those of the tasks' other one.
    page.select_option("#task", "title")
    expect(warning).to_be_hidden()
    page.select_option("#task", "rewrite")
    expect(warning).to_be_visible()
    page.click("#augment-start")
    expect(page.locator("#augment-state")).to_contain_text("完成")


def test_labels_are_chosen_with_probabilities(page):
    page.select_option("#task", "classify")
    expect(page.locator("#sampling")).to_be_hidden()
    page.fill("#augment-text", "The striker scored twice in the final.")
    page.fill("#labels", "sport, politics、weather")
    page.click("#augment-start")
    expect(page.locator(".bar-row")).to_have_count(3)
    shares = [float(text.rstrip("%")) for text in page.locator(".bar-share").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert page.locator(".variant").inner_text() in ("sport", "politics", "weather")
    widths = page.evaluate(
        "[...document.querySelectorAll('.bar-fill')].map((at) => at.clientWidth / at.parentElement.clientWidth * 100)"
    )
    assert widths == pytest.approx(shares, abs=2)


def test_labels_are_asked_for(desktop):
    desktop.select_option("#task", "classify")
    desktop.fill("#augment-text", TEXT)
    desktop.fill("#labels", "one")
    desktop.click("#augment-start")
    expect(desktop.locator("#augment-error")).to_contain_text("two labels")


def test_other_tasks_are_greedy_by_default(desktop):
    desktop.select_option("#task", "title")
    assert desktop.input_value("#num_return_sequences") == "1" and desktop.input_value("#temperature") == "0"
    desktop.fill("#augment-text", TEXT)
    desktop.fill("#max_length", "12")
    desktop.click("#augment-start")
    expect(desktop.locator("#variants li")).to_have_count(1)
    desktop.select_option("#task", "rewrite")
    assert desktop.input_value("#num_return_sequences") == "3"


def test_stop(desktop):
    desktop.select_option("#task", "summary")
    desktop.fill("#augment-text", "The museum near the river is old. " * 100)
    desktop.fill("#num_return_sequences", "20")
    desktop.fill("#temperature", "1")
    desktop.fill("#max_length", "1024")
    desktop.click("#augment-start")
    desktop.click("#augment-stop")
    expect(desktop.locator("#augment-state")).to_have_text("Stopped")
    assert desktop.evaluate("document.activeElement.id") == "augment-start"


def test_copy(open_page, gateway):
    page = open_page(gateway, permissions=["clipboard-read", "clipboard-write"])
    page.fill("#augment-text", TEXT)
    page.click("#augment-start")
    expect(page.locator("#variants li")).to_have_count(3)
    variants = page.locator(".variant").all_inner_texts()
    page.click("[aria-label='Copy variant 2']")
    expect(page.locator("#announcement")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == variants[1]
    page.click("#copy-all")
    expect(page.locator("#copy-all")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "\n".join(variants)
    expect(page.locator("#copy-all")).to_have_text("Copy all")


def test_direction_follows_the_text(desktop):
    desktop.fill("#augment-text", "שלום עולם")
    assert desktop.evaluate("getComputedStyle(document.querySelector('#augment-text')).direction") == "rtl"
