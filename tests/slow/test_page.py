"""The page in a browser: a click plays a row in step, nothing leaves, no error; a planted request is seen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ray_distill.report.page import write_page
from tests.slow.chromium import Tab, tab
from tests.unit.report.runs import clips, whole

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the page is not played"),
]
ROW = "document.querySelector('[data-strip]')"
VIDEOS = f"[...{ROW}.querySelectorAll('video')]"


def page(folder: Path) -> Path:
    run = whole(folder)
    for name in ("teacher_many", "student_before", "student"):
        clips(run / "videos" / name, 90, frames=16)
    return write_page(run)


def complaints(browser: Tab) -> list[str]:
    """Errors and warnings of the page: of its script, of its console, of its policy."""
    texts = []
    for event in browser.events:
        if event.get("method") == "Runtime.exceptionThrown":
            texts.append(str(event["params"]["exceptionDetails"]))
        elif event.get("method") == "Runtime.consoleAPICalled":
            texts.append(str(event["params"]["args"]))
        elif event.get("method") == "Log.entryAdded":
            texts.append(event["params"]["entry"]["text"])
    return texts


def requests(browser: Tab) -> list[str]:
    """Addresses that the page asked for, but for its own and those that hold their content."""
    sent = [event for event in browser.events if event.get("method") == "Network.requestWillBeSent"]
    addresses = [event["params"]["request"]["url"] for event in sent]
    return [address for address in addresses if not address.startswith(("data:", "file:", "about:"))]


def test_a_click_plays_a_row_in_step_and_nothing_leaves(tmp_path: Path) -> None:
    address = page(tmp_path).as_uri()
    with tab(str(CHROMIUM), tmp_path / "profile") as browser:
        browser.open(address)
        loaded = "Promise.all([...document.querySelectorAll('video')].map(v => v.readyState > 1 ||"
        browser.value(f"{loaded} new Promise((yes, no) => {{ v.onloadeddata = yes; v.onerror = no; }}))).then(() => 0)")
        assert browser.value(f"{VIDEOS}.map(v => [v.videoWidth, v.duration])") == [[16, 2], [16, 2], [16, 2]]
        assert browser.value(f"{VIDEOS}.every(v => v.paused)")
        browser.value(f"{ROW}.querySelector('figure').click()")
        later = (
            "new Promise(done => { const look = () => x.currentTime > 0.4 ? done() : setTimeout(look, 20); look(); })"
        )
        times = browser.value(f"{later.replace('x', VIDEOS + '[0]')}.then(() => {VIDEOS}.map(v => v.currentTime))")
        assert len(times) == 3 and max(times) - min(times) < 0.25 and min(times) > 0.1
        assert browser.value(f"{ROW}.querySelector('button').textContent") == "Pause"
        others = "[...document.querySelectorAll('[data-strip]')][1].querySelectorAll('video')"
        assert browser.value(f"[...{others}].every(v => v.paused)")
        browser.value(f"{ROW}.querySelector('button').click()")
        assert browser.value(f"{VIDEOS}.every(v => v.paused)")
        slide = f"(s => {{ s.value = 0.5; s.dispatchEvent(new Event('input')); }})({ROW}.querySelector('input'))"
        browser.value(slide)
        assert browser.value(f"{VIDEOS}.map(v => v.currentTime)") == [1, 1, 1]
        assert browser.value("[...document.images].every(i => i.src.startsWith('data:'))")
        assert complaints(browser) == [] and requests(browser) == []


def test_a_planted_address_is_refused_and_seen(tmp_path: Path) -> None:
    path = page(tmp_path)
    path.write_text(path.read_text().replace("<footer>", '<img src="http://127.0.0.1:9/x.png"><footer onclick="0">'))
    with tab(str(CHROMIUM), tmp_path / "profile") as browser:
        browser.open(path.as_uri())
        assert any("Content Security Policy" in text for text in complaints(browser))
