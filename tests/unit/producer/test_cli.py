"""What the command line asks, and how it shows what was answered; no server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from producer import Match, RecordingProducer
from producer.cli.commands import run
from producer.messages import PathImage, PictureLookup, ProductLookup, Range, TasteLookup

OPTIONS = [
    *["--limit", "5", "--category", "dress", "--where", "price<50"],
    *["--min-similarity", "-0.5", "--collapse", "0.1", "--diversity", "0.3"],
    *["--at-most", "brand=2", "--at-most", "shop name=1"],
]
Ask = Callable[..., Any]


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RecordingProducer:
    """The producer of every command of this test."""
    made = RecordingProducer()
    monkeypatch.setattr("producer.cli.commands.Producer.from_env", lambda: made)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "b.jpg").write_bytes(b"b")
    return made


@pytest.fixture
def ask(shop: RecordingProducer) -> Ask:
    """Run `lookalike similar`; the question that it asked."""

    def similar(*arguments: str) -> Any:
        assert run(["similar", *arguments]) == 0
        return shop.asked[-1]

    return similar


def test_one_several_and_disliked_products_are_asked_about(ask: Ask) -> None:
    one, several, against = ask("1"), ask("1", "2"), ask("1", "--dislike", "2", "--dislike", "3")
    assert isinstance(one, ProductLookup)
    assert one.product_ids == ("1",)
    assert isinstance(several, TasteLookup)
    assert several.liked == ("1", "2")
    assert isinstance(against, TasteLookup)
    assert (against.liked, against.disliked) == (("1",), ("2", "3"))


def test_pictures_are_asked_about_with_and_without_products(
    ask: Ask, shop: RecordingProducer
) -> None:
    web = "https://cdn.example/c.jpg"
    two, blend = ask("-i", "a.jpg", "--image", web), ask("1", "-i", "a.jpg", "--dislike", "2")
    against = ask("1", "--dislike-image", "a.jpg", "--dislike-image", "b.jpg")
    for question in (two, blend, against):
        assert isinstance(question, PictureLookup)
    assert [image.kind for image in two.images] == ["bytes", "url"]
    assert (blend.liked, blend.disliked, len(blend.images)) == (("1",), ("2",), 1)
    assert (against.images, len(against.disliked_images)) == ((), 2)
    assert not any(isinstance(image, PathImage) for image in against.disliked_images)
    assert sorted(shop.pictures.values()) == [b"a", b"b"]


def test_every_option_reaches_the_question(ask: Ask, shop: RecordingProducer) -> None:
    picked = ask("1", *OPTIONS).selection
    assert (picked.limit, picked.min_similarity) == (5, -0.5)
    assert picked.where == {"price": Range(lt=50.0), "category": "dress"}
    assert (picked.collapse, picked.diversity) == (0.1, 0.3)
    assert picked.at_most == {"brand": 2, "shop name": 1}
    assert run(["gallery", "1", "2", "--out", "page.html", *OPTIONS]) == 0
    assert shop.asked[-1].selection == picked


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a product id or --image, or several"),
        (["--dislike", "1", "--dislike-image", "a.jpg"], "give a product id or --image"),
        (["1", "--dislike", "1"], "product '1' is both liked and disliked: choose one"),
        (["-i", "a.jpg", "--dislike-image", "a.jpg"], "same picture is both liked and disliked"),
        (["1", "--dislike-image", "gone.jpg"], "cannot read picture 'gone.jpg'"),
        (["1", "--min-similarity", "80"], "a cosine (0.8 is 80%) from -1 to 1, not 80.0"),
        (["1", "--min-similarity", "nan"], "not nan"),
        (["1", "--min-similarity", "high"], "see `lookalike similar --help`"),
        (["1", "--collapse", "3"], "collapse must be a distance from 0 to 2, not 3.0"),
        (["1", "--diversity", "2"], "diversity must be a weight from 0 to 1, not 2.0"),
        (["1", "--at-most", "brand"], "'brand' is no limit of an attribute: write KEY=NUMBER"),
        (["1", "--at-most", "brand=0"], "the number for 'brand' must be a whole number from 1"),
        (["1", "--at-most", "a=1", "--at-most", "a=2"], "a has such a limit already"),
        ([*["-i", "a.jpg"] * 9], "at most 8 pictures can be liked at once, not 9"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_exit_code_2(
    shop: RecordingProducer,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    assert run(["similar", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err
    assert not shop.asked
    assert not shop.pictures


def test_fewer_matches_than_asked_for_are_explained_by_the_options(
    ask: Ask, shop: RecordingProducer, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.answers("1", ["2", "3"])

    def note(*arguments: str) -> str:
        ask("1", *arguments)
        return capsys.readouterr().err.splitlines()[0]

    assert note(*OPTIONS) == (
        "2 of 5: price<50, category=dress, --min-similarity -0.5, --collapse 0.1, --at-most brand=2, "
        "--at-most shop name=1 leave no more"
    )
    assert note("--collapse", "0.1") == "2 of 10: --collapse 0.1 leaves no more"
    for arguments in (["--collapse", "0.1", "--limit", "2"], ["--diversity", "1"], []):
        assert note(*arguments).startswith("no index yet, ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["1", "2"], ": there is no other product in the catalogue"),
        (["1", "2", "--at-most", "a=1"], ": there is no other product in the catalogue"),
        (["-i", "a.jpg", "--dislike", "2"], ": there is no other product in the catalogue"),
        (["-i", "a.jpg", "--collapse", "1"], ": the catalogue is empty"),
        (
            ["1", "2", "-w", "a=1", "--min-similarity", "0.9", "--collapse", "0.1"],
            ": no other product satisfies a=1, --min-similarity 0.9",
        ),
        (["-i", "a.jpg", "--min-similarity", "1"], ": no product satisfies --min-similarity 1.0"),
    ],
)
def test_no_matches_are_explained(
    ask: Ask, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    ask(*arguments)
    out, err = capsys.readouterr()
    assert out == f"no product looks like this{says}\n"
    assert err.startswith("no index yet, ")


def test_json_has_one_shape_whatever_is_asked(
    ask: Ask, shop: RecordingProducer, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.answers(["1", "2"], [Match(product_id="3", name="main", distance=1.0)])
    shapes = []
    for arguments in (["1"], ["1", "2", "--collapse", "0"], ["-i", "a.jpg"]):
        ask(*arguments, "--json")
        out, err = capsys.readouterr()
        shapes.append(set(json.loads(out)))
        assert err == ""
    assert shapes[0] == shapes[1] == shapes[2]
    ask("1", "2", "--json")
    assert json.loads(capsys.readouterr().out)["matches"][0]["similarity"] == 0.5


def test_a_product_that_is_not_there_is_named(
    shop: RecordingProducer, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.does_not_know("9")
    for arguments in (["1", "9"], ["1", "--dislike", "9"], ["9", "-i", "a.jpg"]):
        assert run(["similar", *arguments]) == 1
        assert "error: product '9' is not in the catalogue" in capsys.readouterr().err
