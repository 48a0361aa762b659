# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of UMCI against numbers worked out by hand, and what it does with its two texts."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipsam_hf import ClipSamConfig
from clipsam_hf.configuration_clipsam import FUSED_FEATURES
from clipsam_hf.umci_clipsam import ClipSamInteraction, ClipSamScalePath, ClipSamStripPath, ClipSamUmci


@torch.no_grad()
def set_linear(layer: nn.Linear, weight: list[list[float]], bias: list[float] | None = None) -> None:
    layer.weight.copy_(torch.tensor(weight))
    layer.bias.copy_(torch.tensor(bias or [0.0] * len(weight)))


@torch.no_grad()
def make_identity(module: nn.Module) -> None:
    """Queries, keys and values are the tokens themselves; convolutions keep each channel's own centre."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            set_linear(part, torch.eye(part.out_features, part.in_features).tolist())
        elif isinstance(part, nn.Conv2d):
            part.weight.zero_()
            part.bias.zero_()
            for channel in range(part.out_channels):
                part.weight[channel, channel, part.kernel_size[0] // 2, part.kernel_size[1] // 2] = 1.0


def fresh_umci(config: ClipSamConfig, **kwargs: Any) -> ClipSamUmci:
    umci = ClipSamUmci(ClipSamConfig(**{**config.to_dict(), **kwargs})).eval()
    for parameter in umci.parameters():
        nn.init.normal_(parameter, std=0.25)
    return umci


# --- one attention


def test_attention_by_hand() -> None:
    # q = (ln 3 x sqrt 2, 0), keys (1, 0) and (0, 1): scores ln 3 and 0, shares 3/4 and 1/4.
    interaction = ClipSamInteraction(2)
    make_identity(interaction)
    reader = torch.tensor([[[math.log(3) * math.sqrt(2), 0.0]]])
    source = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    torch.testing.assert_close(interaction(reader, source), torch.tensor([[[0.75, 0.25]]]))


def test_attention_projects_query_key_and_value_separately() -> None:
    # The query doubles and shifts, the key swaps, the value is scaled: scores of 2 x (1, 0) + (0, 1) = (2, 1) against
    # the swapped tokens (0, 1) and (1, 0) are 1 and 2, over sqrt 2.
    interaction = ClipSamInteraction(2)
    set_linear(interaction.query, [[2.0, 0.0], [0.0, 2.0]], [0.0, 1.0])
    set_linear(interaction.key, [[0.0, 1.0], [1.0, 0.0]])
    set_linear(interaction.value, [[10.0, 0.0], [0.0, 100.0]], [1.0, 0.0])
    first = math.exp(1 / math.sqrt(2)) / (math.exp(1 / math.sqrt(2)) + math.exp(2 / math.sqrt(2)))
    read = interaction(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    torch.testing.assert_close(read, torch.tensor([[[10.0 * first + 1.0, 100.0 * (1 - first)]]]))


# --- strip path: two attentions


def test_strip_path_attends_twice_by_hand() -> None:
    # A 2 x 2 grid, two channels, rows (2, 0) and (0, 2) after the mean over the width. The two texts are 0, so that
    # they hear the mean of the rows, (1, 1), and become (0 + 1, 0 + 1); what the rows then read of two equal texts is
    # that text. The columns' means are both (1, 1).
    path = ClipSamStripPath(2, kernel_size=3)
    make_identity(path)
    visual = torch.tensor([[[[3.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 3.0]]]])
    maps = path(visual, torch.zeros(1, 2, 2))
    assert list(maps) == ["row", "column"]
    torch.testing.assert_close(maps["row"], torch.ones(1, 2, 2, 2))
    torch.testing.assert_close(maps["column"], torch.ones(1, 2, 2, 2))


def test_strip_path_with_two_different_texts_by_hand() -> None:
    path = ClipSamStripPath(2, kernel_size=3)
    make_identity(path)
    visual = torch.tensor([[[[2.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [2.0, 2.0]]]])  # rows (2, 0) and (0, 2)
    text = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])

    # Text (1, 0) against the rows: scores 2 / sqrt 2 and 0. The other text is the mirror image.
    near = math.exp(math.sqrt(2)) / (math.exp(math.sqrt(2)) + 1)
    updated = (1 + 2 * near, 2 * (1 - near))
    # Row (2, 0) against the updated texts (a, b) and (b, a): scores 2 a / sqrt 2 and 2 b / sqrt 2.
    share = 1 / (1 + math.exp(math.sqrt(2) * (updated[1] - updated[0])))
    high = share * updated[0] + (1 - share) * updated[1]
    low = share * updated[1] + (1 - share) * updated[0]

    row = path(visual, text)["row"]
    torch.testing.assert_close(row[0, 0], torch.tensor([[high, high], [low, low]]))
    torch.testing.assert_close(row[0, 1], torch.tensor([[low, low], [high, high]]))


def test_strip_convolution_runs_along_the_strip() -> None:
    # One row lights up; a kernel that copies the upper neighbour moves it one row down, and no column moves.
    path = ClipSamStripPath(1, kernel_size=3)
    seen: dict[str, Tensor] = {}
    path.row_text.register_forward_pre_hook(lambda module, args: seen.update(row=args[1]))
    path.column_text.register_forward_pre_hook(lambda module, args: seen.update(column=args[1]))
    with torch.no_grad():
        path.row_conv.weight.copy_(torch.tensor([1.0, 0.0, 0.0]).reshape(1, 1, 3, 1))
        path.column_conv.weight.copy_(torch.tensor([0.0, 1.0, 0.0]).reshape(1, 1, 1, 3))
        path.row_conv.bias.zero_()
        path.column_conv.bias.zero_()
        visual = torch.zeros(1, 1, 3, 4)
        visual[..., 1, :] = torch.tensor([4.0, 0.0, 0.0, 4.0])
        path(visual, torch.zeros(1, 2, 1))
    torch.testing.assert_close(seen["row"].flatten(), torch.tensor([0.0, 0.0, 2.0]))  # mean over the width: 2
    torch.testing.assert_close(seen["column"].flatten(), torch.tensor([4 / 3, 0.0, 0.0, 4 / 3]))


# --- scale path


def test_scale_pooling_averages_what_the_last_window_has() -> None:
    # 3 x 5 tokens under kernel 2 with ceil: 2 x 3 cells; the lower ones have one row, the right ones one column.
    path = ClipSamScalePath(1, (2,))
    seen: list[Tensor] = []
    path.interactions[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    visual = torch.arange(15.0).reshape(1, 1, 3, 5)
    with torch.no_grad():
        path(visual, torch.zeros(1, 2, 1))
    torch.testing.assert_close(seen[0].flatten(), torch.tensor([3.0, 5.0, 6.5, 10.5, 12.5, 14.0]))


def test_scale_path_resizes_bilinearly_with_half_pixel_centres() -> None:
    # Two cells, read back as 0 and 1 (values: the query's own choice of text), over four tokens: 0, 1/4, 3/4, 1.
    path = ClipSamScalePath(1, (2,))
    make_identity(path)
    with torch.no_grad():
        path.interactions[0].query.weight.fill_(1e4)
        read = path(torch.tensor([[[[-1.0, -1.0, 1.0, 1.0]] * 2]]), torch.tensor([[[0.0], [1.0]]]))
    # A cell of -1 reads text 0 and a cell of 1 reads text 1.
    torch.testing.assert_close(read, torch.tensor([[[[0.0, 0.25, 0.75, 1.0]] * 2]]))


class PassThrough(nn.Module):
    """In place of an interaction: what is pooled goes on as it is."""

    def forward(self, reader: Tensor, source: Tensor) -> Tensor:
        return reader


def largest_shift(kernel: int, interpolation: str) -> float:
    """By how many tokens the scale path moves features, between the centres of the first and last whole cell."""
    side = 37  # CLIP's grid at 518 pixels
    path = ClipSamScalePath(2, (kernel,), interpolation)
    make_identity(path)
    path.interactions[0] = PassThrough()
    # Two channels that hold the place of every token's centre: a pooled cell then holds the place of its own centre
    places = (torch.arange(side) + 0.5).expand(side, side)
    visual = torch.stack((places, places.T))[None]
    with torch.no_grad():
        shift = (path(visual, torch.zeros(1, 2, 2)) - visual).abs()[0]
    first, last = kernel // 2, kernel * (side // kernel) - kernel // 2 - 1  # tokens in the middle of these cells
    return max(shift[0, :, first : last + 1].max().item(), shift[1, first : last + 1].max().item())


# Stretched, n cells of k tokens stand for 37 tokens: place p comes back as p n k / 37, until the cut cell is blended
# in from the centre of the last whole one on, which is stretched to 25.9 (k = 9) or 32.7 (k = 3).
@pytest.mark.parametrize(("kernel", "stretched"), [(9, 25.5 * (5 * 9 / 37 - 1)), (3, 32.5 * (13 * 3 / 37 - 1))])
def test_aligned_scale_path_leaves_features_in_their_place(kernel: int, stretched: float) -> None:
    assert largest_shift(kernel, "aligned") < 1e-4
    assert largest_shift(kernel, "stretched") == pytest.approx(stretched, abs=1e-3)
    assert stretched > 0.5  # tokens


def test_whole_cells_are_the_same_aligned_and_stretched() -> None:
    aligned = ClipSamScalePath(4, (2, 3))
    stretched = ClipSamScalePath(4, (2, 3), "stretched")
    stretched.load_state_dict(aligned.state_dict())
    text = torch.randn(1, 2, 4)
    for grid, is_same in (((6, 12), True), ((7, 12), False)):
        visual = torch.randn(1, 4, *grid)
        assert torch.allclose(aligned(visual, text), stretched(visual, text), atol=1e-6) is is_same


def test_scale_path_asks_the_text_once_per_scale(tiny_config: ClipSamConfig) -> None:
    path = ClipSamScalePath(4, (2, 3))
    sources: list[Tensor] = []
    for interaction in path.interactions:
        interaction.register_forward_pre_hook(lambda module, args: sources.append(args[1]))
    text = torch.randn(1, 2, 4)
    path(torch.randn(1, 4, 6, 6), text)
    assert len(sources) == 2 and all(source is text for source in sources)


# --- all of UMCI


def test_swapped_texts_change_nothing_with_the_convolutional_head(tiny_config: ClipSamConfig) -> None:
    umci = fresh_umci(tiny_config, head="conv")
    feature_map, text = torch.randn(2, 32, 4, 4), torch.randn(2, 2, 16)
    torch.testing.assert_close(umci(feature_map, text.flip(1)), umci(feature_map, text), atol=1e-5, rtol=1e-5)


def test_swapped_texts_swap_the_logits_of_the_text_head(tiny_config: ClipSamConfig) -> None:
    umci = fresh_umci(tiny_config, head="text")
    feature_map, text = torch.randn(2, 32, 4, 4), torch.randn(2, 2, 16)
    torch.testing.assert_close(umci(feature_map, text.flip(1)), umci(feature_map, text).flip(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", ["conv", "text"])
def test_other_texts_change_the_logits(tiny_config: ClipSamConfig, head: str) -> None:
    umci = fresh_umci(tiny_config, head=head)
    feature_map = torch.randn(1, 32, 4, 4)
    difference = umci(feature_map, torch.randn(1, 2, 16)) - umci(feature_map, torch.randn(1, 2, 16))
    assert difference.abs().max() > 1e-2


@pytest.mark.parametrize("name", ["original", "row", "column", "scale"])
def test_every_fused_feature_reaches_the_logits(tiny_config: ClipSamConfig, name: str) -> None:
    umci = fresh_umci(tiny_config)
    feature_map, text = torch.randn(1, 32, 4, 4), torch.randn(1, 2, 16)
    full = umci(feature_map, text)
    place = umci.fused_features.index(name)
    with torch.no_grad():
        umci.fuse.weight[:, 16 * place : 16 * (place + 1)] = 0.0
    assert (umci(feature_map, text) - full).abs().max() > 1e-2


@pytest.mark.parametrize("head", ["conv", "text"])
def test_every_parameter_is_used(tiny_config: ClipSamConfig, head: str) -> None:
    umci = fresh_umci(tiny_config, head=head)
    logits = umci(torch.randn(1, 32, 5, 3), torch.randn(1, 2, 16))
    (logits * torch.randn_like(logits)).sum().backward()
    # A key's bias shifts all scores of a query alike, which softmax does not see.
    unused = [
        name
        for name, parameter in umci.named_parameters()
        if not name.endswith("key.bias") and (parameter.grad is None or parameter.grad.abs().max() == 0)
    ]
    assert unused == []


def test_half_precision_inputs_are_computed_in_the_heads_own_precision(tiny_config: ClipSamConfig) -> None:
    umci = fresh_umci(tiny_config)
    feature_map, text = torch.randn(1, 32, 4, 4).bfloat16(), torch.randn(1, 2, 16).bfloat16()
    logits = umci(feature_map, text)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, umci(feature_map.float(), text.float()))


def test_head_of_the_full_size_model_has_18_million_parameters() -> None:
    with torch.device("meta"):
        umci = ClipSamUmci(ClipSamConfig())
    # width d = 256, CLIP-L: (1024 + 1) d + (768 + 1) d + 2 (3 d + 1) d + 6 x 3 (d + 1) d + (2 d + 1) d + (36 d + 1) d
    # + 2 (d + 1)
    d = 256
    expected = 1025 * d + 769 * d + 2 * (3 * d + 1) * d + 18 * (d + 1) * d + (2 * d + 1) * d + (36 * d + 1) * d
    expected += 2 * (d + 1)
    assert sum(parameter.numel() for parameter in umci.parameters()) == expected == 4_528_642


# --- fewer fused features


SUBSETS = [names for count in (1, 2, 3, 4) for names in itertools.combinations(FUSED_FEATURES, count)]


@pytest.mark.parametrize("head", ["conv", "text"])
@pytest.mark.parametrize("fused_features", SUBSETS, ids="-".join)
def test_no_parameter_is_built_that_gets_no_gradient(
    tiny_config: ClipSamConfig, fused_features: tuple[str, ...], head: str
) -> None:
    umci = fresh_umci(tiny_config, fused_features=fused_features, head=head)
    logits = umci(torch.randn(2, 32, 5, 3), torch.randn(2, 2, 16))
    assert logits.shape == (2, 2, 5, 3)
    (logits * torch.randn_like(logits)).sum().backward()
    assert [name for name, parameter in umci.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("fused_features", SUBSETS, ids="-".join)
def test_fewer_features_build_a_part_of_the_whole(tiny_config: ClipSamConfig, fused_features: tuple[str, ...]) -> None:
    whole = fresh_umci(tiny_config).state_dict()
    part = fresh_umci(tiny_config, fused_features=fused_features).state_dict()
    assert part.keys() <= whole.keys()
    assert (part.keys() == whole.keys()) is ({"row", "column", "scale"} <= set(fused_features))  # V_ori has no path


# --- normalised features


def test_normalized_features_ignore_the_scale_of_a_token(tiny_config: ClipSamConfig) -> None:
    plain, normalized = fresh_umci(tiny_config), fresh_umci(tiny_config, normalize_features=True)
    normalized.load_state_dict(plain.state_dict())  # there is nothing to train in it
    feature_map, text = torch.randn(1, 32, 4, 4), torch.randn(1, 2, 16)
    louder = feature_map * (1 + 4 * torch.rand(1, 1, 4, 4)) + torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(normalized(louder, text), normalized(feature_map, text), atol=1e-3, rtol=1e-3)
    assert (plain(louder, text) - plain(feature_map, text)).abs().max() > 0.1


def test_normalized_features_by_hand(tiny_config: ClipSamConfig) -> None:
    umci = fresh_umci(tiny_config, normalize_features=True)
    seen: list[Tensor] = []
    umci.visual_projection.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    token = torch.tensor([1.0, 3.0]).repeat(16)  # mean 2, variance 1
    umci(token.reshape(1, 32, 1, 1).expand(1, 32, 2, 3), torch.randn(1, 2, 16))
    expected = torch.tensor([-1.0, 1.0]).repeat(16).reshape(1, 32, 1, 1).expand(1, 32, 2, 3)
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=0)
