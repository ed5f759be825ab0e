"""The page at / in a real headless browser: heat map, search, live figures, an API key, and nothing from outside."""

import importlib.util
import itertools
import json
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from akidb_mlx import MultiVectorEmbedder, RerankerConfig, SparseConfig, SparseEmbedder
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from support.checkpoints import MINILM, REFERENCE, TINY_RERANKER
from support.places import ROOT
from support.reranker import StandIn, logit, sigmoid
from support.serving import serve_process, serving
from support.waiting import PATIENCE_S, until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# `make test-page` brings it.
AXE = Path(os.environ.get("AXE", ROOT / ".venv" / "axe" / "node_modules" / "axe-core" / "axe.min.js"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver (apt-get install)"),
    pytest.mark.skipif(importlib.util.find_spec("selenium") is None, reason="needs selenium (the extra [clients])"),
]
TEXTS = ["The cat sleeps.", "A kitten naps.", "Interest rates rose."]


@pytest.fixture(scope="module")
def server():
    with serve_process("--model", f"minilm={MINILM}") as server:
        with server.client() as client:
            until(lambda: client.get("/health").status == 200)
        yield server


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1240,1010"),
        *("--disable-background-networking", "--no-first-run", f"--user-data-dir={tmp_path}"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(PATIENCE_S)
    yield driver
    driver.quit()


def find(browser, selector):
    return browser.find_element("css selector", selector)


def find_all(browser, selector):
    return browser.find_elements("css selector", selector)


def write(browser, selector, text):
    find(browser, selector).clear()
    find(browser, selector).send_keys(text)


def opened(browser, server):
    browser.get(server.url)
    until(lambda: find_all(browser, "#model option"))


def test_heat_map_search_and_figures(browser, server, minilm):
    opened(browser, server)
    assert [option.text for option in find_all(browser, "#model option")] == ["minilm"]
    write(browser, "#texts", "\n".join(TEXTS))
    find(browser, "#compare button").click()
    until(lambda: find(browser, "#heat").is_displayed())
    cells = [float(cell.text) for cell in find_all(browser, "#heat tbody td")]
    rows = minilm.encode(TEXTS)
    assert cells == pytest.approx((rows @ rows.T).ravel().tolist(), abs=0.0051)
    assert find(browser, "#heat tbody td").value_of_css_property("background-color") != "rgba(0, 0, 0, 0)"
    assert f"{sum(minilm.count_tokens(TEXTS))} tokens" in find(browser, "#compare .timing").text

    write(
        browser,
        "#documents",
        "Parcels are sent by freight.\n\nRefunds are paid within five days.\n\n  \n\nWe fix grinders.",
    )
    write(browser, "#question", "When do I get my money back?")
    find(browser, "#search button").click()
    until(lambda: len(find_all(browser, "#hits li")) == 3)
    assert find(browser, "#hits li span").text == "Refunds are paid within five days."
    scores = [float(hit.text) for hit in find_all(browser, "#hits li b")]
    assert scores == sorted(scores, reverse=True)

    with ThreadPoolExecutor(4) as threads, server.client() as client:
        busy = threads.submit(client.embed, ["some words to keep it busy " * 8] * 64, "minilm")
        until(lambda: figure(browser, "#speed") > 0)
        until(lambda: find(browser, "#chart polyline").get_attribute("points"))
        assert busy.result().status == 200
    until(lambda: figure(browser, "#queued") == 0)


def figure(browser, selector):
    text = find(browser, selector).text.replace(",", "").replace("k", "000")
    return int(text) if re.fullmatch(r"\d+", text) else -1


def test_it_says_what_went_wrong(browser, server):
    opened(browser, server)
    write(browser, "#texts", "one line only")
    find(browser, "#compare button").click()
    until(lambda: "at least two lines" in find(browser, "section .error").text)
    write(browser, "#texts", "\n".join(["a"] * 2049))
    find(browser, "#compare button").click()
    until(lambda: "2049 texts in one request" in find(browser, "section .error").text)


def test_text_is_shown_as_text(browser, server):
    opened(browser, server)
    nasty = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    write(browser, "#texts", f"{nasty}\nsomething else")
    find(browser, "#compare button").click()
    until(lambda: find(browser, "#heat").is_displayed())
    assert nasty in find(browser, "#heat tbody th").get_attribute("textContent")
    assert not find_all(browser, "#heat img, #heat script")


def test_nothing_comes_from_outside_and_nothing_is_blocked(browser, server):
    opened(browser, server)
    find(browser, "#compare button").click()
    until(lambda: find(browser, "#heat").is_displayed())
    complaints = [line for line in browser.get_log("browser") if line["level"] in ("WARNING", "SEVERE")]
    assert not complaints
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    sent = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    asked = {one["request"]["url"] for one in sent if one["documentURL"].startswith(server.url)}
    assert f"{server.url}/v1/embeddings" in asked
    assert not {url for url in asked if not url.startswith((f"{server.url}/", "data:"))}


def test_an_api_key_is_asked_for(browser):
    with serve_process("--model", f"minilm={MINILM}", variables={"AKIDB_API_KEY": "sesame"}) as server:
        browser.get(server.url)
        until(lambda: find(browser, "#key").is_displayed())
        assert not find_all(browser, "#model option")
        find(browser, "#key").send_keys("sesame\n")
        until(lambda: find_all(browser, "#model option"))
        find(browser, "#compare button").click()
        until(lambda: find(browser, "#heat").is_displayed())


def test_a_reranker_orders_candidates(browser):
    nasty = "<img src=x onerror=alert(1)> a grinder"
    with serving({"ce": RerankerConfig(model="stand-in")}, load=StandIn) as server:
        browser.get(server.url)
        until(lambda: find(browser, "#ranking").is_displayed())
        assert not any(find(browser, part).is_displayed() for part in ("#comparing", "#searching", "#model"))
        assert [option.text for option in find_all(browser, "#reranker option")] == ["ce"]
        write(browser, "#candidates", f"parcels\n\n{nasty}\na broken grinder")
        write(browser, "#ranking-question", "a broken grinder")
        find(browser, "#rerank button").click()
        until(lambda: len(find_all(browser, "#ranked li")) == 3)
        assert [line.text for line in find_all(browser, "#ranked li span")] == ["a broken grinder", nasty, "parcels"]
        assert not find_all(browser, "#ranked img")
        places = [line.text for line in find_all(browser, "#ranked li small")]
        assert places == ["before 3, now 1 (2 up)", "before 2, now 2", "before 1, now 3 (2 down)"]
        scores = [float(line.text) for line in find_all(browser, "#ranked li b")]
        texts = ["a broken grinder", nasty, "parcels"]
        assert scores == pytest.approx([sigmoid(logit("a broken grinder", text)) for text in texts], abs=6e-4)
        write(browser, "#candidates", " ")
        find(browser, "#rerank button").click()
        until(lambda: "Write candidates" in find(browser, "#ranking .error").text)


def test_without_a_reranker_its_part_is_not_there(browser, server):
    opened(browser, server)
    assert find(browser, "#comparing").is_displayed()
    assert not find(browser, "#ranking").is_displayed()


def test_terms_and_matches_of_sparse_and_multi_vector_models(browser):
    sparse, multi = REFERENCE / "sparse" / "bert-max", REFERENCE / "multi_vector" / "fixed"
    models = {"splade": SparseConfig(model=str(sparse)), "colbert": MultiVectorConfig(model=str(multi))}
    text = "a harbour <b>in</b> the snow"
    with serving(models) as server, SparseEmbedder.load(sparse) as weigher, MultiVectorEmbedder.load(multi) as matcher:
        browser.get(server.url)
        until(lambda: find(browser, "#weighing").is_displayed() and find(browser, "#matching").is_displayed())
        assert not any(find(browser, part).is_displayed() for part in ("#comparing", "#ranking", "#model"))
        write(browser, "#weighed", text)
        find(browser, "#weigh button").click()
        until(lambda: len(find_all(browser, "#terms li")) == 20)
        expected = weigher.decode(weigher.encode_document([text]), 20)[0]
        assert [line.text for line in find_all(browser, "#terms li span")] == [term for term, _ in expected]
        shown = [float(line.text) for line in find_all(browser, "#terms li b")]
        assert shown == pytest.approx([weight for _, weight in expected], abs=6e-4)
        assert "20 of " in find(browser, "#term-count").text
        write(browser, "#matched", text)
        write(browser, "#match-question", "the harbour")
        find(browser, "#match button").click()
        until(lambda: find_all(browser, "#matches li"))
        score = matcher.similarity(matcher.encode_query(["the harbour"]), matcher.encode_document([text]))[0, 0]
        assert float(find(browser, "#match-score").text.split()[-1]) == pytest.approx(score, abs=6e-4)
        assert not find_all(browser, "#matches b b")
        write(browser, "#weighed", " ")
        find(browser, "#weigh button").click()
        until(lambda: "Write a text" in find(browser, "#weighing .error").text)


def test_the_screenshot_of_the_docs(browser, server, tmp_path):
    """Kept under docs/ by hand: SCREENSHOT names where to, and then it waits for a curve worth seeing."""
    path = Path(os.environ.get("SCREENSHOT", tmp_path / "page.png"))
    points = 30 if "SCREENSHOT" in os.environ else 4
    opened(browser, server)
    find(browser, "#compare button").click()
    find(browser, "#search button").click()
    until(lambda: find(browser, "#heat").is_displayed() and len(find_all(browser, "#hits li")) == 5)
    enough = threading.Event()

    def load():
        with server.client() as client:
            for number in itertools.count():
                if enough.is_set():
                    return
                client.embed([f"{number} words to see it work {i}" for i in range(number % 23 + 1)], "minilm")

    with ThreadPoolExecutor(2) as threads:
        threads.submit(load)
        threads.submit(load)
        try:
            until(lambda: len(find(browser, "#chart polyline").get_attribute("points").split()) >= points)
            resized(browser, 1240, browser.execute_script("return document.documentElement.scrollHeight"))
            assert browser.save_screenshot(str(path))
        finally:
            enough.set()
    assert path.stat().st_size > 50_000


# what people meet


def wide(browser):
    """By how much the page is wider than the window."""
    return browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")


def contrast(browser, cell):
    """WCAG's contrast of a cell's figures with its ground."""
    luminances = []
    for name in ("color", "background-color"):
        numbers = [int(part) / 255 for part in re.findall(r"\d+", cell.value_of_css_property(name))[:3]]
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in numbers]
        luminances.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


def test_what_was_cut_is_said_and_long_words_fit(browser, server):
    opened(browser, server)
    assert find(browser, "#facts").text == "384 dimensions · reads 256 tokens of a text"
    long = "The cafeteria opens at noon. " * 60 + "The wifi password is tulip-42."
    browser.execute_script(
        "arguments[0].value = arguments[1]", find(browser, "#documents"), f"{long}\n\n{'x' * 3000}\n\nTea."
    )
    find(browser, "#question").send_keys("\n")
    until(lambda: len(find_all(browser, "#hits li")) == 3)
    assert find(browser, "#searching .note").text.startswith(
        "1 of 3 documents is longer than this model reads (256 tokens): only the beginning counted."
    )
    assert wide(browser) == 0
    button = find(browser, "#search button")
    assert button.is_displayed() and button.rect["x"] + button.rect["width"] < 1240
    assert find(browser, "#searching").rect["width"] < 700


def resized(browser, width, height=900):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def coloured(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_on_a_phone(browser, server):
    opened(browser, server)
    for width in (390, 320):
        resized(browser, width)
        find(browser, "#compare button").click()
        until(lambda: find(browser, "#heat").is_displayed())
        assert wide(browser) == 0
        assert browser.execute_script("return innerWidth") == width  # nothing made the layout wider
        sizes = {one.value_of_css_property("font-size") for one in find_all(browser, "textarea, input, select")}
        assert sizes == {"16px"}  # less, and iOS zooms in


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_can_be_read_in_both_schemes(browser, server, scheme):
    coloured(browser, scheme)
    opened(browser, server)
    lines = ["The cat sleeps.", "A cat is asleep.", "Cats sleep", "A kitten naps.", "A dog sleeps.", "Rates rose."]
    write(browser, "#texts", "\n".join([*lines, "The cat sleeps"]))
    find(browser, "#compare button").click()
    until(lambda: len(find_all(browser, "#heat tbody td")) == 49)
    cells = find_all(browser, "#heat tbody td")
    assert min(contrast(browser, cell) for cell in cells) >= 4.5
    shares = browser.execute_script("return [...Array(101).keys()].map(one => lightness(one / 100))")
    assert shares in (sorted(shares), sorted(shares, reverse=True)) and "-0.00" not in {cell.text for cell in cells}


def test_many_texts_are_colours_and_the_focus_stays(browser, server):
    opened(browser, server)
    text = "\n".join(f"text number {i}" for i in range(30))
    browser.execute_script("arguments[0].value = arguments[1]", find(browser, "#texts"), text)
    find(browser, "#compare button").send_keys("\n")
    until(lambda: len(find_all(browser, "#heat tbody td")) == 900)
    assert {cell.text for cell in find_all(browser, "#heat tbody td")} == {""}
    assert find(browser, "#heat").rect["height"] < 800 and find(browser, "#heat").get_attribute("aria-label")
    assert browser.execute_script("return document.activeElement === document.querySelector('#compare button')")
    from selenium.webdriver.common.keys import Keys

    write(browser, "#texts", "\n".join(TEXTS))
    find(browser, "#texts").send_keys(Keys.CONTROL, Keys.ENTER)
    until(lambda: len(find_all(browser, "#heat tbody td")) == 9)


def test_words_for_people_and_answers_that_are_old(browser):
    with serve_process("--model", f"minilm={MINILM}", variables={"AKIDB_API_KEY": "sesame"}) as server:
        browser.get(server.url)
        until(lambda: "wants its API key" in find(browser, "section .error").text)
        assert not find(browser, "#model").is_displayed()
        find(browser, "#key").send_keys("wrong\n")
        until(lambda: "not this server's API key" in find(browser, "section .error").text)
        find(browser, "#key").clear()
        find(browser, "#key").send_keys("sesame\n")
        until(lambda: find_all(browser, "#model option"))
        find(browser, "#compare button").click()
        until(lambda: find(browser, "#heat").is_displayed() and find(browser, "#compare .timing").text)
        assert "stale" not in find(browser, "#heat").get_attribute("class")
    find(browser, "#compare button").click()
    until(lambda: "is akidb-mlx serve still running?" in find(browser, "section .error").text)
    assert "stale" in find(browser, "#heat").get_attribute("class")


@pytest.fixture(scope="module")
def everything():
    """A server of all kinds of models, with names that no phone is wide enough for."""
    name = "an-owner-with-a-long-name/and-a-model-whose-name-is-longer-still"
    kinds = {
        "--model": MINILM,
        "--reranker": TINY_RERANKER,
        "--sparse": REFERENCE / "sparse" / "bert-max",
        "--multi": REFERENCE / "multi_vector" / "fixed",
    }
    options = [part for option, model in kinds.items() for part in (option, f"{name}{option}={model}")]
    with serve_process(*options) as server:
        with server.client() as client:
            until(lambda: client.get("/health").status == 200)
        yield server


def all_asked(browser):
    forms = [form for form in find_all(browser, "form") if form.is_displayed()]
    for form in forms:
        browser.execute_script("arguments[0].requestSubmit()", form)  # a click may miss what answers push away
    until(lambda: all(form.find_element("css selector", ".timing").text for form in forms))
    assert len(forms) == 5


@pytest.mark.parametrize("width", [1240, 390, 320])
def test_long_names_fit_and_labels_open(browser, everything, width):
    resized(browser, width)
    opened(browser, everything)
    all_asked(browser)
    buttons = [button for button in find_all(browser, "form button") if button.is_displayed()]
    assert wide(browser) == 0 and len({button.rect["height"] for button in buttons}) == 1  # none is broken in two
    label = find(browser, "#heat tbody th")
    assert (label.text == "1") == (width < 600)
    before = label.rect["height"]
    find(browser, "#whole").click()
    assert label.text == "1 The cat sleeps on the warm windowsill."
    assert label.rect["height"] < 3 * before and find(browser, "#whole").get_attribute("aria-pressed") == "true"
    assert wide(browser) == 0
    find(browser, "#whole").click()
    assert label.rect["height"] == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1240, 390, 320])
def test_axe_finds_nothing(browser, everything, scheme, width):
    if not AXE.is_file():
        pytest.skip("needs axe-core (make test-page)")
    coloured(browser, scheme)
    resized(browser, width)
    opened(browser, everything)

    def found():
        browser.execute_script(AXE.read_text(encoding="utf-8"))
        run = "const done = arguments[0]; axe.run(document).then(found => done(found.violations), done)"
        return [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in browser.execute_async_script(run)]

    assert found() == []
    all_asked(browser)
    assert found() == []
    find(browser, "#whole").click()
    browser.execute_script("arguments[0].value = 'word\\n'.repeat(30)", find(browser, "#texts"))
    all_asked(browser)
    assert found() == []
