"""Adds what the site needs beyond docs/: Mermaid, out of the npm package that scripts/docs fetched."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

MERMAID = Path(__file__).parent / "vendor" / "mermaid.min.js"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "assets/mermaid.min.js", abs_src_path=str(MERMAID)))
    return files
