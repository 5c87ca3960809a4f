"""Writes configs/README.md and the commented YAML files from the schema: python -m resomap.config.document [FOLDER]"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from resomap.config.expected import Fragment, Where, dotted, fragment_at, in_words, is_section, places
from resomap.config.schema import FILES, ResoMapConfig
from resomap.config.yaml_text import show, to_yaml
from resomap.serialize import write_text

_WIDTH = 100
_HEAD = """\
# Configuration

One YAML file for each part of ResoMap. All of them, and this page, are written by `make configs` from
`src/resomap/config/schema.py`; the values are the defaults. A file, a section or a key that you leave out keeps its
default, so a file of your own needs only what you change.

## Where a value comes from

Later wins:

1. the defaults below;
2. the files: `--config FOLDER` reads the files of these names in FOLDER, `--config FILE` one file with sections by
   name; without `--config`, `./configs` is read if it holds `config.yaml`;
3. `--set section.key=value`, as often as you like;
4. the flags of the command line (`--data`, `--models`, `--epochs` ...).

Among the files, `config.yaml` is the strongest: besides `study:` it may hold any other section by its name. A list
replaces the list before it. So does `families` in a file, whereas `--set models.families.vit=a,b` adds a family.

`resomap config` prints what results, in the form that `--config` takes; so does the `study.yaml` that each study
keeps (its `provenance` is not a setting and is not read; given from within its study, it means the study where it lies
now, also after a move). `demo.yaml` is such a single file, written by hand: the
study that `make demo` runs.

## Examples

```sh
resomap run --data photos --set training.learning_rate=3e-4 --set sweep.resolutions=64,96
resomap run --config mine.yaml --set data.augmentation.horizontal_flip=0
resomap run --config studies/photos/study.yaml --output studies/again
resomap config --models resnet18 > mine.yaml
```

```yaml
# mine.yaml: a single file, sections by name
sweep:
  models: [resnet18, mobilenet_v3_small]
training:
  learning_rate: 3e-4
data:
  augmentation: {horizontal_flip: 0}
```

```python
from resomap import load_config

config = load_config("mine.yaml", overrides=["training.epochs=10"])
```

Files are YAML 1.2: `3e-4` is a number, `no` is text, `true` and `false` are the two truth values. No value is
converted on the way (a whole number where a number is due is fine). Unknown keys, repeated keys, aliases and values
out of range are refused, all of them in one message with file, key and the nearest right one.
"""


def documents() -> dict[str, str]:
    """File name -> content of everything that is generated into configs/."""
    files = {name: _yaml_file(section) for section, name in FILES.items()}
    return {**files, "README.md": _readme()}


def _defaults() -> dict[str, Any]:
    return ResoMapConfig().model_dump(mode="json")


def _meaning(where: Where) -> str:
    """The docstring of the setting or section, on one line, without the name of its file."""
    text = " ".join(str((fragment_at(where) or {}).get("description", "")).split())
    text = re.sub(r"^\w+\.yaml(, \w+)?: ", "", text)
    return text[:1].upper() + text[1:] if is_section(where) else text


def _yaml_file(section: str) -> str:
    """One YAML file: every key with its meaning, what it takes, and its default."""
    title = _comment(_meaning((section,))) + _comment("Written by `make configs`; README.md beside it explains.")
    defaults = _defaults()[section]
    if section == "study":
        return f"{title}study:\n" + _yaml_keys((section,), defaults, indent="  ")
    return title + _yaml_keys((section,), defaults, indent="")


def _yaml_keys(where: Where, defaults: dict[str, Any], *, indent: str) -> str:
    blocks = []
    for name, value in defaults.items():
        place = (*where, name)
        if is_section(place):
            inner = _yaml_keys(place, value, indent=f"{indent}  ")
            blocks.append(_comment(_meaning(place), indent) + f"{indent}{name}:\n{inner}")
        else:
            about = _comment(_meaning(place), indent) + _comment(f"Takes {in_words(fragment_at(place) or {})}.", indent)
            blocks.append(about + textwrap.indent(to_yaml({name: value}), indent))
    return "\n" + "\n".join(blocks) if blocks and not indent else "\n".join(blocks)


def _comment(text: str, indent: str = "") -> str:
    start = f"{indent}# "
    return textwrap.fill(text, _WIDTH, initial_indent=start, subsequent_indent=start) + "\n"


def _readme() -> str:
    return "\n".join([_HEAD, *(_readme_section(section) for section in FILES)])


def _readme_section(section: str) -> str:
    lines = [f"## {FILES[section]}", "", _meaning((section,)), ""]
    rows = [(where, fragment) for where, fragment in places((section,)) if not is_section(where)]
    if rows:
        lines += ["| key | takes | default | meaning |", "|---|---|---|---|"]
        lines += [_row(where, fragment) for where, fragment in rows]
        lines.append("")
    return "\n".join(lines)


def _row(where: Where, fragment: Fragment) -> str:
    default: Any = _defaults()
    for part in where:
        default = default[part]
    shown = default if isinstance(default, str) else show(default, width=400)
    cells = [f"`{dotted(where)}`", in_words(fragment), f"`{shown}`", _meaning(where)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write_documents(folder: Path) -> None:
    """Write all of them into `folder`."""
    for name, text in documents().items():
        write_text(folder / name, text)


if __name__ == "__main__":
    write_documents(Path(sys.argv[1] if len(sys.argv) > 1 else "configs"))
