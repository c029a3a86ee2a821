"""The reference runner gives ops what the contract promises them, and no more."""

from __future__ import annotations

import pytest
import torch

from surgery.architecture import Architecture
from surgery.errors import OpError, PluginError
from surgery.ops import (
    BASE,
    BLOCK,
    SAMPLE_RUN,
    SAMPLE_RUNS,
    Group,
    Params,
    Reduce,
    Scan,
    Split,
    op,
)
from surgery.scalars import Scalar
from surgery.tensors import Role, TensorSpec
from surgery.testing import run_group_op, run_model_op, run_op, same_bytes


class Factor(Params):
    factor: Scalar = 1.0


@op("t.add", each=Factor)
def add(x, p):
    """Add the models, each times its factor."""
    return sum(model * entry.factor for model, entry in zip(x.models, x.signature.each, strict=True))


@op("t.row_max", split=Split.ROW)
def row_max(x, p):
    """Divide rows by their largest magnitude."""
    return x.models[0] / x.models[0].abs().amax(1, keepdim=True)


@op(
    "t.transpose",
    split=Split.TENSOR,
    infer=lambda s, p: TensorSpec(s.name, s.first.shape[::-1], s.first.dtype),
)
def transpose(x, p):
    """Transpose a matrix."""
    return x.models[0].T


@op("t.center")
class Center(Reduce):
    """Subtract the mean."""

    def gather(self, x, p, found):
        """Return the block's sum and size."""
        assert x.models[0].numel() <= BLOCK
        return torch.tensor([x.models[0].sum().item(), x.models[0].numel()], dtype=torch.float64)

    def solve(self, signature, p, total, found):
        """Return the mean."""
        return (total[0] / total[1]).item()

    def apply(self, x, p, found):
        """Subtract it."""
        return torch.sub(x.models[0], found, out=x.out)


def test_element_ops_see_flat_ranges_and_results_get_their_shape_back():
    shapes = []

    @op("t.look")
    def look(x, p):
        """Look."""
        shapes.append((tuple(x.models[0].shape), x.start))
        return x.models[0]

    model = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(run_op(look, models=[model], chunk=4), model)
    assert shapes == [((4,), 0), ((2,), 4)]


def test_models_by_name_are_sorted_and_keep_their_parameters():
    models = {"b": torch.tensor([1.0]), "a": torch.tensor([10.0])}
    each = {"a": {"factor": 2}, "b": {"factor": 3}}
    assert run_op(add, {}, models, each=each).item() == 23


def test_a_ramp_and_a_map_become_numbers():
    models, each = [torch.ones(1)] * 2, [{"factor": [0, 1]}, {"factor": {"mlp": 7, "default": 5}}]
    assert run_op(add, {}, models, each=each, depth=0.25).item() == 5.25


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_row_ops_see_whole_rows(chunk):
    model = torch.tensor([[1.0, -2.0], [4.0, 2.0], [0.0, 5.0]])
    assert run_op(row_max, models=[model], chunk=chunk).tolist() == [[0.5, -1], [1, 0.5], [0, 1]]


def test_row_ops_see_scalars_and_vectors_as_rows_of_one():
    assert run_op(row_max, models=[torch.tensor(-3.0)]).item() == -1
    assert run_op(row_max, models=[torch.tensor([2.0, -3.0])]).tolist() == [1, -1]


@pytest.mark.parametrize("chunk", [None, 5, 100_000])
def test_reduce_ops_gather_all_blocks_before_they_apply(chunk):
    model = torch.arange(2.0 * BLOCK + 10)
    result = run_op(Center, models=[model], chunk=chunk if chunk != 5 else BLOCK)
    assert result.double().mean().item() == pytest.approx(0, abs=1)
    assert run_op(Center, models=[torch.tensor([1.0, 2.0, 6.0])], chunk=chunk).tolist() == [-2, -1, 3]


def test_tensor_ops_keep_the_shape_and_may_infer_another():
    assert run_op(transpose, models=[torch.tensor([[1.0, 2.0, 3.0]])]).tolist() == [[1], [2], [3]]


def test_passes_are_asked_for_until_there_is_nothing_more_to_know():
    seen = []

    @op("t.passes")
    class Passes(Reduce):
        """Count passes."""

        def scan(self, signature, p, found, done):
            """Sample first, then read all, then apply."""
            return [Scan.SAMPLE, Scan.ALL, None][done]

        def gather(self, x, p, found):
            """Return what was seen."""
            return [x.models[0].numel()]

        def solve(self, signature, p, total, found):
            """Collect."""
            seen.append(total)
            return [*(found or []), total]

        def apply(self, x, p, found):
            """Copy."""
            assert found == seen
            return x.models[0]

    run_op(Passes, models=[torch.zeros(BLOCK + 1)])
    assert seen == [[SAMPLE_RUNS * SAMPLE_RUN], [BLOCK, 1]]
    seen.clear()
    run_op(Passes, models=[torch.zeros(10)])
    assert seen == [[10], [10]]


def test_a_sample_spans_the_tensor():
    ends = []

    @op("t.ends")
    class Ends(Reduce):
        """See the ends of the sample."""

        def scan(self, signature, p, found, done):
            """Sample once."""
            return Scan.SAMPLE if not done else None

        def gather(self, x, p, found):
            """Keep the ends."""
            ends.extend([x.models[0][0].item(), x.models[0][-1].item(), x.base[0].item()])

        def apply(self, x, p, found):
            """Copy."""
            return x.models[0]

    run_op(Ends, models=[torch.arange(200_000.0)], base=torch.ones(200_000))
    assert ends == [0, 199_999, 1]


def test_draws_do_not_depend_on_the_chunk():
    @op("t.draw")
    def draw(x, p):
        """Draw."""
        return x.uniform(2)

    whole = run_op(draw, models=[torch.zeros(100)])
    assert same_bytes(whole, run_op(draw, models=[torch.zeros(100)], chunk=7))
    assert not torch.equal(whole, run_op(draw, models=[torch.zeros(100)], seed=1))
    assert ((whole >= 0) & (whole < 1)).all()


def test_simplified_ops_give_bytes():
    @op("t.first", base="required", simplify=lambda s, p: BASE if s.numel == 1 else 0)
    def first(x, p):
        """Never runs."""
        raise AssertionError

    nan, zero = torch.tensor([float("nan"), -0.0]), torch.tensor([-0.0])
    assert same_bytes(run_op(first, models=[nan], base=torch.zeros(2)), nan)
    assert same_bytes(run_op(first, models=[torch.ones(1)], base=zero), zero)


def test_vectors_may_be_skipped():
    @op("t.double", vectors="skip")
    def double(x, p):
        """Double."""
        return x.models[0] * 2

    assert run_op(double, models=[torch.ones(2)]).tolist() == [1, 1]
    assert run_op(double, models=[torch.ones(1, 2)]).tolist() == [[2, 2]]


@pytest.mark.parametrize(
    ("dtypes", "wanted"),
    [
        ((torch.bfloat16, torch.bfloat16), torch.bfloat16),
        ((torch.bfloat16, torch.float16), torch.float32),
        ((torch.float32, torch.float64), torch.float64),
    ],
)
def test_results_have_the_dtype_that_holds_all_inputs(dtypes, wanted):
    result = run_op(add, models=[torch.ones(2, dtype=dtype) for dtype in dtypes])
    assert result.dtype == wanted
    assert result.tolist() == [2, 2]


def test_what_the_op_finds_wrong_is_raised():
    @op("t.never", check=lambda s, p: "wrong; mend it")
    def never(x, p):
        """Never runs."""
        raise AssertionError

    with pytest.raises(OpError) as error:
        run_op(never, models=[torch.ones(1)], name="v")
    assert str(error.value) == "v: wrong; mend it"


def test_model_ops_gather_over_all_tensors():
    center = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[6.0]])}
    result = run_model_op(Center, {}, {"m": center})
    assert {name: tensor.tolist() for name, tensor in result.items()} == {"a": [-2, -1], "b": [[3]]}


def test_group_ops_see_their_members_and_leave_the_rest():
    @op("t.swap")
    class Swap(Group):
        """Swap the two tensors of a layer."""

        def key(self, tensor, p):
            """Group by layer."""
            return tensor.role.layer

        def apply(self, members, p):
            """Swap."""
            (a, x), (b, y) = members.items()
            return {a: y.models[0], b: x.models[0]}

    by_digit = Architecture(
        "digits", frozenset(), lambda name: Role(layer=int(name[0]) if name[0].isdigit() else None), None
    )
    names = ["0a", "0b", "1a", "1b", "x"]
    tensors = {name: torch.tensor([float(index)]) for index, name in enumerate(names)}
    swapped = run_group_op(Swap, {}, tensors, by_digit)
    assert {name: tensor.item() for name, tensor in swapped.items()} == {
        "0a": 1,
        "0b": 0,
        "1a": 3,
        "1b": 2,
        "x": 4,
    }


def broken(**settings):
    def declare(function):
        function.__doc__ = "Break the contract."
        return op("t.broken", **settings)(function)

    return declare


def test_changing_an_input_is_found():
    @broken()
    def change(x, p):
        return x.models[0].mul_(2)

    model = torch.ones(3)
    with pytest.raises(PluginError) as error:
        run_op(change, models=[model])
    assert str(error.value) == (
        "op `t.broken`: inputs untouched: it changed one; write to `x.out` or `x.scratch`"
    )
    assert model.tolist() == [1, 1, 1]


def test_reading_a_buffer_before_writing_shows():
    @broken(buffers=1)
    def read(x, p):
        return x.models[0] + x.out * 0 + x.scratch(0) * 0

    assert torch.isnan(run_op(read, models=[torch.ones(3)])).all()


def test_buffers_that_were_not_declared_are_refused():
    @broken(buffers=1)
    def ask(x, p):
        return x.scratch(1)

    with pytest.raises(PluginError) as error:
        run_op(ask, models=[torch.ones(3)])
    assert str(error.value) == (
        "op `t.broken`: asks for scratch buffer 1, declares buffers=1; declare as many as it uses"
    )


def test_another_shape_than_inferred_is_found():
    @broken()
    def shorten(x, p):
        return x.models[0][1:]

    with pytest.raises(PluginError) as error:
        run_op(shorten, models=[torch.ones(3)])
    assert str(error.value) == "op `t.broken`: shape as inferred: got (2,) for (3,); mend `infer`"


def test_another_dtype_than_given_is_found():
    @broken()
    def compare(x, p):
        return x.models[0] > 0

    with pytest.raises(PluginError) as error:
        run_op(compare, models=[torch.ones(3)])
    assert str(error.value) == ("op `t.broken`: dtype as inferred: got torch.bool for torch.float32; mend it")


def test_drawing_in_a_sampling_pass_is_refused():
    class Draws(Reduce):
        """Draw where elements have no index."""

        def scan(self, signature, p, found, done):
            """Sample."""
            return Scan.SAMPLE

        def gather(self, x, p, found):
            """Draw."""
            return x.uniform()

        def apply(self, x, p, found):
            """Never runs."""
            raise AssertionError

    with pytest.raises(PluginError) as error:
        run_op(op("t.broken")(Draws), models=[torch.ones(3)])
    assert str(error.value) == (
        "op `t.broken`: draws in a sampling pass, whose elements have no index; scan ALL"
    )


def test_to_a_model_op_one_tensor_is_the_model():
    whole = op("t.whole", split=Split.MODEL)(type(Center.implementation))
    assert run_op(whole, models=[torch.tensor([1.0, 2.0, 6.0])]).tolist() == [-2, -1, 3]


def test_blocks_may_be_smaller_and_folded_in_spans():
    folds = []

    @op("t.fold")
    class Concatenate(Reduce):
        """Collect the blocks' first elements."""

        def gather(self, x, p, found):
            """Return the first."""
            return [x.models[0][0].item()]

        def fold(self, total, part):
            """Join."""
            folds.append((total, part))
            return total + part

        def apply(self, x, p, found):
            """Copy."""
            assert found == [0, 2, 4, 6, 8]
            return x.models[0]

    run_op(Concatenate, models=[torch.arange(9.0)], block=2, span=2)
    assert folds == [([0], [2]), ([4], [6]), ([0, 2], [4, 6]), ([0, 2, 4, 6], [8])]


def test_ops_that_need_another_function_are_refused():
    class Alone(Group):
        """Every tensor is a group."""

        def key(self, tensor, p):
            """Return the name."""
            return tensor.name

        def apply(self, members, p):
            """Never runs."""
            raise AssertionError

    with pytest.raises(PluginError) as error:
        run_op(op("t.alone")(Alone), models=[torch.ones(3)])
    assert str(error.value) == "op `t.alone`: is a group op; run it with another function of this module"


@op("t.note", split=Split.TENSOR)
def noting(x, p):
    """Copy a model and note its largest number."""
    x.note("largest", x.models[0].max())
    return x.models[0]


@op("t.note_nan", split=Split.TENSOR)
def noting_nan(x, p):
    """Note what is no number."""
    x.note("largest", float("nan"))
    return x.models[0]


@op("t.note_range")
def noting_a_range(x, p):
    """Note a number of a range."""
    x.note("largest", 1.0)
    return x.models[0]


@op("t.note_found")
class NotingWhatIsFound(type(Center.implementation)):
    """Subtract the mean and note what it was taken of."""

    def notes(self, signature, p, found):
        """Return the mean."""
        return {"mean": found}


@op("t.note_group")
class NotingGroup(Group):
    """Copy tensors and note their largest numbers."""

    def key(self, tensor, p):
        """Return the same for all but the norm."""
        return None if "norm" in tensor.name else 0

    def apply(self, members, p):
        """Return the tensors."""
        for x in members.values():
            x.note("largest", x.models[0].max())
        return {name: x.models[0] for name, x in members.items()}


def test_a_test_sees_what_an_op_notes():
    notes: dict[str, float] = {}
    run_op(noting, models=[torch.tensor([1.0, 3.0])], notes=notes)
    assert notes == {"largest": 3.0}
    found: dict[str, float] = {}
    run_op(NotingWhatIsFound, models=[torch.tensor([1.0, 3.0])], notes=found, chunk=1)
    assert found == {"mean": 2.0}


def test_notes_of_a_group_are_told_by_tensor():
    words = Architecture("words", frozenset(), lambda name: Role("embed"), lambda name, layer: name)
    notes: dict[str, dict[str, float]] = {}
    tensors = {"a": torch.tensor([1.0, 2.0]), "norm": torch.ones(2)}
    run_group_op(NotingGroup, {}, tensors, words, notes=notes)
    assert notes == {"a": {"largest": 2.0}}


def test_notes_that_break_the_contract_are_refused():
    with pytest.raises(OpError) as error:
        run_op(noting_nan, models=[torch.ones(2)])
    assert str(error.value) == "op `t.note_nan`: notes nan as `largest`, not a finite number, on w; mend it"
    with pytest.raises(PluginError) as broken:
        run_op(noting_a_range, models=[torch.ones(2)])
    assert str(broken.value) == (
        "op `t.note_range`: notes `largest` of a part of the tensor; see whole tensors, or define `notes`"
    )


class Which(Params):
    split: str = "reduce"


@op("t.either", split=lambda p: Split(p.split), splits=list(Split)[:4], params=Which)
class Either(Reduce):
    """Tell which function was called on what shape: the sum of what was gathered, or minus the dimensions."""

    def __call__(self, x, p):
        """Return minus the dimensions."""
        return torch.full_like(x.models[0], -x.models[0].dim())

    def gather(self, x, p, found):
        """Return the block's sum."""
        return x.models[0].sum().item()

    def apply(self, x, p, found):
        """Return the sum of all."""
        return torch.full_like(x.models[0], found)


@pytest.mark.parametrize(("split", "wanted"), [("element", -1), ("row", -2), ("tensor", -2), ("reduce", 6)])
def test_an_op_that_gathers_is_called_where_its_parameters_let_it_gather_nothing(split, wanted):
    assert run_op(Either, {"split": split}, [torch.ones(2, 3)]).unique().item() == wanted
