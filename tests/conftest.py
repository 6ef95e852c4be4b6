"""Settings of every test: hypothesis profiles, the backend, this folder's helpers on the path."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None)
settings.register_profile("deep", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("QUIPLINALG_PROFILE", "dev"))


def pytest_addoption(parser):
    parser.addoption(
        "--backend",
        choices=("cpu", "cuda", "standin"),
        default="cpu",
        help="where functions with CUDA kernels run if a test does not say: on a device, which is "
        "then required, or (standin) by the kernels compiled for the processor",
    )


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a shell that runs us behind it
        signal.signal(signal.SIGINT, signal.default_int_handler)  # or no test could press Ctrl-C
    config.addinivalue_line("markers", "host: how something is done in host memory, on threads")
    backend = config.getoption("--backend")
    if backend == "standin":
        sys.path.insert(0, str(Path(__file__).parent / "cuda"))
        from standin.fake_cupy import installed

        standing = installed()
        standing.__enter__()
        config.add_cleanup(lambda: standing.__exit__(None, None, None))
    if backend != "cpu":
        _prefer_cuda()


def _prefer_cuda():
    """Let "auto" be "cuda" for host arrays too, in every function that has CUDA kernels."""
    from quiplinalg.errors import BackendUnavailableError
    from quiplinalg.kernels import record

    plain = record.select

    def select(backend="auto", **arrays):
        free = backend == "auto" and arrays and "codes" not in arrays  # a result is where it is
        return plain("cuda" if free else backend, **arrays)

    try:
        plain("cuda", W=None)
    except BackendUnavailableError as error:
        raise pytest.UsageError(f"--backend asks for a device: {error}") from None
    record.select = select  # before anything has imported it by name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """With a device, skip (and say so) what asks for a kernel that there is for hosts only."""
    if item.config.getoption("--backend") == "cpu":
        return (yield)
    if item.get_closest_marker("host"):
        pytest.skip("only of the host")
    from quiplinalg.errors import BackendUnavailableError

    try:
        return (yield)
    except BackendUnavailableError as error:
        if "has no CUDA kernel" not in str(error):
            raise
        pytest.skip(str(error))
    except Exception as error:
        if "cudaErrorInvalidDevice" not in str(error):
            raise
        pytest.skip("needs a second device")
