"""What each process of a run is given."""

import pytest

from data.corpus.batches import held_out, training
from data.corpus.configured import corpus_for
from pretrain import PretrainConfig
from pretrain.packing import IGNORED
from pretrain.tokenizer import byte_tokenizer
from pretrain.tokens import Tokens


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_every_process_measures_as_many_batches_and_all_together_each_token_once(processes: int) -> None:
    config = PretrainConfig(output_dir="o", dataset_name="made:documents", max_samples=50, eval_samples=4)
    corpus, tokenizer = corpus_for(config), byte_tokenizer()
    parts = held_out(corpus, tokenizer, 128, max_documents=4)
    train = training(corpus, tokenizer, 128, seed=0)
    batches = [
        list(Tokens("", tokenizer, train, parts, [], rows=2, process=one, processes=processes).held_out(parts))
        for one in range(processes)
    ]
    assert len({len(each) for each in batches}) == 1
    assert any(not (rows.document > 0).any() for each in batches for rows, _ in each) == (processes == 8)
    predicted = sum(int((labels != IGNORED).sum()) for each in batches for _, labels in each)
    assert predicted == sum(part.predicted_tokens for part in parts)
