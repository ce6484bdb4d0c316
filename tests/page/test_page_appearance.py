"""What is seen at once: weight, languages, tabs, themes, widths."""

import pytest
from playwright.sync_api import expect

from harness.browser import DESKTOP, PHONE

#: Of everything until the page can be used, uncompressed.
LIGHT_BYTES = 100_000


@pytest.mark.parametrize("path", ["/#augment", "/#translate"])
def test_first_paint_is_light(open_page, gateway, path):
    page = open_page(gateway, path=path)
    sizes = page.evaluate(
        """() => {
            const usable = performance.getEntriesByName("usable")[0].startTime;
            return [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
                .filter((entry) => entry.startTime <= usable)
                .map((entry) => [new URL(entry.name).pathname, entry.decodedBodySize]);
        }"""
    )
    assert {"/", "/assets/page.css", "/assets/main.js"} <= {name for name, _ in sizes}
    assert all(size > 0 for _, size in sizes)
    assert sum(size for _, size in sizes) < LIGHT_BYTES


@pytest.mark.parametrize(
    "locale, lang, tab",
    [("zh-CN", "zh-CN", "文本增强"), ("en-GB", "en", "Augmentation"), ("fr-FR", "en", "Augmentation")],
)
def test_language_of_the_browser(open_page, gateway, locale, lang, tab):
    page = open_page(gateway, locale=locale)
    assert page.get_attribute("html", "lang") == lang
    expect(page.locator("#tab-augment")).to_have_text(tab)


def test_language_is_switched_and_remembered(page):
    page.fill("#augment-text", "kept")
    page.click("#language")
    expect(page.locator("#tab-translate")).to_have_text("翻译")
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert page.get_attribute("#augment-text", "placeholder") == "输入要改写的文本"
    assert page.input_value("#augment-text") == "kept"
    page.reload()
    expect(page.locator("#augment-start")).to_have_text("生成")
    expect(page.locator("#augment-text")).to_have_value("kept")
    page.click("#language")
    expect(page.locator("#augment-start")).to_have_text("Generate")


def test_both_languages_say_the_same(desktop):
    chinese, english = desktop.evaluate(
        """async () => {
            const {chinese} = await import("./assets/chinese.js"), {english} = await import("./assets/english.js");
            const parts = (words) => Object.fromEntries(
                Object.entries(words).map(([key, text]) => [key, (text.match(/\\{\\w+\\}/g) ?? []).sort()]));
            return [parts(chinese), parts(english)];
        }"""
    )
    assert chinese == english


def test_tabs_by_keyboard(page):
    page.focus("#tab-augment")
    for key, shown in [
        ("ArrowRight", "translate"),
        ("ArrowRight", "augment"),
        ("End", "translate"),
        ("Home", "augment"),
        ("ArrowLeft", "translate"),
    ]:
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.id") == f"tab-{shown}"
        assert page.locator(f"#{shown}").is_visible()
        assert page.get_attribute(f"#tab-{shown}", "aria-selected") == "true"
        assert page.locator("[role=tab][tabindex='-1']").count() == 1
    page.reload()
    expect(page.locator("#translate")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("tab", ["augment", "translate"])
@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_phone_never_scrolls_sideways(open_page, gateway, theme, tab, locale):
    page = open_page(gateway, path=f"/#{tab}", locale=locale, color_scheme=theme, **PHONE)
    field = "#augment-text" if tab == "augment" else "#source"
    page.fill(field, "x" * 600)
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_dark_is_dark(open_page, gateway):
    def brightness(page):
        red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")[
            :3
        ]
        return (red + green + blue) / 3

    assert brightness(open_page(gateway, color_scheme="light", **DESKTOP)) > 200
    assert brightness(open_page(gateway, color_scheme="dark", **DESKTOP)) < 60


def test_motion_stops_for_who_wants_none(open_page, gateway):
    page = open_page(gateway, path="/#translate", reduced_motion="reduce")
    page.evaluate("document.querySelector('#translate-state').dataset.state = 'translating'")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#translate-state'), '::before').animationName")
        == "none"
    )


def test_page_works_below_a_prefix(desktop):
    """Every address of the page is relative."""
    html = desktop.request.get(desktop.url).text()
    assert 'src="/' not in html and 'href="/' not in html
    assert (
        desktop.evaluate(
            """async () => {
            const {address} = await import("./assets/gateway.js");
            return address("ws/translate").pathname;
        }"""
        )
        == "/ws/translate"
    )


def test_policy_forbids_the_rest(desktop):
    answer = desktop.request.get(desktop.url)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<style" not in answer.text() and "style=" not in answer.text() and "<script>" not in answer.text()
