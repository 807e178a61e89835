"""The report in headless Chromium, as a person uses it: mouse, keyboard, slider, paper, phone. Skipped without one."""

import browser
import pytest
import weighted

import fedmi_jax

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.found() is None, reason="no Chromium on this machine (Debian: apt install chromium)"),
]
READY = "document.querySelectorAll('.node.local').length > 0"


@pytest.fixture(scope="module")
def tab():
    with browser.Browser() as one:
        yield one


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    images = weighted.pictures()
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(fedmi_jax.view(weighted.result(images), images).html, "utf-8")
    return path


@pytest.fixture
def page(tab, file):
    """Open anew, in a wide window; whatever a test does, the page must not complain nor ask for anything."""
    tab.events.clear()
    tab.file = file
    tab.size(1360, 900)
    tab.colours("light")
    tab.open(file, READY)
    yield tab
    assert tab.errors == []
    assert tab.requests == [file.resolve().as_uri()]


def text(page, selector):
    return page.run(f"document.querySelector({selector!r}).innerText")


def members(page, look="local"):
    """Numbers of the channels of the first layer that are drawn as members."""
    return page.run(
        f"[...document.querySelectorAll('#graph g[role=group]')[0].children].flatMap((n, i) => "
        f"n.classList.contains({look!r}) ? [i] : [])"
    )


def slide(page, key, times=1):
    page.run("document.getElementById('round').focus()")
    page.press(key, times)


def test_it_begins_with_the_last_round_of_the_first_circuit(page):
    assert "seed 0, client 0, class 0 - name, round 3." in text(page, "#status")
    assert members(page) == list(range(3, 13))
    assert "channel" in text(page, "#channel h3")


def test_the_slider_shows_what_came_and_went(page):
    assert (members(page, "came"), members(page, "went")) == ([12], [2])
    slide(page, "ArrowLeft", 2)
    assert "round 1." in text(page, "#status")
    assert members(page) == list(range(1, 11))
    assert (members(page, "came"), members(page, "went")) == ([], [])
    assert "no circuit in the round before" in text(page, "#status")


def test_a_click_holds_a_channel_and_a_second_lets_it_go(page):
    page.click("#graph g[role=group] .node.local")
    assert text(page, "#channel h3") == "conv1 channel 3"
    for said in ("Kernel", "Mean activation by class", "Images that excite it most", "Other circuits that use it"):
        assert said in text(page, "#channel")
    page.hover("#graph g[role=group]:nth-of-type(3) .node.came")
    assert text(page, "#channel h3") == "conv1 channel 3"
    page.click("#graph .node.held")
    page.hover("#graph .node.came")
    assert text(page, "#channel h3") == "conv1 channel 12"


def test_a_channel_shows_up_to_eight_pictures_of_the_sheet(page):
    shown = "[...document.querySelectorAll('.thumb')].map(t => getComputedStyle(t).backgroundImage.slice(0, 27))"
    for selector in (f"#graph g[role=group]:nth-of-type({layer}) .node.local" for layer in (2, 3, 4)):
        if page.run(f"document.querySelector({selector!r}) !== null"):
            page.hover(selector)
            found = page.run(shown)
            assert len(found) <= 8
            assert set(found) <= {'url("data:image/png;base64,'}


def test_the_keyboard_walks_through_the_circuit(page):
    page.run("document.getElementById('round').focus()")
    page.press("Tab")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert page.run(focused) == "conv1, channel 2, no longer in the circuit, was in it the round before"
    page.press("ArrowDown", 2)
    assert page.run(focused) == "conv1, channel 4, in the local circuit"
    assert text(page, "#channel h3") == "conv1 channel 4"
    page.press("ArrowRight")
    assert page.run(focused).startswith("conv2, channel 4,")
    page.press("End")
    assert page.run(focused) == "conv2, channel 12, in the local circuit, new in this round"
    page.press("Enter")
    page.press("ArrowLeft")
    assert text(page, "#channel h3") == "conv2 channel 12"
    page.press("Escape")
    page.press("Home")
    assert text(page, "#channel h3") == "conv1 channel 2"


def test_local_global_and_both(page):
    page.click("input[value=global]")
    assert members(page, "global") == list(range(12, 22))
    page.click("input[value=both]")
    assert members(page, "both") == [12]
    assert members(page, "local") == list(range(3, 12))
    assert "local 10 / 10 / 10, global 10 / 10 / 10" in text(page, "#status")


def test_another_circuit_that_uses_the_channel_is_one_click_away(page):
    page.hover("#graph .node.came")
    page.click(".chip.global")
    assert page.run("document.querySelector('input[value=global]').checked")


def test_client_and_class_are_chosen_together_and_an_empty_circuit_says_so(page):
    choose = (
        "(e => { e.value = %r; e.dispatchEvent(new Event('input', { bubbles: true })); })(document.getElementById(%r))"
    )
    page.run(choose % ("1", "client"))
    assert page.run("[...document.getElementById('class').options].map(o => o.text)") == ["3 - name", "4 - name"]
    slide(page, "ArrowLeft")
    assert "no channel in conv1 and conv2 and conv3" in text(page, "#circuit .notice")
    assert members(page) == []


def test_a_model_that_decides_nothing_is_said_to_have_no_circuit(page, tmp_path):
    result = weighted.result(weighted.pictures())
    result["status"] = (result["size"].sum("layer") * 0 + 3).astype("int8")
    path = tmp_path / "undefined.html"
    path.write_text(fedmi_jax.view(result, weighted.pictures()).html, "utf-8")
    page.open(path, READY)
    assert "does not decide about the class" in text(page, "#circuit .notice")
    page.events.clear()
    page.open(page.file, READY)


def test_measures_are_the_results(page):
    rows = page.run("[...document.querySelectorAll('.measures tr')].map(r => r.innerText.split('\\t'))")
    values = {row[0]: row[1] for row in rows if len(row) > 1}
    result = weighted.result(weighted.pictures())
    wanted = result["sufficiency"].isel(seed=0, round=2, client=0).sel({"origin": "local", "class": 0})
    assert values["sufficiency"].startswith(f"{float(wanted):.2f}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_in_dark(page, scheme):
    page.colours(scheme)
    ratios = page.run(CONTRAST)
    assert ratios
    assert min(ratios.values()) >= 4.5, ratios


CONTRAST = """(() => {
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map((v) => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const paper = light(getComputedStyle(document.documentElement).backgroundColor);
  const found = {};
  for (const selector of ['body', '.lede', '.status', '#channel .said', '.small', '.null', '.numbers .means td']) {
    const one = document.querySelector(selector); if (!one) continue;
    const own = light(getComputedStyle(one).color);
    found[selector] = (Math.max(own, paper) + 0.05) / (Math.min(own, paper) + 0.05);
  }
  return found;
})()"""  # noqa: E501


def test_a_phone_need_not_scroll_sideways(page):
    page.size(360, 740, 2, True)
    page.until("document.getElementById('graph').clientWidth < 360")
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.click("#graph .node.came")
    assert text(page, "#channel h3") == "conv1 channel 12"


def test_paper_has_the_circuit_and_no_controls(page, tmp_path):
    page.colours("dark", medium="print")
    assert page.run("getComputedStyle(document.getElementById('controls')).display") == "none"
    assert page.run("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    page.paper(tmp_path / "r.pdf")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")
    assert page.run("document.querySelectorAll('details[open]').length") == 0
    page.colours("light")
