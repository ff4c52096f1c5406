"""docs/settings.md says what the YAML files say."""

from pathlib import Path

from scripts.settings_table import option_comment, settings_of, settings_page

ROOT = Path(__file__).resolve().parents[2]
YAML = """\
# @package _global_
# What the file is.
# In two lines.
defaults:
  - _self_
_target_: some.Class
rate: 24000 # Hz
# Above the key,
# in two lines.
sizes: { a: 1, b: [2, 3] }
outer: # a group
  _target_: some.Other
  plain: null
  items:
    - one
    - two
parts:
  - _target_: some.Part
    width: 3 # channels
hydra:
  run: . # not a setting of ours
"""


def test_the_page_is_up_to_date() -> None:
    expected = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert settings_page() == expected, "run: .venv/bin/python -m scripts.settings_table > docs/settings.md"


def test_settings_have_their_comments() -> None:
    assert option_comment(YAML) == "What the file is. In two lines."
    assert [tuple(setting) for setting in settings_of(YAML)] == [
        ("rate", "24000", "Hz"),
        ("sizes", "{ a: 1, b: [2, 3] }", "Above the key, in two lines."),
        ("outer", "", "a group"),
        ("outer.plain", "null", ""),
        ("outer.items", "[one, two]", ""),
        ("parts.0.width", "3", "channels"),
    ]


def test_a_comment_that_begins_a_file_is_not_that_of_its_first_setting() -> None:
    assert settings_of("# What the file is.\nrate: 1\n") == [("rate", "1", "")]
