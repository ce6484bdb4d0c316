"""What goes wrong is said at once, in place, and nothing typed is lost; and no text is ever taken for a page's own."""

import time

import pytest
from playwright.sync_api import expect

from harness.browser import BROKEN_SOCKET, REFUSED
from harness.repository import Repository
from harness.server import TritonServer
from harness.tokens import signed_token

ATTACKS = ['<img src=x onerror="window.hit=1">', '"><script>window.hit=1</script>', "<svg/onload=window.hit=1>"]


def test_triton_is_gone_and_comes_back(open_page, own_gateway, tmp_path):
    repository = Repository(tmp_path / "repository")
    repository.add_demo()
    first = TritonServer(repository.path, tmp_path / "triton.log")
    with first, own_gateway(triton=first) as gateway:
        page = open_page(gateway, allow=[REFUSED])
        assert first.stop() == 0
        page.fill("#augment-text", "Kept text.")
        page.click("#augment-start")
        expect(page.locator("#augment-failure")).to_contain_text("not available")
        expect(page.locator("#augment-failure .request-id")).to_contain_text("Request ")
        expect(page.locator("#augment-notice")).to_contain_text("not ready")
        assert page.input_value("#augment-text") == "Kept text."
        page.click("#tab-translate")
        page.fill("#source", "Kept too.")
        page.click("#translate-start")
        expect(page.locator("#translate-state")).to_have_attribute("data-state", "failed")
        expect(page.locator("#translate-failure")).to_contain_text("not available")
        page.click("#language")
        expect(page.locator("#translate-failure strong")).to_have_text("模型服务暂时不可用")
        second = TritonServer(repository.path, tmp_path / "again.log")
        second.http_port, second.grpc_port, second.metrics_port = first.http_port, first.grpc_port, first.metrics_port
        with second:
            expect(page.locator("#translate-notice")).to_be_hidden(timeout=60_000)
            page.click("#translate-start")
            expect(page.locator("#translate-state")).to_have_attribute("data-state", "done")
            expect(page.locator("#translate-failure")).to_be_hidden()
        page.context.close()


def test_the_gateway_is_gone(open_page, own_gateway):
    with own_gateway() as gateway:
        page = open_page(gateway, allow=[REFUSED, BROKEN_SOCKET])
        page.fill("#augment-text", "Kept text.")
        gateway.kill()
        page.click("#augment-start")
        expect(page.locator("#augment-failure")).to_contain_text("cannot be reached")
        expect(page.locator("#offline")).to_be_visible()
        page.click("#tab-translate")
        page.fill("#source", "Kept too.")
        page.click("#translate-start")
        expect(page.locator("#translate-failure")).to_contain_text("cannot be reached")
        gateway.start()
        gateway.until_ready()
        expect(page.locator("#offline")).to_be_hidden(timeout=40_000)
        page.click("#translate-start")
        expect(page.locator("#translate-state")).to_have_attribute("data-state", "done")
        page.context.close()


def test_a_batch_halts_when_every_chunk_would_fail(open_page, gateway):
    page = open_page(
        gateway, allow=[REFUSED], prepare=lambda page: page.route("**/augment_batch", lambda route: route.abort())
    )
    page.check("[value=batch]")
    page.fill("#batch-text", "\n".join(f"Line {number}." for number in range(80)))
    page.fill("#temperature", "0")
    page.click("#augment-start")
    expect(page.locator("#augment-failure")).to_contain_text("cannot be reached")
    expect(page.locator("tbody.waiting").first).to_be_visible()
    page.unroute("**/augment_batch")
    page.click("#retry")
    expect(page.locator("#augment-state")).to_contain_text("All 80 done")


def test_a_token_is_asked_for_and_kept_for_the_tab(open_page, own_gateway, tmp_path):
    secret = b"0123456789abcdef0123456789abcdef"
    key = tmp_path / "key"
    key.write_bytes(secret)
    with own_gateway("--jwt-key-file", str(key)) as gateway:
        page = open_page(gateway, allow=[REFUSED, BROKEN_SOCKET])
        expect(page.locator("#token")).to_be_visible()
        page.fill("#augment-text", "The cat sleeps.")
        page.fill("#temperature", "0")
        page.click("#augment-start")
        expect(page.locator("#augment-failure")).to_contain_text("token")
        expect(page.locator("#token-error")).to_be_visible()
        page.fill("#token-value", signed_token(secret, sub="reader", exp=int(time.time()) + 600))
        page.press("#token-value", "Enter")
        expect(page.locator("#token-error")).to_be_hidden()
        page.click("#augment-start")
        expect(page.locator("#variants li")).to_have_count(3)
        page.click("#tab-translate")
        page.fill("#source", "The cat sleeps.")
        page.click("#translate-start")
        expect(page.locator("#translate-state")).to_have_attribute("data-state", "done")
        expect(page.locator("#way")).to_have_attribute("data-way", "socket")
        assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes('token'))") == []
        assert page.evaluate("document.cookie") == ""
        page.click("#token-forget")
        assert page.evaluate("sessionStorage.getItem('textgen.token')") is None
        page.context.close()


def unharmed(page):
    assert page.evaluate("window.hit") is None
    assert page.locator("main img, main script, main svg:not(.swap svg)").count() == 0


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_stay_text(page, attack):
    page.check("[value=batch]")
    page.fill("#batch-text", attack)
    page.click("#augment-start")
    expect(page.locator("#augment-state")).to_contain_text("done, in")
    expect(page.locator(".table tbody th")).to_have_text(attack)
    page.check("[value=single]")
    page.fill("#augment-text", attack)
    page.select_option("#task", "classify")
    page.fill("#labels", f"{attack}\nother")
    page.click("#augment-start")
    expect(page.locator(".bar-name").first).to_have_text(attack)
    unharmed(page)
    page.click("#tab-translate")
    page.fill("#source", attack)
    page.click("#translate-start")
    expect(page.locator("#translate-state")).to_have_attribute("data-state", "done")
    expect(page.locator(".past-text")).to_have_text(attack)
    page.reload()
    expect(page.locator(".past-text")).to_have_text(attack)
    unharmed(page)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_in_answers_and_files_stay_text(open_page, gateway, attack):
    def hostile(page):
        error = {"code": "internal", "message": attack, "request_id": attack}
        page.route("**/augment_batch", lambda route: route.fulfill(status=500, json={"error": error}))
        page.route("**/augment", lambda route: route.fulfill(json={"augmented_texts": [attack], "request_id": "r"}))

    page = open_page(gateway, allow=[REFUSED], prepare=hostile)
    page.fill("#augment-text", "x")
    page.click("#augment-start")
    expect(page.locator(".variant")).to_have_text(attack)
    quoted = attack.replace('"', '""')
    table = f'id;"{quoted}"\n1;"{quoted}"\n'
    page.check("[value=batch]")
    page.set_input_files(
        "#file", {"name": f"{attack}.csv".replace("/", "_"), "mimeType": "text/csv", "buffer": table.encode()}
    )
    page.check("#header")
    page.click("#augment-start")
    expect(page.locator("tbody.failed .detail").first).to_have_text(attack)
    assert page.locator("#file-name").inner_text() == f"{attack}.csv".replace("/", "_")
    unharmed(page)
