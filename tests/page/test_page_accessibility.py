"""For who uses a keyboard, a screen reader, or needs contrast."""

import pytest
from playwright.sync_api import expect

from harness.browser import DESKTOP, PHONE, REFUSED

ROLES = {
    "button",
    "checkbox",
    "switch",
    "combobox",
    "listbox",
    "link",
    "radio",
    "slider",
    "spinbutton",
    "tab",
    "textbox",
    "tabpanel",
    "progressbar",
    "table",
    "region",
}

CONTRASTS = """() => {
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (channel) => (channel /= 255) <= 0.03928 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4;
    const luminance = ([red, green, blue]) => 0.2126 * light(red) + 0.7152 * light(green) + 0.0722 * light(blue);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgb(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!(own || element.value || element.placeholder) || !element.checkVisibility()) continue;
        if (element.matches(":disabled, option") || element.closest(".unseen, noscript")) continue;
        const colour = getComputedStyle(element, own || element.value ? null : "::placeholder").color;
        const [one, other] = [luminance(rgb(colour)), luminance(ground(element))].sort((a, b) => b - a);
        const name = `${element.tagName}#${element.id}.${element.className} ${element.textContent.slice(0, 30)}`;
        found.push([(one + 0.05) / (other + 0.05), name]);
    }
    return found;
}"""


def show_everything(page, tab):
    """Brings results, failures and notices into view."""
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    if tab == "augment":
        page.fill("#temperature", "9")
        page.fill("#temperature", "0.85")
        page.fill("#augment-text", "The train was late.")
        # A greedy answer is there as often as it is asked for.
        page.fill("#temperature", "0")
        page.click("#augment-start")
        expect(page.locator("#variants li")).to_have_count(3)
        page.fill("#max_length", "0")
        page.fill("#augment-text", "x" * 5001)
        expect(page.locator("#augment-error")).to_be_visible()
    else:
        expect(page.locator("#target-language")).to_have_value("pt")
        page.fill("#source", "The train was late.")
        page.click("#translate-start")
        expect(page.locator("#history-list li")).to_have_count(1)
        page.fill("#source", "x" * 20_001)
        expect(page.locator("#source-error")).to_be_visible()
    page.evaluate(
        "document.querySelectorAll('.notice').forEach((at) => { at.hidden = false; at.textContent ||= 'notice'; })"
    )
    page.evaluate("document.querySelector('#token').hidden = false")


@pytest.mark.parametrize("tab", ["augment", "translate"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(open_page, gateway, theme, tab):
    page = open_page(gateway, path=f"/#{tab}", color_scheme=theme, reduced_motion="reduce")
    show_everything(page, tab)
    page.mouse.move(0, 0)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 15
    assert [entry for entry in found if entry[0] < 4.5] == []


@pytest.mark.parametrize("tab", ["augment", "translate"])
@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_every_control_has_a_name(open_page, gateway, tab, locale):
    page = open_page(gateway, path=f"/#{tab}", locale=locale)
    show_everything(page, tab)
    if tab == "augment":
        page.select_option("#task", "classify")
        page.check("[value=batch]")
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if not node["ignored"] and node["role"]["value"].lower() in ROLES]
    assert len(controls) > 8
    assert [node for node in controls if not node.get("name", {}).get("value", "").strip()] == []


@pytest.mark.parametrize("tab", ["augment", "translate"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_tab_reaches_every_control(open_page, gateway, tab, size):
    page = open_page(gateway, path=f"/#{tab}", **size)
    show_everything(page, tab)
    marked = page.evaluate(
        """() => {
            const all = document.querySelectorAll("button, input, select, textarea, summary, [tabindex='0']");
            const controls = [...all].filter(
                (element) => element.checkVisibility() && !element.disabled && element.tabIndex >= 0
                    && !(element.type === "radio" && !element.checked));
            controls.forEach((element, place) => (element.dataset.place = place));
            document.activeElement.blur();
            return controls.length;
        }"""
    )
    assert marked > 8
    reached, hidden = set(), []
    for _ in range(marked + 5):
        page.keyboard.press("Tab")
        place, ring = page.evaluate(
            """() => {
                const at = document.activeElement;
                const outlined = (one) => one && getComputedStyle(one).outlineStyle !== "none";
                const rings = [at, at.nextElementSibling].filter(outlined);
                return [at.dataset.place ?? null, rings.length > 0];
            }"""
        )
        if place is not None:
            reached.add(place)
            if not ring:
                hidden.append(place)
    assert len(reached) == marked
    assert hidden == []


def test_states_are_announced(open_page, gateway):
    page = open_page(gateway, allow=[REFUSED])
    for place in (
        "#augment-state",
        "#translate-state",
        "#augment-notice",
        "#translate-notice",
        "#offline",
        "#announcement",
    ):
        assert page.get_attribute(place, "role") == "status"
    for place in ("#augment-error", "#augment-failure", "#source-error", "#translate-failure"):
        assert page.get_attribute(place, "role") == "alert"
