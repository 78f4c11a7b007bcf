# mypy: disable-error-code="no-untyped-call"
"""Kernels compiled side by side, by processes of their own: Triton compiles under the interpreter's lock.

    foreseen()       inside, launches of this thread launch nothing; what they would compile is listed
    compile_apart()  compiles a list in as many processes as there are cores, into Triton's cache on disk
    bring()          reads it from there

This file is also the program of those processes. It runs by its path and imports Triton and the kernels'
files alone, because torch would take longer to import than the kernels to compile.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger("dendrite.engine")

_MOST_PROCESSES = 16
_SECONDS = 300


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


def compile_apart(variants: set[Variant]) -> bool:
    """Compile variants in processes of their own; False if this machine has compiled all of them before.

    Raises whatever keeps a process from being started.
    """
    from triton.runtime import driver

    target = driver.active.get_current_target()
    done = _mark(variants, target)
    if done.exists():
        return False
    count = min(len(variants), max(1, len(os.sched_getaffinity(0)) - 1), _MOST_PROCESSES)
    # Variants of one kernel take about as long, so each process gets some of every kernel.
    ordered = sorted(variants)
    order = {"path": sys.path, "target": [target.backend, target.arch, target.warp_size]}
    processes = [_started({**order, "variants": ordered[first::count]}) for first in range(count)]
    failed = [error for process in processes if (error := _ended(process))]
    for error in failed:
        log.warning("some kernels will be compiled when they are first used: %s", error)
    if not failed:
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()
    return True


def bring(variants: set[Variant]) -> None:
    """Read compiled variants into this process, where launches will find them."""
    for variant in variants:
        getattr(sys.modules[variant.module], variant.name).preload(variant.launch)


def _mark(variants: set[Variant], target: object) -> Path:
    """The file that says that all of these lie in Triton's cache, as they are written now."""
    import triton
    from triton import knobs

    whole = hashlib.sha256(repr((triton.__version__, str(target), sorted(variants))).encode())
    for file in sorted({variant.file for variant in variants}):
        whole.update(Path(file).read_bytes())
    return Path(knobs.cache.dir) / f"dendrite-{whole.hexdigest()}"


def _started(order: Mapping[str, Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(order))
    process.stdin.close()
    process.stdin = None
    return process


def _ended(process: subprocess.Popen[str]) -> str:
    """The last line of what went wrong, empty if nothing did."""
    try:
        _, said = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return f"not done after {_SECONDS} s"
    if not process.returncode:
        return ""
    return (said.strip() or f"exit status {process.returncode}").splitlines()[-1]


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
    """Compile the variants of an order, and the C code that launches them; how many did not compile."""
    sys.path[:] = order["path"]
    from triton.backends.nvidia.driver import CudaLauncher
    from triton.runtime import driver

    driver.set_active(Target(*order["target"]))
    failed = 0
    for variant in map(Variant._make, order["variants"]):
        try:
            compiled = getattr(_module(variant), variant.name).preload(variant.launch)
            CudaLauncher(compiled.src, compiled.metadata)
        except Exception as error:
            failed += 1
            print(f"{variant.name}: {error!r}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(_work(json.load(sys.stdin)) > 0)
