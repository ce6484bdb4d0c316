"""Many texts: pasted or in a file, with progress, stop, retry and download."""

import csv
import io

import pytest
from playwright.sync_api import expect

from harness.browser import REFUSED
from harness.server import eventually

LINES = [f"The cat number {number} sleeps on the sofa." for number in range(200)]


def start(page, lines, variants=1, temperature=0):
    """Greedy unless the test says otherwise: then each text has as many variants as are asked for."""
    page.check("[value=batch]")
    page.fill("#temperature", str(temperature))
    page.fill("#batch-text", "\n".join(lines))
    page.fill("#num_return_sequences", str(variants))
    page.click("#augment-start")


def drop(page, name, content: bytes):
    """Drops a file on the panel, as a hand with a mouse would."""
    transfer = page.evaluate_handle(
        """([name, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        [name, list(content)],
    )
    page.dispatch_event("#augment-form", "dragover", {"dataTransfer": transfer})
    page.dispatch_event("#augment-form", "drop", {"dataTransfer": transfer})


def downloaded(page):
    """Raw bytes and rows of the download."""
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename.endswith(".csv")
    raw = download.value.path().read_bytes()
    return raw, list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")))


def test_two_hundred_lines_progress_and_download(page):
    page.evaluate(
        """() => {
            window.seen = new Set();
            new MutationObserver(() => seen.add(document.querySelector("#progress").value))
                .observe(document.querySelector("#augment-state"), {childList: true, subtree: true});
        }"""
    )
    start(page, LINES, variants=2)
    expect(page.locator("#augment-state")).to_contain_text("All 200 done", timeout=60_000)
    assert page.evaluate("seen.size") > 5
    # However long the batch, one page of it is drawn.
    assert page.locator(".table tbody").count() == 50
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    raw, rows = downloaded(page)
    assert raw.startswith(b"\xef\xbb\xbf") and raw.endswith(b"\r\n") and raw.count(b"\r\n") == 401
    assert rows[0] == ["source_index", "source", "variant_index", "variant", "finish_reason"]
    assert {row[4] for row in rows[1:]} == {"stop"}
    assert [(row[0], row[1], row[2]) for row in rows[1:]] == [
        (str(index + 1), line, str(variant)) for index, line in enumerate(LINES) for variant in (1, 2)
    ]
    assert all(row[3] for row in rows[1:])
    page.click("#page-after")
    expect(page.locator(".table tbody th").first).to_have_text(LINES[50])
    expect(page.locator("#page-place")).to_have_text("2 / 4")


def test_two_thousand_lines_stop_and_continue(desktop):
    lines = [f"Line {number}." for number in range(2000)]
    start(desktop, lines)
    expect(desktop.locator("#augment-state")).to_contain_text("Done: ")
    desktop.click("#augment-stop")
    expect(desktop.locator("#augment-state")).to_contain_text("Stopped. Done:")
    assert desktop.locator(".table tbody").count() == 100
    before = desktop.evaluate("document.querySelector('#progress').value")
    assert before < 2000
    desktop.click("#retry")
    eventually(lambda: desktop.evaluate(f"document.querySelector('#progress').value > {before}"))
    desktop.click("#augment-stop")
    expect(desktop.locator("#augment-stop")).to_be_hidden()


def test_a_failed_chunk_is_shown_on_its_rows_and_retried(open_page, gateway):
    def fail_second(page):
        asked = []

        def answer(route):
            asked.append(route)
            if len(asked) == 2:
                error = {
                    "code": "internal",
                    "message": "it broke",
                    "type": "server_error",
                    "param": None,
                    "request_id": "r-2",
                }
                route.fulfill(status=500, json={"error": error})
            else:
                route.continue_()

        page.route("**/augment_batch", answer)

    page = open_page(gateway, allow=[REFUSED], prepare=fail_second)
    start(page, LINES[:24])
    expect(page.locator("#augment-state")).to_contain_text("Done: 16 of 24, failed: 8. You can continue.")
    expect(page.locator("tbody.failed")).to_have_count(8)
    expect(page.locator("tbody.failed").first).to_contain_text("it broke")
    expect(page.locator("tbody.failed").first).to_contain_text("r-2")
    assert len(downloaded(page)[1]) == 17
    page.locator("tbody.failed button").first.click()
    expect(page.locator("#augment-state")).to_contain_text("All 24 done")
    expect(page.locator("tbody.failed")).to_have_count(0)
    assert len(downloaded(page)[1]) == 25


def test_failed_rows_alone_are_sent_again(open_page, gateway):
    asked = []

    def spoil_third(page):
        """The third text of the first request becomes a blank one, which the gateway refuses."""

        def answer(route):
            body = route.request.post_data_json
            asked.append(body["texts"])
            if len(asked) == 1:
                body = {**body, "texts": [*body["texts"][:2], " ", *body["texts"][3:]]}
            route.continue_(post_data=body)

        page.route("**/augment_batch", answer)

    page = open_page(gateway, prepare=spoil_third)
    start(page, LINES[:8])
    expect(page.locator("#augment-state")).to_contain_text("Done: 7 of 8, failed: 1. You can continue.")
    expect(page.locator("tbody.failed")).to_have_count(1)
    expect(page.locator("tbody.failed")).to_contain_text(LINES[2])
    expect(page.locator("tbody.failed .error")).to_contain_text("is blank")
    assert len(downloaded(page)[1]) == 8
    expect(page.locator("#retry")).to_have_text("Retry failed texts: 1")
    page.click("#retry")
    expect(page.locator("#augment-state")).to_contain_text("All 8 done")
    assert asked[1] == LINES[2:3], "what is done is not sent again"
    assert [row[1] for row in downloaded(page)[1][1:]] == LINES[:8]


def test_what_is_cut_or_exhausted_is_marked(desktop):
    desktop.fill("#max_length", "4")
    start(desktop, ["The train was late because of the snow.", "12:30"], variants=2, temperature=1)
    expect(desktop.locator("#augment-state")).to_contain_text("All 2 done")
    rows = desktop.locator(".table tbody")
    expect(rows.nth(0).locator(".mark")).to_have_count(rows.nth(0).locator("tr").count() - rows.nth(0).locator(".row-state").count())
    expect(rows.nth(0).locator(".mark").first).to_have_text("Cut at the length limit")
    expect(rows.nth(1)).to_contain_text("12:30")
    expect(rows.nth(1)).to_contain_text("The model gave no more different variants in time")
    table = downloaded(desktop)[1]
    assert table[0][4] == "finish_reason" and {row[4] for row in table[1:]} == {"length"}
    assert {row[1] for row in table[1:]} == {"The train was late because of the snow."}


def test_what_the_model_cannot_read_is_told_of_a_batch(desktop):
    desktop.check("[value=batch]")
    desktop.fill("#batch-text", "Hello there.\n今天天气很好。\nПривет")
    expect(desktop.locator("#augment-warning")).to_contain_text("2 of 3 texts")
    expect(desktop.locator("#augment-warning")).to_contain_text("number 2 first")
    desktop.fill("#batch-text", "Hello there.")
    expect(desktop.locator("#augment-warning")).to_be_hidden()


def test_a_busy_gateway_is_waited_for(open_page, gateway):
    def busy_once(page):
        asked = []

        def answer(route):
            asked.append(route)
            if len(asked) == 1:
                route.fulfill(
                    status=429, headers={"Retry-After": "1"}, json={"error": {"code": "rate_limited", "message": ""}}
                )
            else:
                route.continue_()

        page.route("**/augment_batch", answer)

    page = open_page(gateway, allow=[REFUSED], prepare=busy_once)
    start(page, LINES[:16])
    expect(page.locator("#augment-state")).to_contain_text("busy; again in 1 s")
    expect(page.locator("#augment-state")).to_contain_text("All 16 done")


def test_single_rows_that_meet_a_full_queue_are_sent_again(open_page, gateway):
    asked = []

    def full_for_one(page):
        def answer(route):
            body = route.request.post_data_json
            asked.append(body["texts"])
            if len(asked) > 1:
                return route.continue_()
            reply = route.fetch()
            answered = reply.json()
            error = {"code": "overloaded", "message": "", "type": "server_error", "param": None, "request_id": "r"}
            answered["augmented_texts"][2] = answered["finish_reasons"][2] = []
            route.fulfill(response=reply, json={**answered, "errors": [{"index": 2, "error": error}]})

        page.route("**/augment_batch", answer)

    page = open_page(gateway, prepare=full_for_one)
    start(page, LINES[:8])
    expect(page.locator("#augment-state")).to_contain_text("All 8 done")
    assert asked[1:] == [LINES[2:3]], "without a click, and the others are not sent again"
    assert [row[1] for row in downloaded(page)[1][1:]] == LINES[:8]


def test_split_switch(page):
    page.check("[value=batch]")
    page.fill("#batch-text", "一、二，三\n\n four, five \n")
    expect(page.locator("#batch-count")).to_have_text("Texts: 2")
    page.check("#split")
    expect(page.locator("#batch-count")).to_have_text("Texts: 5")
    page.reload()
    expect(page.locator("#split")).to_be_checked()
    page.check("[value=batch]")
    expect(page.locator("#batch-count")).to_have_text("Texts: 5")


@pytest.mark.parametrize(
    "encoding, shown", [("utf-8", "UTF-8"), ("utf-8-sig", "UTF-8"), ("utf-16", "UTF-16LE"), ("gb18030", "GB18030")]
)
def test_a_dropped_file_in_any_encoding(page, encoding, shown):
    drop(page, "texts.txt", "今天天气很好。\r\n我们去公园散步。\r\n".encode(encoding))
    expect(page.locator("#file-name")).to_have_text("texts.txt")
    expect(page.locator("#file-encoding")).to_contain_text(shown)
    expect(page.locator("#preview li")).to_have_text(["今天天气很好。", "我们去公园散步。"])
    expect(page.locator("#file-count")).to_have_text("Texts: 2")


def test_a_table_with_quotes_and_columns(page):
    content = 'id,text,note\r\n1,"He said ""no"",\nand left.",a\r\n2,"Second, here.",bb\r\n'
    page.check("[value=batch]")
    page.set_input_files("#file", {"name": "table.csv", "mimeType": "text/csv", "buffer": content.encode()})
    expect(page.locator("#column")).to_have_value("1")
    expect(page.locator("#preview li")).to_have_count(2)
    assert page.locator("#preview li").first.text_content() == 'He said "no",\nand left.'
    page.select_option("#column", "2")
    expect(page.locator("#preview li")).to_have_text(["a", "bb"])
    page.uncheck("#header")
    expect(page.locator("#preview li")).to_have_text(["note", "a", "bb"])
    page.select_option("#column", "1")
    page.check("#header")
    page.fill("#num_return_sequences", "1")
    page.fill("#temperature", "0")
    page.click("#augment-start")
    expect(page.locator("#augment-state")).to_contain_text("All 2 done")
    assert [row[1] for row in downloaded(page)[1][1:]] == ['He said "no",\nand left.', "Second, here."]
    page.click("#file-remove")
    expect(page.locator("#batch-text")).to_be_visible()


def test_a_file_that_is_no_text_is_refused(desktop):
    desktop.check("[value=batch]")
    desktop.fill("#batch-text", "kept")
    drop(desktop, "picture.txt", bytes(range(256)))
    expect(desktop.locator("#augment-error")).to_contain_text("picture.txt is not a text file")
    assert desktop.input_value("#batch-text") == "kept"


def test_a_download_holds_no_formula(desktop):
    start(desktop, ["=1+1", "+cmd", "-2", "@x", "plain"])
    expect(desktop.locator("#augment-state")).to_contain_text("All 5 done")
    rows = downloaded(desktop)[1]
    assert [row[1] for row in rows[1:]] == ["'=1+1", "'+cmd", "'-2", "'@x", "plain"]
    assert not any(row[3][:1] in "=+-@\t" for row in rows[1:] if row[3])


def test_a_line_too_long_is_named(desktop):
    desktop.check("[value=batch]")
    desktop.fill("#batch-text", "short\n" + "x" * 5001)
    expect(desktop.locator("#augment-error")).to_contain_text("Text 2 has 5,001 characters")
