"""Rows and batches: those of the definition of packing, in an order that is a function of seed and step."""

from random import Random

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from data import made
from data.corpus.batches import Order, held_out, training
from data.corpus.corpus import prepare
from data.corpus.documents import Options
from data.corpus.rows import PackedRows, best_fit
from data.corpus.shards import tokenised
from data.examples import document
from pretrain.packing import IGNORED, labels_of
from tests.data.corpus import reference
from tests.data.corpus.conftest import Write, tales


@pytest.mark.parametrize("seed", range(20))
def test_packing_is_that_of_the_definition(seed: int) -> None:
    random = Random(seed)
    row_length = random.choice([1, 2, 7, 50, 128])
    longest = random.choice([row_length, max(1, row_length // 3)])
    lengths = [random.randint(1, longest) for _ in range(random.randint(0, 400))]
    order, ends = best_fit(np.array(lengths, np.int64), row_length)
    rows = [part.tolist() for part in np.split(order, ends)[:-1]]
    assert rows == reference.best_fit(lengths, row_length)


@pytest.mark.parametrize("row_length", [2, 16, 61, 128, 1000])
def test_rows_are_those_that_packing_makes_of_the_same_documents(
    write: Write, tokenizer: PreTrainedTokenizerBase, row_length: int
) -> None:
    store = prepare(str(write("a.txt", [*tales(150), "x", "y" * row_length, "z" * (3 * row_length)]))).parts[0].store
    shard = tokenised(store, "train", tokenizer)
    rows = PackedRows(shard, row_length)
    expected = reference.pack([shard.tokens[n].tolist() for n in range(len(shard.tokens))], row_length, 1)
    assert tokenizer.pad_token_id == 1
    found = rows.batch(list(range(len(rows))))
    assert torch.equal(found.input_ids, expected.input_ids)
    assert torch.equal(found.document, expected.document)
    assert rows.tokens == int((expected.document > 0).sum())
    some = [len(rows) - 1, 0, 0]
    assert torch.equal(rows.batch(some).input_ids, expected.input_ids[some])


def test_the_embedded_recipes_rows_and_order_are_those_of_its_published_figures(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    corpus = prepare("made:documents", Options(made_train=300, made_held_out=20, seed=5))
    texts = [
        [row["text"] for row in made.rows("documents", side, count, 5)]
        for side, count in (("train", 300), ("eval", 20))
    ]
    sides = [[[*ids, 0] for ids in tokenizer(side)["input_ids"]] for side in texts]
    train, held = (reference.pack(side, 128, 1) for side in sides)
    batches = training(corpus, tokenizer, 128, seed=5)
    assert len(batches) == len(train.input_ids)
    for step in (0, 3, 40):
        chosen = reference.batch_rows(len(batches), 16, step, seed=5)
        found = batches.batch(step, 16)
        assert torch.equal(found.input_ids, train.input_ids[chosen])
        assert torch.equal(found.document, train.document[chosen])
    (validation,) = held_out(corpus, tokenizer, 128)
    assert torch.equal(validation.rows.batch(list(range(len(validation.rows)))).input_ids, held.input_ids)
    assert list(corpus.training_texts(50)) == texts[0][:50]


def test_the_order_of_one_part_is_that_of_the_loop() -> None:
    order = Order([37], [1.0], seed=42)
    for step in (0, 1, 5, 100, 3):
        assert [row for _, row in order.rows(step, 8)] == reference.batch_rows(37, 8, step, seed=42).tolist()


def test_any_step_is_found_without_the_ones_before() -> None:
    walked = Order([100, 30, 7], [0.5, 0.3, 0.2], seed=3)
    steps = [walked.rows(step, 16) for step in range(60)]
    for step in (59, 0, 17):
        assert Order([100, 30, 7], [0.5, 0.3, 0.2], seed=3).rows(step, 16) == steps[step]
    assert Order([100, 30, 7], [0.5, 0.3, 0.2], seed=4).rows(0, 16) != steps[0]


def test_each_part_goes_through_all_its_rows_in_each_epoch() -> None:
    order = Order([100, 30], [0.6, 0.4], seed=3)
    turns = [turn for step in range(50) for turn in order.rows(step, 16)]
    for part, count in ((0, 100), (1, 30)):
        rows = [row for owner, row in turns if owner == part]
        epochs = [rows[start : start + count] for start in range(0, len(rows) - count, count)]
        assert len(epochs) > 3
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert epochs[0] != epochs[1]


@pytest.mark.parametrize("shares", [[0.7, 0.3], [0.5, 0.3, 0.2], [0.05, 0.9, 0.05], [0.999, 0.001]])
def test_after_any_number_of_rows_each_part_has_had_its_share(shares: list[float]) -> None:
    order = Order([50] * len(shares), shares, seed=1)
    had = [0] * len(shares)
    for place in range(3000):
        ((part, _),) = order.rows(place, 1)
        had[part] += 1
        for number, share in zip(had, shares, strict=True):
            assert abs(number - share * (place + 1)) <= len(shares)


def test_the_global_batch_is_the_same_for_any_number_of_processes() -> None:
    order = Order([100, 30], [0.7, 0.3], seed=3)
    whole = order.rows(7, 12)
    for world_size in (1, 2, 3, 4, 5):
        shares = [order.rows(7, 12, rank, world_size) for rank in range(world_size)]
        together = [shares[place % world_size][place // world_size] for place in range(12)]
        assert together == whole


def test_weights_hold_in_tokens_though_one_parts_rows_are_half_empty(
    write: Write, tokenizer: PreTrainedTokenizerBase
) -> None:
    full = write("full.txt", [f"{text:a<63.63}" for text in tales(300)])
    half = write("half.txt", [f"{text:b<38.38}" for text in tales(300, start=500)])
    corpus = prepare(f"{full}:0.7,{half}:0.3")
    batches = training(corpus, tokenizer, 64, seed=0)
    tokens = [0, 0]
    for step in range(40):
        batch = batches.batch(step, 16)
        for (part, row), numbers in zip(batches.order.rows(step, 16), batch.document, strict=True):
            assert torch.equal(numbers, batches.parts[part].batch([row]).document[0])
            tokens[part] += int((numbers > 0).sum())
    assert tokens[0] / sum(tokens) == pytest.approx(0.7, abs=0.01)


def test_the_validation_is_a_fixed_set_and_knows_its_bytes(write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    texts = tales(1000)
    one, other = (
        held_out(prepare(str(write(name, order))), tokenizer, 64, max_documents=30)[0]
        for name, order in (("a.txt", texts), ("b.txt", texts[::-1]))
    )
    sets = []
    for view in (one, other):
        tokens = view.rows.shard.tokens
        documents = [tokenizer.decode(tokens[n][:-1]) for n in range(len(tokens))]
        sets.append(set(documents))
        rows = view.rows.batch(list(range(len(view.rows))))
        predicted = int((labels_of(rows) != IGNORED).sum())
        assert view.predicted_tokens == predicted
    assert len(sets[0]) == 30
    assert sets[0] == sets[1] <= set(texts)
    whole = held_out(prepare(str(write("a.txt", texts))), tokenizer, 1000, max_documents=30)[0]
    assert whole.text_bytes == sum(document(tokenizer, text, 1000)[1] for text in sets[0])
    assert one.text_bytes < whole.text_bytes  # of a document in pieces, each piece's first token is not predicted
    cut = sum(-(-(len(text) + 1) // 64) - ((len(text) + 1) % 64 == 1) for text in sets[0])
    assert one.text_bytes == sum(map(len, sets[0])) - cut


def test_a_mixtures_validation_has_documents_of_each_part(write: Write, tokenizer: PreTrainedTokenizerBase) -> None:
    corpus = prepare(f"{write('a.txt', tales(500))}:0.75,{write('b.txt', tales(500, start=900))}:0.25")
    views = held_out(corpus, tokenizer, 64, max_documents=40)
    assert [len(view.rows.shard.tokens) for view in views] == [30, 10]
