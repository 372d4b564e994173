"""Which run is meant, found in the records alone."""

from dataclasses import replace
from pathlib import Path

import pytest
from records import make_run

from bench.config.identity import hash_canonical
from bench.errors import ConfigError, MissingError
from bench.results.store import Result, Store
from bench.winner import choose


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def keep(store: Store, *results: Result) -> None:
    for one in results:
        store.write(one)


def test_the_best_of_a_method_wins_on_validation_whatever_its_test_score(store: Store) -> None:
    better = make_run("lora", r=8, validation=0.9, test=0.5)
    keep(store, better, make_run("lora", r=4, validation=0.8, test=0.99), make_run("qlora", validation=0.95))
    assert choose.find_run(store, "best:lora").run_id == better.run_id
    assert choose.find_run(store, better.run_id) == better


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("best:nope", "has no run of it; there are lora, qlora"),
        ("best:qlora", "none of its runs is a success"),
        ("0123456789ab", "has no such run with a whole record"),
        ("../../etc", "must be a run_id of 12 hexadecimal digits, or best:METHOD"),
    ],
)
def test_a_name_that_means_no_run_is_explained(store: Store, name: str, message: str) -> None:
    keep(store, make_run("lora"), make_run("qlora", status="oom", test=None))
    with pytest.raises(ConfigError, match=message):
        choose.find_run(store, name)


def test_a_run_that_is_no_success_is_not_used(store: Store) -> None:
    failed = make_run("lora", status="diverged", test=None)
    keep(store, failed)
    with pytest.raises(ConfigError, match="this run is diverged; only a success can be used"):
        choose.find_run(store, failed.run_id)


def test_a_method_on_two_bases_needs_a_run_id(store: Store) -> None:
    keep(store, make_run("lora", revision="m1"), make_run("lora", revision="m2"))
    with pytest.raises(ConfigError, match="2 pairs of texts and base model"):
        choose.find_run(store, "best:lora")


def test_weights_that_are_not_there_are_named(store: Store) -> None:
    trained, baseline = make_run("lora"), make_run("tfidf")
    keep(store, trained, baseline)
    with pytest.raises(MissingError, match=r"its weights, .*best\.safetensors, are gone; train again"):
        choose.find_weights(store, trained)
    with pytest.raises(ConfigError, match="method tfidf is a baseline without a trained network"):
        choose.find_weights(store, baseline)
    with pytest.raises(ConfigError, match="method setfit keeps no weights; choose a method that fine-tunes"):
        choose.find_weights(store, make_run("setfit"))
    path = store.run_folder(trained.run_id) / "best.safetensors"
    path.touch()
    assert choose.find_weights(store, trained) == path


@pytest.mark.parametrize(
    ("keep", "method", "trainable", "reason"),
    [
        ("none", "lora", 10**9, "train.keep=none left no weights"),
        (
            "chosen",
            "lora",
            1000,
            r"train.keep=chosen kept the weights of its method's best alone \(best:lora\)",
        ),
        ("auto", "full", 250_000_001, r"train.keep=auto kept the weights of .* alone \(best:full\)"),
        ("auto", "full", 250_000_000, "its weights, .*, are gone"),  # 1 GB in fp32
        ("auto", "lora", 10**9, "its weights, .*, are gone"),
    ],
)
def test_weights_that_were_not_kept_say_why_and_how_to_get_them(
    store: Store, keep: str, method: str, trainable: int, reason: str
) -> None:
    loser = make_run(method, trainable=trainable)
    loser.config["train"]["keep"] = keep
    store.write(loser)
    remedy = rf"{reason}; train again with train.keep=best .*rm -r .*/runs/{loser.run_id}$"
    with pytest.raises(MissingError, match=rf"^{loser.run_id}: {remedy}"):
        choose.find_weights(store, loser)


def test_seeds_are_those_of_the_chosen_configuration_with_a_success(store: Store) -> None:
    seeds = [make_run("lora", seed=seed, validation=0.9 - seed / 100) for seed in (2, 0, 1)]
    keep(
        store,
        *seeds,
        make_run("lora", seed=3, status="oom", test=None),
        make_run("lora", r=4, validation=0.8),
    )
    expected = [seeds[1], seeds[2], seeds[0]]
    assert choose.find_seeds(store, "best:lora") == expected
    assert choose.find_seeds(store, seeds[2].run_id) == expected


def test_seeds_that_cannot_answer_together_are_refused(store: Store) -> None:
    alone, fold = make_run("lora", r=4), make_run("dora")
    fold.canonical_config["data"]["fold"] = 0
    fold = replace(fold, run_id=hash_canonical(fold.canonical_config))
    keep(store, alone, fold, make_run("full"))
    for name, reason in (
        (alone.run_id, "its configuration has one seed; train more with sweep.final_seeds=3"),
        (fold.run_id, "its runs are folds, which were trained on other texts"),
        ("best:full", "method full trains no adapter, so its seeds share no base"),
    ):
        with pytest.raises(ConfigError, match=f"^{name} --seeds: {reason}"):
            choose.find_seeds(store, name)


def test_a_folder_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose.names_run("best:lora")
    assert choose.names_run("0123456789ab")
    assert not choose.names_run("winner")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0123456789ab").mkdir()
    assert not choose.names_run("0123456789ab")
