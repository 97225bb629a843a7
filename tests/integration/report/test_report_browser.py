"""The report in a real browser: headless Chromium, no network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no Chromium with its driver (Debian: apt-get install chromium chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def page(report_path: Path) -> str:
    return report_path.resolve().as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1300,1000",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, page: str) -> Iterator[Any]:
    """The page, laid out and ready; afterwards its console must hold no complaint."""
    _open(browser, page)
    yield browser
    complaints = [
        entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]
    assert complaints == []


def _open(browser: Any, page: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get_log("performance")
    browser.get(page)
    WebDriverWait(browser, 60).until(
        lambda driver: driver.execute_script("return window.explorer?.ready === true")
    )
    # bokeh draws after it is ready; two frames later the canvases are filled
    browser.execute_async_script(
        "const done = arguments[0]; setTimeout(() => requestAnimationFrame(done), 400);"
    )


def test_it_renders_and_asks_the_network_for_nothing(opened: Any) -> None:
    assert len(opened.find_elements("css selector", ".panels .plot")) == 3
    assert opened.execute_script("return document.getElementById('sprite').naturalWidth") > 0
    broken = opened.execute_script(
        "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    )
    assert broken == 0
    asked = [
        message["params"]["request"]["url"]
        for entry in opened.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    assert any(url.startswith("file:") for url in asked), "the page is not in the log"
    # chrome:// is the browser's own empty tab, which it opens before ours
    own = ("file:", "data:", "blob:", "chrome:", "about:")
    assert [url for url in asked if not url.startswith(own)] == []


def test_hovering_shows_the_image_and_its_label(opened: Any) -> None:
    shown = _hover(opened, panel=0, point=7)
    label = opened.execute_script(
        "const d = JSON.parse(document.getElementById('explorer-data').textContent);"
        "return [d.classes[d.labels[7]], d.position[7]]"
    )
    assert shown["hidden"] is False
    assert label[0] in shown["text"]
    assert f"test image {label[1]}" in shown["text"]
    assert "KNN here says" in shown["text"]
    assert shown["bright"] > 200, "the card's image is black"
    # the same image is marked on every map
    assert opened.execute_script(
        "return Bokeh.documents[0].get_model_by_name('source').inspected.indices"
    ) == [7]


def test_a_selection_is_shared_by_all_maps(opened: Any) -> None:
    from selenium.webdriver import ActionChains

    plot = opened.find_elements("css selector", ".panels .plot")[1]
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    size = plot.size
    corner = (-int(size["width"] * 0.3), -int(size["height"] * 0.3))
    actions = ActionChains(opened).move_to_element_with_offset(plot, *corner).click_and_hold()
    actions.move_by_offset(int(size["width"] * 0.5), int(size["height"] * 0.6)).release().perform()
    _wait(opened, "document.querySelectorAll('#gallery canvas').length > 0")
    selected = opened.execute_script(
        "return Bokeh.documents[0].get_model_by_name('source').selected.indices.length"
    )
    sources = opened.execute_script(
        "return new Set([0, 1, 2].map(i => Bokeh.documents[0].get_model_by_name"
        "(`points-${i}`).data_source.id)).size"
    )
    assert 0 < selected < 400
    assert sources == 1
    assert opened.find_element("id", "selected").text.startswith(f"{selected} of 400 selected")
    opened.find_element("css selector", "#selected button").click()
    _wait(opened, "document.querySelectorAll('#gallery canvas').length === 0")


def test_maps_and_classes_can_be_chosen(opened: Any) -> None:
    from selenium.webdriver.support.ui import Select

    Select(opened.find_element("css selector", "select[data-panel='2']")).select_by_index(0)
    field = opened.execute_script(
        "return Bokeh.documents[0].get_model_by_name('points-2').glyph.x.field"
    )
    assert field == "x0"
    chip = opened.find_element("css selector", "#classes button")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    shown = opened.execute_script(
        "return Bokeh.documents[0].get_model_by_name('filter').booleans.filter(Boolean).length"
    )
    assert 0 < shown < 400


def test_a_search_selects_and_one_image_shows_its_neighbours(opened: Any) -> None:
    """By class, by number, by error; neighbours are those of the map by brute force."""
    box = opened.find_element("id", "find")
    data = opened.execute_script(
        "return JSON.parse(document.getElementById('explorer-data').textContent)"
    )
    first = data["predicted"][str(data["first"][0])]
    wanted = {
        "3": [i for i, label in enumerate(data["labels"]) if label == 3],
        "wrong": [i for i, label in enumerate(data["labels"]) if label != first[i]],
        f"#{data['position'][5]}": [5],
    }
    for text, rows in wanted.items():
        box.clear()
        box.send_keys(text)
        assert _selected(opened) == rows
    headings = opened.find_elements("css selector", "#neighbours h3")
    assert len(headings) == 3
    titles = opened.execute_script(
        "return [...document.querySelectorAll('#neighbours h3 + div')][0].children.length"
        " && [...document.querySelectorAll('#neighbours h3 + div')]"
        ".map(row => [...row.children].map(item => item.title))"
    )
    for panel, shown in enumerate(titles):
        points = opened.execute_script(
            "const s = Bokeh.documents[0].get_model_by_name('source');"
            "return ['x', 'y'].map(axis => Array.from(s.get(axis + arguments[0])))",
            data["first"][panel],
        )
        far = np.hypot(*(np.array(axis) - axis[5] for axis in points))
        nearest = [int(i) for i in np.argsort(far, kind="stable") if i != 5][:8]
        assert shown == [f"test image {data['position'][i]}" for i in nearest]
    opened.find_element("css selector", "#neighbours button").click()
    assert len(_selected(opened)) == 1
    box.clear()
    box.send_keys("no such class")
    assert _selected(opened) == []
    assert opened.find_element("id", "found").text.startswith("Nothing found")


def test_maps_can_be_coloured_by_error(opened: Any) -> None:
    from selenium.webdriver.support.ui import Select

    legend = opened.find_element("id", "errors")
    assert not legend.is_displayed()
    Select(opened.find_element("id", "color-by")).select_by_value("error")
    assert legend.is_displayed()
    field, codes, wrong = opened.execute_script(
        "const model = (name) => Bokeh.documents[0].get_model_by_name(name);"
        "const d = JSON.parse(document.getElementById('explorer-data').textContent);"
        "return [model('points-1').glyph.fill_color.field, Array.from(model('source').get('error1')),"
        " d.predicted[d.first[1]].map((guess, i) => Number(guess !== d.labels[i]))]"
    )
    assert field == "error1"
    assert codes == wrong
    assert 0 < sum(wrong) < len(wrong)
    Select(opened.find_element("id", "color-by")).select_by_value("class")
    assert not legend.is_displayed()


def _selected(browser: Any) -> list[int]:
    found: list[int] = browser.execute_script(
        "return Array.from(Bokeh.documents[0].get_model_by_name('source').selected.indices)"
    )
    return found


@pytest.mark.parametrize("column", [0, 2])
def test_sorting_sorts(opened: Any, column: int) -> None:
    def column_values() -> list[str]:
        values: list[str] = opened.execute_script(
            "return [...document.querySelectorAll('.headline tbody tr')]"
            ".map(row => row.cells[arguments[0]].dataset.sort)",
            column,
        )
        return values

    def natural(name: str) -> list[tuple[bool, int, str]]:
        return [(not p.isdigit(), int(p or 0) if p.isdigit() else 0, p) for p in name.split(" ")]

    key: Any = float if column else natural
    button = opened.find_elements("css selector", ".headline th button")[column]
    button.click()
    first = column_values()
    button.click()
    second = column_values()
    assert first == sorted(first, key=key, reverse=bool(column))
    assert second == sorted(second, key=key, reverse=not column)
    head = opened.find_elements("css selector", ".headline th")[column]
    assert head.get_attribute("aria-sort") == ("ascending" if column else "descending")


def test_all_figures_can_be_filtered(opened: Any) -> None:
    opened.find_element("id", "filter").send_keys("trustworthiness umap")
    visible = opened.execute_script(
        "return [...document.querySelectorAll('#records-table tbody tr')]"
        ".filter(row => !row.hidden).length"
    )
    assert visible == 1
    assert opened.find_element("id", "count").text.startswith("1 of ")


def test_dark_and_light(browser: Any, page: str) -> None:
    grounds, pictures, palettes = {}, {}, {}
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        _open(browser, page)
        grounds[scheme] = browser.execute_script(
            "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        pictures[scheme] = browser.execute_script(
            "return document.querySelector('figure img').currentSrc"
        )
        palettes[scheme] = browser.execute_script(
            "return Array.from(Bokeh.documents[0].get_model_by_name('mapper').palette)"
        )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert min(grounds["light"]) > 240
    assert max(grounds["dark"]) < 40
    assert pictures["light"] != pictures["dark"]
    assert palettes["light"] != palettes["dark"]
    assert len(palettes["light"]) == len(palettes["dark"]) == 10


def test_a_phone_scrolls_in_one_direction_only(browser: Any, page: str) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        _open(browser, page)
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390
        plots = browser.execute_script(
            "return [...document.querySelectorAll('.plot')].map(p => p.getBoundingClientRect().width)"
        )
        assert all(300 < size <= 390 for size in plots)
        # a finger on a map scrolls the page, and a tap on an image shows it
        middle = _zoom(browser, panel=1, point=7)
        before = browser.execute_script("return scrollY")
        _touch(browser, middle, up=0)
        _wait(browser, "!document.getElementById('card').hidden")
        assert "KNN here says" in browser.find_element("id", "card").text
        _touch(browser, middle, up=150)
        _wait(browser, f"scrollY > {before} + 50")
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_narrow_window_has_the_key_figures_in_sight(browser: Any, page: str) -> None:
    """Sentences, and every figure of the comparison, within 420 px; the best are marked."""
    metrics = {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        _open(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
        assert len(browser.find_elements("css selector", "#opening p")) == 3
        boxes = browser.execute_script(
            "return [...document.querySelectorAll('#opening p, .headline td')]"
            ".map(node => node.getBoundingClientRect()).map(box => [box.left, box.right])"
        )
        assert len(boxes) > 20
        assert all(0 <= left < right <= 420 for left, right in boxes)
        best = browser.find_elements("css selector", ".headline td.best")
        assert any(one.get_attribute("data-label") == "KNN test accuracy" for one in best)
        browser.execute_script(  # as of a run with many figures, the best of them at the right
            "for (const table of document.querySelectorAll('.scroll table'))"
            " { table.style.width = '2000px'; table.rows[1].cells[table.rows[1].cells.length - 1]"
            ".insertAdjacentHTML('beforeend', '<span class=unseen> (best)</span>'); }"
        )
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_tables_fit_a_window_of_1200_pixels(browser: Any, page: str) -> None:
    """All but the one of every figure, which scrolls in its box."""
    metrics = {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        _open(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 1200
        tables = browser.execute_script(
            "return [...document.querySelectorAll('.scroll:not(.tall)')]"
            ".filter(box => box.querySelector('thead'))"
            ".map(box => [box.scrollWidth, box.clientWidth])"
        )
        assert len(tables) >= 4
        assert all(needed <= given for needed, given in tables), tables
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def _zoom(browser: Any, *, panel: int, point: int) -> tuple[int, int]:
    """Zoom a map in on a point, so that no other lies on top; return where it is in the window."""
    browser.execute_script(
        "document.querySelectorAll('.plot')[arguments[0]].scrollIntoView({block: 'center'})", panel
    )
    browser.execute_async_script(
        """
        const [panel, point, done] = arguments;
        const plot = Bokeh.documents[0].get_model_by_name(`panel-${panel}`);
        const points = Bokeh.documents[0].get_model_by_name(`points-${panel}`);
        const [x, y] = ["x", "y"].map(
          (axis) => points.data_source.get(points.glyph[axis].field)[point]);
        const near = (plot.x_range.end - plot.x_range.start) / 1000;
        plot.x_range.setv({start: x - near, end: x + near});
        plot.y_range.setv({start: y - near, end: y + near});
        setTimeout(() => requestAnimationFrame(done), 400);
        """,
        panel,
        point,
    )
    x, y = browser.execute_script(
        """
        const view = Bokeh.index.find_one_by_id(
          Bokeh.documents[0].get_model_by_name(`panel-${arguments[0]}`).id);
        const box = view.el.getBoundingClientRect();
        const frame = view.frame.bbox;
        return [box.x + frame.x + frame.width / 2, box.y + frame.y + frame.height / 2];
        """,
        panel,
    )
    return int(x), int(y)


def _touch(browser: Any, at: tuple[int, int], *, up: int) -> None:
    """Put a finger down, move it up by some pixels and lift it."""

    def send(kind: str, points: list[dict[str, int]]) -> None:
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    x, y = at
    send("touchStart", [{"x": x, "y": y}])
    for moved in range(10, up + 1, 10):
        send("touchMove", [{"x": x, "y": y - moved}])
    send("touchEnd", [])


def _hover(browser: Any, *, panel: int, point: int) -> dict[str, Any]:
    """Move the mouse onto a point of a map; return what the card shows."""
    from selenium.webdriver import ActionChains

    x, y = _zoom(browser, panel=panel, point=point)
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(x - 30, y)
    actions.w3c_actions.pointer_action.move_to_location(x, y)
    actions.perform()
    _wait(browser, "!document.getElementById('card').hidden")
    found: dict[str, Any] = browser.execute_script(
        """
        const card = document.getElementById("card");
        const canvas = card.querySelector("canvas");
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return {hidden: card.hidden, text: card.innerText,
                bright: pixels.data.filter((_, i) => i % 4 < 3).reduce((a, b) => Math.max(a, b), 0)};
        """
    )
    return found


def _wait(browser: Any, condition: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(f"return {condition}"))
