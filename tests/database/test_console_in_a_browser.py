"""The console in a real browser: changes are seen, everybody can use it, and nothing is fetched from elsewhere."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, ViewportSize, expect

from lab import fleet as lab_fleet
from lab.directory import Lab
from models.access import Scope
from models.database import transaction
from models.event_action import EventAction
from models.job import Disk, Job, record_event
from tests import consoles, factories
from workflows import access

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(consoles.BROWSER is None, reason="no chromium (Debian's package) on this machine"),
]
PAGES = (
    *(
        "/",
        "/hosts/hv1",
        "/jobs?all=1",
        "/jobs/{moved}",
        "/jobs/{stuck}",
        "/drains",
        "/drains/{drain}",
        "/rolls/{roll}",
        "/plans/{plan}",
    ),
    *("/inbox", "/history", "/jobs/999999"),
)
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"],
    "resultTypes": ["violations"],  # what is well is not described
}
CONTRAST = RULES | {"runOnly": ["color-contrast"]}
WIDE: ViewportSize = {"width": 1400, "height": 900}
PHONE: ViewportSize = {"width": 360, "height": 800}


@dataclass
class Site:
    """A console that shows a fleet, and a browser."""

    address: str
    shown: consoles.Shown
    browser: Browser

    def url(self, path: str) -> str:
        """Where a page is."""
        return self.address + path.format(**vars(self.shown))


@pytest.fixture(scope="module")
def site(database_lab: Lab) -> Iterator[Site]:
    with lab_fleet.pointed_at(database_lab):
        factories.empty_database()
        shown = consoles.fleet()
        with consoles.serving() as address, consoles.browsing() as browser:
            yield Site(address, shown, browser)


@pytest.fixture(scope="module")
def window(site: Site) -> Iterator[Page]:
    """For one page after the other: the browser has the scripts at hand then."""
    with site.browser.new_page() as made:
        yield made


@pytest.mark.parametrize("path", PAGES)
def test_a_page_can_be_used_by_everybody_light_and_dark_and_on_a_phone(site: Site, window: Page, path: str) -> None:
    window.set_viewport_size(WIDE)
    window.emulate_media(color_scheme="light")
    window.goto(site.url(path))
    found = Axe().run(window, options=RULES)
    assert found.violations_count == 0, found.generate_report()
    window.emulate_media(color_scheme="dark")
    found = Axe().run(window, options=CONTRAST)
    assert found.violations_count == 0, found.generate_report()
    window.set_viewport_size(PHONE)
    assert window.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.fixture
def page(site: Site) -> Iterator[Page]:
    """A window of the test's own."""
    with site.browser.new_page(viewport=WIDE) as made:
        yield made


def test_nothing_is_fetched_from_elsewhere_and_nothing_breaks_the_policy(site: Site, page: Page) -> None:
    complaints: list[str] = []
    asked: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        complaints.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for path in PAGES[:-1]:
        page.goto(site.url(path))
    assert complaints == []
    assert all(url.startswith(site.address + "/") for url in asked)


def test_a_change_is_seen_within_a_second_or_so_and_what_is_typed_stays(site: Site, page: Page) -> None:
    page.goto(site.url("/jobs/{copying}"))
    expect(page.get_by_text("62 %")).to_be_visible()
    with page.expect_response("**/live/**"):
        page.reload()
    changed(site.shown.copying, 0.75)
    expect(page.get_by_text("75 %")).to_be_visible(timeout=15_000)
    expect(page.get_by_text("three quarters are copied")).to_be_visible()
    page.goto(site.url("/"))
    box = page.get_by_role("searchbox", name="Host, guest or label")
    box.press_sequentially("web11")
    expect(page.locator(".room")).to_have_count(2)
    assert page.url.endswith("q=web11&condition=")
    factories.guest("web11-new", "hv2")
    expect(page.locator(".room")).to_have_count(3, timeout=15_000)
    expect(box).to_be_focused()
    expect(box).to_have_value("web11")


def changed(job_id: int, share: float) -> None:
    with transaction() as session:
        job = session.get_one(Job, job_id)
        disk = session.get_one(Disk, (job.id, 0))
        disk.bytes_copied = int(share * disk.bytes_total)
        record_event(session, job_id, by="test", action=EventAction.CHANGED, sentence="three quarters are copied")


def test_a_held_job_is_released_by_buttons_that_everybody_can_use(site: Site, page: Page) -> None:
    access.allow("ada", Scope.OPERATE)
    with consoles.serving(actions=True, people_by="X-User") as address:
        page.set_extra_http_headers({"X-User": "ada"})
        page.goto(f"{address}/inbox")
        assert Axe().run(page, options=RULES).violations_count == 0
        page.locator(f'a[href="/jobs/{site.shown.held}/release"]').click()
        assert Axe().run(page, options=RULES).violations_count == 0
        page.get_by_role("button", name="Do it, as ada").click()
        expect(page).to_have_url(f"{address}/jobs/{site.shown.held}")
        expect(page.get_by_text("an operator released it")).to_be_visible()
        page.goto("about:blank")  # it asks no more
    with transaction() as session:
        session.get_one(Job, site.shown.held).hold = True


def test_all_can_be_reached_with_the_keyboard(site: Site, page: Page) -> None:
    page.goto(site.url("/inbox"))
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("main a").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.address}/jobs/{site.shown.held}")
