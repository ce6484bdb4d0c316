"""Makes the pictures of the web page in docs/. Usage, after `make demo-models`, the backend and the gateway are built:
.venv/bin/python tools/screenshots.py"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from playwright.sync_api import expect, sync_playwright

from harness import places
from harness.browser import CHROMIUM, FLAGS
from harness.gateway import Gateway
from harness.server import TritonServer

PICTURES = ROOT / "docs"
DESKTOP = {"viewport": {"width": 1120, "height": 730}, "locale": "en-US", "color_scheme": "light"}
PHONE = {
    "viewport": {"width": 360, "height": 720},
    "locale": "zh-CN",
    "color_scheme": "dark",
    "is_mobile": True,
    "device_scale_factor": 1.5,
}
REPORT = "The train was late because of the snow, and we had to wait an hour at the station."
LETTER = (
    "Dear friends,\n\nThank you for your letter. We arrived home last night, tired but happy. The children talk about"
    " the sea every day, and they want to come back next summer.\n\nThe garden is full of tomatoes."
    " Come and visit us soon!"
)


def augmentation(page) -> None:
    """One text with its variants."""
    page.fill("#augment-text", REPORT)
    page.fill("#num_return_sequences", "5")
    page.locator("#temperature").fill("1.1")
    page.click("summary")
    page.fill("#seed", "7")
    page.click("summary")
    page.click("#augment-start")
    expect(page.locator("#variants li")).to_have_count(5)


def translation(page) -> None:
    """A letter, translated."""
    expect(page.locator("#target-language")).to_have_value("pt")
    page.fill("#source", LETTER)
    page.click("#translate-start")
    expect(page.locator("#translate-state")).to_have_attribute("data-state", "done")


def picture(browser, url: str, name: str, tab: str, fill, options) -> None:
    """Writes docs/NAME.png."""
    context = browser.new_context(reduced_motion="reduce", **options)
    page = context.new_page()
    page.goto(f"{url}/#{tab}")
    fill(page)
    page.evaluate("document.activeElement.blur()")
    page.evaluate("scrollTo(0, 0); document.querySelectorAll('textarea').forEach((field) => field.scrollTo(0, 0))")
    page.mouse.move(0, 0)
    page.screenshot(path=PICTURES / f"{name}.png")
    context.close()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        log = Path(folder)
        with TritonServer(places.MODELS / "int8", log / "triton.log") as triton:
            with Gateway(triton.grpc_port, log / "gateway.log") as gateway:
                gateway.until_ready()
                browser = playwright.chromium.launch(executable_path=str(CHROMIUM), headless=True, args=FLAGS)
                picture(browser, gateway.url, "augmentation", "augment", augmentation, DESKTOP)
                picture(browser, gateway.url, "translation", "translate", translation, DESKTOP)
                picture(browser, gateway.url, "phone", "translate", translation, PHONE)
                browser.close()


if __name__ == "__main__":
    main()
