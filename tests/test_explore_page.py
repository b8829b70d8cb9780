"""The page of ``embedtrain.explore`` in a real browser, from a file, with everything it logs and asks for watched."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from test_explore import HOSTILE

import embedtrain
from embedtrain import explore, wordmap
from embedtrain.vocabulary import PAD, UNK

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven with playwright")
pytest.importorskip("openTSNE", reason="the map needs the extra: pip install 'embedtrain[explore]'")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOPICS = ("royal", "fruit", "city", "verb", "colour", "music", "sport", "ship", "tree", "tool")
DIM = 24


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        try:
            # As root, which CI often is, the sandbox of Chromium does not start.
            browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        except sync_api.Error:
            pytest.skip("no browser: apt-get install chromium, or playwright install chromium")
        yield browser
        browser.close()


def model(seed: int, extra: list[str] | None = None) -> embedtrain.Embeddings:
    """Return 600 words of ten topics, and an analogy; seeds differ in noise, and all but 0 in the words of "ship"."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(len(TOPICS), DIM))
    words = [f"{TOPICS[i % len(TOPICS)]}{i // len(TOPICS)}" for i in range(600)]
    weight = centres[np.arange(600) % len(TOPICS)] + 0.8 * random.normal(size=(600, DIM))
    male, royal, base = random.normal(size=(3, DIM))
    for name, row in (("king", base + royal + male), ("queen", base + royal), ("man", base + male), ("woman", base)):
        words.append(name)
        weight = np.vstack([weight, 1.5 * row])
    weight += 0.1 * np.random.default_rng(seed).normal(size=weight.shape)
    if seed:
        ships = [row for row, word in enumerate(words) if word.startswith("ship")]
        weight[ships] = random.normal(size=(len(ships), DIM))
    for word in extra or ():
        words.append(word)
        weight = np.vstack([weight, random.normal(size=DIM)])
    counts = np.array([0, 0, *(60_000 // np.arange(1, len(words) + 1))])
    table = torch.from_numpy(np.vstack([np.zeros((2, DIM)), weight]).astype(np.float32))
    return embedtrain.Embeddings(table, [PAD, UNK, *words], counts=counts, pad_index=0, unk_index=1)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the addresses of three pages: of one model, of words that mean harm, and of two models."""
    folder = tmp_path_factory.mktemp("pages")
    model(0).save(folder / "first")
    model(1, ["newcomer"]).save(folder / "second")
    # A folder of embedtrain cannot hold a word with a line break or a zero byte; none of these is one.
    model(0, [word for word in HOSTILE if "\x00" not in word]).save(folder / "hostile")
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wordmap, "ITERATIONS", 90)  # a rough map will do
        for name, arguments in (
            ("one", ["first"]),
            ("hostile", ["hostile"]),
            ("two", ["first", "--compare", str(folder / "second")]),
        ):
            out = folder / f"{name}.html"
            assert explore.main([str(folder / arguments[0]), *arguments[1:], "--out", str(out)]) == 0
            made[name] = out.as_uri()
    return made


@pytest.fixture
def open_page(browser: Any, pages: dict[str, str]) -> Iterator[Any]:
    """Open a page. In the end, it must have complained of nothing and asked for nothing but itself."""
    contexts: list[Any] = []
    complaints: list[str] = []
    requests: list[str] = []

    def opened(name: str, address: str = "", width: int = 1280, height: int = 800, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(pages[name] + address)
        page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)
        page.set_default_timeout(5_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert {request.partition("#")[0] for request in requests if not request.startswith("data:")} <= {*pages.values()}


def listed(page: Any, space: int = 0) -> list[tuple[str, str]]:
    """Return what a list of neighbours shows: words and numbers."""
    rows = page.locator(".neighbours").nth(space).locator("button").all()
    return [(row.locator("bdi").inner_text(), row.locator(".number").inner_text()) for row in rows]


def python_says(embeddings: embedtrain.Embeddings, *query: Any, topn: int = 12) -> list[tuple[str, str]]:
    return [(word, f"{similarity:.3f}") for word, similarity in embeddings.most_similar(*query, topn=topn)]


def click_word(page: Any, word: str) -> None:
    x, y = page.evaluate(
        "word => { const row = page.model.find(word); return page.map.toScreen(page.map.x[row], page.map.y[row]); }",
        word,
    )
    page.mouse.click(x, y)


def wait(page: Any, condition: str, value: Any = None) -> None:
    """Wait until something is true. Playwright's own wait_for_function needs eval, which the page forbids."""
    end = time.monotonic() + 5
    while not page.evaluate(condition, value):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def lightness(page: Any) -> float:
    return sum(page.evaluate("[...page.map.raster.bytes.subarray(0, 3)]")) / 3


def test_search_finds_and_the_numbers_are_those_of_python(open_page: Any) -> None:
    page = open_page("one")
    assert "604 words" in page.locator("#facts").inner_text()
    page.keyboard.press("/")
    page.keyboard.type("quee")
    assert page.locator("#results [role=option] bdi").all_inner_texts() == ["queen"]
    page.keyboard.press("Enter")
    assert page.locator("#word-name").inner_text() == "queen"
    assert listed(page) == python_says(model(0), "queen")
    assert page.url.endswith("#queen")
    wait(page, "document.getElementById('status').textContent.startsWith('Nearest to queen')")


def test_the_numbers_are_those_of_python_for_many_words(open_page: Any) -> None:
    page = open_page("one")
    embeddings = model(0)
    found = page.evaluate(
        """() => page.model.words.map((_, row) => page.model.nearest([row], [], 12)
            .map(({row, similarity}) => [page.model.words[row], digits(similarity)]))"""
    )
    for word, near in zip(embeddings.words[2:], found, strict=True):
        assert [tuple(pair) for pair in near] == python_says(embeddings, word), word


def test_a_click_shows_neighbours_and_one_beside_clears(open_page: Any) -> None:
    page = open_page("one")
    for word in ("royal0", "fruit0", "king"):
        page.keyboard.press("0")
        wait(page, "!page.map.animations.size")
        click_word(page, word)
        assert page.locator("#word-name").inner_text() == word
        assert listed(page) == python_says(model(0), word)
    page.locator(".neighbours button").first.click()
    assert page.locator("#word-name").inner_text() == python_says(model(0), "king")[0][0]
    page.mouse.click(1275, 5)
    assert page.locator("#word").is_hidden()
    page.go_back()
    page.locator("#word").wait_for(state="visible")


def test_sums_of_words(open_page: Any) -> None:
    page = open_page("one")
    page.get_by_role("button", name="king - man + woman").click()
    assert page.locator("#word-name").inner_text().replace(" ", "") == "king−man+woman"
    assert listed(page) == python_says(model(0), ["king", "woman"], ["man"])
    assert listed(page)[0][0] == "queen"
    # The last term is completed, and goes into the sum.
    page.locator("#search").fill("QUEEN - woman + ma")
    page.keyboard.press("ArrowDown")
    assert page.locator("#search").get_attribute("aria-activedescendant") == "result-0"
    page.keyboard.press("Enter")
    assert listed(page) == python_says(model(0), ["queen", "man"], ["woman"])
    assert listed(page)[0][0] == "king"


def test_an_unknown_word_is_said_and_near_ones_are_offered(open_page: Any) -> None:
    page = open_page("one", "#queenly")
    assert "queenly" in page.locator("#word").inner_text()
    assert "is not among" in page.locator("#word-facts").inner_text()
    page.locator("#word-actions button").first.click()
    assert page.locator("#word-name").inner_text() == "queen"


def test_the_keyboard_is_enough(open_page: Any) -> None:
    page = open_page("one")
    # Everything can be reached, and what has the focus shows it.
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.parentElement.id"))
        outline = page.evaluate(
            "(style => style.outlineStyle + style.boxShadow)(getComputedStyle(document.activeElement))"
        )
        assert outline != "nonenone" or page.evaluate("document.activeElement === document.body")
    assert {"map", "search", "colour-by", "zoom-in", "theme", "help"} <= reached
    # The map moves, zooms and chooses.
    page.evaluate("document.getElementById('map').focus()")
    before = page.evaluate("page.map.view")
    for key in ("ArrowRight", "ArrowDown", "+", "+"):
        page.keyboard.press(key)
        wait(page, "!page.map.animations.size")
    after = page.evaluate("page.map.view")
    assert after["x"] > before["x"]
    assert after["y"] > before["y"]
    assert after["scale"] > 2 * before["scale"]
    page.keyboard.press("0")
    wait(page, "!page.map.animations.size")
    assert page.evaluate("page.map.view") == before
    wait(page, "page.map.aimed >= 0")
    aimed = page.evaluate("page.model.words[page.map.aimed]")
    page.keyboard.press("Enter")
    assert page.locator("#word-name").inner_text() == aimed
    page.keyboard.press("Escape")
    assert page.locator("#word").is_hidden()
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_hidden()
    # Keys that write are left to the field.
    page.keyboard.press("/")
    page.keyboard.type("0+-?/c")
    assert page.locator("#search").input_value() == "0+-?/c"


def test_mouse_and_wheel_move_the_map(open_page: Any) -> None:
    page = open_page("one")
    x, y = page.evaluate("page.map.centre")
    place = page.evaluate("([x, y]) => page.map.toMap(x, y)", [x, y])
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 30)
    page.mouse.move(x + 60, y + 50)
    page.mouse.up()
    wait(page, "!page.map.animations.size")
    moved = page.evaluate("([x, y]) => page.map.toScreen(x, y)", place)
    assert moved[0] - x >= 50
    assert moved[1] - y >= 40
    assert page.locator("#word").is_hidden()
    under = page.evaluate("([x, y]) => page.map.toMap(x, y)", [x + 100, y])
    page.mouse.move(x + 100, y)
    page.mouse.wheel(0, -400)
    wait(page, "page.map.view.scale > 1.2 * page.map.fitting().scale")
    assert page.evaluate("([x, y]) => page.map.toMap(x, y)", [x + 100, y]) == pytest.approx(under, abs=1e-6)


def test_fingers_move_the_map_on_a_phone(open_page: Any) -> None:
    page = open_page("one", width=390, height=780, has_touch=True, is_mobile=True, device_scale_factor=2)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    x, y = page.evaluate("page.map.centre")
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": px, "y": py, "id": number} for number, (px, py) in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    before = page.evaluate("page.map.view.scale")
    fingers("touchStart", (x - 30, y), (x + 30, y))
    for step in range(1, 6):
        fingers("touchMove", (x - 30 - 8 * step, y), (x + 30 + 8 * step, y))
    fingers("touchEnd")
    wait(page, "!page.map.animations.size")
    assert page.evaluate("page.map.view.scale") == pytest.approx(before * 140 / 60, rel=0.05)
    # A tap chooses a word, and the sheet with its neighbours comes up from below.
    word = page.evaluate(
        """() => { const row = page.map.pick(page.map.centre, 5000);
            page.map.setView({x: page.map.x[row], y: page.map.y[row], scale: page.map.view.scale});
            return page.model.words[row]; }"""
    )
    page.touchscreen.tap(x, y)
    assert page.locator("#word-name").inner_text() == word
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    sheet = page.locator("#side").bounding_box()
    assert sheet["y"] + sheet["height"] == pytest.approx(780, abs=1)
    assert sheet["y"] > 300
    page.locator("#fold").tap()
    assert page.locator("#word-name").is_hidden()


def test_dark_and_light(open_page: Any) -> None:
    page = open_page("one", color_scheme="dark")
    wait(page, "!page.map.fading")
    assert lightness(page) < 60
    page.emulate_media(color_scheme="light")
    wait(page, "document.documentElement.dataset.theme === 'light'")
    page.wait_for_timeout(100)
    assert lightness(page) > 220
    page.get_by_role("button", name="Dark or light").click()
    page.wait_for_timeout(100)
    assert lightness(page) < 60
    page.emulate_media(color_scheme="light")  # what was chosen stays
    assert lightness(page) < 60


def test_colours(open_page: Any) -> None:
    page = open_page("one")
    assert page.locator("#legend .groups li").count() == 12
    page.locator("#legend .groups button").first.click()
    wait(page, "Boolean(page.map.lit)")
    page.get_by_role("radio", name="Frequency").click()
    wait(page, "page.map.lit === null")
    assert page.locator("#legend .ends").inner_text().split() == ["99×", "60,000×"]
    levels = page.evaluate("[...page.map.colourOf]")
    assert levels[0] == max(levels) == 15
    assert levels[-1] == 0
    assert sorted(levels, reverse=True) == levels
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="Groups").get_attribute("aria-checked") == "true"


def test_words_that_mean_harm(open_page: Any) -> None:
    page = open_page("hostile")
    for word in (word for word in HOSTILE if "\x00" not in word):
        page.evaluate("word => page.go(word)", word)
        wait(page, "word => page.asked === word", word)
        assert page.evaluate("page.model.words[page.sum.positive[0]]") == word, word
        assert [float(number) for _, number in listed(page)] == [
            pytest.approx(similarity, abs=0.0006)
            for _, similarity in model(0, [w for w in HOSTILE if "\x00" not in w]).most_similar(word, topn=12)
        ]
    page.evaluate("page.go('\\u202eright-to-left')")
    wait(page, "page.asked.includes('right')")
    assert page.locator("#word-name").inner_text() == "⟨U+202E⟩right-to-left"


def test_two_models(open_page: Any) -> None:
    page = open_page("two")
    assert page.locator("h1").inner_text() == "first and second"
    assert page.locator("#changed-only").inner_text() == "1 words only in second"
    changed = page.locator("#changed-list bdi").all_inner_texts()
    assert all(word.startswith("ship") for word in changed), changed
    page.locator("#changed-list button").first.click()
    assert page.locator("#word-name").inner_text() == changed[0]
    assert listed(page, 0) == python_says(model(0), changed[0])
    assert listed(page, 1) == python_says(model(1), changed[0])  # "newcomer" is near to nothing
    shared = {word for word, _ in listed(page, 0)} & {word for word, _ in listed(page, 1)}
    assert page.locator(".neighbours .shared").count() == 2 * len(shared)
    # The other map: every point goes to its place there.
    page.keyboard.press("Escape")
    page.get_by_role("radio", name="second", exact=True).click()
    wait(page, "!page.map.animations.size")
    assert page.evaluate("page.map.x.every((x, row) => x === page.model.spaces[1].x[row])")
    page.keyboard.press("c")
    wait(page, "!page.map.animations.size && page.map.space === 0")
    assert page.get_by_role("radio", name="first", exact=True).get_attribute("aria-checked") == "true"
