"""Writes what the code knows better than a page: the file tree, the operators, the commands.

python docs/generate.py            writes them
python docs/generate.py --check    exits with 1 if a page is not what the code says
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import typer

from ridgeline.cli.main import COMMANDS, GROUPS, build_app
from ridgeline.cost.count import count_kv_bytes, count_parameters
from ridgeline.errors import ModelError
from ridgeline.model.architectures import ARCHITECTURES
from ridgeline.model.graph.ops import OPERATORS
from ridgeline.model.opened import describe

ROOT = Path(__file__).parents[1]
TREE_START = "<!-- tree: docs/generate.py -->\n```\n"
TREE_END = "```\n<!-- /tree -->\n"
LONGEST = 130
SKIPPED = {"__pycache__", "data", "tokens", "corpus"}
PAGES = (
    "README.md",
    "docs/operators.md",
    "docs/cli.md",
    "docs/models.md",
    "docs/adding-a-model.md",
)
MODELS = ROOT / "tests" / "null" / "data"


def first_sentence(text: str) -> str:
    """Of a docstring or comment; a long one only up to its colon."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    sentence = re.split(r"(?<!et al)(?<![.])[.](?:\s+(?=[A-Z`])|$)", paragraph)[0]
    return sentence if len(sentence) <= LONGEST else sentence.split(": ")[0].split("; ")[0]


def about(path: Path) -> str:
    """What a file says of itself in its first sentence."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return first_sentence(ast.get_docstring(ast.parse(text)) or "")
    if path.suffix in (".cpp", ".h"):
        lines = []
        for line in text.splitlines():
            if not line.startswith("//"):
                break
            lines.append(line.removeprefix("//").strip())
        return first_sentence("\n".join(lines))
    return ""


def described(path: Path) -> str:
    if path.suffix == ".cpp" and not about(path):
        header = path.with_suffix(".h")
        return f"see {header.name}" if header.exists() else ""
    return about(path)


def tree() -> str:
    lines: list[str] = []
    for top in ("src/ridgeline", "src/native", "tests", "benchmarks", "docs"):
        lines.append(f"{top}/")
        lines += branch(ROOT / top, 1)
    return "\n".join(lines) + "\n"


def branch(folder: Path, depth: int) -> list[str]:
    indent = "  " * depth
    lines = []
    entries = sorted(folder.iterdir(), key=lambda p: (p.is_dir(), p.name))
    for entry in entries:
        if entry.name in SKIPPED or entry.name.startswith("."):
            continue
        if entry.is_dir():
            if is_case(entry):
                continue
            inside = branch(entry, depth + 1)
            if inside:
                lines += [f"{indent}{entry.name}/", *inside]
        elif entry.suffix in (".py", ".cpp", ".h", ".md") and entry.name != "__init__.py":
            text = described(entry)
            lines.append(f"{indent}{entry.name:28}{text}".rstrip())
    return lines


def is_case(folder: Path) -> bool:
    """A golden checkpoint: data, not code."""
    return (folder / "expected.npz").exists()


def readme() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(TREE_START)
    _, _, after = rest.partition(TREE_END)
    return before + TREE_START + tree() + TREE_END + after


def operators() -> str:
    rows = [
        "# Operators",
        "",
        "What a graph is made of; generated from the operators themselves. Each has four rules",
        "(shape, cost, shard, check) in `src/ridgeline/model/graph/ops/`, and its meaning in",
        "`src/ridgeline/backends/reference/`.",
        "",
        "| operator | what it does | attributes |",
        "| --- | --- | --- |",
    ]
    for name, operator in OPERATORS.items():
        attributes = ", ".join(f"`{field}`" for field in operator.__dataclass_fields__)
        meaning = first_sentence(inspect.getdoc(operator) or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {meaning} | {attributes} |")
    return "\n".join(rows) + "\n"


def cli() -> str:
    """Every command with its arguments, options and defaults, from the application itself."""
    lines = [
        "# Commands",
        "",
        "Generated from the application. `--cache-dir`, `--offline` and `--debug` may stand before",
        "or after any command.",
    ]
    group = typer.main.get_command(build_app())
    commands = group.commands  # type: ignore[attr-defined]
    found = {name: commands[name] for name in COMMANDS}
    for name, inner in GROUPS.items():
        found |= {f"{name} {word}": commands[name].commands[word] for word in inner.commands}
    for name, command in found.items():
        lines += ["", f"## ridgeline {name}", "", first_paragraph(command.help or ""), ""]
        lines += ["| argument or option | meaning | default |", "| --- | --- | --- |"]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            shown = (
                parameter.name.upper()
                if parameter.param_type_name == "argument"
                else ", ".join(parameter.opts)
            )
            text, _, default = (getattr(parameter, "help", "") or "").partition(" [default: ")
            value = default.rstrip("]") or plain(parameter.default)
            lines.append(f"| `{shown}` | {text} | {value} |")
    return "\n".join(lines) + "\n"


def models() -> str:
    """Configurations of the field: what is counted beside what is published."""
    facts = json.loads((MODELS / "models.json").read_text(encoding="utf-8"))
    notes = json.loads((MODELS / "model_notes.json").read_text(encoding="utf-8"))
    lines = [
        "# Models of the field",
        "",
        f"{len(facts)} configurations, each built as a graph and counted; generated. In the first",
        "place stands what is counted, in the second what the vendor publishes; KV bytes per token",
        "are in BF16, over all layers, beside a count by hand. What is built runs on the backends",
        "`cpu` and `reference`. Below the table: why a figure differs.",
        "",
        "| model | architecture | parameters, B | active, B | KV bytes/token | runs |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    reasons: list[str] = []
    for name, fact in facts.items():
        config = without_quantization(fact["config"])
        architecture = (config.get("architectures") or ["?"])[0]
        row = [name, f"`{architecture}`"]
        if fact.get("partial"):
            row += [
                pair(None, fact["total"]),
                pair(None, fact["active"]),
                "",
                "its sizes are not known",
            ]
        elif architecture not in ARCHITECTURES:
            row += [
                pair(None, fact["total"]),
                pair(None, fact["active"]),
                f"- / {dash(fact['kv'])}",
                "no",
            ]
        else:
            graph = describe(config, where=name)
            counted = count_parameters(graph)
            row += [
                pair(counted.total, fact["total"]),
                pair(counted.active, fact["active"]),
                f"{count_kv_bytes(graph).per_token:,.0f} / {dash(fact['kv'])}",
                "yes" if is_read(fact["config"]) else "counted; its files' numbers are not read",
            ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
        reasons += [f"* {name}, {key}: {why}." for key, why in notes.get(name, {}).items()]
    counts = {
        "No total is published of": [k for k, v in facts.items() if v["total"] is None],
        "Of whose total what is counted is more than 1 % off": [
            k for k in facts if "total" in notes.get(k, {})
        ],
        "Not built": [
            k
            for k, v in facts.items()
            if not v.get("partial") and v["config"]["architectures"][0] not in ARCHITECTURES
        ],
        "Whose sizes are not known": [k for k, v in facts.items() if v.get("partial")],
    }
    lists = [f"* {what} ({len(found)}): {', '.join(found)}." for what, found in counts.items()]
    return "\n".join([*lines, "", *lists, "", "Why a figure differs:", "", *reasons]) + "\n"


def without_quantization(config: dict[str, Any]) -> dict[str, Any]:
    """The model before anybody quantized it."""
    bare = {k: v for k, v in config.items() if k != "quantization_config"}
    if isinstance(bare.get("text_config"), dict):
        bare["text_config"] = without_quantization(bare["text_config"])
    return bare


def is_read(config: dict[str, Any]) -> bool:
    """Whether the numbers of the text part are in a format that is read."""
    text = config.get("text_config", {})
    try:
        describe({**without_quantization(config), **({"text_config": text} if text else {})})
    except ModelError:
        return False
    return True


def adding_a_model() -> str:
    """The page with the code that it shows copied from the files anew."""
    page = (ROOT / "docs" / "adding-a-model.md").read_text(encoding="utf-8")

    def shown(match: re.Match[str]) -> str:
        kind, path, _, word = match[1], *match[2].partition(" ")
        text = (ROOT / path).read_text(encoding="utf-8")
        if kind == "rows":
            wanted = [line[4:] for line in text.splitlines() if f"({word}," in line]
            text = "\n".join(wanted) + "\n"
        elif kind == "case":
            text = next(part for part in case_sources(text) if f'"{word}",' in part)
        return f"<!-- {kind}: {match[2]} -->\n```py\n{text}```\n<!-- /{kind} -->"

    marked = r"<!-- (code|rows|case): ([^\n]*) -->\n.*?<!-- /\1 -->"
    return re.sub(marked, shown, page, flags=re.DOTALL)


def case_sources(text: str) -> list[str]:
    """The source of each `Case(...)` of a file, with its indentation taken off."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Case":
            lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
            lines[-1] = lines[-1][: node.end_col_offset]
            found.append("\n".join(line[node.col_offset :] for line in lines) + "\n")
    return found


def pair(counted: int | None, published: int | None) -> str:
    return " / ".join("-" if n is None else f"{n / 1e9:.2f}" for n in (counted, published))


def dash(published: int | None) -> str:
    return "-" if published is None else f"{published:,}"


def plain(default: object) -> str:
    return "" if default in (None, False, ()) or callable(default) else str(default)


def first_paragraph(text: str) -> str:
    return " ".join(text.strip().split("\n\n")[0].split())


def pages() -> dict[str, str]:
    return dict(zip(PAGES, (readme(), operators(), cli(), models(), adding_a_model()), strict=True))


def main() -> int:
    stale = []
    for name, text in pages().items():
        path = ROOT / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text, encoding="utf-8")
    if stale:
        print("stale:" if "--check" in sys.argv else "written:", *stale)
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
