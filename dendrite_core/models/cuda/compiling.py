# mypy: disable-error-code="no-untyped-call"
"""Kernels compiled side by side, by processes of their own: Triton compiles under the interpreter's lock.

    foreseen()         inside, launches of this thread launch nothing; what they would compile is listed
    keep_writable()    sees to it that Triton has a folder to write to
    compiled_before()  whether this machine has compiled a list before
    compile_apart()    compiles it in as many processes as there are cores, into Triton's cache on disk
    bring()            reads it from there

This file is also the program of those processes. It runs by its path and imports Triton and the kernels'
files alone, because torch would take longer to import than the kernels to compile. Whatever becomes of such
a process, it ends in bounded time, and what it has not compiled is compiled at its first launch.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, TemporaryFile, mkdtemp
from typing import Any, NamedTuple

log = logging.getLogger("dendrite.engine")

_MOST_PROCESSES = 16
# Two cores take a quarter of that for what Llama-3-8B launches.
_SECONDS = 120
_MARK = "dendrite-"


class Variant(NamedTuple):
    """A kernel as one launch needs it: where it is written, and Triton's own description of the launch."""

    module: str
    file: str
    name: str
    launch: str


@contextmanager
def foreseen() -> Iterator[set[Variant]]:
    """What launches of this thread would compile; they compile and run nothing. Others go on as ever."""
    from triton import knobs
    from triton.runtime.jit import JITFunction

    found: set[Variant] = set()
    mine, launcher, hook = threading.get_ident(), JITFunction.__getitem__, knobs.runtime.jit_cache_hook

    def launch(kernel: Any, grid: Any) -> Any:
        if threading.get_ident() != mine:
            return launcher(kernel, grid)
        # A warm-up never launches, not even what has been compiled in this process before.
        return partial(kernel.run, grid=grid, warmup=True)

    def listed(*, fn: Any, compile: Mapping[str, Any], **more: Any) -> Any:
        if threading.get_ident() != mine:
            return hook and hook(fn=fn, compile=compile, **more)
        file = fn.jit_function.fn.__code__.co_filename
        found.add(Variant(fn.module, file, fn.name, compile["specialization_data"]))
        return True

    JITFunction.__getitem__, knobs.runtime.jit_cache_hook = launch, listed
    try:
        yield found
    finally:
        JITFunction.__getitem__, knobs.runtime.jit_cache_hook = launcher, hook


def keep_writable(*, unless_filled: bool = True) -> None:
    """Move Triton's cache for as long as this process lives, if it cannot be written where it is.

    Triton compiles nothing without. One that is filled, as an image may bring it along, is left in its place.
    """
    from triton import knobs

    folder = Path(knobs.cache.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return
    except OSError as error:
        if unless_filled and any(folder.glob(f"{_MARK}*")):
            return
        moved = mkdtemp(prefix=_MARK)
        atexit.register(rmtree, moved, ignore_errors=True)
        log.warning("kernels are compiled at every start, as Triton's cache cannot be written: %s", error)
        knobs.cache.dir = moved


def compiled_before(variants: set[Variant]) -> bool:
    """Whether all of them lie in Triton's cache."""
    return _mark(variants).exists()


def compile_apart(variants: set[Variant], seconds: float = _SECONDS) -> set[Variant]:
    """Compile variants in processes of their own; those that they could, in so many seconds.

    Raises what keeps a process from being started.
    """
    from triton.runtime import driver

    keep_writable(unless_filled=False)
    target = driver.active.get_current_target()
    count = min(len(variants), max(1, len(os.sched_getaffinity(0)) - 1), _MOST_PROCESSES)
    # Variants of one kernel take about as long, so each process gets some of every kernel.
    shares = [sorted(variants)[first::count] for first in range(count)]
    order = {"path": sys.path, "target": [target.backend, target.arch, target.warp_size], "seconds": seconds}
    until = time.monotonic() + seconds
    there: set[Variant] = set()
    errors: set[str] = set()
    with TemporaryDirectory() as folder:
        folders = [Path(folder, str(number)) for number in range(count)]
        processes = [
            _started({**order, "variants": share}, at) for share, at in zip(shares, folders, strict=True)
        ]
        for share, process, at in zip(shares, processes, folders, strict=True):
            done, error = _ended(process, at, until)
            there.update(share[number] for number in done)
            errors.update([error] if error else [])
    if errors:
        left, why = len(variants) - len(there), "; ".join(sorted(errors)[:3])
        log.warning("%d kernels, or what launches them, are left for their first launch: %s", left, why)
    else:
        _mark(variants).touch()
    return there


def bring(variants: set[Variant]) -> None:
    """Read compiled variants into this process, where launches will find them."""
    for variant in variants:
        getattr(sys.modules[variant.module], variant.name).preload(variant.launch)


def _mark(variants: set[Variant]) -> Path:
    """The file that says that all of these lie in Triton's cache, as they are written now."""
    import triton
    from triton import knobs
    from triton.runtime import driver

    target = str(driver.active.get_current_target())
    whole = hashlib.sha256(repr((triton.__version__, target, sorted(variants))).encode())
    for file in sorted({variant.file for variant in variants}):
        whole.update(Path(file).read_bytes())
    return Path(knobs.cache.dir) / f"{_MARK}{whole.hexdigest()}"


def _started(order: Mapping[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    """It speaks to files, because a pipe waits for who reads it, and for whoever else has its other end."""
    folder.mkdir()
    (folder / "order").write_text(json.dumps(order))
    with (
        (folder / "order").open("rb") as order_file,
        (folder / "said").open("wb") as said,
        (folder / "told").open("wb") as told,
    ):
        command = [sys.executable, "-P", __file__]
        return subprocess.Popen(command, stdin=order_file, stdout=said, stderr=told)


def _ended(process: subprocess.Popen[bytes], folder: Path, until: float) -> tuple[list[int], str]:
    """Numbers of what was compiled, and the last line of what went wrong, empty if nothing did."""
    error = ""
    try:
        status = process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        status, error = process.wait(), "not done in time"
    if status and not error:
        lines = (folder / "told").read_text(errors="replace").strip().splitlines()
        error = lines[-1] if lines else f"exit status {status}"
    said = (folder / "said").read_text(errors="replace")
    return [int(line) for line in said.splitlines() if line.isdigit()], error


class Target:
    """What Triton asks of a device when it compiles for one that this process does not open."""

    def __init__(self, backend: str, arch: int, warp_size: int) -> None:
        # Triton is there only where CUDA is.
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget(backend, arch, warp_size)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0


def _module(variant: Variant) -> Any:
    """A kernel's file by its full name, which is part of what it is cached by, without its package."""
    if variant.module not in sys.modules:
        spec = spec_from_file_location(variant.module, variant.file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[variant.module] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[variant.module]


def _work(order: Mapping[str, Any]) -> int:
    """Compile the variants of an order, and the C code that launches them; how many did not compile.

    Says the number of each that did.
    """
    # Also if nobody is left to end this process.
    signal.setitimer(signal.ITIMER_REAL, order["seconds"])
    sys.path[:] = order["path"]
    from triton.backends.nvidia.driver import CudaLauncher
    from triton.runtime import driver

    driver.set_active(Target(*order["target"]))
    failed = 0
    for number, variant in enumerate(map(Variant._make, order["variants"])):
        try:
            compiled = getattr(_module(variant), variant.name).preload(variant.launch)
            print(number, flush=True)
            CudaLauncher(compiled.src, compiled.metadata)
        except Exception as error:
            failed += 1
            print(f"{variant.name}: {error!r}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(_work(json.load(sys.stdin)) > 0)
