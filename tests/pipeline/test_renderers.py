"""Which renderer the settings describe, and weights that cannot be used."""

from __future__ import annotations

import plane_world
import pytest
import safetensors.torch
import torch

from lift3d_cli import weights
from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import ModelError, ResourceError
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.lifting.proposal.network import NUM_CUES
from lift3d_cli.machine.device import resolve_precision
from lift3d_cli.pipeline.renderers import make_renderer


def save(path, state) -> str:
    safetensors.torch.save_file(state, path)
    return str(path)


@pytest.fixture
def own_weights(tmp_path) -> str:
    """Those of another untrained network."""
    return save(tmp_path / "own.safetensors", Lift3DNetwork().state_dict())


def test_settings_reach_the_renderer():
    config = RenderConfig(planes=12, samples=3, memory="128MiB")
    for variant in ("full", "training-free"):
        renderer = make_renderer(config, variant=variant)
        assert (renderer.proposal.num_planes, renderer.num_samples, renderer.memory_bytes) == (12, 3, 2**27)


def test_settings_of_the_network_are_those_of_its_content(untrained, own_weights, tmp_path):
    shipped = make_renderer(RenderConfig()).settings()
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes((untrained / "lift3d.safetensors").read_bytes())
    assert make_renderer(RenderConfig(weights=str(copied))).settings() == shipped
    assert make_renderer(RenderConfig(weights=own_weights)).settings() != shipped


def test_other_weights_are_another_render(work, own_weights):
    assert work.render().root != work.render(weights=own_weights).root


def test_weights_that_are_missing_damaged_or_of_another_network_are_refused(tmp_path, own_weights):
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        make_renderer(RenderConfig(weights=str(tmp_path / "none.safetensors")))
    other = save(tmp_path / "other.safetensors", {"layer.weight": torch.zeros(2, 2)})
    with pytest.raises(ModelError, match=r"other\.safetensors.* not those of the Lift3D network"):
        make_renderer(RenderConfig(weights=other))
    content = (tmp_path / "own.safetensors").read_bytes()
    (tmp_path / "own.safetensors").write_bytes(content[:-100])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        make_renderer(RenderConfig(weights=own_weights))


def test_shipped_weights_that_were_replaced_are_refused(own_weights, untrained, tmp_path, monkeypatch):
    folder = plane_world.copy_of(untrained, tmp_path / "weights")
    (folder / "lift3d.safetensors").write_bytes((tmp_path / "own.safetensors").read_bytes())
    monkeypatch.setattr(weights, "WEIGHT_FOLDERS", (folder,))
    with pytest.raises(ModelError, match="damaged or replaced"):
        make_renderer(RenderConfig())


def test_precision_is_told_apart_and_changes_little():
    cues, results = torch.randn(NUM_CUES, 8, 12, 16), {}
    for precision in ("fp32", "bf16"):
        renderer = make_renderer(RenderConfig(precision=precision))
        assert renderer.settings()["proposal"]["precision"] == precision
        torch.manual_seed(0)
        torch.nn.init.normal_(renderer.proposal.regularizer.head.weight, std=0.02)
        results[precision] = renderer.proposal.regularizer(cues)
    for half, full in zip(results["bf16"], results["fp32"], strict=True):
        assert half.dtype == torch.float32
        assert 0 < (half - full).abs().max() < 0.05 * full.abs().max()


@pytest.mark.parametrize(
    ("able", "precision"), [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32")]
)
def test_precision_is_what_the_processor_computes_in(monkeypatch, able, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) == precision
    assert resolve_precision("fp32", cpu) == "fp32"
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert resolve_precision("auto", cpu) == "fp32"
    with pytest.raises(ResourceError, match="--precision fp8: not one of auto, bf16, fp32"):
        resolve_precision("fp8", cpu)


def test_training_free_renderer_needs_no_weights(monkeypatch):
    monkeypatch.setattr(weights, "WEIGHT_FOLDERS", ())
    make_renderer(RenderConfig(), variant="training-free")


def test_memory_that_is_no_size_is_refused_before_weights_are_read(monkeypatch):
    monkeypatch.setattr(weights, "WEIGHT_FOLDERS", ())
    with pytest.raises(ResourceError, match="--memory lots"):
        make_renderer(RenderConfig(memory="lots"))


def test_surfaces_are_found_again_for_other_weights_of_stage_1_and_of_propagation_only(tmp_path):
    network = Lift3DNetwork()

    def settings(changed: str = "") -> tuple[dict, dict]:
        state = {k: v + 0.1 if changed and k.startswith(changed) else v for k, v in network.state_dict().items()}
        renderer = make_renderer(RenderConfig(weights=save(tmp_path / f"{changed}.safetensors", state)))
        return renderer.surface_finder.settings(), renderer.settings()

    usual, corrected, other = settings(), settings("corrector"), settings("regularizer")
    assert corrected[0] == usual[0] != other[0]
    assert settings("propagation")[0] not in (usual[0], other[0])
    assert len({str(frame) for _, frame in (usual, corrected, other)}) == 3
