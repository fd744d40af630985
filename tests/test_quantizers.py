"""One contract for every quantizer and every legal combination of choices."""

import copy
import itertools
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codec.build import PARTS, resolve
from codec.build import make as build_part
from codec.errors import ConfigError
from codec.quantizers import GRVQ, LOSS_WEIGHTS, RVQ, VQ, Quantizer
from codec.quantizers.codebook import OPTIONS

D = 12
SMALL = {
    "vq": {"codebook_size": 16},
    "rvq": {"num_codebooks": 4, "codebook_size": 16},
    "rvq shared": {"num_codebooks": 3, "codebook_size": 16, "shared": True},
    "grvq": {"groups": 2, "stages": 2, "codebook_size": 16},
    "grvq uneven": {"groups": 5, "stages": 2, "codebook_size": 16},
    "mcrvq": {"num_codebooks": 5, "codebook_size": 16},
    "product": {"num_codebooks": 3, "codebook_size": 16},
    "split_rvq": {"num_codebooks": 4, "codebook_size": 16, "semantic_codebooks": 2, "width": 8},
    "split_rvq serial": {"num_codebooks": 3, "codebook_size": 16, "parallel": False},
    "vaevq": {"num_codebooks": 2, "codebook_size": 16},
    "fsq": {"num_codebooks": 3},
    "ifsq": {"levels": [3] * D},
    "residual_fsq": {"levels": [4, 3], "stages": 2, "groups": 2},
    "residual_fsq fixed": {"levels": [4, 3], "stages": 3, "robust": False},
    "lfq": {"bits": 4, "num_codebooks": 3},
    "bsq": {"bits": 6, "num_codebooks": 2},
    "bernoulli": {"bits": 6, "num_codebooks": 2},
    "lattice": {"num_codebooks": 3},
    "qlae": {"num_codebooks": 2},
    "pvq": {"num_codebooks": 3},
    "turboquant": {},
}
COMBINED = ("table", "assignment", "update", "replace_dead", "gradient_estimator")


def make(label: str, **more: object) -> Quantizer:
    if label == "vq":
        more.pop("dropout", None)
    return resolve("quantizer", label.split()[0])(D, **SMALL[label], **more)  # type: ignore[call-arg]


def combinations() -> list[dict[str, str]]:
    """Every combination that builds."""
    legal = []
    for names in itertools.product(*(OPTIONS[key] for key in COMBINED)):
        choices = dict(zip(COMBINED, names, strict=True))
        try:
            RVQ(4, 1, 16, **choices)  # type: ignore[arg-type]
        except ConfigError:
            continue
        legal.append(choices)
    return legal


LEGAL = combinations()


def latents(batch: int = 3, frames: int = 14, seed: int = 0) -> Tensor:
    return torch.randn(batch, D, frames, generator=torch.Generator().manual_seed(seed))


def step(quantizer: Quantizer, z: Tensor) -> Tensor:
    """One training pass; gives the gradient at the latents."""
    z = z.clone().requires_grad_()
    out = quantizer(z)
    (out.quantized.square().mean() + sum(out.losses.values())).backward()
    assert z.grad is not None
    return z.grad


@pytest.fixture(autouse=True)
def _quiet():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "k-means start")
        yield


def check_laws(quantizer: Quantizer, z: Tensor) -> None:
    """Shapes, round trip, prefixes, determinism, precision and layout, in eval mode."""
    quantizer.eval()
    batch, _, frames = z.shape
    whole = quantizer.encode(z)
    for num in quantizer.prefixes:
        out = quantizer(z, num_codebooks=num)
        codes = quantizer.encode(z, num_codebooks=num)
        assert codes.shape == (batch, num, frames)
        assert codes.dtype == torch.int64
        assert torch.equal(codes, whole[:, :num])
        assert torch.equal(codes, out.codes)
        assert torch.equal(quantizer.decode(codes), out.quantized)
        assert out.quantized.shape == z.shape
        assert all(v.ndim == 0 and torch.isfinite(v) for v in out.losses.values())
        assert all(v.ndim == 0 and not v.requires_grad for v in out.metrics.values())
    sizes = torch.tensor(quantizer.codebook_sizes)[:, None]
    assert len(quantizer.codebook_sizes) == quantizer.prefixes[-1]
    assert (whole >= 0).all()
    assert (whole < sizes).all()
    assert torch.equal(quantizer.encode(z), whole)
    strided = z.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    assert torch.equal(quantizer.encode(strided), whole)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(z).codes, whole)
        assert quantizer(z).quantized.dtype == torch.float32
    empty = quantizer(z[..., :0])
    assert empty.codes.shape == (batch, quantizer.prefixes[-1], 0)
    assert quantizer.decode(empty.codes).shape == (batch, quantizer.dim, 0)
    assert quantizer(z[:0]).quantized.shape == (0, quantizer.dim, frames)


@pytest.mark.parametrize("label", SMALL)
def test_first_is_what_the_first_books_give_alone(label: str) -> None:
    quantizer, z = make(label), latents()
    step(quantizer, z)
    out = quantizer.eval()(z)
    first = getattr(getattr(quantizer, "inner", quantizer), "num_first", quantizer.prefixes[-1])
    assert first == {"rvq": 1, "grvq": 2, "mcrvq": 3, "product": 3, "split_rvq": 2}.get(label, first)
    assert torch.equal(out.first_stage, quantizer.decode(out.codes[:, :first]))
    z = z.requires_grad_()
    quantizer.train()(z).first_stage.square().mean().backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("label", ["rvq", "grvq", "split_rvq"])
def test_first_takes_part_in_no_dropout(label: str) -> None:
    quantizer, z = make(label, dropout=1.0), latents(batch=8)
    step(quantizer, z)
    quantizer.train()
    twin = copy.deepcopy(quantizer)
    whole = twin(z, num_codebooks=twin.prefixes[-1])
    dropped = quantizer(z)
    assert (dropped.codes < 0).any()
    torch.testing.assert_close(dropped.first_stage, whole.first_stage)


def check_state(quantizer: Quantizer, twin: Quantizer, z: Tensor) -> None:
    """A copy made from the state dict does the same, in training too, to the last bit."""
    twin.load_state_dict(quantizer.state_dict(), strict=True)
    quantizer.train()
    twin.train()
    for _ in range(2):
        torch.manual_seed(1)
        first = quantizer(z)
        torch.manual_seed(1)
        second = twin(z)
        assert torch.equal(first.quantized, second.quantized)
        assert torch.equal(first.codes, second.codes)
    for key, value in quantizer.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key
    quantizer.eval()
    twin.eval()
    assert torch.equal(quantizer.encode(z), twin.encode(z))


@pytest.mark.parametrize("label", SMALL)
def test_contract(label: str) -> None:
    quantizer, z = make(label, dropout=0.5), latents()
    assert set(SMALL) >= set(PARTS["quantizer"])
    assert set(quantizer(z).losses) <= set(LOSS_WEIGHTS)
    for _ in range(2):
        grad = step(quantizer, z)
        assert torch.isfinite(grad).all()
        assert (grad.flatten(1).abs().amax(1) > 0).all()
    check_laws(quantizer, z)
    check_state(quantizer, make(label, dropout=0.5), z)


def test_every_choice_can_be_combined_with_most_others() -> None:
    assert len(LEGAL) >= 150


@pytest.mark.parametrize("choices", LEGAL, ids=lambda choices: "-".join(choices.values()))
def test_contract_of_every_combination(choices: dict[str, str]) -> None:
    z = latents(2, 10)
    quantizer = RVQ(D, 2, 16, **choices)  # type: ignore[arg-type]
    grad = step(quantizer, z)
    assert torch.isfinite(grad).all()
    assert grad.abs().sum() > 0
    check_laws(quantizer, z)
    check_state(quantizer, RVQ(D, 2, 16, **choices), z)  # type: ignore[arg-type]
    quantizer.eval()
    best = quantizer.encode(z, beam=3, refine=1)
    assert (quantizer.decode(best) - z).norm() <= (quantizer(z).quantized - z).norm() * 1.0001


# a grid takes its levels from residual FSQ
@pytest.mark.parametrize("table", [table for table in OPTIONS["table"] if table != "grid"])
@pytest.mark.parametrize("name", OPTIONS["regularisers"])
def test_contract_of_every_regulariser(table: str, name: str) -> None:
    z = latents(2, 10)
    choices = {"table": table, "update": "gradient", "regularisers": [name]}
    quantizer = RVQ(D, 2, 16, **choices)  # type: ignore[arg-type]
    assert name in quantizer(z).losses
    grad = step(quantizer, z)
    assert torch.isfinite(grad).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in quantizer.parameters())
    check_laws(quantizer, z)
    check_state(quantizer, RVQ(D, 2, 16, **choices), z)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "label", [label for label, small in SMALL.items() if "vq" in label and label != "pvq"]
)
def test_commitment_reaches_the_encoder_at_every_stage(label: str) -> None:
    quantizer = make(label)
    step(quantizer, latents())
    for num in quantizer.prefixes[1:]:
        # with the codebooks before them frozen in place, only the last stages' commitment depends on how many there are
        grads = []
        for count in (quantizer.prefixes[quantizer.prefixes.index(num) - 1], num):
            z = latents().requires_grad_()
            torch.manual_seed(0)
            out = copy.deepcopy(quantizer)(z, num_codebooks=count)
            (out.losses["commit"] * count).backward()
            grads.append(z.grad)
        assert (grads[1] - grads[0]).abs().max() > 1e-6


def test_commitment_is_the_cumulative_one() -> None:
    quantizer, z = make("rvq shared").eval(), latents().requires_grad_()
    out = quantizer(z)
    out.losses["commit"].backward()
    other = z.detach().clone().requires_grad_()
    sums = [quantizer.decode(out.codes[:, : k + 1]) for k in range(3)]
    expected = torch.stack([(other - s).square().mean() for s in sums]).mean()
    expected.backward()
    assert torch.allclose(out.losses["commit"], expected)
    assert torch.allclose(z.grad, other.grad, atol=1e-7)


def test_straight_through_is_the_identity() -> None:
    quantizer, z = make("rvq"), latents().requires_grad_()
    weight = torch.randn(z.shape)
    (quantizer(z).quantized * weight).sum().backward()
    assert torch.equal(z.grad, weight)


def test_rotation_turns_the_gradient_as_it_turns_the_vector() -> None:
    quantizer, z = make("vq", gradient_estimator="rotation").eval(), latents().requires_grad_()
    out = quantizer(z).quantized
    # the map is linear with q = scale * R z, so the gradient of u.q is scale * R^T u: for u = q it is |q|^2 z / |z|^2
    (out * out.detach()).sum().backward()
    q, x = out.detach(), z.detach()
    expected = x * q.square().sum(1, keepdim=True) / x.square().sum(1, keepdim=True)
    assert torch.allclose(z.grad, expected, atol=1e-5)


def test_only_the_first_stage_commits_as_in_the_release_of_hificodec() -> None:
    settings = {"update": "gradient", "replace_dead": "none", "init": "random"}
    faithful = GRVQ(D, 2, 2, 16, detach_stages=True, **settings)  # type: ignore[call-arg, arg-type]
    z = latents().requires_grad_()
    out = faithful(z)
    out.losses["commit"].backward()
    first = faithful.decode(out.codes[:, :2])
    assert torch.allclose(z.grad, (z.detach() - first) / z.numel(), atol=1e-7)


def test_masked_books_see_their_slice_only() -> None:
    quantizer = make("mcrvq")
    for _ in range(3):
        step(quantizer, latents())
    quantizer.eval()
    z = latents()
    changed = z.clone()
    changed[:, 4:] += torch.randn(3, 8, 14)
    assert torch.equal(quantizer.encode(z)[:, 0], quantizer.encode(changed)[:, 0])
    assert not torch.equal(quantizer.encode(z)[:, 1], quantizer.encode(changed)[:, 1])


def test_quantizer_dropout_draws_prefixes() -> None:
    quantizer = RVQ(D, 6, 16, prefixes=[1, 2, 6], dropout=0.5)
    z = latents(64, 2)
    quantizer(z)
    out = quantizer(z)
    used = (out.codes >= 0).sum(1)
    assert (used == used[:, :1]).all()
    counts = torch.bincount(used[:, 0], minlength=7)
    assert counts[[1, 2, 6]].sum() == 64
    assert counts[1] > 2
    assert counts[2] > 2
    assert counts[6] > 32
    for sample in range(0, 64, 9):
        num = int(used[sample, 0])
        twin = copy.deepcopy(quantizer).eval()
        assert num in quantizer.prefixes
        assert twin.decode(out.codes[sample : sample + 1, :num]).shape == (1, D, 2)
    assert torch.equal(quantizer(z, num_codebooks=2).codes >= 0, torch.ones(64, 2, 2, dtype=torch.bool))


def test_dropped_books_do_not_change_what_is_kept() -> None:
    quantizer = RVQ(D, 4, 16, dropout=0.7, replace_dead="none", decay=1.0)
    z = latents(8)
    quantizer(z)
    codebooks = [t.clone() for t in quantizer.state_dict().values()]
    out = quantizer(z)
    assert (out.codes < 0).any()
    for before, (name, after) in zip(codebooks, quantizer.state_dict().items(), strict=True):
        assert name.endswith("steps") or torch.equal(before, after)
    full = quantizer.eval()(z)
    kept = out.codes >= 0
    assert torch.equal(out.codes[kept], full.codes[kept])
    for b in range(8):
        num = int(kept[b, :, 0].sum())
        alone = quantizer(z[b : b + 1], num_codebooks=num)
        assert torch.allclose(out.quantized[b], alone.quantized[0], atol=1e-6)


def test_codes_do_not_depend_on_the_batch() -> None:
    quantizer, z = RVQ(64, 6, 128), torch.randn(5, 64, 33)
    quantizer(z)
    quantizer.eval()
    whole = quantizer.encode(z)
    for b in range(5):
        assert torch.equal(quantizer.encode(z[b : b + 1])[0], whole[b])
    parts = [quantizer.encode(z[..., t : t + 1]) for t in range(33)]
    assert torch.equal(torch.cat(parts, 2), whole)


def test_ema_is_the_running_mean() -> None:
    quantizer = VQ(2, 2, replace_dead="none", init="random", decay=0.9)  # type: ignore[call-arg, arg-type]
    codebook = quantizer.codebook(0)  # type: ignore[index, union-attr]
    codebook.load_table(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    z = torch.tensor([[[-2.0, -3.0, 4.0], [1.0, 1.0, 0.0]]])
    quantizer(z)
    # counts 1 -> 0.9 + 0.1 * (2, 1); sums (-1, 0) -> 0.9 * (-1, 0) + 0.1 * (-5, 2), and so on
    assert torch.allclose(codebook.counts, torch.tensor([1.1, 1.0]))
    assert torch.allclose(codebook.table.weight, torch.tensor([[-1.4 / 1.1, 0.2 / 1.1], [1.3, 0.0]]))


def test_a_small_first_batch_leaves_residuals_to_learn_from() -> None:
    """As many vectors as codes could be learned by heart; the later codebooks would then start from nothing."""
    mix = torch.randn(D, D)
    quantizer = RVQ(D, 4, 64)
    errors = []
    for _ in range(20):
        z = (mix @ torch.randn(D, 64)).view(1, D, 64)
        out = quantizer(z)
        errors.append(((out.quantized - z).square().sum() / z.square().sum()).item())
    starts = [quantizer.codebook(k).table.weight.std().item() for k in range(4)]
    assert starts[3] > 0.2 * starts[0]
    assert errors[0] > 0.03  # not by heart
    quantizer.eval()
    z = (mix @ torch.randn(D, 4096)).view(1, D, 4096)
    assert (quantizer(z).quantized - z).square().sum() < 0.3 * z.square().sum()


def test_the_first_steps_count_as_a_plain_mean() -> None:
    quantizer = VQ(1, 2, replace_dead="none")  # type: ignore[call-arg, arg-type]
    values = []
    for _ in range(30):
        z = torch.cat([torch.randn(1, 1, 50) - 20, torch.randn(1, 1, 50) + 20], 2)
        values.append(z.flatten())
        quantizer(z)
    codebook = quantizer.codebook(0)  # type: ignore[index, union-attr]
    low = torch.cat([v[v < 0] for v in values]).mean()
    # a decay of 0.99 alone would still be near the start
    assert (codebook.table.weight.min() - low).abs() < 0.5


def test_a_revived_code_stays() -> None:
    quantizer = VQ(D, 8, replace_dead={"name": "threshold", "every": 1})  # type: ignore[call-arg, arg-type]
    z = latents()
    quantizer(z)
    codebook = quantizer.codebook(0)  # type: ignore[index, union-attr]
    codebook.table.weight[3] = 100.0
    codebook.counts[3] = 0.0
    codebook.update_rule.sums[3] = 0.0
    quantizer(z)
    placed = codebook.table.weight[3].clone()
    vectors = z.transpose(1, 2).reshape(-1, D)
    assert (vectors - placed).norm(dim=1).min() < 1e-6
    assert torch.allclose(codebook.update_rule.sums[3] / codebook.counts[3], placed, atol=1e-6)
    for _ in range(10):
        quantizer(z)
    assert (quantizer(z).codes == 3).any()
    assert codebook.table.weight[3].norm() < 10


def test_synchronised_learning_moves_the_codes_by_the_decoder() -> None:
    grads = {}
    for nu in (0.0, 0.2):
        torch.manual_seed(0)
        quantizer = RVQ(D, 1, 16, update={"name": "sync", "nu": nu}, replace_dead="none", init="random")
        out = quantizer(latents().requires_grad_())
        out.quantized.sum().backward()
        grad = quantizer.codebook(0).table.weight.grad
        grads[nu] = torch.zeros(16, D) if grad is None else grad
    assert grads[0.0].abs().sum() == 0
    used = torch.bincount(out.codes.flatten(), minlength=16).float()
    assert torch.allclose(grads[0.2], 0.2 * used[:, None].expand(16, D))


def test_softmax_over_all_codes_has_the_gradient_of_the_plain_formula() -> None:
    from codec.quantizers.codebook.assignment import SoftmaxAll, scores

    x, codes = torch.randn(9, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    weight = torch.randn(9, 4)
    index, mix = SoftmaxAll()(x, codes)
    assert torch.equal(mix, codes[index])
    (mix * weight).sum().backward()
    x2, codes2 = x.detach().clone().requires_grad_(), codes.detach().clone().requires_grad_()
    p = scores(x2, codes2).softmax(1)
    hard = torch.nn.functional.one_hot(index, 6).float()
    (((hard + p - p.detach()) @ codes2) * weight).sum().backward()
    assert torch.allclose(x.grad, x2.grad, atol=1e-6)
    assert torch.allclose(codes.grad, codes2.grad, atol=1e-5)


def test_sinkhorn_uses_codes_evenly() -> None:
    from codec.quantizers.codebook.assignment import Sinkhorn, nearest

    x, codes = torch.randn(640, 4), torch.randn(64, 4) * 0.1 + 1
    even = torch.bincount(Sinkhorn()(x, codes)[0], minlength=64)
    greedy = torch.bincount(nearest(x, codes), minlength=64)
    assert (even > 0).float().mean() > 0.9
    assert (greedy > 0).float().mean() < 0.7


def test_regularisers_pull_where_they_should() -> None:
    for name in ("orthogonal", "entropy", "wasserstein"):
        torch.manual_seed(0)
        spec = {"name": name, "temperature": 0.5} if name == "entropy" else name
        quantizer = VQ(4, 8, update="gradient", replace_dead="none", regularisers=[spec], init="random")  # type: ignore
        z = torch.randn(2, 4, 50)
        optimiser = torch.optim.Adam(quantizer.parameters(), 0.05)
        values = []
        for _ in range(30):
            loss = quantizer(z).losses[name]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            values.append(loss.item())
        assert values[-1] < values[0] - 0.02, (name, values[0], values[-1])


def test_books_of_any_origin_can_be_set() -> None:
    quantizer = RVQ(D, 2, 16).eval()
    codebooks = torch.randn(2, 16, D)
    quantizer.load_tables(codebooks)
    assert torch.equal(
        quantizer.decode(torch.tensor([[[3], [5]]]))[0, :, 0], codebooks[0, 3] + codebooks[1, 5]
    )
    for tables, words in (
        (torch.randn(3, 16, D), "3 codebooks"),
        ([codebooks[0], torch.randn(8, D)], r"codebook 1 cannot be loaded: .*\(8, 12\) .*\(16, 12\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            quantizer.load_tables(tables)
    with pytest.raises(ConfigError, match="code vectors of a SimVQ table cannot be set"):
        RVQ(D, 2, 16, table="simvq").load_tables(codebooks)
    with pytest.raises(ConfigError, match="2 codebooks were given, but there are 0"):
        make("fsq").load_tables(codebooks)


@pytest.mark.parametrize("label", SMALL)
def test_codebooks_are_those_of_the_stream(label: str) -> None:
    quantizer = make(label)
    sizes = [codebook.size for codebook in quantizer.codebooks()]
    expected = {
        "rvq shared": [16],
        "residual_fsq": [12] * 4,
        "residual_fsq fixed": [12] * 3,
        "pvq": [8],  # of the gains
    }
    without = ("fsq", "ifsq", "lfq", "bsq", "bernoulli", "lattice", "qlae", "turboquant")
    assert sizes == expected.get(label, [] if label in without else list(quantizer.codebook_sizes))


@pytest.mark.parametrize("label", [label for label in SMALL if label not in ("turboquant", "fsq", "ifsq")])
def test_what_is_marked_as_initialised_does_not_begin_anew(label: str) -> None:
    quantizer = make(label)
    quantizer.mark_initialised()
    before = {name: value.clone() for name, value in quantizer.named_parameters()}
    codebooks = [codebook.table.codes().clone() for codebook in quantizer.codebooks()]
    quantizer(latents())
    assert all(torch.equal(value, before[name]) for name, value in quantizer.named_parameters())
    for codebook, codes in zip(quantizer.codebooks(), codebooks, strict=True):
        assert torch.equal(codebook.initialised, torch.tensor(True))
        assert (codebook.table.codes() - codes).abs().max() < 0.5 * latents().abs().max()


@pytest.mark.parametrize("name", ["rvq", "mcrvq", "product", "split_rvq", "vaevq"])
def test_codebooks_may_have_different_sizes(name: str) -> None:
    spec = {"name": name, "num_codebooks": 4, "codebook_size": [5, 128, 16, 256]}
    quantizer, twin = (build_part("quantizer", spec, dim=D) for _ in range(2))
    assert quantizer.codebook_sizes == (5, 128, 16, 256)
    step(quantizer, latents(frames=300))
    check_laws(quantizer, latents())
    check_state(quantizer, twin, latents())
    wrong = {"codebook_size": [5, 128]}
    with pytest.raises(ConfigError, match="codebook_size lists 2 sizes, but there are 4 codebooks"):
        build_part("quantizer", spec | wrong, dim=D)
    with pytest.raises(ConfigError, match="2 to 2\\^32 codes, not 12 and '5'"):
        build_part("quantizer", {"name": "vq", "codebook_size": "5"}, dim=D)


def test_qlae_averages_with_itself() -> None:
    """Averaged weights are interpolated, buffers too: whatever is infinite would become NaN."""
    quantizer, z = make("qlae"), latents()
    quantizer(z)
    average = copy.deepcopy(quantizer)
    for ours, theirs in zip(average.buffers(), quantizer.buffers(), strict=True):
        if ours.is_floating_point():
            ours.lerp_(theirs, 0.1)
    assert torch.equal(average.eval().encode(z), quantizer.eval().encode(z))


def test_every_configuration_builds() -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from codec.build import make as build

    folder = Path(__file__).parent.parent / "conf" / "quantizer"
    names = sorted(path.stem for path in folder.glob("[!_]*.yaml"))
    assert set(names) >= set(PARTS["quantizer"])
    with initialize_config_dir(str(folder), version_base=None):
        for name in names:
            config = OmegaConf.to_container(compose(name))
            if "codebook_size" in config:
                config["codebook_size"] = 64
            quantizer = build("quantizer", config, dim=64)
            assert quantizer.dim == 64
            assert quantizer(torch.randn(2, 64, 40)).quantized.shape == (2, 64, 40)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "rvq", "num_codebooks": 2, "codebook_size": 64, "table": "factorized"},
        {"name": "split_rvq", "num_codebooks": 4, "codebook_size": 64, "width": 64},
        {"name": "fsq", "levels": [8, 5, 5, 5], "num_codebooks": 1},
        {"name": "residual_fsq", "levels": [8, 5, 5], "stages": 2},
        {"name": "lfq", "bits": 10, "num_codebooks": 1},
        {"name": "turboquant"},
    ],
    ids=lambda config: config["name"],
)
def test_a_frame_is_the_same_bits_alone_as_in_company(config: dict) -> None:
    """Projections before and behind the codebooks: matrix products sum in another order for few rows."""
    quantizer = build_part("quantizer", config, dim=300).eval()
    z = torch.randn(1, 300, 160)
    with torch.inference_mode():
        codes = quantizer.encode(z)
        decoded = quantizer.decode(codes)
        for count in (1, 3, 17):
            pieces = z.split(count, dim=2)
            assert torch.equal(torch.cat([quantizer.encode(piece) for piece in pieces], 2), codes)
            parts = [quantizer.decode(piece) for piece in codes.split(count, dim=2)]
            assert torch.equal(torch.cat(parts, 2), decoded)


def test_books_too_large_for_the_operator_are_searched_exactly() -> None:
    from codec.quantizers.codebook import assignment

    codes = torch.randn(150_000, 4)
    codes[140_000] = codes[7]  # equals: the lowest wins
    x = torch.cat([torch.randn(50, 4), codes[[140_000, 149_999]]])
    distances = torch.cdist(x.double(), codes.double(), compute_mode="donot_use_mm_for_euclid_dist")
    expected = distances.argmin(1)
    assert expected[50] == 7
    assert (expected[:50] >= 65_536).any()
    found = assignment.nearest(x, codes)
    assert torch.equal(found, expected)
    assert torch.equal(torch.cat([assignment.nearest(row, codes) for row in x.split(1)]), found)


@pytest.mark.parametrize("label", ["rvq", "rvq shared", "grvq", "mcrvq", "product"])
@pytest.mark.parametrize("dropout", [0.0, 0.7])
def test_training_with_one_search_for_all_stages_is_the_same(
    label: str, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU does it: codes, and the counts and sums that the codebooks learn from, come from one call."""
    plain = make(label, dropout=dropout)
    step(plain, latents(frames=40))  # k-means
    fused = copy.deepcopy(plain)
    calls = []
    monkeypatch.setattr(type(fused), "fuses", staticmethod(lambda x: bool(calls.append(1)) or True))
    for seed in range(1, 4):
        torch.manual_seed(seed)
        gradient = step(fused, latents(seed=seed))
        with monkeypatch.context() as other:
            other.setattr(type(plain), "fuses", staticmethod(lambda x: False))
            torch.manual_seed(seed)
            torch.testing.assert_close(step(plain, latents(seed=seed)), gradient, rtol=1e-5, atol=1e-7)
    assert calls
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_codes_of_simvq_begin_where_random_codes_serve_best() -> None:
    """Around the origin they would all be one code, as wide as the latents they would be worse than the origin."""
    quantizer = build_part("quantizer", {"name": "vq", "codebook_size": 2048, "table": "simvq"}, dim=D)
    scale = torch.tensor([3.0] * 4 + [0.1] * 8)
    z = scale[:, None] * torch.randn(4, D, 500)
    out = quantizer.train()(z)
    codes = quantizer.codebook(0).tables()[0]  # type: ignore[operator]
    # 11 bits in four channels: an error of 2^(-5.5) of their variance; nothing for the soft ones
    expected = torch.tensor([9 * (1 - 2**-5.5)] * 4 + [0.0] * 8)
    torch.testing.assert_close(codes.var(0), expected, rtol=0.15, atol=0.01)
    assert out.codes.unique().numel() > 500
    assert (out.quantized - z).square().sum() < 0.1 * z.square().sum()


@pytest.mark.parametrize("table", ["free", "simvq", "factorized"])
def test_books_are_those_that_were_loaded_last(table: str) -> None:
    quantizer = build_part(
        "quantizer", {"name": "rvq", "num_codebooks": 2, "codebook_size": 16, "table": table}, dim=D
    )
    quantizer.train()(latents())
    codes = quantizer.eval().encode(latents())
    before = quantizer.decode(codes)
    other = {name: 1.5 * v if v.is_floating_point() else v for name, v in quantizer.state_dict().items()}
    quantizer.load_state_dict(other, assign=True)
    fresh = copy.deepcopy(quantizer).train().eval()
    assert not torch.allclose(quantizer.decode(codes), before)
    assert torch.equal(quantizer.decode(codes), fresh.decode(codes))
    for parameter in [*quantizer.parameters(), *quantizer.buffers()]:
        if parameter.is_floating_point():
            parameter.data.mul_(0.5)
    assert torch.equal(quantizer.eval().decode(codes), copy.deepcopy(quantizer).train().eval().decode(codes))


@pytest.mark.parametrize("name", ["fsq", "ifsq"])
def test_fsq_calls_back_latents_that_its_bound_has_flattened(name: str) -> None:
    quantizer = build_part("quantizer", {"name": name, "levels": [5] * 4, "num_codebooks": 2}, dim=8).train()
    z = torch.randn(2, 8, 50).clamp(-1.9, 1.9)
    assert quantizer(z).losses["range"] == 0
    far = (30 * z).requires_grad_()
    optimizer = torch.optim.SGD([far], lr=far.numel() / 4)  # takes half of the excess away at each step
    for _ in range(20):
        optimizer.zero_grad()
        quantizer(far).losses["range"].backward()
        optimizer.step()
    assert far.abs().max() < 2.6


@pytest.mark.parametrize("levels", [2, 3, 12, 30, 65])
def test_every_level_of_fsq_can_be_had_without_its_loss(levels: int) -> None:
    quantizer = build_part(
        "quantizer", {"name": "fsq", "levels": [levels], "num_codebooks": 1}, dim=1
    ).train()
    y = torch.linspace(-8, 8, 20001)[:, None]
    bounded = quantizer._bound(y)
    free = (quantizer.slope * (y + quantizer.shift)).abs() <= quantizer.bend
    assert quantizer._terms(y[free[:, 0]], bounded[free[:, 0]], bounded)["range"] == 0
    assert len(quantizer._digits(bounded[free[:, 0]]).unique()) == levels
