import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aejax.data import feed

counts = st.integers(1, 200)


@given(st.integers(0, 2**32 - 1), st.integers(0, 1000), counts)
def test_order_is_a_permutation_and_a_function_of_its_arguments(seed, epoch, n):
    order = feed.order(seed, epoch, n)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(order, feed.order(seed, epoch, n))


def test_order_differs_between_epochs_and_seeds():
    orders = {feed.order(seed, epoch, 50).tobytes() for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@given(st.data(), counts, st.integers(0, 3))
def test_rows_of_any_range_are_those_of_the_whole_run(data, n, seed):
    size = data.draw(st.integers(1, n))
    whole = feed.Feed(seed, n, size)
    steps = 3 * whole.steps_per_epoch
    rows = whole.rows(0, steps)
    begin = data.draw(st.integers(0, steps))
    end = data.draw(st.integers(begin, steps))
    np.testing.assert_array_equal(feed.Feed(seed, n, size).rows(begin, end), rows[begin:end])
    for epoch in rows.reshape(3, -1):
        assert len(np.unique(epoch)) == epoch.size == n // size * size  # once an epoch; the rest is dropped


@given(st.data(), st.integers(1, 300), st.integers(1, 60), st.integers(1, 50))
def test_intervals_do_not_depend_on_where_a_run_resumes(data, end, period, most):
    whole = list(feed.intervals(0, end, period, most))
    assert [start for start, _ in whole] == [0, *[stop for _, stop in whole[:-1]]]
    assert whole[-1][1] == end
    length = feed.interval_length(period, most)
    assert length <= most
    assert all(0 < stop - start <= length for start, stop in whole)
    stops = {stop for _, stop in whole}
    assert set(range(period, end, period)) <= stops  # evaluations are due at these
    begin, _ = data.draw(st.sampled_from(whole))
    assert list(feed.intervals(begin, end, period, most)) == [cut for cut in whole if cut[0] >= begin]
    # A run that was cut anywhere else, because it was longer or shorter, joins the same grid.
    anywhere = data.draw(st.integers(0, end - 1))
    assert {stop for _, stop in feed.intervals(anywhere, end, period, most)} == {s for s in stops if s > anywhere}


@given(counts, st.integers(1, 300))
def test_batches_count_every_example_once(n, size):
    rows, mask = feed.batches(n, size)
    assert rows.shape == mask.shape == (-(-n // size), size)
    np.testing.assert_array_equal(rows[mask == 1], np.arange(n))
    assert mask.sum() == n
    assert rows.max() < n
