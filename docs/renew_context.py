"""Writes ``docs/context.md`` and the skill for coding agents, as ``aind-etl context`` prints them.

``make docs`` runs it; the tests compare.
"""

from pathlib import Path

from aind_etl.client.context import context_page, skill_page

CLONE = Path(__file__).parents[1]
PAGES = {
    CLONE / "docs" / "context.md": context_page,
    CLONE / "skills" / "aind-etl" / "SKILL.md": skill_page,
}

if __name__ == "__main__":
    for path, page in PAGES.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(), encoding="utf-8")
