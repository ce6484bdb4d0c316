"""The page in a real browser, against the real gateway and the real Triton.

No test may leave an error in the console or ask another host, but for the failures that it brings about."""

from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

from harness.browser import CHROMIUM, DESKTOP, FLAGS, PHONE, USABLE, Watched
from harness.gateway import Gateway
from harness.repository import Repository
from harness.server import TritonServer, eventually

#: A kept answer comes at once: nothing would be seen of its way here.
NO_CACHE = ("--cache-entries", "0")


@contextmanager
def serve(folder):
    """The demo's models in a server whose end is not asked for."""
    repository = Repository(folder / "repository")
    repository.add_demo()
    # One processor is the browser's: a page that cannot draw is not seen to stream.
    arguments = ("--exit-timeout-secs=5", "--backend-config=textgen,intra_op_threads=1")
    running = TritonServer(repository.path, folder / "server.log", arguments)
    running.__enter__()
    yield running
    # A cancelled request to the ensemble may keep Triton 2.51 from ending in order: how it ends is not asked here.
    running.stop()


@pytest.fixture(scope="session")
def triton(tmp_path_factory):
    """The shared server."""
    with serve(tmp_path_factory.mktemp("triton")) as running:
        yield running
        running.assert_alive()


@pytest.fixture
def doomed_triton(tmp_path_factory):
    """A server of the test's own, which may crash: Triton 2.51 can when a gRPC client dies in a stream."""
    with serve(tmp_path_factory.mktemp("doomed")) as running:
        yield running


@pytest.fixture(scope="session")
def gateway(triton, tmp_path_factory):
    """The shared gateway; a test that disturbs one starts its own."""
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    with Gateway(triton.grpc_port, log, *NO_CACHE) as running:
        running.until_ready()
        yield running


@pytest.fixture(scope="session")
def browser():
    """One browser for all tests; each page has a context of its own."""
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} not found: the page is tested in a browser; apt install chromium", pytrace=False)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), headless=True, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser):
    """Opens pages: `open_page(gateway, path="/", allow=[…], **context)`; `allow` names errors that the test causes."""
    opened = []

    def start(gateway, path="/", allow=(), prepare=None, **context):
        context = browser.new_context(**{"locale": "en-US", **DESKTOP, **context})
        context.set_default_timeout(20_000)
        page = context.new_page()
        watched = Watched()
        watched.allowed = list(allow)
        watched.watch(page)
        opened.append((gateway, context, watched))
        if prepare:
            prepare(page)
        page.goto(gateway.url + path)
        # The page's policy forbids what `wait_for_function` evaluates.
        eventually(lambda: page.evaluate(USABLE))
        return page

    yield start
    for gateway, context, watched in opened:
        context.close()
        assert watched.unexpected() == []
        assert watched.hosts <= {f"127.0.0.1:{gateway.port}", ""}, watched.hosts


@pytest.fixture(params=["desktop", "phone"])
def size(request):
    """Options of a context: what every function has to work on."""
    return {"desktop": DESKTOP, "phone": PHONE}[request.param]


@pytest.fixture
def page(open_page, gateway, size):
    """The page in English, on both sizes."""
    return open_page(gateway, **size)


@pytest.fixture
def desktop(open_page, gateway):
    """The page in English, where the size does not matter."""
    return open_page(gateway)


@pytest.fixture
def own_gateway(triton, tmp_path):
    """Starts gateways of the test's own: `with own_gateway(*arguments) as gateway`."""

    @contextmanager
    def start(*arguments, **options):
        with Gateway(
            options.pop("triton", triton).grpc_port, tmp_path / "gateway.log", *NO_CACHE, *arguments, **options
        ) as running:
            running.until_ready()
            yield running

    return start
