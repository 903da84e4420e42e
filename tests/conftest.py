"""The test process is stricter than a user's: implicit rank promotion and key reuse raise, warnings are errors."""

import os

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # a worker has one core; threads of NumPy and XLA that wait for it cost as much again
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported: bit-for-bit tests ask for one kind of device

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
settings.register_profile(
    "repeatable",
    derandomize=True,
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(request):
    """The tests of a worker, the commands that they start, and later runs of tests share their compilations.

    Not those of two workers: JAX does not write an entry at once, and the other one could read a part of it.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    folder = str(request.config.cache.mkdir(f"compilations_{worker}"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    jax.config.update("jax_compilation_cache_dir", folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Tests, and the commands that they start, compile in half the time; marked tests do as a user's.

    Before any fixture: a module's shares its results with its tests.
    """
    full = any(item.get_closest_marker(name) for name in ("optimized", "timed"))
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(not full))
    jax.config.update("jax_disable_most_optimizations", not full)
