"""A real Chromium without a window, for tests of the page: it waits for conditions, and tells what the console said.

Rules:
- One browser serves a test session; every test gets it on an empty page, without storage, as wide as a desk, light.
- Nothing sleeps: `until` asks again until something is so, with a deadline that only a failing test waits out.
- A test ends with `check`: the console has said nothing, so no script failed and nothing broke the page's policy.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from tools import require_tool

WAIT_S: Final = 15.0
OPTIONS: Final = (
    "--headless",
    "--no-sandbox",  # CI may be root in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
_T = TypeVar("_T")


class Browser:
    """The browser, as a person with eyes, hands and a keyboard uses it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def begin(self, *, width: int = 1440, height: int = 900, **media: str) -> None:
        """Be on an empty page of this size; `media`: features such as prefers_color_scheme="dark"."""
        self.leave()
        self.look(width, height, **media)
        self.said()

    def leave(self) -> None:
        """Be on an empty page."""
        self.driver.get("about:blank")

    def look(self, width: int, height: int, **media: str) -> None:
        """Have a window of this size on a machine with these preferences."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        wanted = {"prefers-color-scheme": "light"} | {name.replace("_", "-"): value for name, value in media.items()}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def until(self, so: Callable[[], _T], what: str = "") -> _T:
        """Return the first value of `so` that is true; elements that vanish or are not there yet count as not so."""
        ignored = (NoSuchElementException, StaleElementReferenceException, IndexError)
        wait = WebDriverWait(self.driver, WAIT_S, poll_frequency=0.05, ignored_exceptions=ignored)
        return wait.until(lambda _: so(), what)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def see(self, selector: str, text: str = "") -> WebElement:
        """Return the first visible element with this text in it, once there is one."""

        def found() -> WebElement | None:
            return next((e for e in self.all(selector) if e.is_displayed() and text in self.text(e)), None)

        element = self.until(found, f"no {selector} with {text!r}")
        assert element is not None
        return element

    def text(self, element: WebElement) -> str:
        """Return what stands there, whether it can be seen or is only read aloud."""
        return str(element.get_property("textContent"))

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    @property
    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page; `return` gives a value back."""
        return self.driver.execute_script(script, *arguments)

    def said(self) -> list[str]:
        """Return what the console has said since this was last asked."""
        return [f"{each['level']}: {each['message']}" for each in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def check(self) -> None:
        """Assert that the console has had nothing to say."""
        said = self.said()
        assert said == [], "\n".join(said)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    driver_path, program = require_tool("chromedriver"), require_tool("chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(driver_path))
        try:
            yield Browser(driver)
        finally:
            driver.quit()


__all__ = ["Browser", "Keys", "chromium"]
