"""The documents say what is so: generated pages, commands, links; and nothing in the repository names a machine."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import typer.main

from lift3d_cli.cli.app import app
from lift3d_cli.weights import read_manifest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
MADE = "run `make docs` and read the difference"
GROUP = typer.main.get_command(app)
# Where a command ends, in a shell line.
_CONTROL = re.compile(r"^[|;&()]+$")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/make_reference.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_reference_is_what_help_says(reference):
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference.cli_page(), MADE


def test_every_command_has_a_section_in_the_reference_and_a_line_in_the_pipeline():
    sections = re.findall(r"^## lift3d (\S+)$", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    lines = re.findall(r"^\| `(\w+)[ `]", (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(GROUP.commands) == set(sections)
    assert set(GROUP.commands) <= set(lines)


def test_generated_parts_of_the_readme_are_up_to_date(reference):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == reference.readme_page(text), MADE


def test_table_of_the_models_page_is_up_to_date(reference):
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert text == reference.models_page(text), MADE


def test_table_of_the_networks_parts_is_up_to_date(reference):
    text = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    assert text == reference.method_page(text), MADE


def test_sizes_of_the_small_models_are_those_of_their_networks(reference):
    from lift3d_cli.models.builtin.style_nets import TinyStyleNet
    from lift3d_cli.models.builtin.tiny_superres import SuperresNet

    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    networks = {"style": TinyStyleNet(), "tiny-superres": SuperresNet()}
    for name, network in networks.items():
        section = re.search(rf"^## `{name}\.safetensors`(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
        assert f"{reference.num_weights(network):,} weights" in section


def test_constants_in_the_documents_are_those_of_the_code():
    from lift3d_cli.lifting import confidence
    from lift3d_cli.lifting.correction import corrector, evidence
    from lift3d_cli.lifting.proposal import learned
    from lift3d_cli.pipeline import trust

    stated = {
        "how-it-works.md": (
            f"{learned.LearnedProposal.max_voxels} voxels across",
            f"{learned.SURFACE_VOXELS} voxels across",
            f"({learned.SURFACE_VOXELS_PER_PLANE} of them from plane to plane",
            f"{learned.SURFACE_PLANES} planes at most",
            f"from {learned._FEWEST_PLANES} to `--planes`",
            f"moves by {learned.LearnedProposal.voxels_per_plane} voxels",
            f"to {corrector.NUM_DESCRIPTORS} numbers",
            f"*sketches*: {evidence.SKETCH_CHANNELS} random projections",
        ),
        "limits.md": (
            f"exp(−disagreement / {confidence._DISAGREEMENT} − spread / {confidence._SPREAD})",
            f"mean coverage is below {trust.LEAST_COVERAGE}",
            f"confidence below {trust.DOUBTFUL}.",
        ),
    }
    for page, phrases in stated.items():
        text = " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
        for phrase in phrases:
            assert phrase in text, f"{page} does not say {phrase!r}"


def test_results_of_the_development_scenes_are_those_of_the_weights_that_ship():
    scores = read_manifest(ROOT / "weights")["lift3d.safetensors"]["scores"]
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = re.search(r"^## Nine development scenes(.*?)^## ", page, re.MULTILINE | re.DOTALL)[1]
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) / [\d.]+ \| [+-][\d.]+ \|$", section, re.MULTILINE)
    assert {f"psnr_{name}": float(value) for name, value in rows} == {
        name: round(value, 2) for name, value in scores.items() if name.startswith("psnr_")
    }


@pytest.mark.parametrize("page", ["results.md", "limits.md", "performance.md"])
def test_figures_of_earlier_versions_are_in_the_history(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert not re.search(r"\bcommit [0-9a-f]{7}", text), "figures of earlier versions belong in docs/history.md"


def test_exit_codes_are_those_of_the_errors():
    from lift3d_cli import errors

    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8"), re.MULTILINE)
    codes = {value.exit_code for value in vars(errors).values() if isinstance(value, type)}
    assert {int(row) for row in rows} == {0, 2, 130} | codes


# ---- commands --------------------------------------------------------------------------------------------------------


def shell_lines(text: str) -> list[str]:
    """The lines of a document's shell blocks that are typed: all of `sh`, those after a `$` of `console`."""
    lines = []
    for language, block in re.findall(r"^```(sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        block = block.replace("\\\n", " ")
        typed = [line for line in block.splitlines() if language == "sh" or line.startswith("$ ")]
        lines += [line.removeprefix("$ ") for line in typed]
    return lines


def calls(line: str, program: str) -> list[list[str]]:
    """The argument lists of each call of a program in a shell line, also in a pipe or after `xargs`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if _CONTROL.match(word):
            found.append([])
        else:
            found[-1].append(word)
    return [words[words.index(program) + 1 :] for words in found if program in words]


def check_call(words: list[str], whole: bool) -> None:
    """Raises if lift3d would refuse this command line; of one that is not `whole`, only names are looked at."""
    while words and words[0].startswith("-"):
        assert words[0] in {name for param in GROUP.params for name in param.opts} | {"--help"}, words
        words = words[1:]
    if not words or not re.fullmatch(r"[a-z]+", words[0]):  # `lift3d COMMAND`, `lift3d --version`
        return
    assert words[0] in GROUP.commands, f"no command {words[0]!r}"
    command = GROUP.commands[words[0]]
    if whole:
        command.make_context(words[0], words[1:])  # raises a usage error
        return
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    for word in words[1:]:
        assert not word.startswith("--") or word.split("=")[0] in known, f"{words[0]} has no option {word}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_documents_are_what_lift3d_takes(path):
    text = path.read_text(encoding="utf-8")
    for line in shell_lines(text):
        for words in calls(line, "lift3d"):
            check_call(words, whole=True)
    for words in re.findall(r"`lift3d( [^`]*)`", text.replace("\n", " ")):
        check_call(words.split(), whole=False)


def test_hints_of_errors_name_commands_that_exist():
    for path in (ROOT / "src").rglob("*.py"):
        for hint in re.findall(r"hint: [^\"\n]*?\blift3d ([a-z]\S*[^\"\n]*)", path.read_text(encoding="utf-8")):
            words = re.split(r"[,;`]| then | again| or ", hint)[0].split()
            check_call(words, whole=False)


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_make_targets_in_documents_exist(path):
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`make ([a-z-]+)[` ]|^(?:\$ )?make ([a-z-]+)", text, re.MULTILINE)
    assert {a or b for a, b in named} <= targets


def test_every_change_is_checked_by_the_tests_of_the_readme():
    assert "`make test`" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "make test"


# ---- links and names -------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to a document's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), f"{path.name}: {link} is not there"
        assert there.is_relative_to(ROOT), f"{path.name}: {link} leads out of the repository"
        assert not anchor or anchor in anchors(there), f"{path.name}: {link}: no such heading"


def test_every_document_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)\s]+)\)", text)}
    assert {path for path in DOCUMENTS if path.parent == ROOT / "docs"} <= linked


def test_pictures_of_the_readme_are_small():
    for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / link).stat().st_size < 300_000


def test_nothing_names_the_machine_that_it_was_written_on():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    # Folders of people and of workplaces, as they stand at the beginning of an absolute path.
    private = re.compile(r"""(?:^|[\s"'`(=:])/(?:home|root|Users|work|workspace|mnt|data)/\w""", re.MULTILINE)
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():  # deleted, and not yet committed
            continue
        found = private.search(path.read_bytes().decode("utf-8", "replace"))
        assert not found, f"{name} names {found[0].strip()!r}"
