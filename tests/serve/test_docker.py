"""docker/ and docs/serving.md, as far as that goes without running a container."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import yaml
from tiny import tiny_core

from ridgeline.cli.main import COMMANDS
from ridgeline.serve.app import build_routes
from ridgeline.serve.metrics.exposition import COUNTERS, GAUGES, HISTOGRAMS, LABELLED, names

ROOT = Path(__file__).parents[2]


def test_each_expression_names_metrics_that_there_are() -> None:
    board = json.loads((ROOT / "docker/grafana/dashboards/ridgeline.json").read_text())
    known = set(names())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(expressions) > 15
    for expression in expressions:
        found = re.findall(r"(?:ridgeline|vllm):\w+", expression)
        assert found, expression
        for name in found:
            assert name in known or re.sub(r"_(bucket|sum|count)$", "", name) in known, name


def test_the_docs_tell_of_each_series_and_of_no_other() -> None:
    text = (ROOT / "docs/serving.md").read_text()
    rows = re.findall(r"^\| `(ridgeline:\w+)` \| (yes|no) \| (.+) \|$", text, re.MULTILINE)
    told = [name for name, *_ in rows]
    told += [name.replace("ridgeline:", "vllm:") for name, alias, _ in rows if alias == "yes"]
    assert sorted(told) == sorted(names())
    texts = {**HISTOGRAMS, **LABELLED}
    for name, _, what in rows:
        stem = name.removeprefix("ridgeline:")
        known = texts.get(stem) or texts.get(stem.removesuffix("_total"))
        one = known[0] if known else GAUGES.get(stem) or COUNTERS[stem.removesuffix("_total")]
        assert what == one


def test_configurations_parse_and_name_what_there_is() -> None:
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"ridgeline", "prometheus", "grafana"}
    build = services["ridgeline"]["build"]
    assert (ROOT / "docker" / build["context"] / build["dockerfile"]).is_file()
    named = {v.split(":")[0] for s in services.values() for v in s["volumes"]}
    assert {one for one in named if not one.startswith("./")} == set(compose["volumes"])
    scrape = yaml.safe_load((ROOT / "docker/prometheus.yml").read_text())["scrape_configs"]
    assert [one["metrics_path"] for one in scrape] == ["/metrics"]
    mounts = [v.split(":")[1] for v in services["prometheus"]["volumes"]]
    assert scrape[0]["authorization"]["credentials_file"] in mounts
    for found in (ROOT / "docker/grafana/provisioning").rglob("*.y*ml"):
        told = yaml.safe_load(found.read_text())
        assert told["apiVersion"] == 1
        for source in told.get("datasources", []):
            assert source["url"] == "http://prometheus:9090"
        for provider in told.get("providers", []):
            folder = provider["options"]["path"]
            assert any(v.split(":")[1] == folder for v in services["grafana"]["volumes"])


def test_containers_use_what_there_is() -> None:
    docker = (ROOT / "docker/Dockerfile").read_text()
    assert 'ENTRYPOINT ["ridgeline", "serve"]' in docker
    assert "serve" in COMMANDS
    core = tiny_core()
    paths = build_routes(core).openapi()["paths"]
    core.close()
    assert "/readyz" in paths
    compose = (ROOT / "docker/compose.yaml").read_text()
    for mounted in re.findall(r"- (\./[\w./-]+):", compose):
        theirs = mounted in ("./keys.toml", "./scrape.key")  # written by whoever runs it
        assert theirs or (ROOT / "docker" / mounted).exists(), mounted
    assert (ROOT / "docker" / ".." / "docker/Dockerfile").exists()
    for port in re.findall(r'ports: \["([^"]+)"\]', compose):
        assert port.startswith("127.0.0.1:")
    assert "ridgeline:8000" in (ROOT / "docker/prometheus.yml").read_text()


def test_images_are_given_no_keys_and_nothing_that_was_built_elsewhere() -> None:
    """A build's context is the whole folder: what lies there and is not of the source."""
    left_out = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (".git", ".venv", "build", "**/*.so"):
        assert name in left_out
    for secret in ("docker/keys.toml", "docker/scrape.key"):
        assert any(fnmatch(secret, pattern) for pattern in left_out)
        assert secret in (ROOT / ".gitignore").read_text().splitlines()
    # What the wheel is made of, and the package's texts.
    for needed in ("src/ridgeline/serve/page/index.html", "pyproject.toml", "README.md"):
        assert (ROOT / needed).is_file()
        assert not any(fnmatch(needed, p) or needed.startswith(f"{p}/") for p in left_out)


def test_every_path_is_in_the_docs() -> None:
    text = (ROOT / "docs/serving.md").read_text()
    core = tiny_core()
    document = build_routes(core).openapi()
    core.close()
    for path in document["paths"]:
        stem = path if path in ("/explain/{request_id}",) else path.split("/{")[0]
        assert f"`{stem}`" in text, path
