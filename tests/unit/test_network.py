import json
import time
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from onnxloc.choose import count_for_percent, range_units, significant_units, top_units
from onnxloc.controls import draw_control, draw_controls
from onnxloc.errors import NetworkError, OptionError
from onnxloc.network import Network, network_from_flat

pytestmark = pytest.mark.unit

SITES = {"block.0.out": 10, "empty": 0, "op:/a/b": 4, "block.1.out": 10}
HASH = "0123456789abcdef" * 4


def make(flat, sites=SITES, model_hash=HASH, how=None):
    return network_from_flat(flat, sites, model_hash, how or {"how": "top", "value": 1.0})


# The value itself


def test_parts_of_a_network():
    net = make([0, 9, 11, 14, 23])
    assert list(net.units) == ["block.0.out", "op:/a/b", "block.1.out"]
    np.testing.assert_array_equal(net.units["block.0.out"], [0, 9])
    np.testing.assert_array_equal(net.units["op:/a/b"], [1])
    np.testing.assert_array_equal(net.units["block.1.out"], [0, 9])
    assert (net.size, net.n_units, net.share) == (5, 24, 5 / 24)
    np.testing.assert_array_equal(net.flat, [0, 9, 11, 14, 23])
    np.testing.assert_array_equal(net.mask("op:/a/b"), [False, True, False, False])
    assert not make([0]).mask("block.1.out").any()
    assert net.mask("empty").shape == (0,)
    with pytest.raises(NetworkError, match="'other' was not searched"):
        net.mask("other")


def test_no_units_and_no_sites():
    assert make([]).size == 0
    assert make([]).share == 0.0
    assert make([], {}).share == 0.0
    assert make([]).flat.dtype == np.int64


def test_units_come_in_site_order_and_cannot_be_changed():
    given_units = np.array([1, 3], dtype=np.int32)
    net = Network({"b": given_units, "a": [0], "c": []}, {"a": 2, "b": 5, "c": 1}, HASH, {})
    given_units[0] = 4
    assert list(net.units) == ["a", "b"]
    np.testing.assert_array_equal(net.units["b"], [1, 3])
    with pytest.raises(ValueError, match="read-only"):
        net.units["b"][0] = 0


def test_equality_is_by_content():
    net = make([1, 12])
    assert net == make(np.array([1, 12], dtype=np.uint16))
    assert hash(net) == hash(make([1, 12]))
    assert net != make([1, 13])
    assert net != make([1, 12], model_hash="other")
    assert net != make([1, 12], how={"how": "fdr"})
    assert net != make([1, 12], dict(reversed(SITES.items())))
    assert net != "net"


@pytest.mark.parametrize(
    ("units", "match"),
    [
        ({"x": [0]}, "'x', which was not searched"),
        ({"a": [0, 5]}, "0 to 4"),
        ({"a": [-1, 0]}, "0 to 4"),
        ({"a": [2, 1]}, "sorted"),
        ({"a": [1, 1]}, "repeats"),
        ({"a": [0.5]}, "whole numbers"),
        ({"a": [[0, 1]]}, "whole numbers"),
        ({"a": [True]}, "whole numbers"),
        ({"a": np.array([2**63], dtype=np.uint64)}, "0 to 4"),
    ],
)
def test_units_that_do_not_fit(units, match):
    with pytest.raises(NetworkError, match=match):
        Network(units, {"a": 5}, HASH, {})


@pytest.mark.parametrize(
    ("sites", "model_hash", "how"),
    [
        ({"a": -1}, HASH, {}),
        ({"a": 1.0}, HASH, {}),
        ({"a": True}, HASH, {}),
        ({"a": 2**40}, HASH, {}),
        ({"": 1}, HASH, {}),
        ({"\ud800": 1}, HASH, {}),
        ({"a": 1}, "\x1b[2J", {}),
        ({"a": 1}, 7, {}),
        ({"a": 1}, HASH, {"value": float("nan")}),
        ({"a": 1}, HASH, {"value": [1]}),
        ({"a": 1}, HASH, {"value": None}),
        ({"a": 1}, HASH, {"value": "\ud800"}),
    ],
)
def test_other_parts_that_do_not_fit(sites, model_hash, how):
    with pytest.raises(NetworkError):
        Network({}, sites, model_hash, how)


def test_dice():
    net = make([0, 1, 12, 20])
    assert net.dice(net) == 1.0
    assert net.dice(make([2, 13])) == 0.0
    assert net.dice(make([1, 12])) == pytest.approx(2 * 2 / 6)
    assert make([1, 12]).dice(net) == net.dice(make([1, 12]))
    assert make([]).dice(make([])) == 1.0
    assert make([]).dice(net) == 0.0


def test_a_network_of_another_model():
    net = make([0])
    net.check_model(HASH)
    with pytest.raises(NetworkError) as caught:
        net.check_model("f" * 64)
    message = str(caught.value)
    assert HASH[:12] in message
    assert "f" * 12 in message
    assert HASH not in message
    assert "--force-model" in message
    net.check_model("f" * 64, force=True)


# Files


def test_save_and_load(tmp_path):
    net = make([0, 9, 11, 23], how={"how": "range", "value": "80-90", "seed": 3, "share": 0.5})
    net.save(tmp_path / "network.parquet")
    assert Network.load(tmp_path / "network.parquet") == net
    assert Network.load(tmp_path) == net
    assert [p.name for p in tmp_path.iterdir()] == ["network.parquet"]
    table = pq.read_table(tmp_path / "network.parquet")
    assert table.schema.names == ["site", "unit"]
    assert table.schema.types == [pa.string(), pa.int64()]
    assert table["unit"].to_pylist() == [0, 9, 1, 9]
    meta = json.loads(table.schema.metadata[b"onnxloc"])
    assert meta["format"] == 1
    assert meta["model_hash"] == HASH
    assert list(meta["sites"].items()) == list(SITES.items())


@given(st.sets(st.integers(0, 23)), st.text(st.characters(codec="utf-8"), max_size=8))
@settings(max_examples=25, deadline=None)
def test_every_network_survives_a_file(tmp_path_factory, flat, name):
    path = tmp_path_factory.mktemp("net") / "n.parquet"
    net = make(sorted(flat), {"a": 10, name + "!": 14})
    net.save(path)
    assert Network.load(path) == net


def test_saved_bytes_are_deterministic(tmp_path):
    for name, how in (("a", {"how": "top", "value": 1}), ("b", {"value": 1, "how": "top"})):
        make([3, 12], how=how).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_save_where_nothing_can_be_written(tmp_path):
    with pytest.raises(NetworkError, match="cannot write"):
        make([0]).save(tmp_path / "missing" / "n.parquet")
    (tmp_path / "file").touch()
    with pytest.raises(NetworkError, match="cannot write"):
        make([0]).save(tmp_path / "file" / "n.parquet")
    (tmp_path / "file").unlink()
    (tmp_path / "folder").mkdir()
    with pytest.raises(NetworkError, match="cannot write"):
        make([0]).save(tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def meta(**changes):
    base = {"format": 1, "model_hash": HASH, "how": {}, "sites": {"a": 5, "b": 5}}
    return {b"onnxloc": json.dumps(base | changes).encode()}


def rows(site=("a", "b"), unit=(1, 2), site_type=None, unit_type=None):
    return {
        "site": pa.array(site, site_type or pa.string()),
        "unit": pa.array(unit, unit_type or pa.int64()),
    }


BAD_FILES = {
    "foreign": (rows(), {}),
    "not json": (rows(), {b"onnxloc": b"{"}),
    "not utf-8": (rows(), {b"onnxloc": b"\xff"}),
    "deep json": (rows(), {b"onnxloc": b"[" * 100_000}),
    "list": (rows(), {b"onnxloc": b"[]"}),
    "format": (rows(), meta(format=2)),
    "one key more": (rows(), meta(more=1)),
    "sites of wrong type": (rows(), meta(sites=["a", "b"])),
    "how of wrong type": (rows(), meta(how="top")),
    "hash of wrong type": (rows(), meta(model_hash=1)),
    "width of wrong type": (rows(), meta(sites={"a": "5", "b": 5})),
    "huge width": (rows(), meta(sites={"a": 10**30, "b": 5})),
    "surrogate": (rows(), meta(sites={"a": 5, "b": 5, "\ud800": 5})),
    "infinite": (rows(), meta(how={"value": float("inf")})),
    "column missing": ({"site": rows()["site"]}, meta()),
    "other columns": ({"sites": rows()["site"], "unit": rows()["unit"]}, meta()),
    "column more": (rows() | {"x": pa.array([1, 2])}, meta()),
    "columns swapped": (dict(reversed(rows().items())), meta()),
    "bytes as site": (rows([b"a", b"b"], site_type=pa.binary()), meta()),
    "float units": (rows(unit=[1.0, 2.0], unit_type=pa.float64()), meta()),
    "int32 units": (rows(unit_type=pa.int32()), meta()),
    "negative unit": (rows(unit=[-1, 2]), meta()),
    "unit out of range": (rows(unit=[1, 5]), meta()),
    "unknown site": (rows(["a", "x"]), meta()),
    "repeated": (rows(["a", "a"], [2, 2]), meta()),
    "unsorted": (rows(["a", "a"], [2, 1]), meta()),
    "null site": (rows(["a", None]), meta()),
    "null unit": (rows(unit=[1, None]), meta()),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(tmp_path, name):
    columns, metadata = BAD_FILES[name]
    path = tmp_path / "n.parquet"
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    with pytest.raises(NetworkError) as caught:
        Network.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_good_file_of_another_writer(tmp_path):
    path = tmp_path / "n.parquet"
    table = pa.table(rows(["b", "a", "b"], [0, 3, 4])).replace_schema_metadata(meta())
    pq.write_table(table, path, row_group_size=1, compression="none")
    net = Network.load(path)
    assert {site: units.tolist() for site, units in net.units.items()} == {"a": [3], "b": [0, 4]}


def test_missing_and_no_files(tmp_path):
    with pytest.raises(NetworkError, match="there is no network"):
        Network.load(tmp_path)
    with pytest.raises(NetworkError, match="there is no network"):
        Network.load(tmp_path / "absent")
    for content in (b"", b"PAR1", b"PAR1" * 10, b"site,unit\n"):
        (tmp_path / "n").write_bytes(content)
        with pytest.raises(NetworkError, match="is not a network file"):
            Network.load(tmp_path / "n")


def test_oversized_files(tmp_path, monkeypatch):
    make([0, 1, 2]).save(tmp_path / "n")
    monkeypatch.setattr("onnxloc.network.MAX_CHOSEN", 2)
    with pytest.raises(NetworkError, match="more than 2 units"):
        Network.load(tmp_path / "n")
    monkeypatch.setattr("onnxloc.network.MAX_FILE_BYTES", 10)
    with pytest.raises(NetworkError, match="bytes"):
        Network.load(tmp_path / "n")


@pytest.mark.parametrize(
    "changes",
    [
        {"model_hash": "f" * 64},
        {"sites": dict(reversed(SITES.items()))},
        {"sites": {**SITES, "block.1.out": 11}},
        {"how": {"how": "top"}},
    ],
)
def test_changed_metadata_is_refused_where_the_file_has_its_hash(tmp_path, changes):
    path = tmp_path / "n.parquet"
    make([0, 5, 11]).save(path)
    table = pq.read_table(path)
    stored = json.loads(table.schema.metadata[b"onnxloc"])
    text = json.dumps({**stored, **changes}).encode()
    pq.write_table(table.replace_schema_metadata({b"onnxloc": text}), path)
    with pytest.raises(NetworkError, match="changed or damaged since it was written"):
        Network.load(path)
    # A file of an earlier version has no hash.
    del stored["content_sha256"]
    text = json.dumps(stored).encode()
    pq.write_table(table.replace_schema_metadata({b"onnxloc": text}), path)
    assert Network.load(path) == make([0, 5, 11])


def test_damaged_files_never_load_as_another_network(tmp_path):
    net = make([0, 5, 9, 11, 20, 23])
    path = tmp_path / "n.parquet"
    net.save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert Network.load(path) == net
        except NetworkError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
    assert refused > 200
    for _ in range(100):
        path.write_bytes(whole[: rng.integers(len(whole))])
        with pytest.raises(NetworkError):
            Network.load(path)


# Choosing


@pytest.mark.parametrize(
    ("n", "percent", "want"),
    [
        (100, 29, 29),
        (100, 0.29 * 100, 28),
        (1000, 0.7, 7),
        # In floats, 4.6 * 3000 / 100 and 11.6 / 100 * 1000 both end just below the whole number.
        (3000, 4.6, 138),
        (1000, 11.6, 116),
        (17_280, 1.0, 172),
        (17_280, 0.125, 21),
        (17_280, 0.25, 43),
        (5, 100, 5),
        (300, np.float64(0.5), 1),
        (10**9, 1e-5, 100),
    ],
)
def test_count_for_percent(n, percent, want):
    assert count_for_percent(n, percent) == want


@given(st.integers(1, 10**7), st.decimals(Decimal("0.001"), 100, places=3))
def test_count_is_exact_in_decimal(n, percent):
    want = int(percent * n / 100)
    if want:
        assert count_for_percent(n, float(percent)) == want
    else:
        with pytest.raises(OptionError, match="less than one"):
            count_for_percent(n, float(percent))


@pytest.mark.parametrize("percent", [0, -1, 100.001, float("nan"), float("inf"), -0.0])
def test_percentages_out_of_range(percent):
    with pytest.raises(OptionError, match="percentage"):
        count_for_percent(1000, percent)


values = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.just(np.nan), st.floats(allow_nan=True)),
    min_size=1,
    max_size=40,
)


@given(values, st.integers(1, 40))
def test_top_units_against_a_sort(t, k):
    able = [i for i, v in enumerate(t) if not np.isnan(v)]
    if k > len(able):
        with pytest.raises(OptionError, match=f"only {len(able)} have"):
            top_units(t, k)
        return
    want = sorted(sorted(able, key=lambda i: (-t[i], i))[:k])
    assert top_units(np.array(t), k).tolist() == want


def test_top_units_of_ties_and_bad_counts():
    assert top_units([1.0, 2.0, 2.0, 2.0, np.nan], 2).tolist() == [1, 2]
    assert top_units(np.zeros(5, dtype=np.float32), 3).tolist() == [0, 1, 2]
    for k in (0, -1):
        with pytest.raises(OptionError, match="at least 1"):
            top_units([1.0], k)
    with pytest.raises(OptionError, match="only 0"):
        top_units([], 1)


def test_top_units_is_fast():
    t = np.random.default_rng(0).normal(size=1_000_000)
    t[::7] = np.nan
    times = []
    for k in (10, 10_000, 500_000):
        start = time.perf_counter()
        assert len(top_units(t, k)) == k
        times.append(time.perf_counter() - start)
    assert min(times) < 0.2


def test_significant_units():
    t = np.array([3.0, -3.0, 2.0, np.nan, 1.0])
    q = np.array([0.01, 0.01, 0.05, np.nan, 0.06])
    assert significant_units(t, q, 0.05).tolist() == [0, 2]
    assert significant_units(t, q, 0.001).tolist() == []
    for alpha in (0, 1.1, float("nan")):
        with pytest.raises(OptionError, match="false discovery rate"):
            significant_units(t, q, alpha)
    with pytest.raises(OptionError, match="do not go with"):
        significant_units(t, q[:1], 0.05)


def test_range_units():
    t = np.random.default_rng(1).permutation(1000).astype(float)
    t = np.insert(t, 500, np.nan)
    drawn = range_units(t, 80, 90, 50, seed=0)
    low, high = np.nanpercentile(t, [80, 90])
    assert len(set(drawn)) == 50
    assert (np.diff(drawn) > 0).all()
    assert ((t[drawn] >= low) & (t[drawn] <= high)).all()
    np.testing.assert_array_equal(drawn, range_units(t, 80, 90, 50, seed=0))
    assert (drawn != range_units(t, 80, 90, 50, seed=1)).any()
    np.testing.assert_array_equal(range_units(t, 100, 100, 7, seed=0), top_units(t, 7))
    assert sorted(t[range_units(t, 0, 0, 4, seed=0)]) == [0, 1, 2, 3]
    everything = range_units(t, 0, 100, 1000, seed=0)
    np.testing.assert_array_equal(everything, np.flatnonzero(~np.isnan(t)))


def test_range_units_are_drawn_evenly():
    t = np.arange(100.0)
    inside = np.flatnonzero((t >= np.percentile(t, 50)) & (t <= np.percentile(t, 75)))
    counts = sum(np.bincount(range_units(t, 50, 75, 5, s), minlength=100) for s in range(2000))
    assert counts.sum() == counts[inside].sum() == 10_000
    assert stats.chisquare(counts[inside]).pvalue > 0.001


@pytest.mark.parametrize(("low", "high"), [(-1, 5), (5, 101), (6, 5), (float("nan"), 5)])
def test_ranges_that_make_no_sense(low, high):
    with pytest.raises(OptionError, match="range"):
        range_units(np.arange(10.0), low, high, 1, 0)


def test_ranges_with_too_few_units():
    with pytest.raises(OptionError, match="only 2 lie in the range 80-90"):
        range_units(np.arange(11.0), 80, 90, 3, 0)
    with pytest.raises(OptionError, match="no unit has a t-value"):
        range_units(np.full(3, np.nan), 10, 20, 1, 0)
    with pytest.raises(OptionError, match="seed"):
        range_units(np.arange(11.0), 0, 90, 1, -1)


@given(st.sets(st.integers(0, 23)))
def test_flat_indices_go_there_and_back(flat):
    assert make(sorted(flat)).flat.tolist() == sorted(flat)


@pytest.mark.parametrize("flat", [[24], [-1], [3, 2], [3, 3], [0.5]])
def test_flat_indices_that_do_not_fit(flat):
    with pytest.raises(NetworkError, match="units of the model"):
        make(flat)


# Controls


@pytest.fixture
def net():
    return make([0, 1, 2, 11, 20, 23])


def counts_of(network):
    return {site: len(units) for site, units in network.units.items()}


@pytest.mark.parametrize("match", ["site", "count"])
def test_controls_are_outside_and_of_the_right_size(net, match):
    for control in draw_controls(net, 30, match, seed=5):
        assert not set(control.flat) & set(net.flat)
        assert control.size == net.size
        assert (control.sites, control.model_hash) == (net.sites, HASH)
        assert control.how["match"] == match
        if match == "site":
            assert counts_of(control) == counts_of(net)


def test_matching_the_count_alone_lets_sites_differ(net):
    assert any(counts_of(c) != counts_of(net) for c in draw_controls(net, 5, "count", 0))


@pytest.mark.parametrize("match", ["site", "count"])
def test_controls_do_not_depend_on_how_many_are_drawn(net, match):
    few, many = draw_controls(net, 3, match, 7), draw_controls(net, 12, match, 7)
    assert few == many[:3]
    assert len({tuple(c.flat) for c in many}) > 6
    assert few[0] != draw_controls(net, 1, match, 8)[0]
    assert draw_control(net, match=match, seed=7) == draw_control(net, match=match, seed=7)
    assert draw_controls(net, 0, match, 7) == ()


@pytest.mark.parametrize("match", ["site", "count"])
def test_controls_are_drawn_evenly(net, match):
    n = 2000
    counts = sum(np.bincount(c.flat, minlength=24) for c in draw_controls(net, n, match, 9))
    assert (counts[net.flat] == 0).all()
    start = 0
    share = {}
    for site, width in SITES.items():
        free = [i for i in range(start, start + width) if i not in net.flat]
        for i in free:
            share[i] = len(net.units.get(site, ())) / len(free) if match == "site" else 6 / 18
        start += width
    for chosen in sorted(set(share.values())):
        cells = counts[[i for i in share if share[i] == chosen]]
        assert cells.mean() == pytest.approx(chosen * n, rel=0.05)
        # One draw takes a unit or not: a cell has variance n * share * (1 - share), and the fixed
        # sum takes away one degree of freedom.
        spread = ((cells - chosen * n) ** 2).sum() / (n * chosen * (1 - chosen))
        k = len(cells)
        assert stats.chi2.sf(spread * (k - 1) / k, k - 1) > 0.001


@pytest.mark.parametrize("match", ["site", "count"])
def test_a_pool_limits_what_is_drawn(net, match):
    pool = np.zeros(24, dtype=bool)
    pool[[0, 3, 4, 5, 10, 14, 15]] = True
    control = draw_control(net, match=match, seed=0, pool=pool)
    assert control.flat.tolist() == [3, 4, 5, 10, 14, 15]
    assert draw_controls(net, 1, match, 0, pool=pool)[0].flat.tolist() == control.flat.tolist()
    with pytest.raises(OptionError, match="24 units"):
        draw_control(net, match=match, seed=0, pool=pool[:3])


def test_too_few_units_outside():
    crowded = make([0, 10, 11, 12])
    with pytest.raises(NetworkError, match="site 'op:/a/b' has only 1 units outside"):
        draw_control(crowded, match="site", seed=0)
    assert draw_control(crowded, match="count", seed=0).size == 4
    with pytest.raises(NetworkError, match="only 11 units outside"):
        draw_control(make(range(13)), match="count", seed=0)


def test_bad_options_for_controls(net):
    with pytest.raises(OptionError, match="site or count"):
        draw_control(net, match="block", seed=0)
    with pytest.raises(OptionError, match="seed"):
        draw_control(net, match="site", seed=-1)
    with pytest.raises(OptionError, match="cannot be -1"):
        draw_controls(net, -1, "site", 0)
