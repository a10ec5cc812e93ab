"""Make the pictures of docs/mlflow.md from any store: python docs/screenshots.py sqlite:///mlruns/mlflow.db docs/mlflow

It needs Chromium, and Playwright, which nothing else here uses: pip install playwright. It leaves out pictures of
missing runs (a sweep).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Page, sync_playwright

FLAGS = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
FRECHET = "summary/frechet"
DISTANCE = "validation/frechet"
COLUMNS = ["attributes.`Dataset`", *(f"tags.`{name}`" for name in ("method", "family", "base_model", "steps"))]
SLOW_MS = 120_000


@contextlib.contextmanager
def served(uri: str) -> Iterator[str]:
    """Serve MLflow's pages of a store on a free loopback port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    server = subprocess.Popen([*command, "--port", str(port), "--workers", "1"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/#/experiments"
    finally:
        server.terminate()
        server.wait(timeout=30)


def visitor(experiment: str) -> str:
    """Settings that a visitor would choose: model training, no assistant, columns that distinguish runs."""
    view = {"orderByKey": "attributes.start_time", "selectedColumns": [*COLUMNS, f"metrics.`{FRECHET}`"]}
    stored = {
        "mlflow.workflowType_v1": json.dumps("machine_learning"),
        "mlflow.assistant.panelOpen_v1": "false",
        "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
        f'MLflowLocalStorage-1.1-ExperimentPage-["{experiment}"]-ReactComponentState': json.dumps(view),
    }
    return f"for (const [name, value] of Object.entries({json.dumps(stored)})) localStorage.setItem(name, value)"


def runs(page: Page, home: str, run: Run, trials: list[Run]) -> None:
    page.goto(f"{home}/{run.info.experiment_id}/runs")
    page.get_by_text(run.info.run_name, exact=True).first.wait_for(timeout=SLOW_MS)
    page.get_by_role("button", name="Toggle sidebar").first.click()  # makes room for the columns


def overview(page: Page, home: str, run: Run, trials: list[Run]) -> None:
    page.goto(f"{home}/{run.info.experiment_id}/runs/{run.info.run_id}")
    page.get_by_text("Parameters", exact=False).first.wait_for(timeout=SLOW_MS)


def metrics(page: Page, home: str, run: Run, trials: list[Run]) -> None:
    page.goto(f"{home}/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics")
    page.get_by_placeholder("Search metric charts").fill("loss|grad_norm", timeout=SLOW_MS)
    page.get_by_text("grad_norm", exact=True).first.wait_for(timeout=SLOW_MS)


def system(page: Page, home: str, run: Run, trials: list[Run]) -> None:
    page.goto(f"{home}/{run.info.experiment_id}/runs/{run.info.run_id}/system-metrics")
    page.get_by_text("cpu_utilization", exact=False).first.wait_for(timeout=SLOW_MS)


def video(page: Page, home: str, run: Run, trials: list[Run]) -> None:
    page.goto(f"{home}/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts")
    for name in ("videos", "step_", "student", ".mp4"):
        entry = page.get_by_text(name, exact=not name.startswith((".", "step_")))
        (entry.first if name == ".mp4" else entry.last).click(timeout=SLOW_MS)
        page.wait_for_timeout(1000)
    page.locator("video").wait_for(timeout=SLOW_MS)
    page.get_by_text("Path: ", exact=False).last.evaluate("e => e.style.visibility = 'hidden'")  # of one machine
    page.locator("video").evaluate(
        "v => new Promise(done => { v.muted = true; v.ontimeupdate = () => v.currentTime > 0.3 && done(v.pause());"
        " v.play() })"
    )


def sweep(page: Page, home: str, run: Run, trials: list[Run]) -> None:
    ids, experiments = (json.dumps(values) for values in ([t.info.run_id for t in trials], [run.info.experiment_id]))
    page.goto(f"{home.removesuffix('/experiments')}/compare-runs?runs={ids}&experiments={experiments}")
    page.get_by_text("Parallel Coordinates Plot").first.wait_for(timeout=SLOW_MS)
    chosen = page.locator(".du-bois-light-select-multiple").nth(1)  # the metrics; the first holds the parameters
    chosen.locator(".du-bois-light-select-selector").click(timeout=SLOW_MS)
    page.keyboard.press("Backspace")  # the metric that MLflow has chosen
    page.keyboard.type(DISTANCE)
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.get_by_role("heading").first.click()


HEIGHTS = {"runs": 400, "video": 560}  # the rest of these pages is empty
PICTURES: dict[str, Callable[[Page, str, Run, list[Run]], None]] = {
    picture.__name__: picture for picture in (runs, overview, metrics, system, video, sweep)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uri")
    parser.add_argument("out", type=Path)
    parser.add_argument("--experiment", default="ray_distill")
    parser.add_argument("--only", nargs="*", choices=PICTURES, default=list(PICTURES))
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    args = parser.parse_args()
    client = MlflowClient(args.uri)
    experiment = client.get_experiment_by_name(args.experiment).experiment_id
    found = client.search_runs([experiment])
    measured = next((run for run in found if FRECHET in run.data.metrics), found[0])
    parents = [run.data.tags["mlflow.parentRunId"] for run in found if "mlflow.parentRunId" in run.data.tags]
    trials = [run for run in found if parents and run.data.tags.get("mlflow.parentRunId") == parents[0]]
    args.out.mkdir(parents=True, exist_ok=True)
    with served(args.uri) as home, sync_playwright() as playwright:
        flags = [f"--{flag}" for flag in FLAGS.split()]
        browser = playwright.chromium.launch(executable_path=args.chromium, args=flags)
        for name in args.only:
            if name == "sweep" and not trials:
                continue
            page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
            page.add_init_script(visitor(experiment))
            PICTURES[name](page, home, measured, trials)
            page.wait_for_timeout(5000)  # charts appear after their data
            shown = {"x": 0, "y": 0, "width": 1400, "height": HEIGHTS.get(name, 900)}
            page.screenshot(path=args.out / f"{name}.png", clip=shown)
            print(args.out / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
