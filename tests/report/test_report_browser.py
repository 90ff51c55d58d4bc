"""The report in a real browser, offline: the slider, the videos, the plot; at a desk and on a phone, light and dark."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    # As root, which is what containers run as, Chromium starts without its sandbox only.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield opened
        opened.close()


@pytest.fixture(params=[(1280, 900, "light"), (390, 844, "dark")], ids=["desk", "phone"])
def page(request, browser, reported) -> Iterator[playwright.Page]:
    """The report; at the end, it must have complained of nothing and asked for nothing."""
    width, height, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    opened, bad = context.new_page(), []
    opened.on("console", lambda message: bad.append(message.text))
    opened.on("pageerror", lambda error: bad.append(str(error)))
    opened.on("request", lambda asked: bad.append(asked.url) if asked.url.split(":")[0] not in LOCAL else None)
    opened.goto((reported / "report.html").as_uri())
    yield opened
    context.close()
    assert bad == []


LOCAL = {"file", "data", "blob"}


def seen(locator: playwright.Locator) -> np.ndarray:
    """Pixels [H, W, 3] as they are on the screen."""
    return np.array(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def test_slider_moves_and_changes_what_is_seen(page):
    box = page.locator("#compare .compare")
    box.scroll_into_view_if_needed()
    place = box.bounding_box()
    middle = place["y"] + place["height"] / 2
    pictures = {}
    for share in (0.05, 0.95):
        page.mouse.move(place["x"] + place["width"] * 0.5, middle)
        page.mouse.down()
        page.mouse.move(place["x"] + place["width"] * share, middle, steps=4)
        page.mouse.up()
        cut = page.evaluate("getComputedStyle(document.querySelector('.compare .over')).clipPath")
        assert float(cut.split()[-1].rstrip("%)")) == pytest.approx(100 * share, abs=4)
        pictures[share] = seen(box)
    # negative on the right, rendered on the left: what lies between the two places is the one, then the other.
    height, width = pictures[0.05].shape[:2]
    between = np.s_[height // 3 : height // 3 + 40, width // 4 : width // 3]
    assert np.abs(pictures[0.05][between] - pictures[0.95][between]).mean() > 20
    assert np.abs(pictures[0.05][between] + pictures[0.95][between] - 255).mean() < 30


def test_slider_obeys_the_keyboard_and_another_viewpoint_and_task_can_be_chosen(page):
    box, cut = page.locator("#compare .compare"), page.locator("#compare .compare input")
    cut.focus()
    page.keyboard.press("Home")
    assert cut.input_value() == "0"
    first = page.locator(".over").get_attribute("src")
    page.locator("#compare .frame").fill("1")
    assert page.locator("#compare output").inner_text() == "0001"
    assert page.locator(".over").get_attribute("src") != first
    tab = page.get_by_role("tab", name="rendered | lifted recolor")
    before = seen(box)
    tab.click()
    assert tab.get_attribute("aria-selected") == "true"
    assert page.get_by_role("tab", selected=True).count() == 1
    assert np.abs(seen(box) - before).mean() > 20


def wait(page: playwright.Page, condition: str) -> None:
    """Until a condition in JavaScript holds; the page's own policy forbids playwright to do this by itself."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never: {condition}")


TIMES = "[...document.querySelectorAll('.videos')[0].querySelectorAll('video')].map(v => v.currentTime)"


def test_videos_play_in_step_and_can_be_moved_to(page):
    page.locator(".videos").first.scroll_into_view_if_needed()
    wait(page, f"{TIMES}[0] > 0.3")
    before = page.evaluate(TIMES)
    page.wait_for_timeout(400)
    after = page.evaluate(TIMES)
    assert len(after) == 3
    assert after[0] != before[0]
    assert max(after) - min(after) < 0.15
    page.locator(".videos + .scrub input").first.fill("500")
    wait(page, f"{TIMES}.every(t => Math.abs(t - 1) < 0.05)")  # of 8 frames, 4 a second
    paused = page.evaluate(TIMES)
    page.wait_for_timeout(300)
    assert page.evaluate(TIMES) == paused
    page.locator(".videos + .scrub button").first.click()
    wait(page, f"{TIMES}[0] > 1.1")


def test_videos_start_again_together(page):
    page.locator(".videos").first.scroll_into_view_if_needed()
    wait(page, f"{TIMES}[0] > 1.2")
    wait(page, f"{TIMES}[0] < 0.8 && {TIMES}[0] > 0.1")
    times = page.evaluate(TIMES)
    assert max(times) - min(times) < 0.15


def test_plot_turns_and_names_the_photo_under_the_pointer(page):
    canvas, tip = page.locator("canvas"), page.locator(".plot figure")
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    before, place = seen(canvas), canvas.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + 30
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y + 20, steps=4)
    page.mouse.up()
    page.wait_for_timeout(200)
    turned = seen(canvas)
    assert (np.abs(turned - before).max(2) > 20).mean() > 0.005
    page.get_by_label("surface points").uncheck()
    page.wait_for_timeout(100)
    assert (np.abs(seen(canvas) - turned).max(2) > 20).mean() > 0.0005
    for u in np.linspace(0.2, 0.8, 25):
        for v in np.linspace(0.3, 0.8, 12):
            page.mouse.move(place["x"] + u * place["width"], place["y"] + v * place["height"])
            if tip.is_visible():
                assert page.locator(".plot figcaption").inner_text().startswith("images/0")
                return
    raise AssertionError("no photo in the plot")


def test_page_fits_its_window_and_follows_the_scheme(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(", "))) < 150) == dark
