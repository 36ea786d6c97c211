"""The page at `/` in a real Chromium, of a real daemon with backends on real sockets: what is seen, pressed and said.

Every test ends with a look at the console: no script has failed, and nothing broke the page's policy.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest
from browser import Browser, Keys, chromium
from conftest import Daemon, DaemonFactory, Room, free_port
from peers import RawBackend, unique

from router_daemon.admin.live import MOST_LISTENERS

NONE: Final = "\u2013"
"""What the page says where nothing is known."""
TOKEN: Final = "a-token-of-some-length"
HOSTILE: Final = '<img src=x onerror="document.title=1">'
PHONE: Final = (360, 740)
ROLLOUT: Final = {
    "routes.stable": {"policy": "paper"},
    "routes.fresh": {"policy": "round_robin"},
    "rollout": {"candidate": "fresh", "stages": [10, 50, 100]},
}
OpenRoom = Callable[[Daemon], Room]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def one_chromium() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def browser(one_chromium: Browser, daemon: DaemonFactory, open_room: OpenRoom) -> Iterator[Browser]:
    """Lend the browser while the daemons are there: afterwards the console would tell of their end."""
    one_chromium.begin()
    yield one_chromium
    one_chromium.check()
    one_chromium.leave()


class Page(NamedTuple):
    """A daemon with the page, and a room in it."""

    daemon: Daemon
    room: Room
    url: str

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as response:
            return json.load(response)

    def say(self, path: str, body: Any) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers)
        urllib.request.urlopen(request, timeout=5).close()

    def work(self, backends: list[RawBackend], count: int = 3) -> None:
        """Have some messages answered by whoever gets them."""
        client = self.room.client()
        for _ in range(count):
            client.send(self.room.capability, b"work", mode="single")
            [(backend, delivery)] = self.room.sent_to(client, backends)
            backend.ack(delivery, b"done")
            client.expect("REPLY")


Open = Callable[..., Page]


@pytest.fixture
def open_page(daemon: DaemonFactory, open_room: OpenRoom) -> Open:
    def opened(**sections: Any) -> Page:
        bind = f"127.0.0.1:{free_port()}"
        admin = {"bind": bind} | sections.pop("admin", {})
        started = daemon(admin=admin, why={"sample_every_ms": 0}, **sections)
        return Page(started, open_room(started), f"http://{bind}")

    return opened


def cell(browser: Browser, backend: str) -> Any:
    return browser.see(f'#map td.cell[aria-label*="{backend}"]')


# --- what is seen ---


def test_the_map_shows_the_weights_that_explain_says(browser: Browser, open_page: Open) -> None:
    page = open_page()
    backends = page.room.backends(2)
    page.work(backends, 6)
    browser.driver.get(page.url)

    def agrees() -> bool:
        told = page.ask(f"/explain?capability={page.room.capability}")["candidates"]
        said = {each["backend"]: (f"{each['weight'] * 100:.1f}", str(each["head"])) for each in told}
        cells = {backend.name: cell(browser, backend.name) for backend in backends}
        return said == {name: (each.text, each.get_attribute("data-head")) for name, each in cells.items()}

    browser.until(agrees, "the map and /explain differ")
    browser.until(lambda: browser.text(browser.one("#state")) == "live")
    assert browser.text(browser.one("#facts")).startswith("0.1.0 · policy attention")


def test_health_and_plots_and_panels_are_filled(browser: Browser, open_page: Open) -> None:
    page = open_page()
    backends = page.room.backends(2)
    browser.driver.get(page.url)
    browser.see("#map td.cell")
    page.work(backends, 5)
    browser.until(lambda: browser.text(browser.one("#vital-success dd span")) == "100")
    browser.until(lambda: browser.text(browser.one("#vital-rate dd span")) not in (NONE, "0"))
    assert browser.see("#series canvas").size["height"] > 150
    for backend in backends:
        assert browser.see("#series .keys button", backend.name).get_attribute("aria-pressed") == "true"
    browser.see("#deciding p", "decisions, half of them within")
    browser.see("#waiting", "Nobody waits")
    browser.see("#rollout", "There is no rollout")
    browser.see("#rollout tbody th", "stable")


def test_lines_are_switched_and_routes_shown(browser: Browser, open_page: Open) -> None:
    page = open_page()
    [backend] = page.room.backends(1)
    page.work([backend])
    browser.driver.get(page.url)
    key = browser.see("#series .keys button", backend.name)
    key.click()
    assert key.get_attribute("aria-pressed") == "false"
    browser.see("#series button", "Routes").click()
    browser.see("#series .keys button", "all messages")
    browser.see("#series button", "p50").click()
    page.work([backend])
    browser.see("#series .keys button", "ms")


def test_what_happens_is_told(browser: Browser, open_page: Open) -> None:
    page = open_page()
    browser.driver.get(page.url)
    browser.until(lambda: browser.text(browser.one("#state")) == "live")
    [backend] = page.room.backends(1, version="7")
    browser.see("#happenings li", f"{backend.name}: joined")
    backend.command("UNREGISTER")
    browser.see("#happenings li", f"{backend.name}: left")
    browser.see("#map-note", "No backend is registered")


# --- why ---


def test_enter_on_a_cell_says_why_and_escape_goes_back(browser: Browser, open_page: Open) -> None:
    page = open_page()
    first, second = sorted(page.room.backends(2), key=lambda backend: backend.name)
    page.work([first, second], 4)
    browser.driver.get(page.url)
    cell(browser, first.name)
    browser.press("m")
    browser.until(lambda: first.name in str(browser.focused.get_attribute("aria-label")))
    browser.press(Keys.ARROW_DOWN)
    assert second.name in str(browser.focused.get_attribute("aria-label"))
    browser.press(Keys.HOME, Keys.ENTER)
    browser.see("dialog h2", f"Why, for {page.room.capability}")
    verdict = browser.see("dialog .verdict")
    assert "A message sent now would go to" in verdict.text
    assert len(browser.all("dialog .candidate")) == 2
    assert browser.see("dialog .candidate.asked").text.startswith(second.name)
    words = browser.one("dialog .candidate .terms").get_attribute("aria-label")
    assert "performance" in str(words)
    browser.press(Keys.ESCAPE)
    browser.until(lambda: not browser.all("dialog[open]"))
    assert second.name in str(browser.focused.get_attribute("aria-label")), "the focus is where it was"


def test_why_is_told_by_route_and_with_the_override_in_force(browser: Browser, open_page: Open) -> None:
    page = open_page(**ROLLOUT)
    [backend] = page.room.backends(1)
    browser.driver.get(page.url)
    cell(browser, backend.name).click()
    browser.see("dialog .facts-list", "paper, mode auto")
    browser.see("dialog .segments button", "fresh").click()
    browser.see("dialog .facts-list", "round_robin, mode auto")
    asked = {"capability": page.room.capability, "backend": backend.name, "for_s": 60}
    page.say("/routes/override", asked)
    browser.see("dialog .warn", f"An override sends all new messages of this capability to {backend.name}")


def test_only_one_cell_is_a_stop_of_the_tabulator(browser: Browser, open_page: Open) -> None:
    page = open_page()
    page.room.backends(3)
    browser.driver.get(page.url)
    browser.until(lambda: len(browser.all("#map td.cell")) == 3)
    assert len(browser.all('#map td[tabindex="0"]')) == 1
    browser.one('#map td[tabindex="-1"]').click()
    browser.see("dialog .verdict")
    browser.press(Keys.ESCAPE)
    browser.until(lambda: len(browser.all('#map td[tabindex="0"]')) == 1)
    ring = browser.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid", "the focus can be seen"


def test_a_message_that_was_tells_its_story(browser: Browser, open_page: Open) -> None:
    page = open_page()
    backends = page.room.backends(2)
    page.work(backends, 1)
    [told] = page.ask("/decisions")["decisions"]
    browser.driver.get(page.url)
    browser.run("document.getElementById('decisions').scrollIntoView()")
    row = browser.see("#decisions tbody tr[data-message]", page.room.capability)
    row.send_keys(Keys.ENTER)
    browser.see("dialog h2", told["message"])
    browser.see("dialog .verdict", f"Answered by {told['answered_by']} after")
    browser.see("dialog .gantt", "the answer")
    browser.see("dialog .candidate", "by rank")
    browser.press(Keys.ESCAPE)
    search = browser.one("#message")
    search.send_keys("never-here", Keys.ENTER)
    browser.see("dialog .error", "nothing is kept of 'never-here'")
    assert [line for line in browser.said() if "404" not in line] == []


# --- names of others ---


def test_names_are_texts_whatever_they_are(browser: Browser, open_page: Open) -> None:
    page = open_page()
    backend = page.room.stranger(HOSTILE[:64])
    backend.register(HOSTILE, page.room.capability, version="<b>1</b>", group="</script><script>alert(1)</script>")
    browser.driver.get(page.url)
    browser.until(lambda: browser.text(browser.one("#state")) == "live")
    page.work([backend], 2)
    page.room.client().send(HOSTILE, b"", mode="single")
    backend.ack(backend.delivery(), b"")
    browser.see("#map tbody th", HOSTILE)
    browser.see("#map thead", HOSTILE)
    browser.see("#series .keys button", HOSTILE)
    browser.see("#map td.cell").click()
    browser.see("dialog .candidate", HOSTILE)
    browser.press(Keys.ESCAPE)
    browser.run("document.getElementById('decisions').scrollIntoView()")
    browser.see("#decisions tbody tr", HOSTILE).click()
    browser.see("dialog .verdict", HOSTILE)
    browser.press(Keys.ESCAPE)
    backend.command("UNREGISTER")
    browser.see("#happenings li", f"{HOSTILE}: left")
    assert browser.driver.title == "router-daemon"
    assert [image.get_attribute("class") for image in browser.all("img")] == ["mark"]
    assert len(browser.all("script")) == 1


# --- many ---


def test_of_many_backends_it_says_what_is_left_out_and_a_filter_finds_it(browser: Browser, open_page: Open) -> None:
    page = open_page()
    for number in range(66):
        page.room.backend(name=f"crowd-{number:02}")
    browser.driver.get(page.url)
    browser.see("#map-note", "64 of 66 backends, the busiest; the filter finds the others.")
    shown = {browser.text(each) for each in browser.all("#map tbody th")}
    hidden = next(f"crowd-{n:02}" for n in range(66) if f"crowd-{n:02}" not in shown)
    browser.press("/")
    assert browser.focused.get_attribute("id") == "filter"
    browser.press(hidden)
    browser.until(lambda: [browser.text(each) for each in browser.all("#map tbody th")] == [hidden])
    browser.see("#map-note", "1 of 66 backends.")


# --- the daemon goes and comes ---


def test_it_says_that_the_daemon_is_gone_and_goes_on_when_it_is_back(
    browser: Browser, open_page: Open, daemon: DaemonFactory, open_room: OpenRoom
) -> None:
    page = open_page()
    [backend] = page.room.backends(1)
    browser.driver.get(page.url)
    cell(browser, backend.name)
    page.daemon.stop()
    browser.see("#banner", "The daemon does not answer since")
    assert browser.one("#state").get_attribute("data-state") == "gone"
    assert cell(browser, backend.name), "what it said last stays"
    settings = page.daemon.settings
    again = daemon(front=page.daemon.frontend, back=page.daemon.backend, admin=settings["admin"])
    [newcomer] = open_room(again).backends(1)
    cell(browser, newcomer.name)
    browser.until(lambda: browser.one("#state").get_attribute("data-state") == "live")
    assert not browser.one("#banner").is_displayed()
    browser.see("#happenings li", "started: version")
    assert [line for line in browser.said() if "ERR_CONNECTION" not in line and "ERR_INCOMPLETE" not in line] == []


def test_it_says_that_too_many_listen_and_goes_on_when_one_has_left(browser: Browser, open_page: Open) -> None:
    page = open_page()
    [backend] = page.room.backends(1)
    streams = [urllib.request.urlopen(f"{page.url}/events", timeout=5) for _ in range(MOST_LISTENERS)]
    browser.driver.get(page.url)
    browser.see("#banner", "The daemon runs, but as many pages listen as it allows.")
    for stream in streams:
        stream.close()
    cell(browser, backend.name)
    browser.until(lambda: browser.one("#state").get_attribute("data-state") == "live")
    assert [line for line in browser.said() if "503" not in line] == []


# --- what changes something ---


def state_of(page: Page) -> str:
    return str(page.ask("/routes")["rollout"]["state"])


def test_a_rollout_is_led_after_a_confirmation(browser: Browser, open_page: Open) -> None:
    page = open_page(**ROLLOUT)
    browser.driver.get(page.url)
    browser.see("#rollout .stages", "10 %")
    browser.see("#rollout button", "Roll back").click()
    browser.see("dialog p", "All messages of fresh go to stable at once.")
    browser.press(Keys.ESCAPE)
    browser.until(lambda: not browser.all("dialog[open]"))
    assert state_of(page) == "running"
    browser.see("#rollout button", "Next stage").click()
    browser.see("dialog button", "Next stage").click()
    browser.see("#rollout .stages .here", "50 %")
    browser.see("#happenings li", "50 % of the messages: a person says so")
    browser.see("#rollout button", "Roll back").click()
    browser.see("dialog button", "Roll back").click()
    browser.see("#rollout .tag", "rolled back")
    assert state_of(page) == "rolled back"
    assert page.ask("/routes")["acts"][-1]["detail"] == "from the page"
    browser.until(lambda: browser.see("#rollout button", "Resume").is_enabled())
    assert not browser.see("#rollout button", "Next stage").is_enabled()


def test_what_is_refused_is_said(browser: Browser, open_page: Open) -> None:
    page = open_page()
    browser.driver.get(page.url)
    browser.until(lambda: browser.text(browser.one("#state")) == "live")
    capability, backend, _ = browser.all("#overrides input")
    capability.send_keys("anything")
    backend.send_keys("nobody")
    browser.see("#overrides button", "Override").click()
    browser.see("dialog p", "All new messages of anything go to nobody alone for 10 min")
    browser.see("dialog button", "Override").click()
    browser.see("#overrides .error", "no backend 'nobody' is registered")
    assert [line for line in browser.said() if "409" not in line] == []


def test_an_override_begins_and_ends_from_the_page(browser: Browser, open_page: Open) -> None:
    page = open_page()
    [backend] = page.room.backends(1)
    browser.driver.get(page.url)
    cell(browser, backend.name)
    capability, name, _ = browser.all("#overrides input")
    capability.send_keys(page.room.capability)
    name.send_keys(backend.name)
    browser.see("#overrides form button").click()
    browser.see("dialog button", "Override").click()
    browser.see("#overrides li", backend.name)
    assert page.ask("/routes")["overrides"][0]["backend"] == backend.name
    browser.see("#overrides button", "End").click()
    browser.see("dialog button", "End it").click()
    browser.see("#overrides li", "None is in force.")
    assert page.ask("/routes")["overrides"] == []


def test_a_token_is_asked_for_and_kept_nowhere_but_in_memory(browser: Browser, open_page: Open) -> None:
    page = open_page(admin={"token": TOKEN}, **ROLLOUT)
    browser.driver.get(page.url)
    browser.see("#rollout button", "Roll back").click()
    browser.see("dialog button", "Roll back").click()
    browser.see("dialog p", "The daemon wants a token for this.")
    browser.see("dialog input[type=password]").send_keys("wrong", Keys.ENTER)
    browser.see("dialog p", "The daemon does not know that token.")
    assert state_of(page) == "running"
    browser.see("dialog input[type=password]").send_keys(TOKEN, Keys.ENTER)
    browser.see("#rollout .tag", "rolled back")
    browser.until(lambda: browser.see("#rollout button", "Resume").is_enabled())
    browser.see("#rollout button", "Resume").click()
    browser.see("dialog button", "Resume").click()
    browser.see("#rollout .tag", "running")
    kept = browser.run(
        "return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    )
    assert TOKEN not in kept
    assert [line for line in browser.said() if "401" not in line] == []


# --- everywhere ---


def test_it_fits_a_phone(browser: Browser, open_page: Open) -> None:
    page = open_page(**ROLLOUT)
    backends = [
        page.room.backend(capabilities=[page.room.capability, *(unique("another") for _ in range(9))]) for _ in range(3)
    ]
    browser.begin(width=PHONE[0], height=PHONE[1], prefers_reduced_motion="reduce")
    browser.driver.get(page.url)
    page.work(backends)
    cell(browser, backends[0].name)
    assert browser.run("return document.documentElement.scrollWidth") <= PHONE[0]
    cell(browser, backends[0].name).click()
    browser.see("dialog .candidate")
    box = browser.one("dialog").rect
    assert (box["x"], box["width"]) == (0, PHONE[0])
    assert browser.run("const d = document.querySelector('dialog'); return d.scrollWidth <= d.clientWidth")
    small = browser.run(
        "return [...document.querySelectorAll('button')].filter(b => b.offsetHeight && b.offsetHeight < 30 && !b.matches('.link')).map(b => b.textContent)"
    )
    assert small == [], "a finger can press them"


def test_it_is_dark_where_the_machine_is_and_light_where_a_person_says_so(browser: Browser, open_page: Open) -> None:
    page = open_page()
    browser.begin(prefers_color_scheme="dark")
    browser.driver.get(page.url)
    browser.until(lambda: browser.run("return document.documentElement.dataset.tone") == "dark")
    dark = browser.run("return getComputedStyle(document.body.parentElement).backgroundColor")
    browser.one("#theme").click()
    browser.until(lambda: browser.run("return document.documentElement.dataset.tone") == "light")
    assert browser.run("return getComputedStyle(document.body.parentElement).backgroundColor") != dark
    browser.driver.refresh()
    assert browser.until(lambda: browser.run("return document.documentElement.dataset.tone")) == "light"
    browser.run("localStorage.clear()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(browser: Browser, open_page: Open, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, of every text in its place, the map's numbers as well."""
    page = open_page(**ROLLOUT)
    backends = page.room.backends(4)
    page.work(backends, 8)
    browser.begin(prefers_color_scheme=scheme)
    browser.driver.get(page.url)
    browser.until(lambda: len(browser.all("#map td.cell")) == 4)
    assert browser.run(CONTRAST) == []


def test_nothing_moves_for_who_wants_no_motion(browser: Browser, open_page: Open) -> None:
    page = open_page()
    page.room.backends(1)
    for preference, moves in (("reduce", False), ("no-preference", True)):
        browser.begin(prefers_reduced_motion=preference)
        browser.driver.get(page.url)
        browser.see("#map td.cell").click()
        browser.see("dialog .verdict")
        assert (
            browser.run("return getComputedStyle(document.querySelector('dialog')).animationName") != "none"
        ) is moves


def test_it_asks_nobody_but_its_daemon(browser: Browser, open_page: Open) -> None:
    page = open_page()
    page.room.backends(1)
    browser.driver.get(page.url)
    browser.see("#map td.cell")
    asked = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(asked) > 10
    assert all(name.startswith(page.url) for name in asked)


def test_its_policy_stops_what_slips_in(browser: Browser, open_page: Open) -> None:
    page = open_page()
    browser.driver.get(page.url)
    browser.until(lambda: browser.text(browser.one("#state")) == "live")
    fault = browser.run("try { document.body.innerHTML = '<b>x</b>'; return '' } catch (fault) { return fault.name }")
    assert fault == "TypeError", "Trusted Types"
    browser.run(
        "const s = document.createElement('style'); s.textContent = 'body{display:none}'; document.head.append(s)"
    )
    assert browser.one("body").is_displayed()
    assert any("Content Security Policy" in line or "TrustedHTML" in line for line in browser.said())


def test_numbers_read_well(browser: Browser, open_page: Open) -> None:
    page = open_page()
    browser.driver.get(page.url)
    found = browser.driver.execute_async_script(
        """
        const done = arguments[0];
        import("/page/format.js").then(({ number, percent, ms, span }) => done([
          number(0), number(1234), number(12345), number(2.5e6), number(0.12345), number(null),
          percent(0.99996), percent(1), percent(0.00001), percent(0.5), percent(undefined),
          ms(1.23456), ms(950), ms(1500), ms(null), span(5), span(600), span(7200),
        ]), (fault) => done(String(fault)));
        """
    )
    assert found == [
        *("0", "1,234", "12.3k", "2.5M", "0.123", NONE),
        *("99.99", "100", "<0.01", "50", NONE),
        *("1.23 ms", "950 ms", "1.5 s", NONE, "5 s", "10 min", "2 h"),
    ]


def test_its_memory_is_bounded_and_has_no_gap_twice(browser: Browser, open_page: Open) -> None:
    page = open_page()
    browser.driver.get(page.url)
    found = browser.driver.execute_async_script(
        """
        const done = arguments[0];
        import("/page/memory.js").then(({ Memory }) => {
          const memory = new Memory();
          const point = (at) => ({ at });
          const events = (from, to) => Array.from({ length: to - from }, (_, n) => ({ id: from + n, at: from + n, kind: "x" }));
          memory.begin({ boot: "a", points: [10, 15, 20].map(point), events: events(1, 4) });
          for (let at = 21; at < 1300; at++) {
            memory.take({ point: point(at), events: events(1, 8), decision_seconds: { hit: [at], miss: [0] } });
          }
          const first = [memory.points.length, memory.points[0].at, memory.happenings.length];
          memory.begin({ boot: "a", points: [1290, 1295, 1305].map(point), events: events(1, 9) });
          const again = [memory.points.length, memory.points.at(-1).at, memory.happenings.length];
          memory.begin({ boot: "b", points: [], events: events(20, 22) });
          done([first, again, memory.happenings.length, memory.decided.length]);
        }, (fault) => done(String(fault)));
        """
    )
    assert found == [[601, 699, 7], [596, 1305, 8], 10, 0]


CONTRAST: Final = """
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const over = (top, under) => { const a = top[3] ?? 1; return [0, 1, 2].map((n) => top[n] * a + under[n] * (1 - a)); };
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().filter((c) => c.length).reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("[disabled], noscript, option, .skip, svg, .only-read")) continue;
    const under = behind(element);
    const [a, b] = [luminance(over(parse(getComputedStyle(element).color), under)), luminance(under)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.className} ${element.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return poor;
"""
