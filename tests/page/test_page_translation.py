"""Translation: text as it arrives, stop, the two ways, reconnecting, queueing, history."""

import pytest
from playwright.sync_api import expect

from harness import metrics, places
from harness.browser import BROKEN_SOCKET, REFUSED
from harness.server import eventually

TEXT = "The cat sleeps on the sofa."
#: Some seconds of work.
LONG = ((" ".join(places.sentences()) + "\n\n") * 20)[:19_000]
MODEL = "translate-en-pt"


def block_socket(page):
    """Closes every WebSocket before it is open, as a proxy that knows none does."""
    page.add_init_script(
        "window.WebSocket = class extends EventTarget { constructor() { super(); "
        "setTimeout(() => this.dispatchEvent(new CloseEvent('close', {code: 1006}))); } close() {} send() {} };"
    )


def watch_lengths(page):
    """Records in `window.lengths` how long the shown translation is, whenever it changes."""
    page.evaluate(
        """() => {
            const output = document.querySelector("#output");
            window.lengths = new Set();
            new MutationObserver(() => lengths.add(output.textContent.length))
                .observe(output, {childList: true, characterData: true, subtree: true});
        }"""
    )


@pytest.fixture(params=["socket", "events"])
def way(request):
    """Both ways that a translation can take."""
    return request.param


@pytest.fixture
def translation(open_page, gateway, size, way):
    """The panel on both sizes, with each way."""
    page = open_page(gateway, path="/#translate", prepare=block_socket if way == "events" else None, **size)
    expect(page.locator("#target-language")).to_have_value("pt")
    return page


@pytest.fixture
def panel(open_page, gateway):
    """The panel where neither matters."""
    page = open_page(gateway, path="/#translate")
    expect(page.locator("#target-language")).to_have_value("pt")
    return page


def state(page, name, **options):
    expect(page.locator("#translate-state")).to_have_attribute("data-state", name, **options)


def translate(page, text):
    page.fill("#source", text)
    page.click("#translate-start")


def test_text_is_seen_to_grow(translation, gateway, way):
    watch_lengths(translation)
    translate(translation, LONG)
    state(translation, "done", timeout=60_000)
    # None and all of it would be two.
    assert translation.evaluate("lengths.size") > 2
    expect(translation.locator("#way")).to_have_attribute("data-way", way)
    whole = gateway.post("/translate", {"text": LONG, "src_lang": "en", "tgt_lang": "pt"})[1]["translated_text"]
    shown = translation.evaluate(
        "[...document.querySelectorAll('#output p')].map((line) => line.textContent).join('\\n')"
    )
    assert shown == whole


def test_stop_stops(translation, triton):
    # The button is pressed with the first text: a hand of the test's own might come too late.
    translation.evaluate(
        """() => {
            const observer = new MutationObserver(() => {
                if (!document.querySelector("#output").textContent) return;
                observer.disconnect();
                document.querySelector("#translate-stop").click();
            });
            observer.observe(document.querySelector("#output"), {childList: true, characterData: true, subtree: true});
        }"""
    )
    translate(translation, LONG)
    state(translation, "stopped")
    eventually(lambda: metrics.running(triton, MODEL) == 0 and metrics.waiting(triton, MODEL) == 0)
    length = translation.evaluate("document.querySelector('#output').textContent.length")
    assert 0 < length < len(LONG)
    assert translation.input_value("#source") == LONG
    translate(translation, TEXT)
    state(translation, "done")


def test_ctrl_enter(panel):
    panel.fill("#source", TEXT)
    panel.press("#source", "Control+Enter")
    state(panel, "done")
    expect(panel.locator("#output")).to_contain_text("gato")


def test_reconnects_after_the_gateway_was_killed(open_page, own_gateway):
    with own_gateway() as gateway:
        page = open_page(gateway, path="/#translate", allow=[BROKEN_SOCKET, REFUSED])
        expect(page.locator("#way")).to_have_attribute("data-way", "socket")
        gateway.kill()
        state(page, "reconnecting")
        gateway.start()
        gateway.until_ready()
        state(page, "idle", timeout=40_000)
        translate(page, TEXT)
        state(page, "done")
        expect(page.locator("#way")).to_have_attribute("data-way", "socket")
        page.context.close()


def test_a_loss_midway_keeps_what_has_arrived(open_page, own_gateway, triton, doomed_triton):
    with own_gateway(triton=doomed_triton) as gateway:
        page = open_page(gateway, path="/#translate", allow=[BROKEN_SOCKET, REFUSED])
        expect(page.locator("#target-language")).to_have_value("pt")
        watch_lengths(page)
        translate(page, LONG)
        eventually(lambda: page.evaluate("lengths.size > 1"))
        gateway.kill()
        state(page, "failed")
        expect(page.locator("#translate-failure")).to_contain_text("connection was lost")
        assert page.evaluate("document.querySelector('#output').textContent.length") > 0
        assert page.input_value("#source") == LONG
        gateway.triton_port = triton.grpc_port
        gateway.start()
        gateway.until_ready()
        translate(page, TEXT)
        state(page, "done")
        page.context.close()


def test_a_queue_shows_the_place(open_page, own_gateway):
    with own_gateway("--max-active", "1") as gateway:
        first, second = (open_page(gateway, path="/#translate") for _ in range(2))
        watch_lengths(first)
        for page in (first, second):
            expect(page.locator("#way")).to_have_attribute("data-way", "socket")
            expect(page.locator("#target-language")).to_have_value("pt")
        translate(first, LONG)
        eventually(lambda: first.evaluate("lengths.size > 0"))
        translate(second, TEXT)
        state(second, "queued")
        expect(second.locator("#translate-state")).to_have_text("Queued, place 1")
        first.click("#translate-stop")
        state(second, "done")
        for page in (first, second):
            page.context.close()


def test_swap_exchanges_languages_and_texts(translation):
    translate(translation, TEXT)
    state(translation, "done")
    portuguese = translation.locator("#output").inner_text().strip()
    translation.click("#swap")
    expect(translation.locator("#source-language")).to_have_value("pt")
    expect(translation.locator("#target-language")).to_have_value("en")
    assert translation.input_value("#source") == portuguese
    expect(translation.locator("#output")).to_have_text(TEXT)
    translation.reload()
    expect(translation.locator("#source-language")).to_have_value("pt")


def test_only_pairs_that_exist_are_offered(panel):
    assert panel.locator("#source-language option").all_inner_texts() == ["English", "Portuguese · Português"]
    assert panel.locator("#target-language option").all_inner_texts() == ["Portuguese · Português"]
    panel.select_option("#source-language", "pt")
    assert panel.locator("#target-language option").all_inner_texts() == ["English"]
    panel.click("#language")
    expect(panel.locator("#source-language option")).to_have_text(["英语 · English", "葡萄牙语 · Português"])
    expect(panel.locator("#source-language")).to_have_value("pt")


def test_one_model_for_all_languages_may_be_left_to_find_out(open_page, own_gateway, tmp_path):
    config = tmp_path / "gateway.toml"
    config.write_text('[translate]\nmodel = "translate-en-pt"\nlanguages = "en, pt, ar, he"\n', encoding="utf-8")
    with own_gateway(config=config) as gateway:
        page = open_page(gateway, path="/#augment")
        expect(page.locator("#augment-notice")).to_have_text("This gateway does not offer this service.")
        expect(page.locator("#augment-start")).to_be_disabled()
        page.click("#tab-translate")
        expect(page.locator("#source-language option").first).to_have_text("Not specified")
        assert page.locator("#swap").is_disabled()
        page.select_option("#target-language", "ar")
        page.fill("#source", "مرحبا")
        assert page.evaluate("getComputedStyle(document.querySelector('#source')).direction") == "rtl"
        page.select_option("#target-language", "pt")
        translate(page, TEXT)
        state(page, "done")
        page.context.close()


def test_history_keeps_five_and_restores(translation):
    texts = [f"I have {number} cats." for number in ("two", "three", "four", "five", "six", "seven")]
    for text in texts:
        translate(translation, text)
        expect(translation.locator("#history-list li").first).to_contain_text(text)
    expect(translation.locator("#history-list li")).to_have_count(5)
    translation.reload()
    expect(translation.locator("#history-list li")).to_have_count(5)
    expect(translation.locator(".pair").first).to_have_text("English → Portuguese")
    translation.locator(".past").nth(4).click()
    assert translation.input_value("#source") == texts[1]
    assert translation.locator("#output").inner_text().strip()
    translation.locator("#history-list .remove").first.click()
    expect(translation.locator("#history-list li")).to_have_count(4)
    translation.click("#history-clear")
    expect(translation.locator("#history")).to_be_hidden()
    assert translation.evaluate("localStorage.getItem('textgen.history')") is None


def test_copy(open_page, gateway):
    page = open_page(gateway, path="/#translate", permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#target-language")).to_have_value("pt")
    translate(page, TEXT + "\n\n" + TEXT)
    state(page, "done")
    page.click("#copy-output")
    expect(page.locator("#copy-output")).to_have_text("Copied")
    lines = page.evaluate("navigator.clipboard.readText()").split("\n")
    assert len(lines) == 3 and "gato" in lines[2]


def test_limit_is_shown_at_once(translation):
    translation.fill("#source", "x" * 20_001)
    expect(translation.locator("#source-error")).to_contain_text("20,001")
    expect(translation.locator("#source-count")).to_have_text("20,001 / 20,000")
    translation.click("#translate-start")
    state(translation, "idle")
    assert len(translation.input_value("#source")) == 20_001


def test_empty_text_is_refused(panel):
    translate(panel, " ")
    expect(panel.locator("#source-error")).to_have_text("Enter a text first.")
